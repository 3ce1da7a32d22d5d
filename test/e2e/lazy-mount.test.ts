/**
 * The central promise: a lazy mount is the image, byte for byte. Each image is read cold by 32 readers in random
 * order, then compared as a tree with what an independent program unpacks; and nothing is fetched twice.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type RealImage, realImage } from '../../ops/images/debian.ts';
import { type ImageLayout, layoutLayers, pushLayout } from '../../ops/images/layout.ts';
import { findMount } from '../../src/kernel/mount.ts';
import { buildImage, crossLinkLayers, gnuLayer, nastyLayers, type Variant } from '../images/nasty.ts';
import { readInParallel } from '../support/readers.ts';
import { type Containerd, startContainerd } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import {
  type Difference,
  diffTrees,
  formatDifferences,
  readTree,
  type Tree,
  type TreeNode,
} from '../support/tree.ts';
import { keptTruth, unpackWithContainerd, unpackWithUmoci } from '../support/unpack.ts';
import {
  type BlobRequest,
  type Engine,
  startEngine,
  startWatchedRegistry,
  until,
  type WatchedRegistry,
} from './engine.ts';

const all = new Cleanup();
const each = new Cleanup();
let directory: string;
let registry: WatchedRegistry;
let containerd: Containerd;

beforeAll(async () => {
  directory = await all.tempDir('lazy');
  registry = await startWatchedRegistry(all);
  containerd = await startContainerd();
  all.defer(() => containerd.stop());
});
afterEach(() => each.run());
afterAll(() => all.run());

/** Each image is unpacked once for both transports. */
const truths = new Map<string, Promise<Tree>>();
function once(name: string, unpack: () => Promise<Tree>): Promise<Tree> {
  let truth = truths.get(name);
  if (truth === undefined) {
    truth = unpack();
    truths.set(name, truth);
  }
  return truth;
}

interface Lazy {
  engine: Engine;
  mount: string;
  reference: string;
  requests: () => BlobRequest[];
}

/** Pushes, indexes, starts an engine with nothing on its disk, and mounts. */
async function mountCold(
  layout: ImageLayout,
  name: string,
  transport: string,
  how: 'lazy' | 'whole' = 'lazy',
): Promise<Lazy> {
  const reference = `${registry.host}/${name}:latest`;
  await pushLayout(layout, registry.host, name, 'latest');
  const engine = await startEngine(each, ['--transport', transport]);
  await engine.cofa(['index', reference]);
  registry.takeBlobRequests();
  const mount = await each.tempDir('mnt');
  each.defer(() => engine.cofa(['unmount', mount]).catch(() => {}));
  await engine.cofa(['mount', ...(how === 'lazy' ? ['--no-prefetch'] : []), reference, mount]);
  return { engine, mount, reference, requests: () => registry.takeBlobRequests() };
}

async function readCold({ mount, engine }: Lazy, expected: Tree, seed: number): Promise<void> {
  const result = await readInParallel({ root: mount, expected, seed });
  expect(result.failures, engine.logs()).toEqual([]);
  const files = expected.nodes.filter((node) => node.type === 'file');
  expect(result.bytes).toBe(2 * files.reduce((sum, node) => sum + node.size, 0));
}

/**
 * No byte of a layer is asked for twice, up to the few that two spans share: a gzip span ends within a byte, and its
 * decoder has to see a little of what follows to know it.
 */
const SHARED_BY_SPANS = 16;

async function expectFetchedOnce(layout: ImageLayout, requests: BlobRequest[]): Promise<number> {
  let asked = 0;
  for (const layer of await layoutLayers(layout)) {
    const ranges = requests
      .filter(({ digest }) => digest === layer.digest)
      .map(({ range }) => range ?? { start: 0, end: layer.size - 1 })
      .toSorted((a, b) => a.start - b.start);
    for (const [index, { start, end }] of ranges.entries()) {
      asked += end - start + 1;
      const before = ranges[index - 1];
      if (before !== undefined && before.end - start >= SHARED_BY_SPANS)
        throw new Error(`${layer.digest}: bytes ${start}-${Math.min(end, before.end)} were asked for twice`);
    }
  }
  return asked;
}

const transports = ['kernel', 'fuse-native'] as const;

/**
 * What an image is made of is settled before a transport sees a block, so one of each kind comes over the second one as well. What
 * both have to do for the kernel is in test/fuse.
 */
const of = <T>(transport: (typeof transports)[number], ...all: readonly [T, ...T[]]): readonly T[] =>
  transport === 'kernel' ? all : [all[0]];

