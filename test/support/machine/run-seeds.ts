/**
 * Runs seeds of the whole engine (whole-engine.ts) in processes side by side. Each process runs
 * some hundred seeds, and the next one starts fresh.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { EngineOutcome } from './whole-engine.ts';
import type { Sabotage } from './sabotage.ts';

export interface SeedsOptions {
  first: number;
  count: number;
  jobs: number;
  sabotage?: Sabotage | undefined;
  /** Continues after a seed that broke a rule. */
  keepGoing?: boolean;
  onProgress?: (done: number, failures: number) => void;
}

export interface SeedFailure {
  seed: number;
  /** The broken rule, and the events before it. */
  message: string;
}

export interface SeedsReport {
  first: number;
  /** Seeds that were run. */
  seeds: number;
  seconds: number;
  seedsPerSecond: number;
  /** Simulated hours, events. */
  simulatedHours: number;
  events: number;
  failures: SeedFailure[];
  /** What the seeds met. */
  met: Record<string, number>;
  /** Modules that the simulation was to replace and that no run has loaded; known when a batch came to its end. */
  unmet: string[];
}

export type ToRunner = { first: number; count: number; sabotage: Sabotage | undefined; isLoud: boolean };
export type FromRunner =
  | { outcome: EngineOutcome }
  | { failure: SeedFailure }
  | { line: string }
  /** `unmet`: modules to be replaced that were not there. */
  | { done: true; unmet: string[] };

/** Seeds of one process. */
const BATCH = 150;
/** A seed that takes longer hangs, ms. */
const SEED_LIMIT_MS = 120_000;

export async function runSeeds(options: SeedsOptions): Promise<SeedsReport> {
  const { first, count, jobs, keepGoing = false, onProgress } = options;
  const started = performance.now();
  const report: SeedsReport = {
    first,
    seeds: 0,
    seconds: 0,
    seedsPerSecond: 0,
    simulatedHours: 0,
    events: 0,
    failures: [],
    met: {},
    unmet: [],
  };
  let unmet: Set<string> | undefined;
  const end = first + count;
  const size = Math.max(1, Math.min(BATCH, Math.ceil(count / jobs)));
  let next = first;
  const isOver = () => next >= end || (!keepGoing && report.failures.length > 0);
  const lane = async () => {
    while (!isOver()) {
      const from = next;
      next = Math.min(end, next + size);
      await runBatch(
        { first: from, count: next - from, sabotage: options.sabotage, isLoud: false },
        (message) => {
          if ('outcome' in message) {
            report.events += message.outcome.events;
            report.simulatedHours += message.outcome.simulatedMs / 3_600_000;
            for (const [what, times] of Object.entries(message.outcome.met))
              report.met[what] = (report.met[what] ?? 0) + times;
          } else if ('failure' in message) report.failures.push(message.failure);
          else {
            if ('done' in message) unmet = new Set(message.unmet.filter((name) => unmet?.has(name) ?? true));
            return true;
          }
          report.seeds += 1;
          onProgress?.(report.seeds, report.failures.length);
          return keepGoing || report.failures.length === 0;
        },
      );
    }
  };
  await Promise.all(Array.from({ length: jobs }, lane));
  report.seconds = (performance.now() - started) / 1000;
  report.seedsPerSecond = report.seeds / report.seconds;
  report.failures.sort((a, b) => a.seed - b.seed);
  report.unmet = [...(unmet ?? [])];
  return report;
}

/** What is wrong where a module was to be replaced and was not there. */
export const unmetSentence = (unmet: readonly string[]): string =>
  `no module matches these replacements of test/support/machine/hooks.ts: ${unmet.join(', ')}. What they replaced now runs for real: correct or remove them`;

/** One seed, with everything that happens. */
export async function showSeed(
  seed: number,
  sabotage: Sabotage | undefined,
  onLine: (line: string) => void,
): Promise<EngineOutcome | SeedFailure> {
  let result: EngineOutcome | SeedFailure | undefined;
  await runBatch({ first: seed, count: 1, sabotage, isLoud: true }, (message) => {
    if ('line' in message) onLine(message.line);
    else if ('outcome' in message) result = message.outcome;
    else if ('failure' in message) result = message.failure;
    return true;
  });
  return result as EngineOutcome | SeedFailure;
}

/** `onMessage` returns whether to continue. */
async function runBatch(order: ToRunner, onMessage: (message: FromRunner) => boolean): Promise<void> {
  const child: ChildProcess = fork(fileURLToPath(new URL('./runner.ts', import.meta.url)), {
    execArgv: ['--disable-warning=ExperimentalWarning'],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  let seed = order.first;
  let isDone = false;
  const patience = () => setTimeout(() => child.kill('SIGKILL'), SEED_LIMIT_MS);
  let timer = patience();
  const fail = (message: string) => onMessage({ failure: { seed, message } });
  await new Promise<void>((resolve) => {
    child.on('message', (message: FromRunner) => {
      clearTimeout(timer);
      timer = patience();
      if ('done' in message) {
        isDone = true;
        onMessage(message);
        child.kill('SIGKILL');
        return;
      }
      if (!('line' in message))
        seed = ('outcome' in message ? message.outcome.seed : message.failure.seed) + 1;
      if (onMessage(message)) return;
      isDone = true;
      child.kill('SIGKILL');
    });
    child.once('error', (error) => fail(String(error)));
    child.once('exit', (code, signal) => {
      clearTimeout(timer);
      if (!isDone) fail(`seed ${seed}: the simulation itself ended: ${signal ?? code}`);
      resolve();
    });
    child.send(order);
  });
}
