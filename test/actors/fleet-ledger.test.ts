/** Which roots and flat metadata count as proven by what members of the fleet say, and what a node says itself. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { layersText } from '../../actors/device.ts';
import { fleetWord, Ledger, liarsBehind, provenHere } from '../../actors/fleet-ledger.ts';
import { emptyNode, foldEvent } from '../../actors/node-state.ts';
import { silentFleet } from '../../actors/sidecar-choice.ts';
import { membersOfVoucher, voucherOfMembers } from '../../actors/voucher.ts';
import { isLedgerEntry } from '../../schemas/check-fleet.ts';
import { hexOf } from '../../schemas/digest.ts';
import type { CofaEvent, EventOf, NewEvent } from '../../schemas/events.ts';
import type { LedgerEntry } from '../../schemas/fleet.ts';

const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const [LAYER, RIGHT, WRONG, LAYERS, FLAT, FORGED] = ['a', 'b', 'c', 'd', 'e', 'f'].map(digest) as [
  string,
  string,
  string,
  string,
  string,
  string,
];
const proven = (root: string, diffId = LAYER): LedgerEntry => ({
  v: 1,
  verdict: 'proven',
  kind: 'root',
  diffId,
  root,
});
const refuted = (root: string): LedgerEntry => ({ ...proven(root), verdict: 'refuted' });
const flat = (value: string, more: Partial<LedgerEntry> = {}): LedgerEntry =>
  ({
    v: 1,
    verdict: 'proven',
    kind: 'flat',
    layers: LAYERS,
    revision: 3,
    flat: value,
    ...more,
  }) as LedgerEntry;
const whole = (root = RIGHT, metadata = FLAT) => ({
  flat: metadata,
  revision: 3,
  roots: [{ diffId: LAYER, root }],
});

function ledgerOf({ witnesses = 1, disbelieved = new Set<string>() } = {}) {
  const subject = { layers: LAYERS, diffIds: [LAYER] };
  return new Ledger({ self: 'self', witnesses, disbelieved, subject });
}
const words = (ledger: Ledger) => [ledger.root(LAYER, RIGHT), ledger.root(LAYER, WRONG)];

describe('a sidecar is vouched for by the fleet', () => {
  test('where one member has proven its flat metadata and all of its block roots', () => {
    const ledger = ledgerOf();
    ledger.heard('one', flat(FLAT));
    expect(ledger.vouch(whole())).toEqual({ reason: 'no member of the fleet has proven what it holds' });
    ledger.heard('one', proven(RIGHT));
    expect(ledger.vouch(whole())).toEqual({ members: ['one'] });
    expect(ledger.vouch(whole(WRONG))).toHaveProperty('reason');
    expect(ledger.vouch(whole(RIGHT, FORGED))).toHaveProperty('reason');
    expect(ledger.vouch({ ...whole(), revision: 4 })).toHaveProperty('reason');
    expect(ledger.vouch({ ...whole(), roots: [{ diffId: digest('0'), root: RIGHT }] })).toHaveProperty(
      'reason',
    );
  });

  test('not by halves of two members: who has proven the metadata has proven the roots', () => {
    const ledger = ledgerOf();
    ledger.heard('one', flat(FLAT));
    ledger.heard('two', proven(RIGHT));
    expect(ledger.vouch(whole())).toHaveProperty('reason');
    // What this node has proven itself no member needs to say.
    ledger.found(proven(RIGHT));
    expect(ledger.vouch(whole())).toEqual({ members: ['one'] });
  });

  test('where two are wanted, by two, and a repetition is none', () => {
    const ledger = ledgerOf({ witnesses: 2 });
    for (let twice = 0; twice < 2; twice++)
      for (const entry of [flat(FLAT), proven(RIGHT)]) ledger.heard('one', entry);
    expect(ledger.vouch(whole())).toEqual({
      reason: 'of the fleet only one has proven what it holds; 2 have to',
    });
    for (const entry of [flat(FLAT), proven(RIGHT)]) ledger.heard('two', entry);
    expect(ledger.vouch(whole())).toEqual({ members: ['one', 'two'] });
  });

  test.each<[string, LedgerEntry]>([
    ['other flat metadata', flat(FORGED)],
    ['another root', proven(WRONG)],
    ['that the metadata are wrong', flat(FLAT, { verdict: 'refuted' })],
    ['that the root is wrong', refuted(RIGHT)],
  ])('not where another member says %s: neither is believed', (_, said) => {
    const ledger = ledgerOf();
    for (const entry of [flat(FLAT), proven(RIGHT)]) ledger.heard('honest', entry);
    expect(ledger.disputes).toEqual([]);
    ledger.heard('liar', said);
    expect(ledger.vouch(whole())).toEqual({
      reason: expect.stringContaining('members of the fleet disagree'),
    });
    expect(ledger.disputes).toHaveLength(1);
  });

  test('not by entries about another image, in another name, or of a member that is disbelieved', () => {
    const ledger = ledgerOf({ disbelieved: new Set(['known']) });
    const foreign = [flat(FLAT, { layers: digest('9') }), proven(RIGHT, digest('9'))];
    for (const entry of [...foreign, proven(RIGHT)]) ledger.heard('one', entry);
    for (const entry of [flat(FLAT), proven(RIGHT)]) {
      ledger.heard('known', entry);
      // What this node said comes back to it.
      ledger.heard('self', entry);
    }
    expect(ledger.vouch(whole())).toHaveProperty('reason');
    expect(ledger.hasFlat).toBe(false);
  });
});

describe('what this node has found out', () => {
  test('stands against members; a member that contradicts it is a liar, and the ledger counts none of its entries', () => {
    const ledger = ledgerOf();
    for (const entry of [flat(FORGED), proven(WRONG)]) ledger.heard('liar', entry);
    expect(ledger.vouch(whole(WRONG, FORGED))).toEqual({ members: ['liar'] });
    ledger.found(proven(RIGHT));
    expect(words(ledger)).toEqual(['proven', 'refuted']);
    expect(ledger.lies).toEqual([{ member: 'liar', about: 'root', subject: LAYER, said: WRONG }]);
    expect([ledger.hasFlat, ledger.flat(3, FORGED)]).toEqual([false, 'unknown']);
  });

  test('a root that it has refuted is taken on no one’s word', () => {
    const ledger = ledgerOf();
    for (const entry of [flat(FORGED), proven(WRONG)]) ledger.heard('liar', entry);
    ledger.found(refuted(WRONG));
    expect(ledger.vouch(whole(WRONG, FORGED))).toEqual({ reason: expect.stringContaining('refuted') });
    expect(ledger.lies).toHaveLength(1);
  });

  test('a member that calls a proven root wrong cannot take it from those who proved it themselves', () => {
    const ledger = ledgerOf();
    ledger.found(proven(RIGHT));
    ledger.heard('liar', refuted(RIGHT));
    expect([ledger.root(LAYER, RIGHT), ledger.lies]).toEqual([
      'proven',
      [{ member: 'liar', about: 'root', subject: LAYER, said: RIGHT }],
    ]);
  });

  test('ends a dispute', () => {
    const ledger = ledgerOf();
    ledger.heard('honest', proven(RIGHT));
    ledger.heard('liar', proven(WRONG));
    expect([words(ledger), ledger.disputes]).toEqual([
      ['disputed', 'disputed'],
      [`the block root of ${LAYER}`],
    ]);
    ledger.found(proven(RIGHT));
    expect([words(ledger), ledger.disputes, ledger.lies.map(({ member }) => member)]).toEqual([
      ['proven', 'refuted'],
      [],
      ['liar'],
    ]);
  });
});

test('a member that contradicts itself counts for nothing, and disturbs no one', () => {
  const ledger = ledgerOf();
  for (const entry of [flat(FLAT), proven(RIGHT)]) ledger.heard('honest', entry);
  for (const entry of [proven(WRONG), proven(RIGHT), refuted(RIGHT)]) ledger.heard('torn', entry);
  expect(ledger.vouch(whole())).toEqual({ members: ['honest'] });
});

test('entries of members in any order: what this node has proven stands, and no liar alone vouches for a forgery that another member contradicts', () => {
  const entries = fc.array(
    fc.record({
      from: fc.constantFrom('one', 'two', 'three', 'self-proof'),
      entry: fc.constantFrom(
        proven(RIGHT),
        proven(WRONG),
        refuted(RIGHT),
        refuted(WRONG),
        flat(FLAT),
        flat(FORGED),
      ),
    }),
    { maxLength: 16 },
  );
  /** This node finds out the truth alone. */
  const truths = new Set([proven(RIGHT), refuted(WRONG), flat(FLAT)].map((one) => JSON.stringify(one)));
  const fold = (said: ReadonlyArray<{ from: string; entry: LedgerEntry }>) => {
    const ledger = ledgerOf();
    for (const { from, entry } of said)
      if (from !== 'self-proof') ledger.heard(from, entry);
      else if (truths.has(JSON.stringify(entry))) ledger.found(entry);
    return ledger;
  };
  const told = (ledger: Ledger) => [
    words(ledger),
    ledger.vouch(whole()),
    ledger.vouch(whole(WRONG, FORGED)),
    ledger.lies.map(({ member }) => member).sort(),
    ledger.disputes.toSorted(),
  ];
  fc.assert(
    fc.property(entries, fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })), (said, chance) => {
      const mixed = [...said, ...said.slice(0, 3)]
        .map((one) => ({ one, at: chance.next().value as number }))
        .sort((a, b) => a.at - b.at)
        .map(({ one }) => one);
      const ledger = fold(said);
      expect(told(fold(mixed))).toEqual(told(ledger));
      const own = said.filter(({ from }) => from === 'self-proof').map(({ entry }) => JSON.stringify(entry));
      const isKnown = own.some((one) => truths.has(one));
      if (isKnown) expect(ledger.vouch(whole(WRONG, FORGED))).toHaveProperty('reason');
      const honest = said.filter(({ from, entry }) => from === 'three' && truths.has(JSON.stringify(entry)));
      const isHonest =
        honest.length > 0 &&
        said.every(({ from, entry }) => from !== 'three' || truths.has(JSON.stringify(entry)));
      if (isHonest) expect(ledger.vouch(whole(WRONG, FORGED))).toHaveProperty('reason');
    }),
  );
});

