/** The simulation behind ops/fleet-sim. */
import { fork } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { CellLimits } from '../actors/fleet-placement.ts';
import { type FaultsOutcome, runFaults } from '../test/support/fleet/faults.ts';
import { runStart, type StartOptions, type StartResult } from '../test/support/fleet/start.ts';

const { values, positionals } = parseArgs({
  // Those of a process for a share of the seeds.
  allowPositionals: true,
  options: {
    seeds: { type: 'string' },
    seed: { type: 'string' },
    jobs: { type: 'string', default: String(availableParallelism()) },
    starts: { type: 'string', default: '1,10,100,1000' },
    'what-if': { type: 'string' },
    slow: { type: 'string' },
    cells: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});

function whole(name: string, text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 1) return value;
  console.error(`fleet-sim: --${name} takes a whole number from 1 on, not ${text}`);
  process.exit(2);
}

type Said = { outcome: FaultsOutcome } | { failure: string } | { done: true };

/** Runs its share of the seeds, and says how each ended. */
function child(): void {
  const [first, count, step] = positionals.map(Number) as [number, number, number];
  const say = (said: Said) => process.send?.(said);
  for (let seed = first; seed < first + count * step; seed += step)
    try {
      say({ outcome: runFaults(seed) });
    } catch (error) {
      say({ failure: (error as Error).message });
      break;
    }
  say({ done: true });
  process.disconnect();
}

async function manySeeds(): Promise<void> {
  const first = values.seed === undefined ? randomInt(1, 2 ** 31) : whole('seed', values.seed);
  const count = values.seeds === undefined ? 1 : whole('seeds', values.seeds);
  const jobs = Math.min(whole('jobs', values.jobs), count);
  console.error(`fleet-sim: seeds ${first} to ${first + count - 1}, ${jobs} side by side`);
  const began = performance.now();
  const met: Record<string, number> = {};
  const failures: string[] = [];
  const sums = { seeds: 0, events: 0, hours: 0, wrong: 0 };
  const take = (said: Said) => {
    if ('failure' in said) failures.push(said.failure);
    if (!('outcome' in said)) return;
    sums.seeds += 1;
    sums.events += said.outcome.events;
    sums.hours += said.outcome.simulatedMs / 3_600_000;
    sums.wrong += said.outcome.wrong;
    for (const what of said.outcome.met) met[what] = (met[what] ?? 0) + 1;
  };
  await Promise.all(
    Array.from({ length: jobs }, async (_, at) => {
      const share = Math.ceil((count - at) / jobs);
      const process_ = fork(fileURLToPath(import.meta.url), [
        String(first + at),
        String(share),
        String(jobs),
      ]);
      process_.on('message', take);
      const { promise, resolve } = Promise.withResolvers<number | null>();
      process_.once('exit', resolve);
      const code = await promise;
      if (code !== 0) failures.push(`a process of the simulation ended with ${code}`);
    }),
  );
  const seconds = (performance.now() - began) / 1000;
  if (values.json) console.log(JSON.stringify({ first, ...sums, seconds, met, failures }, null, 2));
  else {
    console.log(`seeds         ${sums.seeds} in ${seconds.toFixed(1)} s`);
    console.log(`simulated     ${sums.hours.toFixed(1)} hours, ${sums.events} events`);
    console.log(`wrong pieces  ${sums.wrong}, none of them read`);
    for (const [what, times] of Object.entries(met).sort()) console.log(`  ${what.padEnd(22)} ${times}`);
    console.log(`broken rules  ${failures.length === 0 ? 'none' : failures.length}`);
    for (const failure of failures) console.log(`  ${failure}`);
  }
  process.exitCode = failures.length === 0 ? 0 : 1;
}

const HEADS = [
  '',
  'nodes',
  'started',
  'first',
  'median',
  'last',
  'images sent',
  'questions a node',
  'messages at the busiest',
  'wrong pieces',
];