describe.each(transports)('over the transport %s', (transport) => {
  test.each(of<RealImage>(transport, 'demo', 'node', 'java'))(
    'the %s image is what umoci unpacks',
    async (name: RealImage) => {
      const layout = await realImage(name, { onProgress: (line) => console.log(line) });
      const truth = await largeTruth(name, layout);
      const lazy = await mountCold(layout, name, transport);
      await readCold(lazy, truth, transport === 'kernel' ? 1 : 2);
      // The readers have compared every byte of every file.
      const differences = diffTrees(truth, await readTree(lazy.mount, { content: false }));
      expect(formatDifferences(differences)).toBe('');
      const asked = await expectFetchedOnce(layout, lazy.requests());
      expect(asked).toBeGreaterThan(0);
      const status = await lazy.engine.status();
      expect(status.degraded).toEqual([]);
      expect(status.images[0]?.reads.errors).toBe(0);
      expect(status.images[0]?.reads.misses).toBeGreaterThan(0);
      expect(status.images[0]?.origin).toBe('sidecar');
    },
    300_000,
  );

  test.each(of<Variant>(transport, 'gzip', 'docker', 'plain', 'zstd', 'members'))(
    'the nasty image, %s, is what umoci or containerd makes of it',
    async (variant: Variant) => {
      const tars = nastyLayers();
      const [umoci, other] = await nastyTruths(tars);
      const layout = await buildImage(join(directory, `nasty-${variant}-${transport}`), tars, variant);
      const lazy = await mountCold(layout, `nasty-${variant}`, transport);
      await readCold(lazy, umoci, 3);
      expect(formatDifferences(differencesToBoth(umoci, other, await readTree(lazy.mount)))).toBe('');
      if (variant !== 'zstd') await expectFetchedOnce(layout, lazy.requests());
    },
    120_000,
  );

  test.runIf(transport === 'kernel')(
    'links across layers are what umoci makes of them',
    async () => {
      const layout = await buildImage(join(directory, `cross-${transport}`), crossLinkLayers(), 'plain');
      await pushLayout(layout, registry.host, 'cross', 'latest');
      const truth = await once('cross', async () =>
        readTree(await unpackWithUmoci(`${registry.host}/cross:latest`, join(directory, 'cross'))),
      );
      const lazy = await mountCold(layout, 'cross', transport);
      await readCold(lazy, truth, 4);
      expect(formatDifferences(diffTrees(truth, await readTree(lazy.mount), { ignore: folderTime }))).toBe(
        '',
      );
    },
    60_000,
  );

  test.runIf(transport === 'kernel')(
    'old GNU sparse files are what GNU tar makes of them',
    async () => {
      const root = join(directory, 'gnu');
      const truth = await once('gnu', async () => {
        mkdirSync(root);
        writeFileSync(`${root}.tar`, gnuLayer());
        execFileSync('tar', ['-xpf', `${root}.tar`, '-C', root], { stdio: 'ignore' });
        return readTree(root);
      });
      const layout = await buildImage(join(directory, `gnu-${transport}`), [gnuLayer()], 'gzip');
      const lazy = await mountCold(layout, 'gnu', transport);
      await readCold(lazy, truth, 5);
      expect(formatDifferences(diffTrees(truth, await readTree(lazy.mount)))).toBe('');
    },
    60_000,
  );

  test('an image without a sidecar is the same, and nothing is pushed for it', async () => {
    const tars = nastyLayers();
    const [umoci, other] = await nastyTruths(tars);
    const layout = await buildImage(join(directory, `bare-${transport}`), tars, 'gzip');
    const name = `bare-${transport}`;
    await pushLayout(layout, registry.host, name, 'latest');
    const engine = await startEngine(each, ['--transport', transport]);
    const mount = await each.tempDir('mnt');
    each.defer(() => engine.cofa(['unmount', mount]));
    await engine.cofa(['mount', `${registry.host}/${name}:latest`, mount]);
    const before = registry.server.requests().length;
    expect((await engine.status()).images[0]?.origin).toBe('node');
    await readInParallel({ root: mount, expected: umoci }).then(({ failures }) =>
      expect(failures).toEqual([]),
    );
    expect(formatDifferences(differencesToBoth(umoci, other, await readTree(mount)))).toBe('');
    const written = registry.server
      .requests()
      .slice(before)
      .filter(({ method }) => ['PUT', 'POST', 'PATCH'].includes(method));
    expect(written).toEqual([]);
  }, 120_000);

  test('the rest comes in the background, then the kernel serves alone and cofa may end', async () => {
    const layout = await realImage('node');
    const truth = await largeTruth('node', layout);
    const lazy = await mountCold(layout, 'node', transport, 'whole');
    // A start that reads something is over sooner than one that is waited for. The registry's relay runs in this process.
    await readFile(join(lazy.mount, 'etc/passwd'));
    // A page fault shall not fetch much more than its page; later that costs nothing.
    expect(readAheadKib(lazy.mount)).toBe(128);
    let last = '';
    await until(
      async () => {
        const [image] = (await lazy.engine.status()).images;
        last = JSON.stringify(image);
        return (
          image !== undefined &&
          image.blocks.absent + image.blocks.fetching === 0 &&
          image.layers.every(({ state }) => state === 'handed-over')
        );
      },
      () => `not handed over: ${last}\n${lazy.engine.logs()}`,
    );
    await expect.poll(() => readAheadKib(lazy.mount)).toBe(1024);
    await expectFetchedOnce(layout, lazy.requests());
    // A mount in use stays.
    const user = await open(join(lazy.mount, 'etc/passwd'));
    try {
      // The layer hears of its hand-over a moment before the loop is moved: until then the mount is busy.
      const isDown = () =>
        lazy.engine.cofa(['down']).then(
          () => true,
          () => false,
        );
      await until(isDown, () => `the engine does not stop\n${lazy.engine.logs()}`);
      const result = await readInParallel({ root: lazy.mount, expected: truth });
      expect(result.failures).toEqual([]);
    } finally {
      await user.close();
    }
    // The same root takes the mount back, and knows what it has.
    await lazy.engine.up(['--transport', transport]);
    const [image] = (await lazy.engine.status()).images;
    expect(image?.blocks).toEqual({ absent: 0, fetching: 0, present: image?.blocks.present });
    expect((await lazy.engine.status()).mounts.map(({ dir }) => dir)).toEqual([lazy.mount]);
    expect(readAheadKib(lazy.mount)).toBe(1024);
  }, 180_000);
});

