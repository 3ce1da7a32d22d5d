/**
 * What all of looking costs: an engine of this checkout with everything off beside one with everything on: metrics that are
 * scraped, traces that a collector takes, the black box, a console with an open page. Rounds are interleaved.
 *
 *     node ops/bench/insight.ts [--rounds 40] [--minutes 20] [--on metrics,traces,incidents,page] [--every 1000] [--gib 1] [--json FILE]
 *
 * `--minutes`: no round begins later. `--on`: what is on at the side with everything on, to find out which part costs what. `--every`: ms
 * between two scrapes. `--gib`: of direct reads in a round. A round is a start (an image of which nothing is present is mounted, a file
 * read, unmounted) and reads of present blocks through FUSE; one round before them is not counted. Prints medians, and of each round's
 * ratio of on over off the median and the middle half. Only an idle machine gives figures worth keeping: 40 rounds take about ten minutes there.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { readProc, statFields } from '../../src/kernel/proc.ts';
import { MALLOC, startConsole } from '../../test/console/console-process.ts';
import { type FaultImage, pushImage } from '../../test/faults/fault-image.ts';
import { noise } from '../../test/images/nasty.ts';
import { type Engine, mountImage, startEngine } from '../../test/support/engine.ts';
import { freePort } from '../../test/support/ports.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { programOptions } from '../program-options.ts';
import { median, textTable, timed } from './measure.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    rounds: { type: 'string', default: '40' },
    minutes: { type: 'string', default: '20' },
    on: { type: 'string', default: 'metrics,traces,incidents,page' },
    every: { type: 'string', default: '1000' },
    gib: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
});

Object.assign(process.env, MALLOC);
const PARTS = ['metrics', 'traces', 'incidents', 'page'] as const;
const chosen = values.on.split(',');
for (const part of chosen)
  if (!PARTS.includes(part as never)) throw new Error(`--on: ${part} is none of ${PARTS.join(', ')}`);
const isOn = (part: (typeof PARTS)[number]): boolean => chosen.includes(part);
const TICKS = 100;
const READ_FILE = 64 << 20;
const START_FILE = 8 << 20;
const passes = Math.max(1, Math.round((Number(values.gib) * 2 ** 30) / READ_FILE));
const say = (line: string) => console.error(`insight: ${line}`);

interface Side {
  name: 'off' | 'on';
  engine: Engine;
  folder: string;
  /** Of the engine's processes. */
  pids: number[];
  rounds: Round[];
}

interface Round {
  startMs: number;
  /** Processor time of the engine for the start, and for the reads. */
  startCpuMs: number;
  readMs: number;
  readCpuMs: number;
  /** Of all of the engine's processes, MiB: what they share counts once. */
  pss: number;
}

const cleanup = new Cleanup();
try {
  const folder = await cleanup.tempDir('bench-insight');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const files = { read: noise(READ_FILE, 1), 'never-read': noise(8 << 20, 2) };
  const reads = await pushImage(join(folder, 'reads'), registry.host, 'reads', [files], 'plain');
  const start = await pushImage(join(folder, 'start'), registry.host, 'start', [
    { read: noise(START_FILE, 3) },
  ]);
  const spans = await startCollector();
  const port = await freePort();
  const off = await startSide('off', ['--no-incidents'], folder, [reads, start]);
  const on = await startSide(
    'on',
    [
      ...(isOn('metrics') ? ['--metrics', String(port)] : []),
      ...(isOn('traces') ? ['--traces', spans.url] : []),
      ...(isOn('incidents') ? ['--slow-start', '60'] : ['--no-incidents']),
    ],
    folder,
    [],
  );
  const page = isOn('page') ? await openPage(on.engine) : undefined;
  const scrapes = isOn('metrics')
    ? scrapeEvery(`http://127.0.0.1:${port}/metrics`, Number(values.every))
    : undefined;
  for (const side of [off, on]) await prepareReads(side, reads);
  const until = performance.now() + Number(values.minutes) * 60_000;
  for (let round = 0; round <= Number(values.rounds) && performance.now() < until; round++)
    for (const side of round % 2 === 0 ? [off, on] : [on, off]) {
      const one = { ...(await oneStart(side, start)), ...(await oneRead(side)), pss: pssOf(side.pids) };
      // The first one finds code that was never run.
      if (round > 0) side.rounds.push(one);
      say(`round ${round === 0 ? 'to warm up' : round}, ${side.name}: ${Math.round(one.startMs)} ms`);
    }
  await report(off.rounds, on.rounds, {
    scrapes: scrapes?.stop() ?? 0,
    spans: spans.requests(),
    told: page?.told() ?? 0,
    consolePss: page === undefined ? 0 : pssOf([page.pid]),
  });
} finally {
  await cleanup.run();
}

async function startSide(
  name: Side['name'],
  args: readonly string[],
  folder: string,
  images: readonly FaultImage[],
): Promise<Side> {
  const engine = await startEngine({ args: ['--no-snapshotter', '--node', name, ...args] });
  cleanup.defer(() => engine.stop());
  for (const { ref } of images) await engine.cli(['index', ref], { timeoutMs: 180_000 });
  const own = join(folder, name);
  for (const dir of ['reads', 'start']) await mkdir(join(own, dir), { recursive: true });
  return { name, engine, folder: own, pids: Object.values(await engine.pids()), rounds: [] };
}

