import { constants } from 'node:os';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { watchFuse } from '../../src/supervisor/processes/fuse-watch.ts';

const STEP_MS = 200;
let session: object | undefined;
let isServed: boolean;
let asked: Array<PromiseWithResolvers<void>>;
let events: string[];
let timer: NodeJS.Timeout;
let share: number;
const dead = Object.assign(new Error('ENOTCONN, statfs'), { errno: -constants.errno.ENOTCONN });

beforeEach(() => {
  vi.useFakeTimers();
  [session, isServed, asked, events, share] = [{}, true, [], [], 0];
  timer = watchFuse({
    ask: () => {
      const question = Promise.withResolvers<void>();
      asked.push(question);
      return question.promise;
    },
    session: () => session,
    isServed: () => isServed,
    hangMs: 5 * STEP_MS,
    starved: () => share,
    onSilent: () => events.push('silent'),
    onCut: () => events.push('cut'),
  });
});
afterEach(() => {
  clearInterval(timer);
  vi.useRealTimers();
});

const steps = (count: number) => vi.advanceTimersByTimeAsync(count * STEP_MS);

test('a connection that was aborted is told of', async () => {
  await steps(1);
  asked[0]?.reject(dead);
  await steps(0);
  expect(events).toEqual(['cut']);
});

test('what a mount answers that was given up says nothing of the one that was made in its place', async () => {
  await steps(1);
  session = {};
  asked[0]?.reject(dead);
  await steps(1);
  expect(events).toEqual([]);
  // The new one is asked by itself.
  asked[1]?.reject(dead);
  await steps(0);
  expect(events).toEqual(['cut']);
});

test('one that is served and silent is told of after its time, and asked no second time meanwhile', async () => {
  await steps(6);
  expect(events).toEqual([]);
  await steps(1);
  expect(events).toEqual(['silent']);
  expect(asked).toHaveLength(1);
  isServed = false;
  await steps(20);
  expect(events).toEqual(['silent']);
  isServed = true;
  asked[0]?.resolve();
  await steps(3);
  expect(asked).toHaveLength(2);
});

test('one whose server has no processor is told of after six times as long', async () => {
  share = 0.9;
  await steps(30);
  expect(events).toEqual([]);
  await steps(7);
  expect(events).toEqual(['silent']);
});
