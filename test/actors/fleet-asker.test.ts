/** Where a node gets pieces: homes, those that homes name, the registry. */
import { describe, expect, test } from 'vitest';
import { Asker } from '../../actors/fleet-asker.ts';
import type { AskerEffect, AskerEvent, AskerLimits } from '../../actors/fleet-asker-protocol.ts';
import { pieceKey } from '../../actors/fleet-home-protocol.ts';
import { Peers } from '../../actors/fleet-peers.ts';
import type { PieceAnswer } from '../../schemas/fleet.ts';

const SOURCE = { registry: 'r', repository: 'app', digest: `sha256:${'a'.repeat(64)}`, size: 2 ** 26 };

function newAsker(
  homes: readonly string[] = ['first', 'second'],
  limits: Partial<AskerLimits> = {},
  held: readonly string[] = [],
  cell: number | undefined = undefined,
) {
  const peers = new Peers(() => 0);
  const asker = new Asker(
    {
      self: 'self',
      holds: (one) => held.includes(one.slice(one.lastIndexOf(' ') + 1)),
      cell: () => cell,
      homes: (_source, _index, of) => (of === undefined ? homes : ['near', 'next']),
      standIns: () => ['third', 'fourth'],
      peers,
      serves: true,
    },
    limits,
  );
  let now = 0;
  const send = (event: AskerEvent): string[] => asker.handle(event).map(say);
  const want = (index = 0, urgency: 'demand' | 'prefetch' = 'demand') =>
    send({ type: 'want', source: SOURCE, index, class: urgency, token: true, now });
  const answer = (member: string, state: PieceAnswer['state'], more: Partial<PieceAnswer> = {}) =>
    send({ type: 'answer', member, key: pieceKey(SOURCE, 0), answer: { index: 0, state, ...more }, now });
  const key = pieceKey(SOURCE, 0);
  const came = (member: string) => send({ type: 'came', member, key, now });
  const silent = (member: string) => send({ type: 'silent', member, key, now });
  const read = (ok = true) => send({ type: 'read', key, ok, now });
  const at = (ms: number) => {
    now = ms;
    return send({ type: 'tick', now });
  };
  return { asker, peers, send, want, answer, came, silent, read, at, key };
}
const say = (effect: AskerEffect): string => {
  switch (effect.type) {
    case 'ask':
      return `ask ${effect.member}${effect.tried.length > 0 ? ` after ${effect.tried.join()}` : ''}${effect.index > 0 ? ` ${effect.index}` : ''}`;
    case 'get':
      return `get ${effect.member}${effect.token ? ' with token' : ''}`;
    case 'read':
      return `read${effect.lease ? ' for others' : ''}`;
    case 'hold':
      return `${effect.ok ? 'hold' : 'failed'} to ${effect.members.join()}`;
    case 'give':
      return `give ${effect.from}`;
    case 'wrong':
      return `wrong ${effect.member} to ${effect.members.join()}`;
    case 'failed':
      return 'failed';
    default:
      return `${effect.type} ${effect.member}`;
  }
};

