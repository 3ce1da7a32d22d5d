/**
 * How right `cofa replay what-if` is: starts of real images are recorded over one link, predicted for others, and measured there.
 *
 *     node ops/bench/what-if.ts [IMAGE…] [--rounds 5] [--minutes 23] [--from 1G:5] [--dir DIR] [--json FILE]
 *     node ops/bench/what-if.ts --dir DIR --predict      only predicts again, from logs that lie in DIR
 *     … --markdown     the table for docs/what-if.md
 *     … --estimate     takes the recorded link as the log lets guess it; else it is told, as --recorded-rate does
 *
 * Each image is pushed with its sidecar, and again with the pack of a start. A round records a start of each image over the link
 * `--from`, without a pack, and measures each condition once, so that a slow minute of the machine is not one condition's. No start begins
 * after `--minutes`, whatever `--rounds` says: what was measured by then is compared. Every start has a fresh engine and cold caches.
 * A run forgets what lies in DIR of the same images, unless it is told `--more`.
 * Predicted is the time from the call to the container's end, from each recorded start; the medians are compared.
 * Logs of all starts stay in DIR: a change of the model needs no new measurement. Only an idle machine gives figures worth keeping.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadFile } from '../../src/replay/load.ts';
import { findMount } from '../../src/replay/start-phases.ts';
import { recordingOf } from '../../src/replay/what-if/extract.ts';
import type { Recording } from '../../src/replay/what-if/recording.ts';
import { type Changes, whatIf } from '../../src/replay/what-if/what-if.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { REAL_IMAGES, realImage } from '../images/debian.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { dropCaches, interrupt, markdownTable, median, onLink, textTable } from './measure.ts';
import { parseRate } from './relay.ts';
import { onFreshEngine, prepare, type Repositories } from './ways.ts';

interface Condition {
  name: string;
  rate: string;
  rttMs: number;
  way: 'indexed' | 'packed';
  prefetch: boolean;
  fetchers?: number;
}

/** What is predicted and measured. */
const CONDITIONS: readonly Condition[] = [
  { name: '1G 1ms hints', rate: '1G', rttMs: 1, way: 'indexed', prefetch: true },
  { name: '1G 20ms pack', rate: '1G', rttMs: 20, way: 'packed', prefetch: true },
  { name: '100M 20ms hints', rate: '100M', rttMs: 20, way: 'indexed', prefetch: true },
  { name: '100M 20ms pack', rate: '100M', rttMs: 20, way: 'packed', prefetch: true },
  { name: '200M 10ms no prefetch', rate: '200M', rttMs: 10, way: 'indexed', prefetch: false },
  { name: '300M 60ms pack, 1 fetcher', rate: '300M', rttMs: 60, way: 'packed', prefetch: true, fetchers: 1 },
];

/** One start, as it was measured. */
interface Sample {
  image: string;
  condition: string;
  round: number;
  /** As the user waits, ms. */
  totalMs: number;
  /** The log of the start, in the folder. */
  log: string;
}

interface Row {
  image: string;
  condition: string;
  measuredMs: number;
  /** The quickest measured start and the slowest one, and how many there were. */
  least: number;
  most: number;
  starts: number;
  predictedMs: number;
  /** Of the model under the conditions of the recording itself, as a share. */
  modelOff: number;
}

const { values, positionals } = programOptions(import.meta.filename, {
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '5' },
    minutes: { type: 'string', default: '23' },
    more: { type: 'boolean', default: false },
    from: { type: 'string', default: '1G:5' },
    dir: { type: 'string', default: '/var/cache/cofa/what-if' },
    predict: { type: 'boolean', default: false },
    estimate: { type: 'boolean', default: false },
    markdown: { type: 'boolean', default: false },
    conditions: { type: 'string' },
    json: { type: 'string' },
  },
});
const images = positionals.length > 0 ? positionals : REAL_IMAGES;
const rounds = Number(values.rounds);
const [fromRate = '1G', fromRtt = '5'] = values.from.split(':');
const chosen = CONDITIONS.filter(
  ({ name }) => values.conditions === undefined || values.conditions.split(',').includes(name),
);
const RECORDED = 'recorded';
const samplesFile = join(values.dir, 'samples.json');
const percent = (share: number): string => `${share > 0 ? '+' : ''}${(share * 100).toFixed(1)} %`;
const rateOf = (text: string): number => (text === 'max' ? Number.POSITIVE_INFINITY : parseRate(text));
const say = (line: string) => console.error(`what-if: ${line}`);
const cleanup = new Cleanup();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, interrupt);

try {
  await mkdir(values.dir, { recursive: true });
  if (!values.predict) await measureAll();
  await report();
} finally {
  await cleanup.run();
}

async function measureAll(): Promise<void> {
  const until = performance.now() + Number(values.minutes) * 60_000;
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const prepared = new Map<string, Repositories>();
  for (const name of images) prepared.set(name, await prepareImage(name, registry.host));
  const record: Condition = {
    name: RECORDED,
    rate: fromRate,
    rttMs: Number(fromRtt),
    way: 'indexed',
    prefetch: true,
  };
  const before = await samples();
  const others = before.filter(({ image }) => !prepared.has(image));
  if (!values.more) await writeFile(samplesFile, `${JSON.stringify(others, null, 1)}\n`);
  const first = values.more ? Math.max(0, ...before.map(({ round }) => round)) : 0;
  for (let round = first + 1; round <= first + rounds; round++)
    for (const condition of [record, ...chosen])
      for (const [name, at] of prepared) {
        if (performance.now() > until) return say(`${values.minutes} minutes are over in round ${round}`);
        await measure(name, at, condition, round);
      }
}

