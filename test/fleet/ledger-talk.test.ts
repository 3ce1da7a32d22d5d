/** Questions and answers about what nodes have proven, between members whose messages the test carries. No engine, no NATS. */
import { describe, expect, it } from 'vitest';
import { Counts } from '../../actors/counts.ts';
import { ASKER_ALLOWANCE, INQUIRY_LIMITS } from '../../actors/fleet-inquiry.ts';
import { isLedgerAnswer, isLedgerHeard, isLedgerQuestion } from '../../schemas/check-fleet.ts';
import { type LedgerEntry, MAX_LEDGER_ENTRIES } from '../../schemas/fleet.ts';
import { LedgerTalk } from '../../src/fleet/ledger.ts';
import type { Said } from '../../src/fleet/messages.ts';
import { createLog } from '../../src/process/log.ts';
import { HandClock } from '../support/hand-clock.ts';

const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const SUBJECT = { layers: digest('a'), diffIds: [digest('b')] };
const FLAT: LedgerEntry = {
  v: 1,
  verdict: 'proven',
  kind: 'flat',
  layers: digest('a'),
  revision: 3,
  flat: digest('c'),
};
const rootOf = (at: number): LedgerEntry => ({
  v: 1,
  verdict: 'proven',
  kind: 'root',
  diffId: `sha256:${String(at).padStart(64, '0')}`,
  root: digest('d'),
});

/** Members that hear each other at once; `proofs`: what each has proven. */
function fleetOf(proofs: Record<string, readonly LedgerEntry[]>) {
  const clock = new HandClock();
  const sent: Array<{ from: string; to: string; said: Said }> = [];
  const asked: string[] = [];
  let nonces = 0;
  const talks = new Map<string, LedgerTalk>();
  const counts = new Counts();
  const deliver = (from: string, to: string, said: Said) => {
    sent.push({ from, to, said });
    const talk = talks.get(to);
    if (said.kind === 'ledger' && isLedgerQuestion(said)) talk?.asked(from, said);
    else if (said.kind === 'proven' && isLedgerAnswer(said)) talk?.answered(from, said);
  };
  for (const [name, entries] of Object.entries(proofs))
    talks.set(
      name,
      new LedgerTalk({
        nodes: () => Object.keys(proofs).filter((other) => other !== name),
        send: (to, said) => deliver(name, to, said),
        prove: async () => {
          asked.push(name);
          return entries;
        },
        clock,
        random: () => 0.5,
        newNonce: () => String(nonces++).padStart(32, '0'),
        counts,
        log: createLog('ledger', 'silent'),
      }),
    );
  const talk = (name: string) => talks.get(name) as LedgerTalk;
  return { clock, sent, asked, talk, deliver, counts };
}

describe('a node asks the others', () => {
  it('and has what they say when all have answered', async () => {
    const { talk } = fleetOf({ self: [], one: [FLAT], two: [] });
    const heard = await talk('self').ask(SUBJECT, 1);
    expect(heard).toEqual({ nodes: 2, answered: 2, said: [{ from: 'one', entries: [FLAT] }] });
    expect(isLedgerHeard(heard)).toBe(true);
  });

  it('of one that says more than a message holds it has all', async () => {
    const entries = [FLAT, ...Array.from({ length: 2 * MAX_LEDGER_ENTRIES }, (_, at) => rootOf(at))];
    const { talk, sent } = fleetOf({ self: [], one: entries });
    const { said } = await talk('self').ask(SUBJECT, 1);
    expect(said).toEqual([{ from: 'one', entries }]);
    expect(sent.filter(({ said: { kind } }) => kind === 'proven')).toHaveLength(3);
  });

  it('does not wait for one that is silent longer than its patience', async () => {
    const { talk, clock } = fleetOf({ self: [], one: [] });
    const gone = new LedgerTalk({
      nodes: () => ['gone', 'one'],
      send: () => {},
      prove: async () => [],
      clock,
      random: () => 0,
      newNonce: () => 'f'.repeat(32),
      counts: new Counts(),
      log: createLog('ledger', 'silent'),
    });
    const heard = gone.ask(SUBJECT, 1);
    clock.turn(INQUIRY_LIMITS.patienceMs);
    expect(await heard).toEqual({ nodes: 2, answered: 0, said: [] });
    expect(await talk('one').ask(SUBJECT, 1)).toMatchObject({ answered: 1 });
  });

  it('of a large fleet those that agree with the first answer no more, and one that does not is heard', async () => {
    const names = Array.from({ length: 40 }, (_, at) => `node-${at}`);
    const other: LedgerEntry = { ...FLAT, flat: digest('e') } as LedgerEntry;
    const proofs = Object.fromEntries(names.map((name) => [name, name === 'node-7' ? [other] : [FLAT]]));
    const { talk, sent, clock } = fleetOf({ ...proofs, self: [] });
    const heard = talk('self').ask(SUBJECT, 1);
    for (let turns = 0; turns < 8; turns++) await new Promise(setImmediate);
    clock.turn(INQUIRY_LIMITS.contradictMs);
    const { said } = await heard;
    expect(said.find(({ from }) => from === 'node-7')?.entries).toEqual([other]);
    const answers = sent.filter(({ said: one }) => one.kind === 'proven').length;
    expect(answers).toBeLessThanOrEqual(INQUIRY_LIMITS.first + 1);
    expect(sent.filter(({ said: one }) => one.kind === 'ledger')).toHaveLength(names.length);
  });

  it('in a fleet of its own alone: no one', async () => {
    expect(await fleetOf({ self: [] }).talk('self').ask(SUBJECT, 1)).toEqual({
      nodes: 0,
      answered: 0,
      said: [],
    });
  });
});