describe('the order of sources', () => {
  test('the first home, which has it', () => {
    const { asker, want, answer, came, send, key } = newAsker();
    expect(want()).toEqual(['ask first']);
    expect(want()).toEqual([]);
    expect(answer('first', 'have')).toEqual(['get first']);
    expect(came('first')).toEqual(['give first']);
    expect(send({ type: 'verified', key, source: SOURCE, index: 0, now: 0 })).toEqual([
      'hold to first,second',
    ]);
    expect([asker.status().wanted, asker.nextWake]).toEqual([0, Number.POSITIVE_INFINITY]);
  });

  test('a member that the home names; when that one does not bring it, the home again', () => {
    const { want, answer, silent } = newAsker();
    want();
    expect(answer('first', 'have', { at: 'holder' })).toEqual(['get holder']);
    expect(silent('holder')).toEqual(['leave holder', 'ask first after holder']);
  });

  test('the second home when no process listens at the first; then those that stand in for both; then the registry', () => {
    const { want, silent, answer, read } = newAsker();
    want();
    expect(silent('first')).toEqual(['leave first', 'ask second after first']);
    expect(silent('second')).toEqual(['leave second', 'ask third after first,second']);
    expect(want(1)).toEqual(['ask third after first,second 1']);
    expect(silent('third')).toEqual(['leave third', 'ask fourth after first,second,third']);
    expect(answer('fourth', 'fetch')).toEqual(['leave fourth', 'read for others']);
    expect(read()).toEqual(['hold to first,second,third,fourth', 'give registry']);
  });

  test('the registry where no stand-in answers either; none of them is asked while one home is there', () => {
    const { want, silent, answer } = newAsker();
    want();
    silent('first');
    expect(answer('second', 'none')).toEqual(['read']);
    expect(want(1)).toEqual(['ask second after first 1']);
    const gone = newAsker();
    gone.want();
    for (const member of ['first', 'second', 'third']) gone.silent(member);
    expect(gone.silent('fourth')).toEqual(['leave fourth', 'read']);
  });

  test('the registry at once, where the zone has no homes', () => {
    expect(newAsker([]).want()).toEqual(['read']);
  });

  test('this node itself, where it holds the piece without being its home', () => {
    const { want, answer } = newAsker(undefined, {}, ['0']);
    expect(want()).toEqual(['ask self']);
    expect(answer('self', 'have')).toEqual(['get self']);
    expect(want(1)).toEqual(['ask first 1']);
  });

  test('the registry, for all that wait at the home; they hear what came of it, also where no job here wants it any more', () => {
    const { want, answer, read, send, key } = newAsker();
    want();
    expect(answer('first', 'fetch', { ms: 1_000 })).toEqual(['leave first', 'read for others']);
    expect(send({ type: 'drop', key, now: 0 })).toEqual([]);
    expect(read(false)).toEqual(['failed to first,second', 'failed']);
  });

  test('the registry, for all that wait at a stand-in: it hears what came of it, also where the homes are there again', () => {
    for (const ok of [true, false]) {
      const { want, silent, answer, at, read } = newAsker();
      want();
      silent('first');
      silent('second');
      expect(answer('third', 'fetch')).toEqual(['leave third', 'read for others']);
      at(3_000);
      const what = ok ? 'hold' : 'failed';
      expect(read(ok)).toEqual([`${what} to first,second,third`, ok ? 'give registry' : 'failed']);
    }
  });

  test('a token is brought to the home that wants one, and to no other', () => {
    const { want, answer } = newAsker();
    want();
    expect(answer('first', 'bring')).toEqual(['get first with token']);
  });

  test('a home that says it is coming is waited for and asked again, and no second one is asked', () => {
    const { want, answer, at } = newAsker(undefined, { comingMs: 1_000 });
    want();
    expect(answer('first', 'coming')).toEqual([]);
    expect(at(999)).toEqual([]);
    expect(at(1_000)).toEqual(['ask first']);
  });

  test('a busy member that another home names is waited for, and not called tried', () => {
    const { want, answer, at } = newAsker();
    want();
    answer('first', 'busy', { ms: 200 });
    expect(answer('second', 'have', { at: 'first' })).toEqual([]);
    expect(at(250)).toEqual(['ask first']);
  });

  test('a busy home is asked again when it said, and the registry is left alone meanwhile', () => {
    const { want, answer, at } = newAsker(['first']);
    want();
    expect(answer('first', 'busy', { ms: 200 })).toEqual([]);
    expect(at(199)).toEqual([]);
    expect(at(200)).toEqual(['ask first']);
  });
});

