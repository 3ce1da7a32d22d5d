/**
 * Two checkouts of cofa beside each other: cold starts, and starts of an image that is all local, in turns, each on an
 * empty node over an emulated link. This checkout makes the sidecar and the pack, and both use them.
 *
 *     node ops/bench/versions.ts --against CHECKOUT [--image demo,node] [--rounds 5] [--rate 1G] [--rtt 5]
 *
 * CHECKOUT is another work tree with its dependencies installed. Prints medians of both and the median of the ratios of
 * each round: below 1, this checkout is faster.
 */
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { IMAGES, realImage } from '../images/debian.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { COFA, dropCaches, type Link, median, onLink, textTable } from './measure.ts';
import { parseRate } from './relay.ts';
import { type BenchImage, prepare, type Ran, type Repositories, type Way, withCofa } from './ways.ts';

const { values } = parseArgs({
  options: {
    against: { type: 'string' },
    image: { type: 'string', default: 'demo' },
    rounds: { type: 'string', default: '5' },
    rate: { type: 'string', default: '1G' },
    rtt: { type: 'string', default: '5' },
  },
});
if (values.against === undefined) {
  console.error('versions: name the other checkout: --against DIRECTORY');
  process.exit(2);
}
const OTHER = join(resolve(values.against), 'ops/cofa');
const link: Link = { rate: parseRate(values.rate), rttMs: Number(values.rtt) };
const say = (line: string) => console.error(`versions: ${line}`);

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

/** ms of one node's starts; the keys are the rows of the table. */
type Times = Record<string, number>;

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
  const measured = new Map<string, Array<[mine: number, other: number]>>();
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const { kind, mine, other } of PAIRS) {
      // The first changes with each round: what a run leaves on the machine meets both alike.
      const order = round % 2 === 0 ? [mine, other] : [other, mine];
      const times = new Map<Way, Times>();
      for (const way of order) times.set(way, await startOnce(kind, way, image, at));
      for (const [row, ms] of Object.entries(times.get(mine) ?? {})) {
        const pairs = measured.get(row) ?? [];
        measured.set(row, [...pairs, [ms, times.get(other)?.[row] ?? Number.NaN]]);
      }
      say(`${name}, round ${round + 1} of ${values.rounds}: ${kind}`);
    }
  }
  const seconds = (ms: number) => `${(ms / 1000).toFixed(3)} s`;
  const rows = [...measured].map(([row, pairs]) => [
    row,
    seconds(median(pairs.map(([mine]) => mine))),
    seconds(median(pairs.map(([, other]) => other))),
    median(pairs.map(([mine, other]) => mine / other)).toFixed(3),
    pairs.map(([mine, other]) => (mine / other).toFixed(2)).join(' '),
  ]);
  console.log(`\n${name}\n\n${textTable([['', 'this', 'other', 'ratio', 'each round'], ...rows])}`);
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