function row(name: string, result: StartResult): string[] {
  const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`;
  const { nodes, started, living, firstMs, medianMs, lastMs, egress, checksPerNode, busiest, wrong } = result;
  return [
    name,
    String(nodes),
    started === living ? String(started) : `${started} of ${living}`,
    seconds(firstMs),
    seconds(medianMs),
    seconds(lastMs),
    egress.toFixed(2),
    checksPerNode.toFixed(1),
    String(busiest),
    String(wrong),
  ];
}

function table(cases: ReadonlyArray<readonly [name: string, options: Partial<StartOptions>]>): void {
  const rows = [HEADS];
  const results: Array<StartResult & { name: string }> = [];
  for (const [name, options] of cases) {
    const result = runStart({ ...divided(), ...options });
    results.push({ name, ...result });
    rows.push(row(name, result));
    if (!values.json) console.error(`fleet-sim: ${name} ${result.nodes} nodes, ${result.events} events`);
  }
  if (values.json) return console.log(JSON.stringify(results, null, 2));
  const widths = HEADS.map((_, at) => Math.max(...rows.map((cells) => cells[at]?.length ?? 0)));
  for (const cells of rows)
    console.log(`| ${cells.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join(' | ')} |`);
}

/** As `--cells` says. */
function divided(): Partial<StartOptions> {
  if (values.cells === undefined) return {};
  if (values.cells === '0') return { cells: UNDIVIDED };
  const members = whole('cells', values.cells);
  return { cells: { undivided: 2 * members, members } };
}

const UNDIVIDED: CellLimits = { undivided: Number.POSITIVE_INFINITY, members: 1 };

function starts(): void {
  const numbers = values.starts.split(',').map((text) => whole('starts', text));
  table([
    ...numbers.map((nodes) => ['fleet', { nodes }] as const),
    ...numbers.filter((nodes) => nodes <= 100).map((nodes) => ['no fleet', { nodes, replicas: 0 }] as const),
  ]);
}

function whatIf(nodes: number): void {
  table([
    ['two homes', { nodes }],
    ['one home', { nodes, replicas: 1 }],
    ['three homes', { nodes, replicas: 3 }],
    ['three zones', { nodes, zones: 3 }],
    ['three zones, one cut off from the others', { nodes, zones: 3, cutZones: 1 / 3 }],
    ['5 % dead', { nodes, deadShare: 0.05 }],
    ['5 % lying', { nodes, lyingShare: 0.05 }],
    ['5 % dead, 5 % lying', { nodes, deadShare: 0.05, lyingShare: 0.05 }],
    ['cells of a tenth', { nodes, cells: { undivided: 1, members: Math.ceil(nodes / 10) } }],
    [
      'cells of a tenth, half of the members know of none',
      { nodes, cells: { undivided: 1, members: Math.ceil(nodes / 10) }, oldShare: 0.5 },
    ],
    ['homes alone send', { nodes, perHolder: 0 }],
    ['public image', { nodes, kind: 'public' }],
    ['registry without tokens', { nodes, kind: 'basic' }],
    ['links of nodes 10 Gbit/s', { nodes, nodeRate: 1_250_000 }],
  ]);
}

/** One machine of two cores runs all nodes. */
function slow(nodes: number): void {
  const busy = { nodes, pieces: 24, startPieces: 24, window: 8, kind: 'public' } as const;
  table(
    [10, 20, 25, 30, 40, 60].map((pieceMs) => [
      `a piece takes ${pieceMs} ms of a processor at each end`,
      { ...busy, processors: { isShared: true, count: 2, messageMs: 1, pieceMs } },
    ]),
  );
}

if (process.send !== undefined) child();
else if (values.seeds !== undefined || values.seed !== undefined) await manySeeds();
else if (values['what-if'] !== undefined) whatIf(whole('what-if', values['what-if']));
else if (values.slow !== undefined) slow(whole('slow', values.slow));
else starts();
