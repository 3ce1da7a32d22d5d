/** An indexer that is at hand: loaded and rehearsed, it does what a new one does, and nothing of it is left. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { indexOnNode } from '../../src/supervisor/images/index-on-node.ts';
import { Indexers } from '../../src/supervisor/images/indexers.ts';
import { writeSettings } from '../../src/process/settings.ts';
import { rehearseIndex } from '../../src/indexer/rehearse.ts';
import { ThreadPool } from '../../src/index/thread-pool.ts';
import { RegistryClient, type ResolvedImage } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { CacheSizes } from '../../src/front-end/cache-sizes.ts';
import { policyOf } from '../../src/kernel/priority.ts';
import { realPorts } from '../../src/process/ports.ts';
import { treeBytes } from '../../src/store/disk-use.ts';
import type { LayerLog } from '../../src/store/layer-log.ts';
import { Layout } from '../../src/store/layout.ts';
import { pushSmallImage, type SmallImage } from '../index/small-image.ts';
import { imageOf, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { rootOf } from '../support/roots.ts';
import { Cleanup } from '../support/temp.ts';

/** An engine takes its time on a busy machine. */
vi.setConfig({ testTimeout: 180_000 });
const PATIENCE = { timeout: 60_000 };

const cleanup = new Cleanup();
let registry: RegistryServer;
let small: SmallImage;
let image: ResolvedImage;
let manifest: string;
beforeAll(async () => {
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  small = await pushSmallImage(await cleanup.tempDir('indexers-image'), registry.host, 'small', [
    { compression: 'gzip', files: { 'etc/a': 'a', 'usr/b': Buffer.alloc(3_000_000, 'some text ') } },
    { compression: 'gzip', files: { 'etc/c': 'c' } },
  ]);
  const client = new RegistryClient();
  image = await client.resolve(parseReference(small.ref));
  manifest = image.descriptor.digest;
  await client.close();
});
afterAll(() => cleanup.run());

async function node(settings: { cacheLimit?: number } = {}): Promise<{ layout: Layout; indexers: Indexers }> {
  const layout = new Layout(await cleanup.tempDir('indexers'));
  await layout.prepare();
  await writeSettings({ root: layout.root, registry: {}, ...settings } as Parameters<
    typeof writeSettings
  >[0]);
  const indexers = new Indexers(layout.root);
  cleanup.defer(async () => indexers.close());
  return { layout, indexers };
}

const index = (layout: Layout, indexers: Indexers) =>
  indexOnNode({ layout, manifest, image, indexers, onProgress: () => {} });

/** Indexers of this root that wait; children of this process that have ended are no longer among them. */
async function waiting(root: string): Promise<number[]> {
  const found: number[] = [];
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (words.includes('rehearse') && words.includes(root)) found.push(Number(pid));
  }
  return found;
}

async function atHand(root: string): Promise<number> {
  await expect.poll(() => waiting(root), PATIENCE).toHaveLength(1);
  return (await waiting(root))[0] as number;
}

test('answers as a new one does, also before its rehearsal is over', async () => {
  const fresh = await node();
  const expected = await index(fresh.layout, fresh.indexers);
  const { layout, indexers } = await node();
  indexers.prepare();
  const pid = await atHand(layout.root);
  expect(policyOf(pid)).toBe('idle');
  const child = indexers.take();
  expect(child?.pid).toBe(pid);
  expect(policyOf(pid)).toBe('normal');
  expect(await index(layout, { take: () => child } as Pick<Indexers, 'take'> as Indexers)).toEqual(expected);
  for (const tar of small.tars)
    expect((await readFile(layout.device(rootOf(tar)))).subarray(0, tar.length)).toEqual(tar);
  expect(await readFile(layout.flat(manifest))).toEqual(await readFile(fresh.layout.flat(manifest)));
  await expect.poll(() => waiting(layout.root), PATIENCE).toEqual([]);
});