async function prepareImage(name: string, host: string): Promise<Repositories> {
  const layout = await realImage(name, { onProgress: say });
  const bytes = (await layoutLayers(layout)).reduce((sum, { size }) => sum + size, 0);
  say(`${name}: is pushed, indexed and started once for its pack`);
  return await prepare({ name, bytes }, host, async (repository) => {
    await pushLayout(layout, host, repository, 'latest');
  });
}

async function measure(image: string, at: Repositories, condition: Condition, round: number): Promise<void> {
  const { rate, rttMs, way, prefetch, fetchers } = condition;
  const link = { rate: rate === 'max' ? undefined : parseRate(rate), rttMs };
  const log = `${image}-${condition.name.replace(/[^A-Za-z0-9]+/g, '-')}-${round}.cofa-log`;
  const totalMs = await onLink(at.registry, link, (relay) =>
    onFreshEngine(
      async (cofa) => {
        await dropCaches();
        const ref = `${relay.host}/${at[way]}:latest`;
        const ran = await cofa('run', ...(prefetch ? [] : ['--no-prefetch']), ref);
        await cofa('events', 'export', '--force', join(values.dir, log));
        return ran.totalMs;
      },
      undefined,
      fetchers === undefined ? [] : ['--workers', String(fetchers)],
    ),
  );
  say(`${image}, ${condition.name}, round ${round}: ${Math.round(totalMs)} ms`);
  const sample: Sample = { image, condition: condition.name, round, totalMs, log };
  await writeFile(samplesFile, `${JSON.stringify([...(await samples()), sample], null, 1)}\n`);
}

async function samples(): Promise<Sample[]> {
  if (!existsSync(samplesFile)) return [];
  return JSON.parse(await readFile(samplesFile, 'utf8')) as Sample[];
}

async function report(): Promise<void> {
  const all = (await samples()).filter(({ image }) => images.includes(image as never));
  const rows: Row[] = [];
  for (const image of new Set(all.map((one) => one.image))) {
    const recorded = await Promise.all(
      all.filter((one) => one.image === image && one.condition === RECORDED).map(recordingIn),
    );
    for (const condition of chosen) {
      const measured = all.filter((one) => one.image === image && one.condition === condition.name);
      if (measured.length > 0 && recorded.length > 0)
        rows.push(compare(image, condition, measured, recorded));
    }
  }
  const errors = rows.map(({ measuredMs, predictedMs }) => Math.abs(predictedMs / measuredMs - 1));
  const table = values.markdown ? markdownTable : textTable;
  console.log(
    table([
      [
        'image',
        'condition',
        'measured, ms',
        'of how many',
        'predicted, ms',
        'off',
        'model of the recording off',
      ],
      ...rows.map(({ image, condition, measuredMs, least, most, starts, predictedMs, modelOff }) => [
        image,
        condition,
        `${Math.round(measuredMs)}${starts === 1 ? '' : ` (${Math.round(least)} to ${Math.round(most)})`}`,
        String(starts),
        String(Math.round(predictedMs)),
        percent(predictedMs / measuredMs - 1),
        percent(modelOff),
      ]),
    ]),
  );
  if (errors.length > 0)
    console.log(
      `\nmedian error ${percent(median(errors))}, largest ${percent(Math.max(...errors))}, of ${errors.length} (${(await readdir(values.dir)).length - 1} logs in ${values.dir})`,
    );
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(rows, null, 2)}\n`);
}

interface Recorded {
  recording: Recording;
  /** What the user waits beyond what the log tells of: the command's own start and end, ms. */
  aroundMs: number;
}

async function recordingIn({ log, totalMs }: Sample): Promise<Recorded> {
  const loaded = await loadFile(join(values.dir, log));
  try {
    const link = values.estimate ? {} : { rate: rateOf(fromRate), rttMs: Number(fromRtt) };
    const recording = recordingOf(loaded.log, findMount(loaded.log, undefined), { link });
    const { endUs, us } = recording.measured;
    return { recording, aroundMs: totalMs - (endUs ?? us) / 1_000 };
  } finally {
    await loaded.close();
  }
}

function compare(image: string, condition: Condition, measured: Sample[], recorded: Recorded[]): Row {
  const { rate, rttMs, way, prefetch, fetchers } = condition;
  const changes: Changes = {
    rate: rateOf(rate),
    rttMs,
    ahead: way === 'packed' ? 'pack' : 'none',
    prefetch,
    fetchers,
  };
  const predictions = recorded.map(({ recording, aroundMs }) => {
    const { predicted, recorded: was } = whatIf(recording, changes);
    const timeOf = ({ us, endUs = us }: { us: number; endUs?: number | undefined }) => endUs / 1_000;
    return {
      ms: timeOf(predicted.outcome) + aroundMs,
      modelOff: timeOf(was.model) / timeOf(was.measured) - 1,
    };
  });
  const times = measured.map(({ totalMs }) => totalMs);
  return {
    image,
    condition: condition.name,
    measuredMs: median(times),
    least: Math.min(...times),
    most: Math.max(...times),
    starts: times.length,
    predictedMs: median(predictions.map(({ ms }) => ms)),
    modelOff: median(predictions.map(({ modelOff }) => modelOff)),
  };
}
