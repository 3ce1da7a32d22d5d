/**
 * How long until a container says its first word: containerd's pull + run beside `cofa run`, of the same tag from the
 * same registry over an emulated link. Rounds are interleaved. Before each start every local byte of the image and the
 * page cache are dropped; containerd, or the engine, has then been up for five seconds.
 *
 *     node ops/bench/start.ts --registry HOST:PORT --image NAME[:TAG] [--rounds 5] [--rate 1G] [--rtt 5]
 *                             [--json FILE] -- COMMAND…
 */
import { writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startContainerd } from '../../test/support/services.ts';
import { programOptions } from '../program-options.ts';
import { dropCaches, median, type Start, textTable, throughLink, timed } from './measure.ts';
import { parseRate } from './relay.ts';
import { CALM_MS, type Cofa, onFreshEngine, untilWhole } from './ways.ts';

export interface StartOptions {
  /** HOST:PORT of a registry without a link in front of it. */
  registry: string;
  /** Repository with tag. */
  image: string;
  /** What runs in the container, the image's own where it is empty; its first output ends the measurement. */
  command: string[];
  rounds: number;
  /** Bits a second; undefined: as fast as loopback. */
  rate: number | undefined;
  rttMs: number;
  /** Folder of the keys that the engine trusts; undefined: its default. */
  keys?: string;
  onProgress: (line: string) => void;
}

export interface StartResult {
  containerd: Start[];
  /** Cold: nothing of the image is on the node. */
  cofa: Start[];
  /** The same container again with all of it local. */
  warm: Start[];
}

export async function measureStarts(options: StartOptions): Promise<StartResult> {
  const result: StartResult = { containerd: [], cofa: [], warm: [] };
  for (let round = 1; round <= options.rounds; round++) {
    options.onProgress(`round ${round} of ${options.rounds}: containerd pulls and runs`);
    result.containerd.push(
      await throughLink(options.registry, options, (host) => startWithContainerd(host, options)),
    );
    options.onProgress(`round ${round} of ${options.rounds}: cofa runs`);
    const { cold, warm } = await startWithCofa(options);
    result.cofa.push(cold);
    result.warm.push(warm);
  }
  return result;
}

/** The table that demo and benchmark print. */
export function startTable(result: StartResult): string {
  const row = (name: string, starts: Start[]) => [
    name,
    `${(median(starts.map((start) => start.firstOutputMs)) / 1000).toFixed(2)} s`,
    `${(median(starts.map((start) => start.totalMs)) / 1000).toFixed(2)} s`,
    `${(median(starts.map((start) => start.bytes)) / 1e6).toFixed(1)} MB`,
  ];
  const ratio = (pick: (start: Start) => number) => {
    const pairs = result.containerd.map((start, round) => pick(start) / pick(result.cofa[round] ?? start));
    return `${median(pairs).toFixed(1)}x`;
  };
  const rows = [
    ['', 'first output', 'to its end', 'fetched'],
    row('containerd, pull + run', result.containerd),
    row('cofa run, cold', result.cofa),
    ['cofa is better by', ratio((s) => s.firstOutputMs), ratio((s) => s.totalMs), ratio((s) => s.bytes)],
    row('cofa run, all local', result.warm),
  ];
  return textTable(rows);
}

async function startWithContainerd(host: string, options: StartOptions): Promise<Omit<Start, 'bytes'>> {
  const containerd = await startContainerd();
  try {
    await sleep(CALM_MS);
    await dropCaches();
    const ref = `${host}/${options.image}`;
    const began = performance.now();
    await containerd.ctr(['images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', ref]);
    const before = performance.now() - began;
    const ctr = ['--address', containerd.socket, '--namespace', 'cofa-test'];
    const run = await timed('ctr', [
      ...ctr,
      'run',
      '--rm',
      '--snapshotter',
      'overlayfs',
      ref,
      'bench',
      ...options.command,
    ]);
    return { firstOutputMs: before + run.firstOutputMs, totalMs: before + run.totalMs };
  } finally {
    await containerd.stop();
  }
}

async function startWithCofa(options: StartOptions): Promise<{ cold: Start; warm: Start }> {
  const up = options.keys === undefined ? [] : ['--keys', options.keys];
  const measure = async (cofa: Cofa, root: string) => {
    let warm: Omit<Start, 'bytes'> | undefined;
    const cold = await throughLink(options.registry, options, async (host) => {
      await dropCaches();
      return await cofa('run', `${host}/${options.image}`, ...options.command);
    });
    await throughLink(options.registry, { rate: undefined, rttMs: 0 }, async (host) => {
      // Another name for the same image: what is missing arrives at the speed of loopback.
      const dir = join(root, 'whole');
      await mkdir(dir);
      await cofa('mount', `${host}/${options.image}`, dir);
      await untilWhole(cofa, { limitMs: WHOLE_MS });
      warm = await cofa('run', `${host}/${options.image}`, ...options.command);
      await cofa('unmount', dir);
      return warm;
    });
    if (warm === undefined) throw new Error('the second start was not measured');
    return { cold, warm: { ...warm, bytes: 0 } };
  };
  return await onFreshEngine(measure, undefined, up);
}

/** An image is complete by then, ms. */
const WHOLE_MS = 300_000;

if (process.argv[1] === import.meta.filename) {
  const { values, positionals } = programOptions(import.meta.filename, {
    allowPositionals: true,
    options: {
      registry: { type: 'string' },
      image: { type: 'string' },
      rounds: { type: 'string', default: '5' },
      rate: { type: 'string', default: '1G' },
      rtt: { type: 'string', default: '5' },
      json: { type: 'string' },
    },
  });
  if (values.registry === undefined || values.image === undefined || positionals.length === 0) {
    console.error(
      'usage: node ops/bench/start.ts --registry HOST:PORT --image NAME[:TAG] [--rounds 5] [--rate 1G] [--rtt MS] [--json FILE] -- COMMAND…',
    );
    process.exit(2);
  }
  const result = await measureStarts({
    registry: values.registry,
    image: values.image,
    command: positionals,
    rounds: Number(values.rounds),
    rate: parseRate(values.rate),
    rttMs: Number(values.rtt),
    onProgress: (line) => console.error(line),
  });
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`);
  console.log(startTable(result));
}
