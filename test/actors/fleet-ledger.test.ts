/** Which roots and flat metadata count as proven by what members of the fleet have written. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Ledger } from '../../actors/fleet-ledger.ts';
import { isLedgerEntry } from '../../schemas/check-fleet.ts';
import type { LedgerEntry } from '../../schemas/fleet.ts';

const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const [LAYER, RIGHT, WRONG] = ['a', 'b', 'c'].map(digest) as [string, string, string];
const proven = (root: string): LedgerEntry => ({
  v: 1,
  verdict: 'proven',
  kind: 'root',
  diffId: LAYER,
  root,
});
const refuted = (root: string): LedgerEntry => ({ ...proven(root), verdict: 'refuted' });
const words = (ledger: Ledger) => [ledger.root(LAYER, RIGHT), ledger.root(LAYER, WRONG)];

describe('the ledger of a fleet', () => {
  test('what one member has proven all may use, where one witness is enough; where two are wanted, two', () => {
    const one = new Ledger('self');
    const two = new Ledger('self', { witnesses: 2 });
    for (const ledger of [one, two]) ledger.heard('first', proven(RIGHT));
    expect([one.root(LAYER, RIGHT), two.root(LAYER, RIGHT)]).toEqual(['proven', 'unknown']);
    two.heard('first', proven(RIGHT));
    expect(two.root(LAYER, RIGHT)).toBe('unknown');
    two.heard('second', proven(RIGHT));
    expect(two.root(LAYER, RIGHT)).toBe('proven');
  });

  test('members that disagree are both not believed, until this node has found out: then the liar is named', () => {
    const ledger = new Ledger('self');
    ledger.heard('honest', proven(RIGHT));
    ledger.heard('liar', proven(WRONG));
    expect([words(ledger), ledger.disputed(9)]).toEqual([['disputed', 'disputed'], [`root ${LAYER}`]]);
    ledger.found(proven(RIGHT));
    expect([words(ledger), [...ledger.liars], ledger.disputed(9)]).toEqual([
      ['proven', 'refuted'],
      ['liar'],
      [],
    ]);
  });

  test('a liar’s other words count no more, those from before neither', () => {
    const ledger = new Ledger('self');
    const other: LedgerEntry = {
      v: 1,
      verdict: 'proven',
      kind: 'flat',
      manifest: digest('d'),
      flat: digest('e'),
    };
    ledger.heard('liar', other);
    expect(ledger.flat(digest('d'), digest('e'))).toBe('proven');
    ledger.heard('liar', proven(WRONG));
    ledger.found(refuted(WRONG));
    expect(ledger.flat(digest('d'), digest('e'))).toBe('unknown');
    ledger.heard('liar', { ...other, manifest: digest('f') });
    expect(ledger.flat(digest('f'), digest('e'))).toBe('unknown');
  });

  test('a member that says that a proven root is refuted cannot take it from those who proved it themselves', () => {
    const ledger = new Ledger('self');
    ledger.found(proven(RIGHT));
    ledger.heard('liar', refuted(RIGHT));
    expect([ledger.root(LAYER, RIGHT), [...ledger.liars]]).toEqual(['proven', ['liar']]);
  });

  test('what this node wrote comes back to it from the ledger, and is no witness', () => {
    const ledger = new Ledger('self');
    ledger.heard('self', proven(WRONG));
    expect(ledger.root(LAYER, WRONG)).toBe('unknown');
  });

  test('entries that come in another order, and twice, make the same ledger', () => {
    const written = fc.array(
      fc.record({
        from: fc.constantFrom('one', 'two', 'three', 'self-proof'),
        root: fc.constantFrom(RIGHT, WRONG),
        verdict: fc.constantFrom('proven' as const, 'refuted' as const),
      }),
      { maxLength: 12 },
    );
    const fold = (entries: ReadonlyArray<{ from: string; root: string; verdict: 'proven' | 'refuted' }>) => {
      const ledger = new Ledger('self');
      for (const { from, root, verdict } of entries) {
        // This node finds out the truth alone.
        if (from === 'self-proof') ledger.found(root === RIGHT ? proven(RIGHT) : refuted(WRONG));
        else ledger.heard(from, { ...proven(root), verdict });
      }
      return [words(ledger), [...ledger.liars].sort()];
    };
    fc.assert(
      fc.property(
        written,
        fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })),
        (entries, chance) => {
          const keyed = [...entries, ...entries.slice(0, 3)].map((entry) => ({
            entry,
            at: chance.next().value as number,
          }));
          const shuffled = keyed.sort((a, b) => a.at - b.at).map(({ entry }) => entry);
          expect(fold(shuffled)).toEqual(fold(entries));
        },
      ),
    );
  });

  test('it is bounded: subjects, what is said of one, and by whom', () => {
    const ledger = new Ledger('self', { subjects: 3, claims: 2, members: 2 });
    for (const letter of ['1', '2', '3', '4'])
      ledger.heard('one', { ...proven(RIGHT), diffId: digest(letter) } as LedgerEntry);
    expect([ledger.size, ledger.root(digest('1'), RIGHT)]).toEqual([3, 'unknown']);
  });

  test.each([
    ['an entry', proven(RIGHT), true],
    ['a root that is no digest', { ...proven(RIGHT), root: 'b' }, false],
    ['a kind of a later version', { ...proven(RIGHT), kind: 'pack' }, false],
    ['a verdict that is none', { ...proven(RIGHT), verdict: 'maybe' }, false],
  ])('%s is looked at before it is folded', (_, entry, isOne) => {
    expect(isLedgerEntry(entry)).toBe(isOne);
  });
});
