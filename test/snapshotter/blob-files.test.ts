/** Blobs as files (src/snapshotter/blob-files.ts): what is read is the whole blob, checked, or an error. */
import { createHash } from 'node:crypto';
import { open, readdir, readFile, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { LazyBlob } from '../../src/containerd/lazy-content.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { BlobFiles } from '../../src/snapshotter/blob-files.ts';
import { noise } from '../images/nasty.ts';
import { eventually } from '../support/engine.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup, listMounts } from '../support/temp.ts';

/** An odd length, as blobs have. */
const BYTES = noise(3_000_001, 7);
const DIGEST = `sha256:${createHash('sha256').update(BYTES).digest('hex')}`;

let cleanup: Cleanup;
let registry: FaultRegistry;
let blob: LazyBlob;
let folder: string;
let opened: BlobFiles[];

beforeEach(async () => {
  cleanup = new Cleanup();
  opened = [];
  folder = await cleanup.tempDir('blobs');
  registry = await startFaultRegistry();
  cleanup.defer(() => registry.stop());
  registry.blobs.set(DIGEST, BYTES);
  const source = parseReference(`${registry.host}/app:1`);
  blob = { digest: DIGEST, size: BYTES.length, source };
});
afterEach(async () => {
  for (const files of opened) await files.close();
  await cleanup.run();
});

async function files(keepMs?: number): Promise<BlobFiles> {
  const client = new RegistryClient({ dockerConfig: join(folder, 'none'), certDirs: [], environment: {} });
  cleanup.defer(() => client.close());
  const log = pino({ level: 'silent' });
  const made = new BlobFiles({
    dir: join(folder, 'blobs'),
    scratch: folder,
    registry: client,
    log,
    ...(keepMs === undefined ? {} : { keepMs }),
  });
  opened.push(made);
  await made.add(blob);
  await made.settled();
  return made;
}

const requests = () => registry.requests.filter(({ url }) => url.includes('/blobs/')).length;

describe('a blob that stays in its registry', () => {
  test('has its size without a request, and is fetched once for all that read it', async () => {
    const path = (await files()).pathOf(DIGEST);
    expect((await stat(path)).size).toBe(BYTES.length);
    await (await open(path)).close();
    expect(requests()).toBe(0);
    // Readers within this process would take all of Node's threads, which the registry client needs, too.
    const sums = await Promise.all(Array.from({ length: 5 }, () => runCommand('sha256sum', [path])));
    for (const sum of sums) expect(`sha256:${sum.slice(0, 64)}`).toBe(DIGEST);
    expect(requests()).toBe(1);
  });

  test('that has changed in its registry gives no byte, to no reader', async () => {
    registry.blobs.set(DIGEST, Buffer.concat([BYTES.subarray(0, -1), Buffer.from([1])]));
    const path = (await files()).pathOf(DIGEST);
    // The first bytes are right, and must not come either.
    for (let attempt = 0; attempt < 2; attempt += 1) {
      const file = await open(path);
      await expect(file.read(Buffer.alloc(4096), 0, 4096, 0)).rejects.toThrow('EIO');
      await file.close();
    }
    registry.blobs.set(DIGEST, BYTES);
    expect((await readFile(path)).equals(BYTES)).toBe(true);
  });

  test('gives an error while its registry does not have it, and is there when it has it again', async () => {
    registry.blobs.delete(DIGEST);
    const path = (await files()).pathOf(DIGEST);
    await expect(readFile(path)).rejects.toThrow('EIO');
    registry.blobs.set(DIGEST, BYTES);
    expect((await readFile(path)).equals(BYTES)).toBe(true);
  });

  test('gives its room back when it was not read for a while, and comes again', async () => {
    const made = await files(200);
    const file = await open(made.pathOf(DIGEST));
    const scratch = async () => {
      const names = await readdir('/proc/self/fd');
      const links = await Promise.all(
        names.map(async (fd) => [fd, await readlink(`/proc/self/fd/${fd}`).catch(() => '')] as const),
      );
      const [fd] = links.find(([, link]) => link.startsWith(join(folder, 'blob-'))) ?? [];
      return (await stat(`/proc/self/fd/${fd}`)).blocks * 512;
    };
    await file.read(Buffer.alloc(4096), 0, 4096, 0);
    expect(await scratch()).toBeGreaterThanOrEqual(BYTES.length);
    await eventually('the room is free again', async () => (await scratch()) === 0);
    // Past what the kernel has read ahead, and kept.
    const { buffer } = await file.read(Buffer.alloc(4096), 0, 4096, 2_900_000);
    expect(buffer.equals(BYTES.subarray(2_900_000, 2_904_096))).toBe(true);
    expect(requests()).toBe(2);
    await file.close();
  });

  test('is gone when it is removed, and its mount when all ends', async () => {
    const made = await files();
    const path = made.pathOf(DIGEST);
    await stat(path);
    await made.remove(DIGEST);
    await expect(readFile(path)).rejects.toThrow('ENOENT');
    await made.close();
    expect(listMounts().filter(({ point }) => point.startsWith(folder))).toEqual([]);
  });
});
