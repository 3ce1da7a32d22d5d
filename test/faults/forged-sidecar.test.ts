/**
 * An attacker who may push to the registry, against engines whose mounts are read as programs read them. He forges what a
 * sidecar says of a layer's bytes; test/support/attacker has his tools. No reader gets a byte that the image does not commit to.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Mount } from '../../schemas/api.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { prose } from '../images/nasty.ts';
import { layersOf, pushForged, pushPoisoned, pushTwin } from '../support/attacker/images.ts';
import { type GenuineLayer, rewritten } from '../support/attacker/layer.ts';
import {
  type Forgery,
  overOtherBytes,
  ownLayer,
  resized,
  spansAstray,
  statesOf,
  throughWindow,
} from '../support/attacker/tables.ts';
import { type Engine, eventually, imageOf, startEngine } from '../support/engine.ts';
import { Random } from '../support/random.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { type FaultImage, type Files, pushImage, readPieces } from './fault-image.ts';

const cleanup = new Cleanup();
const undo: Array<() => Promise<void>> = [];
let directory = '';
let storage = '';
let registry: RegistryServer;
let client: RegistryClient;
let engine: Engine;
let mounts = 0;
/** A proof has the lowest priority: on a busy machine it takes a while. */
const PROOF_MS = 150_000;
/** Whoever may push is believed: what an operator has to ask for. */
const LAX = 'registry';

beforeAll(async () => {
  directory = await cleanup.tempDir('forged');
  storage = join(directory, 'storage');
  registry = await startRegistry({ storage });
  cleanup.defer(() => registry.stop());
  client = new RegistryClient({});
  cleanup.defer(() => client.close());
});
beforeEach(async () => {
  engine = await startEngine({ root: await cleanup.tempDir('forged-root'), readDeadlineMs: 20_000 });
});
afterEach(async () => {
  await engine.stop();
  for (const step of undo.splice(0)) await step();
});
afterAll(() => cleanup.run());

/** 49 blocks of text, which a deflate window reaches into, and a script. */
const base = (seed: number): Files => ({
  'app/text': prose(3_200_000, seed),
  'app/start.sh': prose(900, seed + 1),
});
const push = (name: string, layers: Files[]) =>
  pushImage(join(directory, name), registry.host, name, layers, 'gzip');
const newDir = () => join(directory, `mnt-${mounts++}`);

async function mount(ref: string, trust?: string): Promise<Mount> {
  const args = ['mount', '--json', '--no-prefetch', ...(trust === undefined ? [] : ['--trust', trust])];
  const result = await engine.cli([...args, ref, newDir()], { timeoutMs: 120_000 });
  if (result.code !== 0) throw new Error(result.stdout + result.stderr);
  return JSON.parse(result.stdout) as Mount;
}

/** What readers get of each 4 KiB of the image's files. */
async function outcomes({ dir }: { dir: string }, image: FaultImage): Promise<Set<string>> {
  const all: string[][] = [];
  for (const [path, content] of image.files)
    all.push(await readPieces(join(dir, path), content, { exact: true }));
  return new Set(all.flat());
}

const window = (layer: GenuineLayer) => {
  const random = new Random(5);
  let made: Forgery | undefined;
  while (made === undefined) made = throughWindow(layer, random);
  return made;
};
const astray = (layer: GenuineLayer) => {
  const random = new Random(11);
  let made: Forgery | undefined;
  while (made === undefined) made = spansAstray(layer, random);
  return made;
};
const otherBytes = (layer: GenuineLayer) => overOtherBytes(layer, rewritten(layer, new Random(6)));

/** The registry, or a mirror of it, gives other bytes for the blob until the end of the test. */
async function lie(digest: string, bytes: Buffer): Promise<void> {
  const hex = digest.slice('sha256:'.length);
  const path = join(storage, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex, 'data');
  const before = await readFile(path);
  undo.push(() => writeFile(path, before));
  await writeFile(path, bytes);
}