describe('patience', () => {
  test('longer than usual nothing comes: the next home is asked as well, and the first bytes count', () => {
    const { want, answer, at, came } = newAsker();
    want();
    answer('first', 'have');
    expect(at(499)).toEqual([]);
    expect(at(500)).toEqual(['ask second']);
    answer('second', 'have');
    expect(came('second')).toEqual(['give second', 'leave first']);
  });

  test('a home that left the piece to the first one, as it was asked beside it, is asked again when that one is silent', () => {
    const { want, answer, at } = newAsker();
    want();
    expect(at(500)).toEqual(['ask second']);
    expect(answer('second', 'none', { at: 'first' })).toEqual([]);
    expect(at(2_000)).toEqual(['leave first', 'ask second after first']);
    expect(answer('second', 'none', { at: 'first' })).toEqual(['read']);
  });

  test('a transfer that goes on is not silent, however long it takes', () => {
    const { want, answer, at, send, key } = newAsker(['first']);
    want();
    answer('first', 'have');
    for (let now = 2_000; now < 9_000; now += 2_000) {
      expect(at(now)).toEqual([]);
      send({ type: 'moves', member: 'first', key, now });
    }
    expect(at(11_000)).toContain('read');
  });

  test('a reader that has waited long enough is served by the registry, prefetch waits longer', () => {
    for (const [urgency, ms] of [
      ['demand', 10_000],
      ['prefetch', 60_000],
    ] as const) {
      const { want, answer, at } = newAsker();
      want(0, urgency);
      answer('first', 'coming');
      for (let now = 4_000; now < ms; now += 4_000) {
        expect(at(now)).not.toContain('read');
        answer('first', 'coming');
      }
      expect(at(ms)).toContain('read');
    }
  });

  test('patience counts from when a reader came to want the piece: in the queue too, where no place becomes free', () => {
    const { asker, want, answer, at } = newAsker(['first', 'second'], { atOnce: 2, demandShare: 0 });
    want(0);
    want(1, 'prefetch');
    answer('first', 'coming');
    at(1_000);
    expect(want(2)).toEqual([]);
    expect(want(3, 'prefetch')).toEqual([]);
    at(3_000);
    expect(want(3)).toEqual([]);
    at(10_000);
    expect(at(10_999)).not.toContain('read');
    // The registry is still busy with the first piece, and its place is not free.
    expect(at(11_000)).toContain('read');
    expect(at(12_999)).not.toContain('read');
    expect(at(13_000)).toContain('read');
    expect(asker.status()).toEqual({ wanted: 4, running: 2, queued: 0 });
  });

  test('a home that never answers is left out after a while, and the other one is told', () => {
    const { want, at } = newAsker();
    want();
    at(500);
    expect(at(2_000)).toContain('leave first');
    expect(want(1)).toEqual(['ask second after first 1']);
  });

  test('where members answer late, one is waited for longer, up to a bound; its late answers say so', () => {
    const { peers, want, at, send } = newAsker();
    const late = (index: number) =>
      send({
        type: 'answer',
        member: 'first',
        key: pieceKey(SOURCE, index),
        answer: { index, state: 'coming' },
        now: index * 20_000 + 2_500,
      });
    for (let index = 0; index < 4; index++) {
      at(index * 20_000);
      want(index);
      expect(at(index * 20_000 + 2_000)).toContain('leave first');
      // By then the second home has been asked, and the first one is there again.
      late(index);
      expect(peers.isAsked('first', index * 20_000 + 2_500)).toBe(true);
    }
    expect(peers.usualMs('answer')).toBe(2_500);
    at(100_000);
    want(4);
    expect(at(107_999)).not.toContain('leave first');
    expect(at(108_000)).toContain('leave first');
  });

  test('where pieces take long, a reader waits longer for one, up to a bound', () => {
    for (const [usual, ms] of [
      [2_000, 10_000],
      [3_000, 12_000],
      [9_000, 15_000],
    ] as const) {
      const { peers, want, answer, at } = newAsker();
      for (let times = 0; times < 4; times++) peers.ended(usual);
      want();
      answer('first', 'coming');
      for (let now = 4_000; now < ms; now += 4_000) {
        at(now);
        answer('first', 'coming');
      }
      expect(at(ms - 1)).not.toContain('read');
      expect(at(ms)).toContain('read');
    }
  });

  test('wrong bytes: the member is left out, and the homes hear of it', () => {
    const { want, send, key, peers } = newAsker();
    want();
    expect(
      send({ type: 'wrong', member: 'holder', from: 'registry', key, source: SOURCE, index: 0, now: 0 }),
    ).toEqual(['wrong holder to holder,first,second']);
    expect(peers.isAsked('holder', 1_000_000)).toBe(false);
  });
});

describe('a home that has it asked again and again', () => {
  test('with a token, or with the news that it is coming: after so many answers the registry is read', () => {
    for (const states of [['bring'], ['coming', 'have']] as const) {
      const { want, answer } = newAsker(['first']);
      want();
      const said: string[] = [];
      for (let turn = 0; turn < 2_000 && said.at(-1) !== 'read'; turn++)
        for (const state of states) said.push(...answer('first', state));
      expect(said.filter((one) => one.startsWith('get')).length).toBeLessThanOrEqual(1_024);
      expect(said.slice(-2)).toEqual(['leave first', 'read']);
    }
  });

  test('beside another one, each of which sends it to the other while its own places are taken: a moment passes between', () => {
    const { want, answer, at } = newAsker();
    want();
    const said: string[] = [];
    let [member, other] = ['first', 'second'];
    for (let turn = 0; turn < 20; turn++) {
      said.push(...answer(member, 'have', { at: other }));
      [member, other] = [other, member];
    }
    expect(said).toEqual(['get second', 'get first']);
    expect([at(249), at(250)]).toEqual([[], ['ask first']]);
  });

  test('as busy for no time at all: it is asked again after a moment', () => {
    const { want, answer, at } = newAsker(['first']);
    want();
    expect(answer('first', 'busy', { ms: 0 })).toEqual([]);
    expect([at(49), at(50)]).toEqual([[], ['ask first']]);
  });
});

