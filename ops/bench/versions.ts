/**
 * Two checkouts of cofa beside each other, in turns, each on an empty node over an emulated link. This checkout makes the
 * sidecar and the pack, and both use them.
 *
 *   starts   cold starts, and starts of an image that is all local
 *   node     what an engine costs by itself: its start, its memory then and with mounts, a cold start with a pack, and reads of
 *            present blocks through FUSE (versions-node.ts)
 *
 *     node ops/bench/versions.ts --against CHECKOUT [--only starts] [--image demo,node] [--rounds 5] [--minutes 60]
 *                                [--rate 1G] [--rtt 5] [--up=OPTIONS]
 *
 * CHECKOUT is another work tree with its dependencies installed. `--minutes`: no round begins later. `--up`: options of `cofa up`,
 * such as `--no-incidents`, for each checkout that knows them; with `node` alone. Prints medians of both and the median of the ratios
 * of each round: below 1, this checkout is faster, or takes less.
 */
import { join, resolve } from 'node:path';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { IMAGES, realImage } from '../images/debian.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { COFA, dropCaches, type Link, median, onLink, textTable } from './measure.ts';
import { parseRate } from './relay.ts';
import { nodeOnce, pushReads } from './versions-node.ts';
import { type BenchImage, prepare, type Ran, type Repositories, type Way, withCofa } from './ways.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    against: { type: 'string' },
    only: { type: 'string', default: 'starts' },
    image: { type: 'string', default: 'demo' },
    rounds: { type: 'string', default: '5' },
    minutes: { type: 'string', default: '60' },
    up: { type: 'string', default: '' },
    rate: { type: 'string', default: '1G' },
    rtt: { type: 'string', default: '5' },
  },
});
if (values.against === undefined) {
  console.error('versions: name the other checkout: --against DIRECTORY');
  process.exit(2);
}
const parts = values.only.split(',');
if (parts.some((part) => !['starts', 'node'].includes(part))) {
  console.error(`versions: --only takes starts and node, not ${values.only}`);
  process.exit(2);
}
const OTHER = join(resolve(values.against), 'ops/cofa');
const link: Link = { rate: parseRate(values.rate), rttMs: Number(values.rtt) };
const say = (line: string) => console.error(`versions: ${line}`);
const UNTIL = performance.now() + Number(values.minutes) * 60_000;

/** One kind of start, by each of the two checkouts. */
interface Pair {
  kind: string;
  mine: Way;
  other: Way;
}

const PAIRS: readonly Pair[] = (['plain', 'indexed', 'packed'] as const).map((repository) => ({
  kind: { plain: 'unprepared', indexed: 'no pack', packed: 'pack' }[repository],
  mine: withCofa('this', repository),
  other: withCofa('other', repository, OTHER),
}));

/** What was measured once; the keys are the rows of the table. */
type Times = Readonly<Record<string, number>>;

async function startOnce(kind: string, way: Way, image: BenchImage, at: Repositories): Promise<Times> {
  return await onLink(at.registry, link, (relay) =>
    way.onFreshNode(image, at, relay.host, async (node) => {
      await dropCaches();
      const cold = await node.start();
      const times = timesOf(kind, cold);
      return node.warm === undefined ? times : { ...times, ...timesOf('all local', await node.warm()) };
    }),
  );
}

const timesOf = (kind: string, { firstOutputMs, totalMs }: Ran): Times => ({
  [`${kind}, first output`]: firstOutputMs,
  [`${kind}, to its end`]: totalMs,
});

async function compare(name: string, registry: string): Promise<void> {
  const layout = await realImage(name, { onProgress: say });
  const bytes = (await layoutLayers(layout)).reduce((sum, { size }) => sum + size, 0);
  const image = { name, bytes };
  const at = await prepare(image, registry, async (repository) => {
    await pushLayout(layout, registry, repository, 'latest');
  });
  if (parts.includes('starts')) {
    const pairs = PAIRS.map(({ kind, mine, other }) => ({
      kind,
      mine: () => startOnce(kind, mine, image, at),
      other: () => startOnce(kind, other, image, at),
    }));
    printTable(name, await inTurns(name, pairs), (ms) => `${(ms / 1000).toFixed(3)} s`);
  }
  if (!parts.includes('node')) return;
  const reads = await pushReads(await cleanup.tempDir('versions'), registry);
  const once = (program: string) => () => nodeOnce({ program, up: values.up.split(' '), at, reads, link });
  const pair = { kind: 'a node', mine: once(COFA), other: once(OTHER) };
  // The first time finds code that was never compiled.
  for (const work of [pair.mine, pair.other]) await work();
  printTable(`${name}, a node by itself`, await inTurns(name, [pair]), (value) => value.toFixed(1));
}

type Measured = ReadonlyMap<string, ReadonlyArray<[mine: number, other: number]>>;

/** By row, what each round measured. */
async function inTurns(
  name: string,
  pairs: ReadonlyArray<{ kind: string; mine: () => Promise<Times>; other: () => Promise<Times> }>,
): Promise<Measured> {
  const measured = new Map<string, Array<[mine: number, other: number]>>();
  for (let round = 0; round < Number(values.rounds) && performance.now() < UNTIL; round++) {
    for (const { kind, mine, other } of pairs) {
      // The first changes with each round: what a run leaves on the machine meets both alike.
      const order = round % 2 === 0 ? [mine, other] : [other, mine];
      const times = new Map<() => Promise<Times>, Times>();
      for (const work of order) times.set(work, await work());
      for (const [row, value] of Object.entries(times.get(mine) ?? {})) {
        const known = measured.get(row) ?? [];
        measured.set(row, [...known, [value, times.get(other)?.[row] ?? Number.NaN]]);
      }
      say(`${name}, round ${round + 1} of ${values.rounds}: ${kind}`);
    }
  }
  return measured;
}

function printTable(title: string, measured: Measured, text: (value: number) => string): void {
  const rows = [...measured].map(([row, pairs]) => [
    row,
    text(median(pairs.map(([mine]) => mine))),
    text(median(pairs.map(([, other]) => other))),
    median(pairs.map(([mine, other]) => mine / other)).toFixed(3),
    pairs.map(([mine, other]) => (mine / other).toFixed(2)).join(' '),
  ]);
  console.log(`\n${title}\n\n${textTable([['', 'this', 'other', 'ratio', 'each round'], ...rows])}`);
}

const cleanup = new Cleanup();
try {
  say(`this ${COFA}, other ${OTHER}`);
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  for (const name of values.image.split(',')) {
    if (!IMAGES.includes(name)) throw new Error(`--image takes ${IMAGES.join(', ')}, not ${name}`);
    await compare(name, registry.host);
  }
} finally {
  await cleanup.run();
}
