/** How far the kernel is to read ahead, by what an image is made of. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SB, SUPERBLOCK } from '../../src/image/erofs-format.ts';
import { readAheadOf } from '../../src/supervisor/images/read-ahead.ts';
import { Cleanup } from '../support/temp.ts';

const GB = 1e9;
const cleanup = new Cleanup();
let directory = '';
beforeAll(async () => {
  directory = await cleanup.tempDir('read-ahead');
});
afterAll(() => cleanup.run());

/** KiB, for an image of so many files in layers of these sizes. */
async function readAhead(files: number, sizes: readonly number[], isWhole = false): Promise<number> {
  const flat = join(directory, 'flat');
  const metadata = Buffer.alloc(2 * SUPERBLOCK);
  metadata.writeUInt32LE(files, SUPERBLOCK + SB.inodes);
  await writeFile(flat, metadata);
  const digest = `sha256:${'0'.repeat(64)}`;
  const devices = sizes.map((size) => ({ diffId: digest, size, spans: digest }));
  return await readAheadOf(flat, { devices }, isWhole);
}

test('a model is read in long pieces, also on a small base', async () => {
  expect(await readAhead(12, [1.6 * GB])).toBe(1024);
  expect(await readAhead(900, [0.1 * GB, 8 * GB])).toBe(1024);
});

test('other images are read in short pieces until they are whole, however large they are', async () => {
  for (const [files, sizes] of [
    [60_000, [12 * GB, 2 * GB]],
    [16_000, [0.8 * GB]],
    [3, [0.1 * GB]],
  ] as const) {
    expect(await readAhead(files, sizes)).toBe(128);
    expect(await readAhead(files, sizes, true)).toBe(1024);
  }
});
