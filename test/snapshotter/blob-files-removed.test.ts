/** A blob whose entry containerd has collected while a reader waits for it. The transport is a stand-in; files are real. */
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import type { KernelTransport } from '../../src/fuse/kernel-transport.ts';
import { type ColdRead, inodeOf } from '../../src/fuse/transport.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { BlobFiles } from '../../src/snapshotter/blob-files.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const SIZE = 1_000;
const DIGEST = `sha256:${'a'.repeat(64)}`;

test('a reader who waits gets an error, and no other file its bytes', async () => {
  const folder = await cleanup.tempDir('removed');
  let cold: ColdRead = () => {};
  let quiet: Promise<void> = Promise.resolve();
  let quieted = 0;
  let registry: Promise<void> = Promise.resolve();
  let fetches = 0;
  const transport = {
    ended: new Promise(() => {}),
    add: () => {},
    remove: () => {},
    settled: () => {},
    stop: async () => {},
    counters: () => ({ reads: 0 }),
    quiesce: async () => {
      quieted += 1;
      await quiet;
    },
  } as unknown as KernelTransport;
  const files = new BlobFiles({
    dir: join(folder, 'blobs'),
    scratch: folder,
    registry: {
      blobStream: async function* () {
        fetches += 1;
        await registry;
        yield Buffer.alloc(SIZE, 7);
      },
    },
    keepMs: 20,
    open: async (_dir, read) => {
      cold = read;
      return { session: { close: () => {} }, transport };
    },
    log: pino({ level: 'silent' }),
  });
  await files.add({ digest: DIGEST, size: SIZE, source: parseReference('registry.example/app:1') });
  const read = () =>
    new Promise<number>((resolve) => cold({ inode: inodeOf(DIGEST) } as never, 0, SIZE, resolve));
  const held = Promise.withResolvers<void>();
  quiet = held.promise;
  expect(await read()).toBe(0);
  // No one reads on: its room is about to be given back.
  await expect.poll(() => quieted).toBe(1);
  const answered = Promise.withResolvers<void>();
  registry = answered.promise;
  const waiting = read();
  const removed = files.remove(DIGEST);
  held.resolve();
  await removed;
  const victim = join(folder, 'victim');
  writeFileSync(victim, 'mine');
  const fd = openSync(victim, 'r+');
  answered.resolve();
  expect(await waiting).toBe(5);
  await sleep(20);
  closeSync(fd);
  expect([readFileSync(victim, 'utf8'), fetches]).toEqual(['mine', 1]);
  await files.close();
});
