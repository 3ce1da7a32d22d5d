/** The benchmarks behind ops/bench/run. Each part prints a table; all results go into one JSON and one markdown file. */
import { writeFile } from 'node:fs/promises';
import { availableParallelism, release } from 'node:os';
import { parseArgs } from 'node:util';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { type RealImage, realImage } from '../images/debian.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { fileTimes } from './files.ts';
import { fuseReads } from './fuse.ts';
import { fileGoals, fuseGoals, type Goal, indexGoals, memoryGoal, startGoals } from './goals.ts';
import { indexCost } from './index-cost.ts';
import { type Link, median, type Start, textTable } from './measure.ts';
import { memoryOfMounts } from './memory.ts';
import { parseRate } from './relay.ts';
import { hasStargz, prepareStargz, STARGZ } from './stargz.ts';
import { type BenchImage, prepare, type Repositories, WAYS } from './ways.ts';

const COMMANDS: Record<RealImage, string[]> = {
  demo: ['python3', '/app/hello.py'],
  node: ['node', '/app/hello.js'],
  java: ['java', '--version'],
};
const PARTS = ['start', 'files', 'fuse', 'index', 'memory'] as const;
const ways = hasStargz() ? [...WAYS, STARGZ] : WAYS;

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: PARTS.join(',') },
    image: { type: 'string', default: 'demo,node,java' },
    rounds: { type: 'string', default: '5' },
    rate: { type: 'string', default: '1G' },
    rtt: { type: 'string', default: '5' },
    mounts: { type: 'string', default: '100' },
    out: { type: 'string' },
  },
});
const parts = values.only.split(',');
const unknown = parts.filter((part) => !(PARTS as readonly string[]).includes(part));
const names = values.image.split(',');
const strange = names.filter((name) => !(name in COMMANDS));
if (unknown.length > 0 || strange.length > 0) {
  console.error(`bench: not known: ${[...unknown, ...strange].join(', ')}; see --help`);
  process.exit(2);
}
const link: Link = { rate: parseRate(values.rate), rttMs: Number(values.rtt) };
const cleanup = new Cleanup();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => void cleanup.run().finally(() => process.exit(130)));
}
const say = (line: string) => console.error(`bench: ${line}`);
const tables: Array<{ title: string; rows: string[][] }> = [];
const goals: Array<Goal & { of: string }> = [];
const data: Record<string, unknown> = {
  machine: { kernel: release(), cores: availableParallelism() },
  link: { rate: values.rate, rttMs: link.rttMs },
};

try {
  await main();
} finally {
  await cleanup.run();
}

async function main(): Promise<void> {
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const images: Array<{ image: BenchImage; at: Repositories }> = [];
  for (const name of names as RealImage[]) {
    say(`preparing ${name}`);
    const layout = await realImage(name, { onProgress: say });
    const bytes = (await layoutLayers(layout)).reduce((sum, { size }) => sum + size, 0);
    const image = { name, command: COMMANDS[name], bytes };
    const push = async (repository: string) => {
      await pushLayout(layout, registry.host, repository, 'latest');
    };
    if (parts.includes('index')) {
      await push(`${name}-cost`);
      const cost = await indexCost(`${registry.host}/${name}-cost:latest`, layout);
      data[`index ${name}`] = cost;
      goals.push(...indexGoals(cost).map((goal) => ({ ...goal, of: name })));
      table(`Index of ${name}`, [
        ['', 'CPU s', 'wall s', 'peak MB'],
        ['gunzip of its layers', cost.gunzip.cpuS.toFixed(2), cost.gunzip.wallS.toFixed(2), ''],
        ['cofa index', cost.index.cpuS.toFixed(2), cost.index.wallS.toFixed(2), mb(cost.index.peakBytes)],
        ['ratio', `${(cost.index.cpuS / cost.gunzip.cpuS).toFixed(2)}x`, '', ''],
        ['sidecar / image', `${((100 * cost.sidecarBytes) / bytes).toFixed(2)} %`, '', ''],
      ]);
    }
    if (!parts.includes('start') && !parts.includes('files')) continue;
    const at = await prepare(image, registry.host, push);
    if (ways.includes(STARGZ)) await prepareStargz(image, at);
    images.push({ image, at });
  }
  for (const { image, at } of parts.includes('start') ? images : []) await starts(image, at);
  for (const { image, at } of parts.includes('files') ? images : []) await files(image, at);
  if (parts.includes('fuse')) await fuse();
  if (parts.includes('memory')) {
    const count = Number(values.mounts);
    const layout = await realImage('demo');
    const memory = await memoryOfMounts(count, layout, registry.host, say);
    data['memory'] = memory;
    goals.push({ ...memoryGoal(count, memory.pss), of: 'demo' });
    table(`Memory of all processes, ${count} images mounted`, [
      ['', 'RSS MB', 'PSS MB'],
      ...memory.processes.map((one) => [one.name, mb(one.rss), mb(one.pss)]),
      ['all', mb(memory.processes.reduce((n, one) => n + one.rss, 0)), mb(memory.pss)],
      ['before the mounts', '', mb(memory.idlePss)],
    ]);
  }
  table('Goals', [
    ['', 'image', 'measure', 'goal', 'measured', ''],
    ...goals
      .toSorted((a, b) => Number.parseInt(a.id.slice(1), 10) - Number.parseInt(b.id.slice(1), 10))
      .map(({ id, of, measure, goal, measured, met }) => [
        id,
        of,
        measure,
        goal,
        measured,
        met ? 'met' : 'missed',
      ]),
  ]);
  data['goals'] = goals;
  if (values.out === undefined) return;
  await writeFile(values.out, `${JSON.stringify(data, null, 2)}\n`);
  await writeFile(`${values.out.replace(/\.json$/, '')}.md`, tables.map(markdown).join('\n'));
}