describe('a forged span table in a sidecar that no one vouches for', () => {
  it('over the genuine blob, through the window of a checkpoint: readers get the layer', async () => {
    const image = await push('window', [base(10)]);
    await pushForged(client, image, window);
    // The policy of `cofa up` that is told nothing else; engines of tests believe the registry.
    expect(await outcomes(await mount(image.ref, 'signed'), image)).toEqual(new Set(['ok']));
  });

  it('with other bytes under the blob’s digest, the image pinned: no byte of them is read', async () => {
    const image = await push('bytes', [base(20)]);
    const { forgery } = await pushForged(client, image, otherBytes);
    await lie(image.blobs[0]?.digest as string, forgery.blob);
    const { digest } = image.layout.manifest;
    const pinned = `${image.ref.replace(/:1$/, '')}@${digest}`;
    const result = await engine.cli(['mount', '--json', '--no-prefetch', pinned, newDir()]);
    expect(JSON.parse(result.stdout)).toMatchObject({ error: { code: 'integrity' } });
  });
});

describe('an image that gives another one’s diffID to a layer of its own', () => {
  it.each(['before', 'behind'] as const)(
    'mounted %s the honest one: its readers get the layer',
    async (order) => {
      const name = `shares-${order}`;
      const honest = await push(name, [
        base(order === 'before' ? 30 : 40),
        { 'top/file': prose(100_000, 31) },
      ]);
      expect((await engine.cli(['index', honest.ref])).code).toBe(0);
      const [genuine] = (await layersOf(honest)) as [GenuineLayer];
      const forgery = await ownLayer(genuine, rewritten(genuine, new Random(7)));
      const poisoned = await pushPoisoned(
        join(directory, `${name}-attack`),
        client,
        `${registry.host}/${name}-attack:1`,
        genuine,
        forgery as Forgery,
      );
      const seen = order === 'before' ? undefined : await mount(honest.ref, LAX);
      const evil = await mount(poisoned, LAX);
      const evilContent = {
        ...honest,
        files: new Map([['app/text', honest.files.get('app/text') as Buffer]]),
      };
      // Who believes the attacker reads what he wrote.
      expect(await outcomes(evil, evilContent)).toContain('wrong');
      expect(await outcomes(seen ?? (await mount(honest.ref, LAX)), honest)).toEqual(new Set(['ok']));
    },
  );

  it('with another size of the layer: the honest image is mounted and read all the same', async () => {
    const honest = await push('denied', [base(50), { 'top/file': prose(100_000, 51) }]);
    expect((await engine.cli(['index', honest.ref])).code).toBe(0);
    const [genuine] = (await layersOf(honest)) as [GenuineLayer];
    const forgery = resized(genuine, genuine.rawSize + 70_000, new Random(8)) as Forgery;
    const ref = `${registry.host}/denied-attack:1`;
    const poisoned = await pushPoisoned(join(directory, 'denied-attack'), client, ref, genuine, forgery);
    await mount(poisoned, LAX);
    expect(await outcomes(await mount(honest.ref, LAX), honest)).toEqual(new Set(['ok']));
  });
});

describe('an image whose table has the genuine states of another one’s layer', () => {
  it.each(['spans', 'a blob of his own'] as const)(
    'and %s that do not lead to them: no denial',
    async (what) => {
      const name = what === 'spans' ? 'broken-spans' : 'broken-blob';
      const honest = await push(name, [base(what === 'spans' ? 70 : 80), { 'top/file': prose(100_000, 71) }]);
      expect((await engine.cli(['index', honest.ref])).code).toBe(0);
      const [genuine] = (await layersOf(honest)) as [GenuineLayer];
      const random = new Random(9);
      let forgery: Forgery | undefined;
      while (forgery === undefined)
        forgery =
          what === 'spans'
            ? spansAstray(genuine, random)
            : await ownLayer(genuine, rewritten(genuine, random), statesOf(genuine.tar));
      const ref = `${registry.host}/${name}-attack:1`;
      await mount(
        await pushPoisoned(join(directory, ref.split('/')[1] ?? ''), client, ref, genuine, forgery),
        LAX,
      );
      const seen = await mount(honest.ref, LAX);
      expect(await outcomes(seen, honest)).toEqual(new Set(['ok']));
    },
  );
});

