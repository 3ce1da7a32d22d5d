import { closeSync, openSync, readSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { LayerFacts } from '../../actors/node-state.ts';
import { blocksInHoles, trimAbsent } from '../../src/front-end/device-holes.ts';
import { holesOf, punchHole } from '../../src/kernel/holes.ts';
import { Cleanup } from '../support/temp.ts';

const BLOCK = 65_536;
const BLOCKS = 200;
let cleanup: Cleanup;
let path = '';
let fd = -1;

beforeEach(async () => {
  cleanup = new Cleanup();
  path = join(await cleanup.tempDir('holes'), 'device');
  fd = openSync(path, 'w+');
  cleanup.defer(async () => closeSync(fd));
  const bytes = Buffer.alloc(BLOCK, 0xab);
  for (let block = 0; block < BLOCKS; block++) writeSync(fd, bytes, 0, BLOCK, block * BLOCK);
});
afterEach(() => cleanup.run());

const facts = (present: (block: number) => boolean): LayerFacts => {
  const states = Uint8Array.from({ length: BLOCKS }, (_, block) => (present(block) ? 1 : 0));
  return {
    size: BLOCKS * BLOCK,
    blockSize: BLOCK,
    blockCount: BLOCKS,
    blob: '',
    present: states,
    presentCount: states.reduce((sum, one) => sum + one, 0),
    complete: false,
    handedOver: false,
  };
};
const byteAt = (offset: number) => {
  const one = Buffer.alloc(1);
  readSync(fd, one, 0, 1, offset);
  return one[0];
};

test('a punched range reads as zeros, gives its room back and keeps the size; the holes are found', async () => {
  const before = statSync(path).blocks;
  await punchHole(fd, 3 * BLOCK, 2 * BLOCK);
  await punchHole(fd, 199 * BLOCK, 10 * BLOCK);
  expect(before - statSync(path).blocks).toBe((3 * BLOCK) / 512);
  expect(statSync(path).size).toBe(BLOCKS * BLOCK);
  expect([byteAt(3 * BLOCK - 1), byteAt(3 * BLOCK), byteAt(5 * BLOCK - 1), byteAt(5 * BLOCK)]).toEqual([
    0xab, 0, 0, 0xab,
  ]);
  expect(await holesOf(fd, BLOCKS * BLOCK)).toEqual([
    { from: 3 * BLOCK, to: 5 * BLOCK },
    { from: 199 * BLOCK, to: 200 * BLOCK },
  ]);
});

test('blocks that the log calls present and that are holes are named; a hole in part is one as well', async () => {
  await punchHole(fd, 3 * BLOCK, 2 * BLOCK);
  await punchHole(fd, 9 * BLOCK + 8192, 4096);
  expect(
    await blocksInHoles(
      fd,
      facts(() => true),
    ),
  ).toEqual([
    [3, 2],
    [9, 1],
  ]);
  expect(
    await blocksInHoles(
      fd,
      facts((block) => block !== 4),
    ),
  ).toEqual([
    [3, 1],
    [9, 1],
  ]);
  expect(
    await blocksInHoles(
      fd,
      facts(() => false),
    ),
  ).toEqual([]);
});

test('room of absent blocks is given back, what is present stays', async () => {
  await trimAbsent(
    fd,
    facts((block) => block % 100 < 50),
  );
  expect(await holesOf(fd, BLOCKS * BLOCK)).toEqual([
    { from: 50 * BLOCK, to: 100 * BLOCK },
    { from: 150 * BLOCK, to: 200 * BLOCK },
  ]);
  expect(byteAt(149 * BLOCK)).toBe(0xab);
});