test('is one at a time, and ends when none is needed', async () => {
  const { layout, indexers } = await node();
  indexers.prepare();
  const pid = await atHand(layout.root);
  indexers.prepare();
  // A turn of the timers later there is no other.
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(await waiting(layout.root)).toEqual([pid]);
  indexers.dismiss();
  // It was killed, and its parent, this process, has not heard of its end. At idle priority it would hold its parent up.
  expect(policyOf(pid)).toBe('normal');
  await expect.poll(() => waiting(layout.root), PATIENCE).toEqual([]);
  indexers.close();
  indexers.prepare();
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(await waiting(layout.root)).toEqual([]);
});

test('that has died unnoticed costs nothing but its place', async () => {
  const { layout, indexers } = await node();
  indexers.prepare();
  const pid = await atHand(layout.root);
  process.kill(pid, 'SIGKILL');
  expect((await index(layout, indexers)).devices).toHaveLength(2);
});

test('what it does is rehearsed to its end, in each of its threads, and nothing is left of it', async () => {
  const { layout } = await node();
  const pool = new ThreadPool(2);
  cleanup.defer(() => pool.close());
  const { signal } = new AbortController();
  await rehearseIndex({ root: layout.root, name: 'indexer', signal }, pool, 2);
  expect(await readdir(layout.in('run'))).toEqual(['engine.json']);
});

test('an engine that leaves idle processors alone has none at hand, and rehearses nothing', async () => {
  const folder = await cleanup.tempDir('indexers-calm');
  const engine = await startEngine({ root: join(folder, 'root') });
  cleanup.defer(() => engine.stop());
  for (const until = Date.now() + 3_000; Date.now() < until; await sleep(100)) {
    expect((await readdir(join(engine.root, 'run'))).filter((name) => name.startsWith('rehearsal-'))).toEqual(
      [],
    );
    expect(await waiting(engine.root)).toEqual([]);
  }
});

test.each(['node', 'sidecar'] as const)(
  'an engine has one at hand until its first image has come by way of the %s',
  async (origin) => {
    const folder = await cleanup.tempDir('indexers-engine');
    const engine = await startEngine({ root: join(folder, 'root'), rehearses: true });
    cleanup.defer(() => engine.stop());
    await atHand(engine.root);
    if (origin === 'sidecar') expect((await engine.cli(['index', small.ref])).code).toBe(0);
    const mounted = await engine.cli(['mount', small.ref, await cleanup.tempDir('indexers-mount')]);
    expect(mounted.code, mounted.stderr).toBe(0);
    expect((await imageOf(engine, small.ref)).origin).toBe(origin);
    await expect.poll(() => waiting(engine.root), PATIENCE).toEqual([]);
    await engine.stop();
  },
);

test('an image that unpacks to more than the cache may hold is given up, and its bytes are freed', async () => {
  const { layout, indexers } = await node({ cacheLimit: 1_000_000 });
  // Some KB of gzip are three megabytes of tar.
  await expect(index(layout, indexers)).rejects.toMatchObject({
    code: 'no-space',
    message: expect.stringContaining('more than the 1000000 bytes of the cache'),
    hint: expect.stringContaining('--cache-limit'),
  });
  const left = await readdir(layout.in('layers'), { recursive: true, withFileTypes: true });
  expect(left.filter((entry) => entry.isFile() && entry.name.endsWith('.draft'))).toEqual([]);
  expect(await treeBytes(layout.in('layers'))).toBeLessThan(1_000_000);
});

test('an image that is being indexed counts as cache while it is written', async () => {
  const { layout } = await node();
  await writeFile(layout.in('layers', `${'a'.repeat(64)}.1.draft`), Buffer.alloc(100_000, 1));
  const facts = { layers: new Map() } as unknown as LayerLog;
  const sizes = new CacheSizes({ layout, facts, opened: new Map(), clock: realPorts().clock });
  await sizes.measure();
  expect(sizes.usedBytes).toBeGreaterThanOrEqual(100_000);
});