/** One that takes all spans. */
async function startCollector(): Promise<{ url: string; requests: () => number }> {
  let requests = 0;
  const collector = createServer((request, response) => {
    request.resume().on('end', () => {
      requests += 1;
      response.end();
    });
  });
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
  cleanup.defer(() => void collector.close());
  const { port } = collector.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, requests: () => requests };
}

/** A console with a page that listens: it asks the engine how it is for as long as one does. */
async function openPage(engine: Engine): Promise<{ pid: number; told: () => number }> {
  const running = await startConsole(['console'], { COFA_ROOT: engine.root });
  cleanup.defer(async () => void (await running.stop()));
  const entered = await fetch(running.url, { redirect: 'manual' });
  const [cookie = ''] = (entered.headers.get('set-cookie') ?? '').split(';');
  const stop = new AbortController();
  cleanup.defer(() => stop.abort());
  const stream = await fetch(new URL('/api/stream', running.url), {
    headers: { cookie },
    signal: stop.signal,
  });
  if (!stream.ok || stream.body === null) throw new Error(`the console's stream: ${stream.status}`);
  let told = 0;
  const { body } = stream;
  void (async () => {
    for await (const chunk of body) told += chunk.length > 0 ? 1 : 0;
  })().catch(() => {});
  return { pid: running.pid, told: () => told };
}

function scrapeEvery(url: string, ms: number): { stop: () => number } {
  let scrapes = 0;
  const timer = setInterval(() => {
    void fetch(url)
      .then((reply) => reply.text())
      .then(() => (scrapes += 1))
      .catch(() => {});
  }, ms);
  cleanup.defer(() => clearInterval(timer));
  return {
    stop: () => {
      clearInterval(timer);
      return scrapes;
    },
  };
}

/** All blocks of the file are present, of a layer that is not whole: each direct read comes through FUSE. */
async function prepareReads({ engine, folder }: Side, { ref }: FaultImage): Promise<void> {
  const dir = join(folder, 'reads');
  await mountImage(engine, ref, dir);
  await timed('dd', [`if=${join(dir, 'read')}`, 'of=/dev/null', 'bs=1M', 'status=none']);
}

async function oneStart(
  { engine, folder, pids }: Side,
  { ref }: FaultImage,
): Promise<Pick<Round, 'startMs' | 'startCpuMs'>> {
  const dir = join(folder, 'start');
  const [cpu, since] = [cpuMsOf(pids), performance.now()];
  await mountImage(engine, ref, dir);
  await readFile(join(dir, 'read'));
  const startMs = performance.now() - since;
  await engine.client.call('unmount', { dir });
  // What is mounted stays: the file of the reads.
  await engine.client.call('prune', { all: true });
  return { startMs, startCpuMs: cpuMsOf(pids) - cpu };
}

async function oneRead({ folder, pids }: Side): Promise<Pick<Round, 'readMs' | 'readCpuMs'>> {
  const file = join(folder, 'reads', 'read');
  // What prune has taken is here again.
  await timed('dd', [`if=${file}`, 'of=/dev/null', 'bs=1M', 'status=none']);
  const [cpu, since] = [cpuMsOf(pids), performance.now()];
  for (let pass = 0; pass < passes; pass++)
    await timed('dd', [`if=${file}`, 'of=/dev/null', 'bs=128k', 'iflag=direct', 'status=none']);
  return { readMs: performance.now() - since, readCpuMs: cpuMsOf(pids) - cpu };
}

function cpuMsOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const fields = statFields(readProc(`/proc/${pid}/stat`));
    return sum + ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS;
  }, 0);
}

function pssOf(pids: readonly number[]): number {
  const kib = pids.map((pid) =>
    Number(/^Pss:\s+(\d+)/m.exec(readProc(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0),
  );
  return kib.reduce((sum, one) => sum + one, 0) / 1024;
}

async function report(
  off: readonly Round[],
  on: readonly Round[],
  took: { scrapes: number; spans: number; told: number; consolePss: number },
): Promise<void> {
  const row = (title: string, of: (round: Round) => number) => {
    const ratios = on.map((one, at) => of(one) / Math.max(0.1, of(off[at] as Round))).sort((a, b) => a - b);
    const at = (share: number) => (ratios[Math.floor(share * (ratios.length - 1))] ?? 0).toFixed(3);
    return [
      title,
      median(off.map(of)).toFixed(0),
      median(on.map(of)).toFixed(0),
      median(ratios).toFixed(3),
      `${at(0.25)} to ${at(0.75)}`,
    ];
  };
  console.log(
    textTable([
      [`${off.length} rounds`, 'all off', `on: ${values.on}`, 'ratio', 'middle half'],
      row('a start, ms', ({ startMs }) => startMs),
      row('processor time of a start, ms', ({ startCpuMs }) => startCpuMs),
      row(`${(passes * READ_FILE) / 2 ** 30} GiB of direct reads, ms`, ({ readMs }) => readMs),
      row('processor time of these, ms', ({ readCpuMs }) => readCpuMs),
      row('memory (PSS) of the engine, MiB', ({ pss }) => pss),
    ]),
  );
  console.log(
    `\non: ${took.scrapes} scrapes, ${took.spans} requests with spans, ${took.told} news for the page, whose console has ${took.consolePss.toFixed(0)} MiB`,
  );
  if (values.json !== undefined)
    await writeFile(values.json, `${JSON.stringify({ off, on, took }, null, 1)}\n`);
}
