/**
 * The first start of an image that has never been started: the indexer has found what its command needs, and this is
 * fetched ahead of the readers, in that order; another command of the same program has the use of a part of it.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectEngine } from '../../src/client/client.ts';
import { extentsOf } from '../../src/image/file-paths.ts';
import { Layout } from '../../src/store/layout.ts';
import { elf } from '../image/hints/elf-writer.ts';
import { spanTableOf } from '../faults/fault-image.ts';
import { pushSmallImage, type SmallImage, halfRandom } from '../index/small-image.ts';
import { Cleanup } from '../support/temp.ts';
import {
  type Engine,
  spansIn,
  startEngine,
  startWatchedRegistry,
  type TracedFetch,
  until,
  type WatchedRegistry,
} from './engine.ts';

const MIB = 1 << 20;
const cleanup = new Cleanup();
let registry: WatchedRegistry;
let directory: string;

beforeAll(async () => {
  // So slow that what comes first is seen.
  registry = await startWatchedRegistry(cleanup, { rate: 160e6 });
  directory = await cleanup.tempDir('hints');
});
afterAll(() => cleanup.run());

/** In the order of the tar: programs and libraries among files that no start needs. */
const tree: Record<string, Buffer | string> = {
  'a/padding': halfRandom(4 * MIB),
  'bin/entry': `#!/bin/shell\n`,
  'bin/shell': elf({ interpreter: '/lib/ld.so', needed: ['libz.so', 'libb.so'], body: halfRandom(MIB) }),
  'c/padding': halfRandom(4 * MIB),
  'lib/libb.so': elf({ body: halfRandom(2 * MIB) }),
  'lib/libm-padding': halfRandom(6 * MIB),
  'lib/libz.so': elf({ body: halfRandom(2 * MIB) }),
  'z/padding': halfRandom(4 * MIB),
};
/** As the command reads them. */
const NEEDED = ['/bin/entry', '/lib/libz.so', '/lib/libb.so'];

async function pushed(
  repository: string,
  config: { Entrypoint?: string[]; Cmd?: string[] },
): Promise<SmallImage> {
  const build = join(directory, repository);
  return await pushSmallImage(
    build,
    registry.host,
    repository,
    [{ compression: 'gzip', files: tree }],
    config,
  );
}

/** The spans of each fetch, in the order in which they were asked for, of an engine that has nothing and mounts the image. */
async function fetchesInOrder(engine: Engine, mount: () => Promise<unknown>): Promise<number[][]> {
  await until(() => engine.logs().includes('fetcher ready'), engine.logs);
  await mount();
  const isWhole = async () => (await engine.status()).images.every(({ blocks }) => blocks.absent === 0);
  await until(isWhole, () => engine.logs());
  const jobs = new Map<number, number[]>();
  const isTold = async () => {
    const lines = await engine.cofa(['events', '--json', '--since-start', '--no-follow']);
    for (const line of lines.trim().split('\n')) {
      const { type, data } = JSON.parse(line) as {
        type: string;
        data: { jobs?: TracedFetch[] };
      };
      if (type !== 'layer.trace') continue;
      for (const fetch of data.jobs ?? []) jobs.set(fetch.job, spansIn(fetch));
    }
    return new Set([...jobs.values()].flat()).size >= 24;
  };
  await until(
    isTold,
    () => `${[...jobs.values()].flat().length} spans were told of\n${engine.logs()}`,
    20_000,
  );
  return [...jobs].toSorted(([a], [b]) => a - b).map(([, spans]) => spans);
}

/** For each span the fetch that brought it, and how many spans came with it and before it. */
function placesIn(fetches: number[][], spans: number[]): Array<{ fetch: number; spans: number }> {
  return spans.map((span) => {
    const fetch = fetches.findIndex((one) => one.includes(span));
    return { fetch, spans: fetches.slice(0, fetch + 1).flat().length };
  });
}

/** These come one after the other or together, among the first half of all. */
function expectFirst(fetches: number[][], needed: number[]): void {
  const places = placesIn(fetches, needed);
  const said = `${needed} of ${JSON.stringify(fetches)}`;
  const order = places.map(({ fetch }) => fetch);
  expect(order, said).toEqual(order.toSorted((a, b) => a - b));
  expect(order[0], said).toBeGreaterThanOrEqual(0);
  expect(places.at(-1)?.spans, said).toBeLessThan(fetches.flat().length / 2);
}

