/**
 * Sidecars that are valid and wrong: any account that may push to the repository can push one. The registry is docker's, the forged
 * flat images are made by cofa's own builder from tables of contents that say something else than the layers.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { Mount } from '../../schemas/api.ts';
import type { TrustPolicy } from '../../schemas/trust.ts';
import { connectEngine } from '../../src/client/client.ts';
import { buildFlat } from '../../src/image/erofs.ts';
import { decodeToc } from '../../src/image/toc-codec.ts';
import { indexImage, sidecarOf } from '../../src/index/index-image.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { pushSidecar, SIDECAR_REVISION } from '../../src/registry/sidecars.ts';
import { type FaultImage, type Files, pushImage } from '../faults/fault-image.ts';
import { noise } from '../images/nasty.ts';
import { type Engine, errorOf, eventually, imageOf, startEngine, untilWell } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { pushSmallImage, type SmallLayer } from '../index/small-image.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let directory = '';
let registry: RegistryServer;
let engine: Engine;
let client: RegistryClient;
let count = 0;
/** A proof has the lowest priority: on a busy machine it takes a while. */
const PROOF_MS = 150_000;
vi.setConfig({ testTimeout: 2 * PROOF_MS });

beforeAll(async () => {
  directory = await cleanup.tempDir('trust');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  client = new RegistryClient({});
  cleanup.defer(() => client.close());
  await start();
  cleanup.defer(() => engine.stop());
});
afterAll(() => cleanup.run());

async function start(): Promise<void> {
  engine = await startEngine({ root: join(directory, 'root') });
}

/** Two layers; nothing of the lower one's `app/tool` is in the image. */
const files = (seed: number): Files[] => [
  { 'app/tool': noise(70_000, seed), 'app/data': noise(300_000, seed + 1) },
  { 'app/tool': noise(80_000, seed + 2), 'app/evil': noise(80_000, seed + 3) },
];
const push = (name: string, layers: Files[]) =>
  pushImage(join(directory, name), registry.host, name, layers, 'gzip');
const newDir = () => join(directory, `mnt-${count++}`);

/** Pushes a sidecar that gives `app/tool` the bytes and the mode of another file. Returns its digest. */
async function forge(image: FaultImage): Promise<string> {
  const resolved = await client.resolve(parseReference(image.ref));
  const indexed = await indexImage({ image: resolved });
  const tocs = indexed.layers.map(({ toc }) => decodeToc(toc));
  const upper = tocs[1]?.entries ?? [];
  const named = (path: string) => {
    const entry = upper.find((one) => one.path.toString() === path);
    if (entry === undefined) throw new Error(`no ${path}`);
    return entry;
  };
  const [tool, evil] = [named('app/tool'), named('app/evil')];
  [tool.extents, evil.extents] = [evil.extents, tool.extents];
  tool.mode = 0o4777;
  const flat = buildFlat(
    tocs,
    indexed.layers.map(({ diffId, rawSize }) => ({ diffId, size: rawSize })),
  ).metadata;
  const pushed = await pushSidecar(client, resolved, { ...sidecarOf(indexed), flat });
  return pushed.digest;
}

async function mount(ref: string, dir: string, trust?: TrustPolicy): Promise<Mount> {
  const args = ['mount', '--json', ...(trust === undefined ? [] : ['--trust', trust]), ref, dir];
  const result = await engine.cli(args);
  if (result.code !== 0) throw new Error(result.stdout + result.stderr);
  return JSON.parse(result.stdout) as Mount;
}
const trustOf = async (dir: string) => (await engine.status()).mounts.find((one) => one.dir === dir)?.trust;
const expectRight = async (dir: string, image: FaultImage) =>
  expect(await readInParallel({ root: dir, expected: image.expected, readers: 2 })).toMatchObject({
    failures: [],
  });
/** Whether containerd would be told that it need not unpack the image. */
async function isFlat(image: FaultImage): Promise<boolean> {
  const { layers, reference, descriptor } = await client.resolve(parseReference(image.ref));
  const chain = layers.reduce((below, { diffId }) => {
    if (below === '') return diffId;
    return `sha256:${createHash('sha256').update(`${below} ${diffId}`).digest('hex')}`;
  }, '');
  const engineClient = await connectEngine(engine.root);
  try {
    const order = { chain, ref: reference.text, manifest: descriptor.digest };
    return (await engineClient.call('chain', order, { timeoutMs: 20_000 })).flat !== undefined;
  } finally {
    await engineClient.close();
  }
}
const alarms = async (image: FaultImage) =>
  (await engine.status()).degraded.filter((sentence) => sentence.includes(image.ref));