/** How far the kernel reads ahead in files below a mount, KiB. */
function readAheadKib(mount: string): number {
  const source = findMount(mount)?.source ?? '';
  return Number(readFileSync(`/sys/block/${source.replace('/dev/', '')}/queue/read_ahead_kb`, 'utf8'));
}

/** Unpackers that go layer by layer leave the moment of unpacking on folders. */
function folderTime({ field }: Difference, node: TreeNode): boolean {
  return field === 'mtime' && node.type === 'dir';
}

/** A large image as umoci unpacks it, but for the digests of its files. */
async function largeTruth(name: RealImage, layout: ImageLayout): Promise<Tree> {
  await pushLayout(layout, registry.host, name, 'latest');
  return await once(name, async () =>
    readTree(await keptTruth(layout, `${registry.host}/${name}:latest`), { content: false }),
  );
}

/** The nasty image as umoci and as containerd unpack it. */
async function nastyTruths(tars: Buffer[]): Promise<[Tree, Tree]> {
  const umoci = await once('nasty-umoci', async () => {
    const layout = await buildImage(join(directory, 'nasty-u'), tars, 'plain');
    await pushLayout(layout, registry.host, 'truth', 'plain');
    return readTree(await unpackWithUmoci(`${registry.host}/truth:plain`, join(directory, 'truth')));
  });
  const other = await once('nasty-containerd', async () => {
    const layout = await buildImage(join(directory, 'nasty-c'), tars, 'gzip');
    await pushLayout(layout, registry.host, 'truth', 'gzip');
    const { root, unmount } = await unpackWithContainerd(
      containerd,
      `${registry.host}/truth:gzip`,
      join(directory, 'c'),
    );
    const tree = await readTree(root);
    await unmount();
    return tree;
  });
  return [umoci, other];
}

/**
 * What in a tree is neither as umoci has it nor as containerd has it. Left out are folders that have no entry in the
 * layer which made or changed them: both leave the moment of unpacking there, and what mkdir(2) inherits.
 */
function differencesToBoth(umoci: Tree, other: Tree, tree: Tree): Difference[] {
  const second = new Set(diffTrees(other, tree).map(key));
  const byMoment = new Set(['', 'implicit', 'implicit/parents', 'usr', 'usr/share', 'usr/share/implicit']);
  const implied = ({ path, field }: Difference) =>
    (field === 'mtime' && byMoment.has(String(path))) ||
    (field === 'gid' && String(path) === 'usr/share/implicit');
  return diffTrees(umoci, tree).filter((difference) => second.has(key(difference)) && !implied(difference));
}

function key({ path, field }: Difference): string {
  return `${path.toString('latin1')} ${field}`;
}