describe('the word of the fleet', () => {
  test('says why nothing can be vouched for, before any sidecar is fetched', () => {
    const silent = (ledger: Ledger, nodes: number, answered: number) =>
      fleetWord(ledger, { nodes, answered }).silence;
    expect(silent(ledgerOf(), 0, 0)).toBe('no other node of the fleet is there');
    expect(silent(ledgerOf(), 3, 2)).toBe(
      'the fleet does not vouch for the image: 2 nodes answered, 1 did not',
    );
    const torn = ledgerOf();
    torn.heard('one', flat(FLAT));
    torn.heard('two', flat(FORGED));
    expect(silent(torn, 2, 2)).toBe('members of the fleet disagree about flat metadata');
    expect(silentFleet('away').vouch(whole())).toEqual({ reason: 'away' });
  });

  test('names the sidecars to look at first, and the layers whose devices may be attached ahead', () => {
    const ledger = ledgerOf();
    for (const entry of [flat(FLAT, { sidecar: digest('1') }), proven(RIGHT)]) ledger.heard('one', entry);
    const word = fleetWord(ledger, { nodes: 1, answered: 1 });
    expect([
      word.silence,
      [...word.sidecars],
      word.provesRoot(LAYER, RIGHT),
      word.provesRoot(LAYER, WRONG),
    ]).toEqual([undefined, [digest('1')], true, false]);
  });
});