describe('an honest sidecar', () => {
  it('is proven when every layer is whole, one of whose data nothing is used included', async () => {
    const layers: SmallLayer[] = [
      { compression: 'gzip', files: { 'app/tool': noise(70_000, 1) } },
      { compression: 'zstd', files: { 'app/tool': noise(80_000, 2), 'app/data': noise(200_000, 3) } },
    ];
    const pushTwin = async (name: string) => {
      const image = await pushSmallImage(join(directory, name), registry.host, name, layers, {
        Env: [`NAME=${name}`],
      });
      expect((await engine.cli(['index', image.ref])).code).toBe(0);
      return image.ref;
    };
    const [honest, dir] = [await pushTwin('honest'), newDir()];
    expect(await mount(honest, dir)).toMatchObject({ origin: 'sidecar', trust: 'unproven' });
    expect((await imageOf(engine, honest)).layers).toHaveLength(1);
    await eventually('proven', async () => (await trustOf(dir)) === 'proven', PROOF_MS);
    const verified = async () => {
      const { stdout } = await engine.cli(['events', '--json', '--since-start', '--no-follow']);
      return stdout.split('\n').filter((line) => line.includes('"image.verified"')).length;
    };
    expect(await verified()).toBe(1);

    // Another image of the same layers needs no second proof, under any policy.
    const [twin, second] = [await pushTwin('twin'), newDir()];
    expect(await mount(twin, second, 'own')).toMatchObject({ origin: 'node', trust: 'proven' });
    expect(await verified()).toBe(1);
    const told = (await engine.cli(['events', '--json', '--since-start', '--no-follow'])).stdout;
    expect(told.split('\n').findLast((line) => line.includes('"image.prepared"'))).toContain('"pushed":true');
    expect(readFileSync(join(second, 'app/data')).equals(noise(200_000, 3))).toBe(true);
  });
});

describe('a rebuild that is killed', () => {
  it('says nothing about its sidecar and does no harm: its mount is served, other images are proven', async () => {
    const [image, other] = [await push('unlucky', files(60)), await push('next', files(70))];
    for (const { ref } of [image, other]) expect((await engine.cli(['index', ref])).code).toBe(0);
    const [dir, second] = [newDir(), newDir()];
    const killed = killRebuild();
    expect(await mount(image.ref, dir)).toMatchObject({ origin: 'sidecar', trust: 'unproven' });
    await killed;
    await expectRight(dir, image);
    expect(await mount(other.ref, second)).toMatchObject({ origin: 'sidecar' });
    await eventually('proven', async () => (await trustOf(second)) === 'proven', PROOF_MS);
    await expectRight(second, other);
    await untilWell(engine);
  });
});

/** Kills the next rebuild of the engine. */
async function killRebuild(): Promise<void> {
  const root = engine.root;
  const { processes } = await engine.status();
  const supervisor = processes.find(({ role }) => role === 'supervisor')?.pid;
  await eventually(
    `a rebuild below ${root}`,
    () => {
      for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
        const read = (file: string) => {
          try {
            return readFileSync(`/proc/${pid}/${file}`, 'utf8');
          } catch {
            return '';
          }
        };
        if (!read('cmdline').includes('/indexer/rebuilder.ts')) continue;
        if (!read('status').includes(`PPid:\t${supervisor}\n`)) continue;
        process.kill(Number(pid), 'SIGKILL');
        return true;
      }
      return false;
    },
    PROOF_MS,
  );
}