describe('a sidecar with genuine states and spans that lead nowhere, which a mount believes', () => {
  it('costs its readers a moment: the node makes a table of its own, and keeps it', async () => {
    const image = await push('mended', [base(100)]);
    await pushForged(client, image, astray);
    const first = await mount(image.ref, LAX);
    expect(first.origin).toBe('sidecar');
    const made = async () => {
      const { stdout } = await engine.cli(['events', '--json', '--since-start', '--no-follow']);
      return stdout.split('\n').filter((line) => line.includes('"pushed":false')).length;
    };
    expect(await outcomes(first, image)).toEqual(new Set(['ok']));
    expect(await made()).toBe(1);
    await evictAll(image);
    expect(await outcomes(first, image)).toEqual(new Set(['ok']));
    expect(await made()).toBe(1);
  });
});

describe('what the node has proven', () => {
  it('is not undone by genuine metadata with a forged table, under no policy', async () => {
    const image = await push('proven', [base(60)]);
    expect((await engine.cli(['index', image.ref])).code).toBe(0);
    const first = await mount(image.ref, LAX);
    expect(await outcomes(first, image)).toEqual(new Set(['ok']));
    const trustOf = async () => (await engine.status()).mounts.find(({ dir }) => dir === first.dir)?.trust;
    await eventually('proven', async () => (await trustOf()) === 'proven', PROOF_MS);
    // The same layers in another image, whose sidecar has the metadata that were proven.
    const twin = await pushTwin(join(directory, 'twin'), image, `${registry.host}/twin:1`);
    const { digest } = await pushForged(client, twin, window);
    expect((await engine.cli(['prune', '--all'])).code).toBe(0);
    expect((await engine.cli(['unmount', first.dir])).code).toBe(0);
    await restart();
    for (const trust of [LAX, 'own']) {
      const mounted = await mount(twin.ref, trust);
      expect(await outcomes(mounted, image)).toEqual(new Set(['ok']));
      expect((await engine.cli(['unmount', mounted.dir])).code).toBe(0);
    }
    expect((await imageOf(engine, twin.ref)).passed).toEqual([
      { sidecar: digest, reason: expect.stringContaining('block root') },
    ]);
  });

  it('vouches for no table: a sidecar with genuine metadata and states, and broken spans, denies no one', async () => {
    const image = await push('known', [base(90)]);
    expect((await engine.cli(['index', image.ref])).code).toBe(0);
    const first = await mount(image.ref, LAX);
    expect(await outcomes(first, image)).toEqual(new Set(['ok']));
    const trustOf = async () => (await engine.status()).mounts.find(({ dir }) => dir === first.dir)?.trust;
    await eventually('proven', async () => (await trustOf()) === 'proven', PROOF_MS);
    const twin = await pushTwin(join(directory, 'known-twin'), image, `${registry.host}/known-twin:1`);
    await pushForged(client, twin, astray);
    await evictAll(image);
    expect((await engine.cli(['unmount', first.dir])).code).toBe(0);
    const mounted = await mount(twin.ref, 'own');
    expect(await outcomes(mounted, image)).toEqual(new Set(['ok']));
    expect(mounted.origin).toBe('node');
    // Blocks are fetched by the table that the node has made.
    await evictAll(twin);
    expect(await outcomes(mounted, image)).toEqual(new Set(['ok']));
  });
});

/** All blocks of a mounted image go: an engine that has just started knows of no block that a start has read. */
async function evictAll({ ref }: FaultImage): Promise<void> {
  await restart();
  expect((await engine.cli(['prune', '--all'])).code).toBe(0);
  expect((await imageOf(engine, ref)).layers.map(({ bytes }) => bytes.present)).toEqual([0]);
}

async function restart(): Promise<void> {
  await engine.stop();
  engine = await startEngine({ root: engine.root, readDeadlineMs: 20_000 });
}
