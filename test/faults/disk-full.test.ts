/** A root on a disk of its own that fills up: what cannot be stored is refused, what is stored is served. */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { rm, statfs, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Engine, errorOf, eventually, imageOf, mountImage, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from './fault-image.ts';

const cleanup = new Cleanup();
let directory = '';
let disk = '';
let registry: RegistryServer;
let engine: Engine;

beforeAll(async () => {
  directory = await cleanup.tempDir('full');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  disk = join(directory, 'disk');
  mkdirSync(disk);
  const file = join(directory, 'disk.img');
  await writeFile(file, '');
  await truncate(file, 160 << 20);
  await runCommand('mkfs.ext4', ['-q', '-m', '0', '-F', file]);
  await runCommand('mount', ['-o', 'loop', file, disk]);
  cleanup.defer(() => runCommand('umount', ['--', disk]));
  const root = join(disk, 'root');
  mkdirSync(root);
  engine = await startEngine({ root, workers: 2, readDeadlineMs: 3_000 });
  cleanup.defer(() => engine.stop());
});
afterEach(async () => {
  // What a failed test left would be what the next one makes room of.
  for (const { dir } of (await engine.status()).mounts) await engine.cli(['unmount', dir]);
  for (const name of ['ballast', 'more']) await rm(join(disk, name), { force: true });
});
afterAll(() => cleanup.run());

const ballast = () => join(disk, 'ballast');

/** Leaves so many bytes free. */
async function fill(free: number): Promise<void> {
  const { bavail, bsize } = await statfs(disk);
  const size = String(bavail * bsize - free);
  // To the brim it fails, when it has taken what there was.
  await runCommand('sh', ['-c', 'fallocate -l "$0" "$1" || test "$2" = 0', size, ballast(), String(free)]);
}

/** The process: another one where it was started again. */
const natsServer = async () => (await engine.pids())['nats-server'];

const push = async (name: string, seed: number): Promise<FaultImage> =>
  await pushImage(join(directory, name), registry.host, name, twoLayers(seed));

const allRead = (dir: string, image: FaultImage) =>
  readInParallel({ root: dir, expected: image.expected, readers: 8, copies: 1 });

describe('a disk that is full', () => {
  it('to the last byte, the log as well: reads of what is present go on, a mount is refused; then all works again', {
    timeout: 300_000,
  }, async () => {
    const image = await push('brim', 8200);
    expect((await engine.cli(['index', image.ref])).code).toBe(0);
    const dir = join(directory, 'mnt-brim');
    await mountImage(engine, image.ref, dir);
    const content = image.files.get('lib/prose') as Buffer;
    expect(new Set(await readPieces(join(dir, 'lib/prose'), content))).toEqual(new Set(['ok']));
    await fill(0);
    // Whatever the file system still finds room for, and what others give back.
    const eager = 'for i in 1 2 3 4 5 6 7 8 9 10; do cat /dev/zero >> "$0"; sleep 0.3; done; true';
    await runCommand('sh', ['-c', eager, join(disk, 'more')]);
    const another = join(directory, 'mnt-brim-2');
    const other = await push('brim-2', 8300);
    const refused = await engine.cli(['mount', '--json', other.ref, another], { timeoutMs: 90_000 });
    expect(refused.code, refused.stdout).not.toBe(0);
    expect(['no-space', 'unavailable']).toContain(errorOf(refused).code);
    expect(existsSync(another)).toBe(false);
    expect(new Set(await readPieces(join(dir, 'lib/prose'), content))).toEqual(new Set(['ok']));
    expect((await engine.status()).cache.evictedBytes).toBe(0);
    await rm(ballast());
    await rm(join(disk, 'more'));
    await eventually('all is read again', async () => (await allRead(dir, image)).failures.length === 0);
    await eventually(
      'mounts work again',
      async () => (await engine.cli(['mount', '--no-prefetch', image.ref, another])).code === 0,
      90_000,
    );
    for (const one of [dir, another]) expect(await engine.cli(['unmount', one])).toMatchObject({ code: 0 });
  });

  it('under a lazy mount: EIO where nothing can be evicted; else what was read before makes room for what is read', {
    timeout: 300_000,
  }, async () => {
    const image = await push('lazy', 8000);
    expect((await engine.cli(['index', image.ref])).code).toBe(0);
    expect((await engine.cli(['prune'])).code).toBe(0);
    const dir = join(directory, 'mnt-lazy');
    await mountImage(engine, image.ref, dir);
    const nats = await natsServer();
    const [here, absent] = ['lib/prose', 'app/noise'].map((name) => ({
      path: join(dir, name),
      content: image.files.get(name) as Buffer,
    }));
    if (here === undefined || absent === undefined) throw new Error('two files');
    const some = { from: 500, count: 2, exact: true };
    // Room for the log, none for a span.
    await fill(512 * 1024);
    expect(await readPieces(absent.path, absent.content, some)).toEqual(['EIO', 'EIO']);
    await rm(ballast());
    await eventually(
      'failed reads are counted',
      async () => (await imageOf(engine, image.ref)).reads.errors > 0,
    );
    expect(engine.log('front-end')).toMatch(/"code":"no-space"|the disk of .* is full|takes no events/);

    await eventually('all of one file is read', async () =>
      (await readPieces(here.path, here.content)).every((outcome) => outcome === 'ok'),
    );
    await fill(512 * 1024);
    const isRead = async () =>
      (await readPieces(absent.path, absent.content, some)).every((outcome) => outcome === 'ok');
    await eventually('room is made', isRead, 60_000);
    // A read goes on with the first hole; the count follows when the layer's part is done.
    await eventually(
      'what went is counted',
      async () => (await engine.status()).cache.evictedBytes > 1 << 20,
    );
    await eventually('it is read once more', isRead, 60_000);
    // The log had its room all the time.
    expect(await natsServer()).toBe(nats);

    await rm(ballast());
    await eventually('all is read again', async () => (await allRead(dir, image)).failures.length === 0);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  });

  it('while a node indexes for itself: no-space, nothing half is left; with space the same call works', async () => {
    const image = await push('node', 8100);
    const dir = join(directory, 'mnt-node');
    const nats = await natsServer();
    await fill(3 << 20);
    const refused = await engine.cli(['mount', '--json', image.ref, dir]);
    expect([errorOf(refused).code, refused.code], refused.stdout).toEqual(['no-space', 8]);
    expect(await natsServer()).toBe(nats);
    expect(existsSync(dir)).toBe(false);
    const left = readdirSync(engine.root, { recursive: true }).map(String);
    // A rehearsal of the indexer may be writing its own.
    expect(left.filter((path) => path.endsWith('.draft') && !path.startsWith('run/'))).toEqual([]);
    expect(left).not.toContain(`images/${image.layout.manifest.digest.slice(7)}/flat.erofs`);
    await rm(ballast());
    await eventually(
      'the same call works',
      async () => (await engine.cli(['mount', '--no-prefetch', image.ref, dir])).code === 0,
    );
    expect(await allRead(dir, image)).toMatchObject({ failures: [] });
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  });
});
