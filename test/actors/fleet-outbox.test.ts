/** Which messages to a member are put together. */
import { expect, test } from 'vitest';
import { Outbox, type Outgoing } from '../../actors/fleet-outbox.ts';
import { isFleetAnswer, isFleetAsk, isFleetHold } from '../../schemas/check-fleet.ts';
import { MAX_ASKED, PIECE_BYTES } from '../../schemas/fleet.ts';

const SOURCE = {
  registry: 'registry.example',
  repository: 'app',
  digest: `sha256:${'a'.repeat(64)}`,
  size: 200 * PIECE_BYTES,
};
const OTHER = { ...SOURCE, digest: `sha256:${'b'.repeat(64)}` };
const ask = (index: number, more: Partial<Extract<Outgoing, { kind: 'ask' }>> = {}): Outgoing => ({
  kind: 'ask',
  v: 1,
  class: 'demand',
  token: true,
  source: SOURCE,
  pieces: [index],
  ...more,
});
const hold = (index: number, more: Partial<Extract<Outgoing, { kind: 'hold' }>> = {}): Outgoing => ({
  kind: 'hold',
  v: 1,
  source: SOURCE,
  pieces: [index],
  ...more,
});
const answer = (index: number, state: 'have' | 'coming', digest = SOURCE.digest): Outgoing => ({
  kind: 'answer',
  v: 1,
  registry: SOURCE.registry,
  digest,
  pieces: [{ index, state }],
});

/** What goes out for these, as lists of indexes. */
function sent(...said: Outgoing[]): number[][] {
  const outbox = new Outbox();
  for (const one of said) outbox.add('home', one);
  const taken = outbox.take().map(([, one]) => one);
  for (const one of taken) {
    const isSound = { ask: isFleetAsk, hold: isFleetHold, answer: isFleetAnswer }[one.kind];
    expect(isSound(one)).toBe(true);
  }
  return taken.map(({ pieces }) => pieces.map((one) => (typeof one === 'number' ? one : one.index)));
}

test('questions about pieces of one blob are one message, with the pieces in rising order; so are answers, and what was got', () => {
  expect(sent(ask(3), ask(1), ask(2))).toEqual([[1, 2, 3]]);
  expect(sent(hold(3), hold(1))).toEqual([[1, 3]]);
  expect(sent(answer(3, 'have'), answer(1, 'coming'))).toEqual([[3, 1]]);
});

test('what differs in more than the piece stays apart', () => {
  const proof = { nonce: '0'.repeat(32), hash: '0'.repeat(64) };
  const others = [
    { class: 'prefetch' },
    { token: false },
    { source: OTHER },
    { tried: ['x'] },
    { cell: 1 },
  ] as const;
  for (const more of [...others, { proof }]) expect(sent(ask(1), ask(2, more))).toEqual([[1], [2]]);
  expect(sent(ask(1, { tried: ['x', 'y'] }), ask(2, { tried: ['x', 'y'] }))).toEqual([[1, 2]]);
  for (const more of [{ source: OTHER }, { cell: 1 }])
    expect(sent(hold(1), hold(2, more))).toEqual([[1], [2]]);
  expect(sent(answer(1, 'have'), answer(2, 'have', OTHER.digest))).toEqual([[1], [2]]);
});

test('the order of what is said of a piece stays', () => {
  expect(sent(answer(1, 'coming'), answer(1, 'have'))).toEqual([[1], [1]]);
  expect(sent(ask(1), hold(2), ask(3))).toEqual([[1], [2], [3]]);
  expect(sent(hold(1), hold(1, { pieces: [], failed: [1] }))).toEqual([[1], []]);
});

test('a message has as many pieces as others take', () => {
  const many = Array.from({ length: MAX_ASKED + 1 }, (_, index) => ask(index));
  expect(sent(...many).map(({ length }) => length)).toEqual([MAX_ASKED, 1]);
});

test('each member gets its own; the first that waits says that all have to be taken', () => {
  const outbox = new Outbox();
  expect([outbox.add('a', ask(1)), outbox.add('b', ask(2)), outbox.add('a', ask(3))]).toEqual([
    true,
    false,
    false,
  ]);
  expect(outbox.take().map(([to, { pieces }]) => [to, pieces])).toEqual([
    ['a', [1, 3]],
    ['b', [2]],
  ]);
  expect([outbox.take(), outbox.add('a', ask(1))]).toEqual([[], true]);
});
