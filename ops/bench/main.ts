/** The benchmarks behind ops/bench/run. Prints the measurements as tables, and stores them on request. */
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { availableParallelism, release } from 'node:os';
import { parseArgs } from 'node:util';
import { parseReference } from '../../src/registry/reference.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { IMAGES, REAL_IMAGES, realImage } from '../images/debian.ts';
import { type ImageLayout, layoutLayers, pushLayout } from '../images/layout.ts';
import { pulledImage } from '../images/pulled.ts';
import { STRANGERS } from '../images/strangers.ts';
import { demandWaits } from './background.ts';
import { clientWays } from './client-ways.ts';
import { CURRENT_NAMES, currentContainerd } from './current-containerd.ts';
import { fileTimes } from './files.ts';
import { fuseReads } from './fuse.ts';
import { indexCost } from './index-cost.ts';
import { interrupt, type Link, textTable } from './measure.ts';
import { manyImages } from './memory.ts';
import { nydusWays } from './nydus.ts';
import { captionOf, plotStarts } from './plot.ts';
import { parseRate } from './relay.ts';
import { merged, noResults, type Results } from './results.ts';
import { measureScale, SCALES } from './scale.ts';
import { SOCI_NAMES, sociWays } from './soci.ts';
import { stargzWays } from './stargz.ts';
import { readWhole } from './whole.ts';
import { measureStarts, type Starts } from './starts.ts';
import { goalsOf, markdown, tablesOf } from './tables.ts';
import {
  type BenchImage,
  CONTAINERD,
  NO_PACK,
  PACK,
  prepare,
  type Repositories,
  UNPREPARED,
  type Way,
} from './ways.ts';

const PARTS = [
  'start',
  'strangers',
  'whole',
  'background',
  'files',
  'index',
  'fuse',
  'memory',
  'scale',
] as const;
type Part = (typeof PARTS)[number];

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: PARTS.join(',') },
    image: { type: 'string' },
    'held-out': { type: 'boolean' },
    ways: { type: 'string' },
    clients: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '5' },
    rate: { type: 'string', default: '1G' },
    rtt: { type: 'string', default: '5' },
    rates: { type: 'string', default: '24M,1G,10G' },
    mounts: { type: 'string', default: '100' },
    containers: { type: 'string', default: '20' },
    large: { type: 'string', default: '10G' },
    peers: { type: 'boolean', default: true },
    out: { type: 'string' },
  },
  allowNegative: true,
});
const parts = listed('--only', values.only, PARTS);
const names: readonly string[] = values.image?.split(',').map(imageName) ?? REAL_IMAGES;
const rounds = whole('--rounds', values.rounds);
const mounts = whole('--mounts', values.mounts);
const containers = whole('--containers', values.containers);
const link: Link = { rate: rate('--rate', values.rate), rttMs: Number(values.rtt) };
const rates = values.rates.split(',');
for (const one of rates) rate('--rates', one);
const largeBytes = rate('--large', values.large);
const cleanup = new Cleanup();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    say('interrupted; what was begun is taken down');
    interrupt();
    process.exitCode = 130;
  });
}
const say = (line: string) => console.error(`bench: ${line}`);
const results = noResults(
  { kernel: release(), cores: availableParallelism() },
  { rate: values.rate, rttMs: link.rttMs },
);
const earlier =
  values.out !== undefined && existsSync(values.out)
    ? (JSON.parse(await readFile(values.out, 'utf8')) as Results)
    : undefined;
// Before hours of work, not after them.
if (earlier !== undefined) checked(() => merged(earlier, results));

try {
  await main();
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode ??= 1;
} finally {
  for (const { title, rows } of tablesOf(results)) console.log(`\n${title}\n\n${textTable(rows)}`);
  await cleanup.run();
}

async function main(): Promise<void> {
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  for (const name of names) await ofImage(name, registry.host);
  if (parts.includes('strangers')) await strangers(registry.host);
  if (parts.includes('fuse')) results.fuse = await fuseReads(rounds, say);
  await store();
  if (parts.includes('memory')) {
    results.memory = await manyImages({
      count: mounts,
      starts: containers,
      layout: await realImage('demo', { onProgress: say }),
      registry: registry.host,
      link,
      say,
    });
    await store();
  }
  if (!parts.includes('scale')) return;
  for (const scale of SCALES)
    await keep(results.scale, await measureScale(scale, largeBytes, registry.host, link, say));
}

/** A benchmark image by name, or an image of any registry. */
async function opened(name: string): Promise<{ image: BenchImage; layout: ImageLayout }> {
  const own = IMAGES.find((one) => one === name);
  const layout =
    own === undefined
      ? await pulledImage(name, await cleanup.tempDir('pulled'), say)
      : await realImage(own, { onProgress: say });
  const bytes = (await layoutLayers(layout)).reduce((sum, { size }) => sum + size, 0);
  return { image: { name: name.replaceAll(/[^A-Za-z0-9]+/g, '-').toLowerCase(), bytes }, layout };
}