describe('many pieces', () => {
  test('so many are under way at once; prefetch leaves places free, and a reader’s piece takes one', () => {
    const { asker, want } = newAsker(['first'], { atOnce: 4 });
    for (let index = 0; index < 6; index++) want(index, 'prefetch');
    expect(asker.status()).toEqual({ wanted: 6, running: 3, queued: 3 });
    expect(want(9, 'demand')).toEqual(['ask first 9']);
    expect(asker.status().running).toBe(4);
  });

  test('a prefetch that a reader comes to want overtakes those that wait', () => {
    const { want, came } = newAsker(['first'], { atOnce: 1 });
    for (let index = 0; index < 3; index++) want(index, 'prefetch');
    expect(want(2, 'demand')).toEqual([]);
    expect(came('first')).toEqual(['give first', 'ask first 2']);
  });

  test('beyond what may wait the registry is read', () => {
    const { want } = newAsker(['first'], { most: 2, atOnce: 1 });
    want(0);
    want(1);
    expect(want(2)).toEqual(['read']);
  });
});

test('a member that keeps a place for this node hears that it needs it no more', () => {
  const { want, answer, came, send, key } = newAsker(undefined, {}, ['0']);
  want();
  answer('self', 'busy');
  answer('first', 'have', { at: 'holder' });
  came('holder');
  expect(answer('second', 'have')).toEqual(['hold to second']);
  expect(answer('second', 'coming')).toEqual([]);
  // And that it does not have it, where no job here wanted it any more.
  const gone = newAsker();
  gone.want();
  send({ type: 'drop', key, now: 0 });
  gone.send({ type: 'drop', key, now: 0 });
  expect(gone.answer('first', 'have')).toEqual(['failed to first']);
});

describe('in a large zone', () => {
  const newMember = () => newAsker(undefined, {}, [], 3);
  const verified = { type: 'verified', key: pieceKey(SOURCE, 0), source: SOURCE, index: 0, now: 0 } as const;

  test('the homes of the own cell are asked and told, and no others', () => {
    const { asker, want, answer, came, send } = newMember();
    expect(want()).toEqual(['ask near']);
    answer('near', 'have', { at: 'holder' });
    came('holder');
    expect(send(verified)).toEqual(['hold to near,next']);
    expect(
      asker.handle({ type: 'want', source: SOURCE, index: 1, class: 'demand', token: true, now: 0 }),
    ).toMatchObject([{ type: 'ask', member: 'near', cell: 3 }]);
  });

  test('one that is sent on for its cell asks the home of the zone, as any other does, and tells both', () => {
    const { asker, want, answer, came } = newMember();
    want();
    expect(answer('near', 'none', { at: 'first' })).toEqual(['ask first']);
    answer('first', 'have');
    came('first');
    expect(asker.handle(verified)).toMatchObject([
      { type: 'hold', members: ['near', 'next'], cell: 3 },
      { type: 'hold', members: ['first', 'second'] },
    ]);
    // Once: the piece may come by the cell the next time.
    expect(asker.handle(verified)).toHaveLength(1);
  });

  test('where the home of the zone is silent the cell hears so, and sends it to the next one', () => {
    const { want, answer, silent } = newMember();
    want();
    answer('near', 'none', { at: 'first' });
    expect(silent('first')).toEqual(['leave first', 'ask near after first']);
    expect(answer('near', 'none', { at: 'second' })).toEqual(['ask second after first']);
  });

  test('where no home of the cell is there the zone is asked, and told', () => {
    const { want, answer, silent, came, send } = newMember();
    want();
    expect(silent('near')).toEqual(['leave near', 'ask next after near']);
    expect(silent('next')).toEqual(['leave next', 'ask first']);
    answer('first', 'have');
    came('first');
    expect(send(verified)).toEqual(['hold to near,next', 'hold to first,second']);
  });
});
