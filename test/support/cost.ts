/**
 * What a piece of work costs a process: it runs alone in a fresh one, so that nothing else adds to the figure, and a
 * bomb that goes off ends that process only.
 *
 * A module of work exports functions: each prepares its input and returns what is measured.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { toErrorRecord } from '../../schemas/errors.ts';

export type Work = () => (() => unknown) | Promise<() => unknown>;

export interface Cost {
  /** What the work returned as a string, or the error that it threw: `CODE: MESSAGE`. */
  outcome: string;
  /** Bytes by which the most memory that the process has held grew while it worked. */
  grown: number;
  /** Processor time that the work took, ms. */
  ms: number;
}

/** A process that works longer is ended, ms: such a bomb takes all the time there is. */
const PATIENCE_MS = 120_000;

/** `module`: URL of a module of work; `name`: one of its exports. Throws where the process dies of it. */
export function costOf(module: URL, name: string): Cost {
  const { stdout, stderr, signal, status } = spawnSync(
    process.execPath,
    [fileURLToPath(import.meta.url), module.href, name],
    { encoding: 'utf8', timeout: PATIENCE_MS, killSignal: 'SIGKILL' },
  );
  if (status !== 0) throw new Error(`${name} ended its process (${signal ?? status}): ${stderr}`);
  return JSON.parse(stdout) as Cost;
}

const mostHeld = (): number => process.resourceUsage().maxRSS * 1024;

if (import.meta.main) {
  const [module = '', name = ''] = process.argv.slice(2);
  const works = (await import(module)) as Record<string, Work>;
  const work = await (works[name] as Work)();
  const before = mostHeld();
  const began = process.cpuUsage();
  let outcome: string;
  try {
    outcome = String(await work());
  } catch (error) {
    const { code, message } = toErrorRecord(error);
    outcome = `${code}: ${message}`;
  }
  const { user, system } = process.cpuUsage(began);
  const cost: Cost = { outcome, grown: mostHeld() - before, ms: Math.round((user + system) / 1000) };
  console.log(JSON.stringify(cost));
}