/** The parts that are measured for each image. */
async function ofImage(given: string, registry: string): Promise<void> {
  const perImage: Part[] = ['start', 'whole', 'background', 'files', 'index'];
  if (!perImage.some((part) => parts.includes(part))) return;
  say(`preparing ${given}`);
  const { image, layout } = await opened(given);
  const { name, bytes: imageBytes } = image;
  const push = async (repository: string) => {
    await pushLayout(layout, registry, repository, 'latest');
  };
  if (parts.includes('index')) {
    await push(`${name}-cost`);
    const cost = await indexCost(`${registry}/${name}-cost:latest`, layout);
    await keep(results.index, { image: name, imageBytes, ...cost });
  }
  if (!perImage.some((part) => part !== 'index' && parts.includes(part))) return;
  const at = await prepare(image, registry, push);
  if (parts.includes('start')) await keep(results.starts, await starts(image, at));
  if (parts.includes('whole')) {
    for (const one of rates) {
      const options = { ways: [CONTAINERD, UNPREPARED, PACK], rate: one, rounds, say };
      const oneLink = { rate: parseRate(one), rttMs: link.rttMs };
      await keep(results.whole, {
        image: name,
        ...(await readWhole(image, at, { ...options, link: oneLink })),
      });
    }
  }
  if (parts.includes('background'))
    await keep(results.background, { image: name, ...(await demandWaits(at, link, rounds, say)) });
  if (parts.includes('files'))
    await keep(results.files, { image: name, times: await fileTimes(at, rounds, say) });
}

async function starts(image: BenchImage, at: Repositories): Promise<Starts> {
  const ways = await chosenWays();
  for (const way of ways) {
    if (way.prepare === undefined) continue;
    say(`preparing ${image.name}: ${way.name}`);
    await way.prepare(image, at);
  }
  return await measureStarts(image, at, { ways, link, rounds, say });
}

/** Both halves or one of them; of these the images that `--image` names. */
async function strangers(registry: string): Promise<void> {
  const half = values['held-out'];
  const chosen = STRANGERS.filter(
    ({ name, heldOut }) =>
      (half === undefined || heldOut === half) && (values.image === undefined || names.includes(name)),
  );
  if (chosen.length === 0) say(`no stranger is named ${names.join(', ')} in that half`);
  results.strangers = [];
  for (const { name, heldOut } of chosen) {
    say(`preparing ${name}`);
    const { image, layout } = await opened(name);
    const at = await prepare(image, registry, async (repository) => {
      await pushLayout(layout, registry, repository, 'latest');
    });
    await keep(results.strangers, { heldOut, ...(await starts(image, at)) });
  }
}

/** All ways, or those whose names have a part that `--ways` gives. */
async function chosenWays(): Promise<Way[]> {
  const wanted = values.ways?.split(';').map((one) => one.trim());
  const isWanted = (name: string) => wanted?.includes(name) ?? true;
  const current = CURRENT_NAMES.some(isWanted) ? await currentContainerd(say) : [];
  const soci = values.peers && SOCI_NAMES.some(isWanted) ? await sociWays(say) : [];
  const peers = values.peers ? [...stargzWays(), ...nydusWays(), ...soci] : [];
  const clients = values.clients ? Object.values(await clientWays(say)) : [];
  const all: Way[] = [CONTAINERD, ...current, UNPREPARED, NO_PACK, PACK, ...clients, ...peers];
  const missing = wanted?.filter((one) => all.every(({ name }) => name !== one)) ?? [];
  if (missing.length > 0) say(`without ${missing.join('; ')}: no way has that name here`);
  return all.filter(({ name }) => isWanted(name));
}

async function keep<T>(list: T[], item: T): Promise<void> {
  list.push(item);
  await store();
}

/** After each part, so that no measurement is lost when a later part fails or is stopped. */
async function store(): Promise<void> {
  if (values.out === undefined) return;
  const all = earlier === undefined ? results : merged(earlier, results);
  const base = values.out.replace(/\.json$/, '');
  await writeFile(values.out, `${JSON.stringify({ ...all, goals: goalsOf(all) }, null, 2)}\n`);
  await writeFile(`${base}.md`, markdown(tablesOf(all)));
  if (all.starts.length > 0) await writeFile(`${base}.svg`, plotStarts(all.starts, captionOf(all)));
}

function wrong(message: string): never {
  console.error(`bench: ${message}; see --help`);
  process.exit(2);
}

function checked<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    return wrong(error instanceof Error ? error.message : String(error));
  }
}

function listed<T extends string>(option: string, text: string, known: readonly T[]): T[] {
  const given = text.split(',');
  const strange = given.filter((name) => !(known as readonly string[]).includes(name));
  if (strange.length > 0) wrong(`${option} does not know ${strange.join(', ')}`);
  return given as T[];
}

/** A name of our own, or a reference: what has a host or a tag. */
function imageName(text: string): string {
  if (IMAGES.includes(text)) return text;
  if (!/[/:@]/.test(text)) wrong(`--image does not know ${text}`);
  return checked(() => parseReference(text)).text;
}

function whole(option: string, text: string): number {
  if (!/^[1-9]\d*$/.test(text)) wrong(`${option} takes a whole number from 1 on, not ${text}`);
  return Number(text);
}

function rate(option: string, text: string): number {
  try {
    return parseRate(text);
  } catch {
    return wrong(`${option} takes numbers such as 24M or 1G, not ${text}`);
  }
}
