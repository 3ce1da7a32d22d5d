/**
 * A new build of an image has no startup pack yet. What a start of the build before has read is fetched first all the same,
 * where the same files lie now; and what could not be foreseen is read as ever.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectBus } from '../../src/bus/connection.ts';
import { SpanTable } from '../../src/image/span-table.ts';
import { PackStore } from '../../src/pack/pack-store.ts';
import { extentsOf } from '../../src/image/file-paths.ts';
import { Layout } from '../../src/store/layout.ts';
import { type NatsServer, startNats } from '../support/services.ts';
import { type PatternFile, patternBytes, patternFiles, pushPatternImage } from '../support/soak-image.ts';
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

const SIZE = 512 * 1024;
const cleanup = new Cleanup();
let registry: WatchedRegistry;
let nats: NatsServer;
let bus: NatsConnection;

beforeAll(async () => {
  // So slow that what comes first is seen, also where processes are.
  registry = await startWatchedRegistry(cleanup, { rate: 160e6 });
  nats = await startNats();
  cleanup.defer(() => nats.stop());
  bus = await connectBus({ url: nats.url }, { name: 'test' });
  cleanup.defer(() => bus.close());
});
afterAll(() => cleanup.run());

const base = patternFiles('base', 0, 16, SIZE);
const app = patternFiles('app', 100, 40, SIZE);
/** The layer of the next build: other files in front, the halves of the old ones exchanged, and two with other bytes. */
const nextApp: PatternFile[] = [
  ...patternFiles('added', 200, 6, SIZE),
  ...app.slice(20),
  ...app.slice(0, 20),
].map((file) => (/f(5|33)$/.test(file.path) ? { ...file, key: file.key + 1_000 } : file));
/** What the start reads, in this order. */
const START = ['base/f9', 'app/f14', 'app/f33', 'base/f3', 'app/f5', 'app/f17'];

/** Mounts the image on an engine that has nothing, lets it fetch everything, and returns the spans of each layer's fetches, in order. */
async function fetchesInOrder(engine: Engine, ref: string, mount: string): Promise<Map<string, number[][]>> {
  // Until then the front end fetches by itself, and knows of no earlier start.
  await until(() => engine.logs().includes('fetcher ready'), engine.logs);
  await engine.cofa(['mount', ref, mount]);
  const isWhole = async () => (await engine.status()).images.every(({ blocks }) => blocks.absent === 0);
  await until(isWhole, () => engine.logs());
  const jobs = new Map<string, Map<number, number[]>>();
  const isTold = async () => {
    const lines = (await engine.cofa(['events', '--json', '--since-start', '--no-follow']))
      .trim()
      .split('\n');
    for (const line of lines) {
      const { type, subject, data } = JSON.parse(line) as {
        type: string;
        subject: string;
        data: { jobs?: TracedFetch[] };
      };
      if (type !== 'layer.trace') continue;
      const id = subject.split('.').at(-1) as string;
      const known = jobs.get(id) ?? new Map<number, number[]>();
      jobs.set(id, known);
      for (const fetch of data.jobs ?? []) known.set(fetch.job, spansIn(fetch));
    }
    return spansSeen(jobs) >= 28;
  };
  await until(isTold, () => `${spansSeen(jobs)} spans were told of\n${engine.logs()}`);
  return new Map(
    [...jobs].map(([id, known]) => [id, [...known].toSorted(([a], [b]) => a - b).map(([, spans]) => spans)]),
  );
}

const spansSeen = (jobs: Map<string, Map<number, number[]>>): number =>
  [...jobs.values()].reduce((sum, known) => sum + [...known.values()].flat().length, 0);

