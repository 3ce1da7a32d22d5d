/** Profiles of V8 as stacks: the stretch of time that is asked for, and what counts as work. */
import { expect, test } from 'vitest';
import { type CpuProfile, foldProfile, type Frame, ownTimes } from '../../ops/bench/cpu-profiles.ts';
import { flamePicture } from '../../ops/bench/flame-picture.ts';

const node = (id: number, functionName: string, url = '', children: number[] = []) => ({
  id,
  callFrame: { functionName, url },
  children,
});

/** Samples each ms from 1000 µs on: main, main › decode, main › decode › get, idle, a read that waits, the collector. */
const PROFILE: CpuProfile = {
  nodes: [
    node(1, '(root)', '', [2, 5, 6, 7]),
    node(2, 'main', 'file:///app/src/fetcher/main.ts', [3]),
    node(3, 'decode', 'file:///app/src/fetch/decode.ts', [4]),
    node(4, 'get', 'file:///app/node_modules/@nats-io/nats-core/lib/a.js'),
    node(5, '(idle)'),
    node(6, 'read'),
    node(7, '(garbage collector)'),
  ],
  startTime: 1000,
  samples: [2, 3, 4, 5, 6, 7],
  timeDeltas: [1000, 1000, 1000, 1000, 1000, 1000],
};

const shape = ({ us, children }: Frame): unknown => [
  us,
  Object.fromEntries([...children].map(([name, child]) => [name, shape(child)])),
];

test('a stack has the time of what it calls; what waits has none', () => {
  const main = 'main  src/fetcher/main.ts';
  const decode = 'decode  src/fetch/decode.ts';
  const get = 'get  @nats-io/nats-core';
  const all = foldProfile(PROFILE, [0, 10_000]);
  expect(shape(all)).toEqual([
    4000,
    { [main]: [3000, { [decode]: [2000, { [get]: [1000, {}] }] }], '(garbage collector)': [1000, {}] },
  ]);
  expect(ownTimes([all])).toEqual([
    [main, 1000],
    [decode, 1000],
    [get, 1000],
    ['(garbage collector)', 1000],
  ]);
});

test('a sample counts as far as it lies in the stretch', () => {
  const part = foldProfile(PROFILE, [1500, 2250]);
  expect(shape(part)).toEqual([
    750,
    { 'main  src/fetcher/main.ts': [750, { 'decode  src/fetch/decode.ts': [250, {}] }] },
  ]);
});

test('a picture names processes and functions, and takes no word for markup', () => {
  const picture = flamePicture([['<fetcher>', foldProfile(PROFILE, [0, 10_000])]], 'a & b', '');
  expect(picture).toContain('&lt;fetcher&gt;: 4.0 ms');
  expect(picture).toContain('a &amp; b');
  expect(picture).toContain('<title>decode  src/fetch/decode.ts: 2.0 ms</title>');
  expect(picture).not.toContain('<fetcher>');
});