// ── What a node says, and who was believed ──

const MANIFEST = digest('7');
const layers = [
  { diffId: LAYER, blob: digest('8'), blobSize: 1, mediaType: 'layer' },
] satisfies EventOf<'image.resolved'>['layers'];
const resolved = {
  type: 'image.resolved',
  ref: 'registry.example/app:1',
  registry: 'registry.example',
  repository: 'app',
  manifest: MANIFEST,
  config: digest('6'),
  layers,
} satisfies NewEvent<'image.resolved'>;
const prepared = (more: Partial<NewEvent<'image.prepared'>> = {}): NewEvent<'image.prepared'> => ({
  type: 'image.prepared',
  origin: 'node',
  revision: 3,
  flat: FLAT,
  devices: [{ diffId: LAYER, size: 1, spans: digest('8'), root: RIGHT }],
  ...more,
});
function stateOf(...events: ReadonlyArray<[id: string, event: NewEvent]>) {
  const state = emptyNode();
  for (const [id, event] of events) foldEvent(state, hexOf(id), { v: 1, at: 1, ...event } as CofaEvent);
  return state;
}
const idOf = (text: string) => (text === layersText(layers) ? LAYERS : digest('0'));
const said = (state: ReturnType<typeof stateOf>, revision = 3) =>
  provenHere(state, { layers: LAYERS, diffIds: [LAYER] }, { revision, digestOf: idOf });