/** For each file the span that its middle lies in, and the layer. */
async function spansOf(engine: Engine, paths: string[]): Promise<Array<{ layer: string; span: number }>> {
  const layout = new Layout(engine.root);
  const { images } = await engine.status();
  const files = extentsOf(await readFile(layout.flat(images[0]?.manifest ?? '')));
  const { layers } = JSON.parse(await readFile(layout.manifest(images[0]?.manifest ?? ''), 'utf8')) as {
    layers: Array<{ digest: string }>;
  };
  const stored = await readdir(layout.in('spans'));
  const tables = (
    await Promise.all(stored.map(async (name) => SpanTable.decode(await readFile(layout.in('spans', name)))))
  ).filter(({ blobDigest }) => layers.some(({ digest }) => digest === blobDigest));
  return paths.map((path) => {
    for (const table of tables) {
      const piece = files.get(table.diffId)?.find((one) => one.path === `/${path}`);
      if (piece === undefined) continue;
      const middle = Math.floor((piece.from + piece.to) / 2 / table.blockSize);
      return { layer: table.root.slice(7), span: table.spanOfBlock(middle) };
    }
    throw new Error(`${path} lies in no layer`);
  });
}

test('a new build fetches first what the start of the build before has read, wherever it lies now', {
  timeout: 300_000,
}, async () => {
  const first = await startEngine(cleanup, ['--nats', nats.url, '--node', 'one']);
  const push = async (layers: PatternFile[][]) =>
    await pushPatternImage(join(await cleanup.tempDir('build'), 'image'), registry.host, 'app', layers);
  const { ref } = await push([base, app]);
  await first.cofa(['index', ref]);
  const mount = await cleanup.tempDir('mnt');
  await first.cofa(['mount', ref, mount]);
  for (const path of START) {
    const { key } =
      app.find((file) => file.path === path) ?? (base.find((file) => file.path === path) as PatternFile);
    expect((await readFile(join(mount, path))).equals(patternBytes(SIZE, key))).toBe(true);
  }
  await first.cofa(['unmount', mount]);
  const store = new PackStore(async () => bus);
  const repository = `${registry.host}/app`;
  await until(
    async () => (await store.findFiles(repository, 'default')) !== undefined,
    () => `nothing was noted of the start\n${first.logs()}`,
  );
  const built = await push([base, nextApp]);
  await first.cofa(['index', ref]);
  await first.down();

  const second = await startEngine(cleanup, ['--nats', nats.url, '--node', 'two']);
  const came = await fetchesInOrder(second, ref, mount);
  const expected = await spansOf(second, START);
  for (const layer of new Set(expected.map((one) => one.layer))) {
    const wanted = expected.filter((one) => one.layer === layer).map(({ span }) => span);
    const fetches = came.get(layer) ?? [];
    const said = `${layer}: ${wanted} of ${JSON.stringify(fetches)}`;
    const placesOf = (spans: number[]) => spans.map((span) => fetches.findIndex((one) => one.includes(span)));
    // Several share a fetch, and one that lies right behind another comes with it. Neighbours in their blocks may come with
    // them, and the rest may have begun before.
    const leading = placesOf(wanted.filter((span) => !wanted.includes(span - 1)));
    expect(leading, said).toEqual(leading.toSorted((a, b) => a - b));
    const places = placesOf(wanted).toSorted((a, b) => a - b);
    expect(places[0], said).toBeGreaterThanOrEqual(0);
    const until = fetches.slice(0, (places.at(-1) as number) + 1).flat().length;
    expect(until, said).toBeLessThanOrEqual(fetches.flat().length / 2 + 1);
  }
  for (const { path, key } of built.files)
    expect((await readFile(join(mount, path))).equals(patternBytes(SIZE, key)), path).toBe(true);
  await second.cofa(['unmount', mount]);
  await second.down();

  // Without an earlier start it is fetched from the beginning: the order above was no chance.
  const third = await startEngine(cleanup, ['--node', 'three']);
  const without = await fetchesInOrder(third, ref, mount);
  for (const fetches of without.values())
    expect(fetches.flat()).toEqual(fetches.flat().toSorted((a, b) => a - b));
  await third.cofa(['unmount', mount]);
  await third.down();
});