/** The spans in which the middle of each file lies. */
async function spansOf(engine: Engine, paths: string[]): Promise<number[]> {
  const layout = new Layout(engine.root);
  const { images } = await engine.status();
  const manifest = images[0]?.manifest ?? '';
  const pieces = [...extentsOf(await readFile(layout.flat(manifest))).values()].flat();
  const { layers } = JSON.parse(await readFile(layout.manifest(manifest), 'utf8')) as {
    layers: Array<{ digest: string }>;
  };
  const table = await spanTableOf(engine.root, layers[0]?.digest ?? '');
  return paths.map((path) => {
    const piece = pieces.find((one) => one.path === path);
    if (piece === undefined) throw new Error(`${path} lies in no layer`);
    return table.spanOfBlock(Math.floor((piece.from + piece.to) / 2 / table.blockSize));
  });
}

test('a first start asks for what its command needs ahead of everything else, and every byte is right', {
  timeout: 300_000,
}, async () => {
  const { ref } = await pushed('app', { Entrypoint: ['/bin/entry'] });
  const engine = await startEngine(cleanup, ['--node', 'one']);
  await engine.cofa(['index', ref]);
  const mount = await cleanup.tempDir('mnt');
  // Nothing is read: what comes first comes by itself.
  const fetches = await fetchesInOrder(engine, () => engine.cofa(['mount', ref, mount]));
  const needed = await spansOf(engine, NEEDED);
  expectFirst(fetches, needed);
  const [padding, last] = placesIn(fetches, [
    ...(await spansOf(engine, ['/lib/libm-padding'])),
    needed.at(-1) as number,
  ]);
  expect(padding?.fetch, JSON.stringify(fetches)).toBeGreaterThan(last?.fetch as number);
  for (const [path, content] of Object.entries(tree))
    expect((await readFile(join(mount, path))).equals(Buffer.from(content)), path).toBe(true);
  await engine.cofa(['unmount', mount]);
  await engine.down();
});

test('another command of its program asks ahead for what that program needs, one of another program for nothing', {
  timeout: 300_000,
}, async () => {
  const { ref } = await pushed('other', { Cmd: ['/bin/shell', '/bin/entry'] });
  const orders: number[][][] = [];
  let needed: number[] = [];
  for (const program of ['/bin/shell', '/bin/none']) {
    const engine = await startEngine(cleanup, ['--node', 'four']);
    if (orders.length === 0) await engine.cofa(['index', ref]);
    const mount = await cleanup.tempDir('mnt');
    const client = await connectEngine(engine.root);
    const request = { ref, dir: mount, prefetch: true, start: '0123456789abcdef', program };
    orders.push(await fetchesInOrder(engine, () => client.call('mount', request)));
    await client.close();
    needed = await spansOf(engine, ['/lib/libz.so', '/lib/libb.so']);
    await engine.cofa(['unmount', mount]);
    await engine.down();
  }
  const [same = [], other = []] = orders;
  expectFirst(same, needed);
  expect(other.flat()).toEqual(other.flat().toSorted((a, b) => a - b));
});

test('without a command there are no hints, and the rest comes in order', { timeout: 300_000 }, async () => {
  const { ref } = await pushed('plain', {});
  const engine = await startEngine(cleanup, ['--node', 'two']);
  await engine.cofa(['index', ref]);
  const mount = await cleanup.tempDir('mnt');
  const order = (await fetchesInOrder(engine, () => engine.cofa(['mount', ref, mount]))).flat();
  expect(order).toEqual(order.toSorted((a, b) => a - b));
  await engine.cofa(['unmount', mount]);
  await engine.down();
});

test('hints that are damaged cost nothing but themselves', { timeout: 300_000 }, async () => {
  const { ref } = await pushed('damaged', { Cmd: ['/bin/entry'] });
  const engine = await startEngine(cleanup, ['--node', 'three']);
  await engine.cofa(['index', ref]);
  const mount = await cleanup.tempDir('mnt');
  await engine.cofa(['mount', '--no-prefetch', ref, mount]);
  const layout = new Layout(engine.root);
  const manifest = (await engine.status()).images[0]?.manifest ?? '';
  const hints = await readFile(layout.hints(manifest));
  await engine.cofa(['unmount', mount]);
  await writeFile(layout.hints(manifest), hints.subarray(0, hints.length / 2));
  const order = (await fetchesInOrder(engine, () => engine.cofa(['mount', ref, mount]))).flat();
  expect(order).toEqual(order.toSorted((a, b) => a - b));
  await engine.cofa(['unmount', mount]);
  await engine.down();
});