async function starts(image: BenchImage, at: Repositories): Promise<void> {
  const cold = new Map<string, Start[]>();
  const warm = new Map<string, Start[]>();
  const add = (map: Map<string, Start[]>, name: string, start: Start | undefined) => {
    if (start !== undefined) map.set(name, [...(map.get(name) ?? []), start]);
  };
  for (let round = 1; round <= Number(values.rounds); round++) {
    for (const way of ways) {
      say(`${image.name}, round ${round} of ${values.rounds}: ${way.name}`);
      const result = await way.run(image, at, link);
      add(cold, way.name, result.cold);
      add(warm, way.name, result.warm);
    }
  }
  data[`start ${image.name}`] = { cold: Object.fromEntries(cold), warm: Object.fromEntries(warm) };
  const of = (map: Map<string, Start[]>, name: string) => (map.get(name) ?? []).map((one) => one.totalMs);
  const base = median(of(warm, 'containerd'));
  const added = (name: string) => median(of(cold, name).map((ms) => ms - base));
  const row = (name: string) => {
    const all = of(cold, name);
    return [
      name,
      s(median(all)),
      `${s(Math.min(...all))}–${s(Math.max(...all))}`,
      s(added(name)),
      `${(added('containerd') / added(name)).toFixed(1)}x`,
      mb(median((cold.get(name) ?? []).map(({ bytes }) => bytes))),
    ];
  };
  const cofaWarm = median(of(warm, 'cofa, pack'));
  table(`Start of ${image.name} (${mb(image.bytes)} MB), link ${values.rate}bit/s, ${link.rttMs} ms`, [
    ['', 'to its end s', 'spread', 'added delay s', 'less than containerd', 'MB'],
    ...ways.map(({ name }) => row(name)),
    ['overlayfs, all local', s(base), '', '', '', ''],
    ['cofa, all local', s(cofaWarm), '', '', `${(cofaWarm / base).toFixed(2)} of it`, ''],
  ]);
  const byWay = (of: (name: string) => number) =>
    Object.fromEntries(ways.map(({ name }) => [name, of(name)]));
  const found = startGoals({
    added: byWay(added),
    fetched: byWay((name) => median((cold.get(name) ?? []).map(({ bytes }) => bytes))),
    warm: { overlayfs: base, cofa: cofaWarm },
    imageBytes: image.bytes,
    sidecarBytes: at.sidecarBytes,
    packBytes: at.packBytes,
    link: { bitsPerSecond: link.rate, rttMs: link.rttMs },
  });
  goals.push(...found.map((goal) => ({ ...goal, of: image.name })));
}

async function files(image: BenchImage, at: Repositories): Promise<void> {
  const times = await fileTimes(at, Number(values.rounds), say);
  data[`files ${image.name}`] = times;
  goals.push(...fileGoals(times.map((one) => ({ ...one }))).map((goal) => ({ ...goal, of: image.name })));
  table(`Files of ${image.name}, complete, seconds`, [
    ['', 'cofa, cold', 'overlayfs, cold', 'cofa, warm', 'overlayfs, warm'],
    ...times.map(({ task, cofa, overlayfs }) => [
      task,
      ...[cofa.cold, overlayfs.cold, cofa.warm, overlayfs.warm].map((ms) => (ms / 1000).toFixed(3)),
    ]),
  ]);
}

async function fuse(): Promise<void> {
  const reads = await fuseReads(Number(values.rounds), say);
  data['fuse'] = reads;
  goals.push(...fuseGoals(reads).map((goal) => ({ ...goal, of: '' })));
  const us = (value: number) => value.toFixed(0);
  table('Reads through FUSE, blocks present', [
    ['', 'cofa MB/s', 'bindfs MB/s', 'cofa p50 µs', 'bindfs p50 µs', 'cofa p99 µs', 'bindfs p99 µs'],
    ...reads.map(({ job, cofa, bindfs }) => [
      job,
      mb(cofa.rate),
      mb(bindfs.rate),
      us(cofa.p50Us),
      us(bindfs.p50Us),
      us(cofa.p99Us),
      us(bindfs.p99Us),
    ]),
  ]);
}

function table(title: string, rows: string[][]): void {
  tables.push({ title, rows });
  console.log(`\n${title}\n\n${textTable(rows)}`);
}

function markdown({ title, rows }: { title: string; rows: string[][] }): string {
  const [head = [], ...body] = rows;
  const line = (cells: string[]) => `| ${head.map((_, at) => cells[at] ?? '').join(' | ')} |`;
  return `## ${title}\n\n${line(head)}\n| ${head.map(() => '---').join(' | ')} |\n${body.map(line).join('\n')}\n`;
}

function s(ms: number): string {
  return (ms / 1000).toFixed(2);
}

function mb(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}
