/** Whom a node asks what the fleet has proven, for how long, and what it keeps of the answers. */
import { describe, expect, test } from 'vitest';
import { Allowances, Inquiry, INQUIRY_LIMITS } from '../../actors/fleet-inquiry.ts';
import { type LedgerEntry, MAX_LEDGER_ANSWERS } from '../../schemas/fleet.ts';

const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const FLAT: LedgerEntry = {
  v: 1,
  verdict: 'proven',
  kind: 'flat',
  layers: digest('a'),
  revision: 3,
  flat: digest('b'),
};
const names = (count: number) => Array.from({ length: count }, (_, at) => `node-${at}`);
const { first, patienceMs, contradictMs, kept } = INQUIRY_LIMITS;

/** Asks as often as the question says before it waits or ends; returns whom. */
function asked(inquiry: Inquiry, now: number): string[] {
  const list: string[] = [];
  for (;;) {
    const step = inquiry.next(now);
    if (step === 'over' || 'until' in step) return list;
    list.push(...step.ask);
  }
}

describe('a question', () => {
  test('to no one is over', () => {
    expect(new Inquiry({ nodes: [], witnesses: 1 }).next(0)).toBe('over');
  });

  test('is over as soon as every member that was asked has answered, with entries or without', () => {
    const inquiry = new Inquiry({ nodes: names(3), witnesses: 1 });
    expect(asked(inquiry, 0)).toEqual(names(3));
    expect(inquiry.next(0)).toEqual({ until: patienceMs });
    for (const [at, name] of names(3).entries()) inquiry.heard(name, at === 1 ? [FLAT] : [], true, 5);
    expect([inquiry.next(5), inquiry.answered, inquiry.said]).toEqual([
      'over',
      3,
      [{ from: 'node-1', entries: [FLAT] }],
    ]);
  });

  test('of a thousand nodes that have proven it has answers of sixteen; the others hear what those said', () => {
    const inquiry = new Inquiry({ nodes: names(1_000), witnesses: 1 });
    const some = asked(inquiry, 0);
    expect(some).toHaveLength(first);
    for (const name of some) inquiry.heard(name, [FLAT], true, 5);
    expect(inquiry.next(5)).toEqual({ ask: names(1_000).slice(first), said: [FLAT] });
    expect([inquiry.next(5), inquiry.next(5 + contradictMs)]).toEqual([{ until: 5 + contradictMs }, 'over']);
  });

  test('hears the one of a thousand that has found otherwise', () => {
    const inquiry = new Inquiry({ nodes: names(1_000), witnesses: 1 });
    asked(inquiry, 0);
    inquiry.heard('node-3', [FLAT], true, 5);
    // The other fifteen need not have answered.
    expect(asked(inquiry, 6)).toHaveLength(1_000 - first);
    const other = { ...FLAT, flat: digest('9') };
    inquiry.heard('node-999', [other], true, 100);
    expect(inquiry.said).toEqual([
      { from: 'node-3', entries: [FLAT] },
      { from: 'node-999', entries: [other] },
    ]);
  });

  test('goes on with all others while no one has vouched, and ends when they have answered', () => {
    const inquiry = new Inquiry({ nodes: names(1_000), witnesses: 1 });
    for (const name of asked(inquiry, 0)) inquiry.heard(name, [], true, 1);
    const step = inquiry.next(1);
    expect(step).toEqual({ ask: names(1_000).slice(first), said: undefined });
    for (const name of names(1_000).slice(first)) inquiry.heard(name, [], true, 2);
    expect([inquiry.next(2), inquiry.answered]).toEqual(['over', 1_000]);
    const silent = new Inquiry({ nodes: names(1_000), witnesses: 1 });
    asked(silent, 0);
    expect(asked(silent, patienceMs)).toHaveLength(1_000 - first);
    expect([silent.next(2 * patienceMs - 1), silent.next(2 * patienceMs)]).toEqual([
      { until: 2 * patienceMs },
      'over',
    ]);
  });

  test('waits for a silent node no longer than its patience, and a moment where another has vouched', () => {
    const silent = new Inquiry({ nodes: names(2), witnesses: 1 });
    asked(silent, 0);
    silent.heard('node-0', [], true, 1);
    expect([silent.next(patienceMs - 1), silent.next(patienceMs)]).toEqual([{ until: patienceMs }, 'over']);
    const vouched = new Inquiry({ nodes: names(2), witnesses: 1 });
    asked(vouched, 0);
    vouched.heard('node-0', [FLAT], true, 10);
    // The other one may say otherwise.
    expect([vouched.next(10), vouched.next(10 + contradictMs)]).toEqual([
      { until: 10 + contradictMs },
      'over',
    ]);
  });

  test('is not over with one where two are wanted', () => {
    const inquiry = new Inquiry({ nodes: names(20), witnesses: 2 });
    for (const name of asked(inquiry, 0)) inquiry.heard(name, name === 'node-3' ? [FLAT] : [], true, 1);
    expect(asked(inquiry, 1)).toEqual(names(20).slice(16));
    for (const name of names(20).slice(16)) inquiry.heard(name, [FLAT], true, 2);
    expect(inquiry.next(2)).toBe('over');
    expect(inquiry.said).toHaveLength(5);
  });

  test('hears one that answers late, and no one that was not asked', () => {
    const inquiry = new Inquiry({ nodes: names(20), witnesses: 1 });
    asked(inquiry, 0);
    inquiry.heard('stranger', [FLAT], true, 1);
    inquiry.heard('node-19', [FLAT], true, 1);
    expect(asked(inquiry, patienceMs)).toEqual(names(20).slice(16));
    inquiry.heard('node-0', [FLAT], true, patienceMs + 1);
    expect(inquiry.said.map(({ from }) => from)).toEqual(['node-0']);
  });
});

describe('a flood', () => {
  test('of one member is cut off after so many answers', () => {
    const inquiry = new Inquiry({ nodes: names(2), witnesses: 1 });
    asked(inquiry, 0);
    for (let at = 0; at < 10 * MAX_LEDGER_ANSWERS; at++) inquiry.heard('node-0', [FLAT], false, at);
    expect(inquiry.said[0]?.entries).toHaveLength(MAX_LEDGER_ANSWERS);
    expect(inquiry.answered).toBe(1);
  });

  test('of many members: so many are kept', () => {
    const inquiry = new Inquiry({ nodes: names(1_000), witnesses: 1_000, limits: { first: 1_000 } });
    for (const name of asked(inquiry, 0)) inquiry.heard(name, [FLAT], true, 1);
    expect([inquiry.said.length, inquiry.answered]).toEqual([kept, 1_000]);
  });

  test('of questions is answered slowly, and those of other members at once', () => {
    const allowances = new Allowances({ burst: 3, perSecond: 2, members: 10 });
    const taken = (member: string, now: number) => allowances.take(member, now);
    expect([0, 0, 0, 0, 0].map((now) => taken('flood', now))).toEqual([true, true, true, false, false]);
    expect([taken('other', 0), taken('flood', 400), taken('flood', 600), taken('flood', 700)]).toEqual([
      true,
      false,
      true,
      false,
    ]);
  });
});