describe('what is no answer', () => {
  it('is passed over: one without a question, to an earlier question, of a member that was not asked', async () => {
    const { talk, deliver, sent } = fleetOf({ self: [], one: [] });
    const forged = (nonce: string) => ({ kind: 'proven', v: 1, nonce, entries: [FLAT], last: true }) as const;
    deliver('liar', 'self', forged('0'.repeat(32)));
    await talk('self').ask(SUBJECT, 1);
    const question = sent.find(({ said }) => said.kind === 'ledger')?.said;
    if (question?.kind !== 'ledger') throw new Error('no question');
    const { nonce } = question;
    deliver('one', 'self', forged(nonce));
    const heard = talk('self').ask(SUBJECT, 1);
    // The question is open, and its nonce known to the one that was asked alone.
    deliver('liar', 'self', forged('1'.padStart(32, '0')));
    deliver('one', 'self', forged(nonce));
    expect(await heard).toEqual({ nodes: 1, answered: 1, said: [] });
  });
});

describe('a node that is asked', () => {
  it('by a thousand at once asks its engine once', async () => {
    const { talk, asked, clock } = fleetOf({ self: [], one: [FLAT] });
    const question = { v: 1, nonce: '0'.repeat(32), ...SUBJECT } as const;
    for (let at = 0; at < 1_000; at++) talk('one').asked(`node-${at}`, question);
    expect(asked).toEqual(['one']);
    clock.turn(1_000);
    talk('one').asked('node-1', question);
    expect(asked).toEqual(['one', 'one']);
  });

  it('without end by one member answers it no more, and others as before', async () => {
    const { talk, sent } = fleetOf({ self: [], one: [FLAT], flood: [] });
    const question = { v: 1, nonce: '0'.repeat(32), ...SUBJECT } as const;
    for (let at = 0; at < 10 * ASKER_ALLOWANCE.burst; at++) talk('one').asked('flood', question);
    await new Promise(setImmediate);
    expect(sent.filter(({ to }) => to === 'flood')).toHaveLength(ASKER_ALLOWANCE.burst);
    expect(await talk('self').ask(SUBJECT, 1)).toMatchObject({ said: [{ from: 'one' }] });
  });

  it('counts its answers', async () => {
    const names = Array.from({ length: 30 }, (_, at) => `node-${at}`);
    const { talk, counts, clock } = fleetOf({
      ...Object.fromEntries(names.map((name) => [name, [FLAT]])),
      self: [],
      new: [],
    });
    const heard = talk('self').ask(SUBJECT, 1);
    for (let turns = 0; turns < 8; turns++) await new Promise(setImmediate);
    clock.turn(INQUIRY_LIMITS.contradictMs);
    await heard;
    const question = { v: 1, nonce: '0'.repeat(32), ...SUBJECT } as const;
    for (let at = 0; at < ASKER_ALLOWANCE.burst + 1; at++) talk('self').asked('flood', question);
    await new Promise(setImmediate);
    const counted = counts.samples().map(([name, [answer], [value]]) => [name, answer, value]);
    expect(Object.fromEntries(counted.map(([, answer, value]) => [answer, value]))).toEqual({
      proven: INQUIRY_LIMITS.first,
      agreed: names.length - INQUIRY_LIMITS.first,
      nothing: 1 + ASKER_ALLOWANCE.burst,
      refused: 1,
    });
  });

  it('whose engine does not answer says that it has nothing', async () => {
    const { clock } = fleetOf({});
    const sent: Said[] = [];
    const mute = new LedgerTalk({
      nodes: () => [],
      send: (_, said) => sent.push(said),
      prove: () => Promise.reject(new Error('away')),
      clock,
      random: () => 0,
      newNonce: () => '0'.repeat(32),
      counts: new Counts(),
      log: createLog('ledger', 'silent'),
    });
    mute.asked('one', { v: 1, nonce: '0'.repeat(32), ...SUBJECT });
    await new Promise(setImmediate);
    expect(sent).toEqual([{ kind: 'proven', v: 1, nonce: '0'.repeat(32), entries: [], last: true }]);
  });
});