describe('a forged sidecar', () => {
  it('is refuted when the layers are whole: alarm, refusal, the node’s own instead; a restart keeps it all', async () => {
    const image = await push('forged', files(10));
    const sidecar = await forge(image);
    const [old, refused, own] = [newDir(), newDir(), newDir()];
    expect(await isFlat(image)).toBe(true);
    expect(await mount(image.ref, old)).toMatchObject({ origin: 'sidecar', trust: 'unproven' });
    // Before the proof policy `always` takes it: this is what it costs.
    expect(readFileSync(join(old, 'app/tool')).equals(image.files.get('app/evil') as Buffer)).toBe(true);
    expect(statSync(join(old, 'app/tool')).mode & 0o7777).toBe(0o4777);

    await eventually('refuted', async () => (await trustOf(old)) === 'refuted', PROOF_MS);
    const refusal = await engine.cli(['mount', '--json', image.ref, refused]);
    expect([errorOf(refusal).code, refusal.code]).toEqual(['integrity', 6]);
    expect(errorOf(refusal).hint).toContain('--trust never');
    expect(await alarms(image)).toEqual([expect.stringContaining(sidecar)]);
    // containerd unpacks it like an image without a sidecar.
    expect(await isFlat(image)).toBe(false);
    const events = (await engine.cli(['events', '--json', '--since-start', '--no-follow'])).stdout;
    expect(events.split('\n').filter((line) => line.includes('"image.refuted"'))).toEqual([
      expect.stringContaining(sidecar),
    ]);
    expect(await mount(image.ref, own, 'never')).toMatchObject({ origin: 'node', trust: 'proven' });
    await expectRight(own, image);
    expect(statSync(join(own, 'app/tool')).mode & 0o7777).not.toBe(0o4777);
    expect(await trustOf(old)).toBe('refuted');

    await engine.stop();
    await start();
    // Mounts that were acknowledged come back, with the right metadata; the verdict stands.
    expect([await trustOf(old), await trustOf(own)]).toEqual(['proven', 'proven']);
    await expectRight(old, image);
    expect(await alarms(image)).toHaveLength(1);
    expect((await engine.cli(['images'])).stdout).toMatch(/forged:1 .* node +proven/);
    expect((await engine.cli(['mount', image.ref, refused])).code).toBe(6);

    // Put right in the registry: the alarm ends with the next mount.
    expect((await engine.cli(['index', '--force', image.ref])).code).toBe(0);
    expect(await mount(image.ref, refused)).toMatchObject({ trust: 'proven' });
    await expectRight(refused, image);
    await eventually('no alarm', async () => (await alarms(image)).length === 0);
  });

  it('is never used under `never`, nor under `own` unless the user names it', async () => {
    const [first, second] = [await push('strict', files(20)), await push('listed', files(30))];
    await forge(first);
    const listed = await forge(second);
    const [never, own, named] = [newDir(), newDir(), newDir()];
    expect(await mount(first.ref, never, 'never')).toMatchObject({ origin: 'node', trust: 'proven' });
    await expectRight(never, first);
    expect(await mount(second.ref, own, 'own')).toMatchObject({ origin: 'node', trust: 'proven' });
    await expectRight(own, second);

    const third = await push('named', files(40));
    const digest = await forge(third);
    expect(digest).not.toBe(listed);
    writeFileSync(join(engine.root, 'trusted-sidecars'), `# ours\n${digest}  # by the build of today\n`);
    expect(await mount(third.ref, named, 'own')).toMatchObject({ origin: 'sidecar', trust: 'unproven' });
    // A stricter mount of the same image beside it gets another flat image over the same devices.
    const strict = newDir();
    expect(await mount(third.ref, strict, 'never')).toMatchObject({ origin: 'node', trust: 'proven' });
    await expectRight(strict, third);
    expect(readFileSync(join(named, 'app/tool')).equals(third.files.get('app/evil') as Buffer)).toBe(true);
  });

  it('by another revision of the builder: no alarm, but new mounts use what the node has built', async () => {
    const image = await push('newer', files(50));
    const digest = await forge(image);
    const resolved = await client.resolve(parseReference(image.ref));
    const { bytes } = await client.manifest(resolved.reference, digest);
    const newer = {
      ...JSON.parse(bytes.toString()),
      annotations: { 'io.cofa.revision': `${SIDECAR_REVISION + 1}` },
    };
    await client.pushManifest(resolved.reference, Buffer.from(JSON.stringify(newer)), newer.mediaType);
    const [old, fresh] = [newDir(), newDir()];
    expect(await mount(image.ref, old)).toMatchObject({ origin: 'sidecar', trust: 'unproven' });
    await eventually(
      'an image of the node’s own',
      async () => (await imageOf(engine, image.ref)).origin === 'node',
      PROOF_MS,
    );
    expect(await trustOf(old)).toBe('unproven');
    expect(await alarms(image)).toEqual([]);
    expect(await mount(image.ref, fresh)).toMatchObject({ origin: 'node', trust: 'proven' });
    await expectRight(fresh, image);
  });
});