describe('a node says what it has proven', () => {
  const rooted: [string, NewEvent] = [LAYER, { type: 'root.proven', root: RIGHT }];

  test('of an image that it has indexed: flat metadata and roots', () => {
    expect(said(stateOf([MANIFEST, resolved], [MANIFEST, prepared()], rooted))).toEqual([
      flat(FLAT),
      proven(RIGHT),
    ]);
  });

  test('of a sidecar that it has proven, with its name; never of one that it merely believes', () => {
    const sidecar = prepared({ origin: 'sidecar', sidecar: digest('1'), vouched: 'fleet:one' });
    const verified: [string, NewEvent] = [MANIFEST, { type: 'image.verified', flat: FLAT }];
    const believed = stateOf([MANIFEST, resolved], [MANIFEST, sidecar]);
    expect(said(believed)).toEqual([]);
    // Metadata alone are not enough.
    expect(said(stateOf([MANIFEST, resolved], [MANIFEST, sidecar], verified))).toEqual([]);
    expect(said(stateOf([MANIFEST, resolved], [MANIFEST, sidecar], verified, rooted))).toEqual([
      flat(FLAT, { sidecar: digest('1') }),
      proven(RIGHT),
    ]);
  });

  test('not of what an earlier revision of the builder has made', () => {
    expect(said(stateOf([MANIFEST, resolved], [MANIFEST, prepared()], rooted), 4)).toEqual([proven(RIGHT)]);
  });

  test('and what it has refuted', () => {
    const forged: [string, NewEvent] = [MANIFEST, { type: 'image.refuted', flat: FORGED, message: '' }];
    const wrong: [string, NewEvent] = [LAYER, { type: 'root.refuted', root: WRONG }];
    const state = stateOf([MANIFEST, resolved], forged, [MANIFEST, prepared()], rooted, wrong);
    expect(said(state)).toEqual([
      flat(FLAT),
      proven(RIGHT),
      flat(FORGED, { verdict: 'refuted' }),
      refuted(WRONG),
    ]);
  });

  test('of the layers in their order, and of a file beside other layers of the same bytes', () => {
    const other = { ...layers[0], diffId: WRONG } as (typeof layers)[number];
    const file = { path: 'a', mode: 0o644, uid: 0, gid: 0, mtime: 0 };
    const texts = [
      [layers[0], other],
      [other, layers[0]],
      [layers[0], { ...other, file }],
    ].map((list) => layersText(list as typeof layers));
    expect(new Set(texts).size).toBe(3);
  });
});

test('members on whose word an image was prepared are known when it turns out to be wrong', () => {
  const vouched = prepared({ origin: 'sidecar', vouched: voucherOfMembers(['one', 'two']) });
  const images = [...stateOf([MANIFEST, resolved], [MANIFEST, vouched]).images.values()];
  const names = (wrong: Parameters<typeof liarsBehind>[1]) =>
    liarsBehind(images, wrong).map(({ member }) => member);
  const root = { about: 'root', diffId: LAYER } as const;
  expect(names({ ...root, root: RIGHT, isProven: false })).toEqual(['one', 'two']);
  expect(names({ ...root, root: WRONG, isProven: true })).toEqual(['one', 'two']);
  expect(names({ ...root, root: RIGHT, isProven: true })).toEqual([]);
  expect(names({ ...root, root: WRONG, isProven: false })).toEqual([]);
  expect(names({ about: 'flat', flat: FLAT })).toEqual(['one', 'two']);
  expect(names({ about: 'flat', flat: FORGED })).toEqual([]);
  expect([membersOfVoucher('fleet:one,two'), membersOfVoucher('key:k'), membersOfVoucher(undefined)]).toEqual(
    [['one', 'two'], undefined, undefined],
  );
});

test.each([
  ['an entry', proven(RIGHT), true],
  ['of flat metadata', flat(FLAT), true],
  ['of flat metadata without a revision', flat(FLAT, { revision: undefined } as never), false],
  ['a root that is no digest', { ...proven(RIGHT), root: 'b' }, false],
  ['a kind of a later version', { ...proven(RIGHT), kind: 'pack' }, false],
  ['a verdict that is none', { ...proven(RIGHT), verdict: 'maybe' }, false],
])('%s is looked at before it is folded', (_, entry, isOne) => {
  expect(isLedgerEntry(entry)).toBe(isOne);
});
