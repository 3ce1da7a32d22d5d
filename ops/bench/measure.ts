/** What every benchmark needs: commands that are timed, cold caches, an emulated link, medians. */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { type Relay, startRelay } from './relay.ts';

export const COFA = fileURLToPath(new URL('../cofa', import.meta.url));

export interface Link {
  /** Bits a second; undefined: as fast as loopback. */
  rate: number | undefined;
  rttMs: number;
}

export interface Start {
  /** From the call to the first byte of output, ms. */
  firstOutputMs: number;
  /** To the end of the container, ms. */
  totalMs: number;
  /** Bytes that crossed the link towards the node until the container's end. */
  bytes: number;
}

const running = new Set<ChildProcess>();
let isInterrupted = false;

/** Ends the running commands, and lets each further one fail but those that clean up: so the work unwinds. */
export function interrupt(): void {
  isInterrupted = true;
  for (const child of running) child.kill('SIGTERM');
}

/**
 * Runs a command to its end; throws with its stderr when it fails. `cleansUp`: it also runs after `interrupt`.
 */
export function timed(
  command: string,
  args: readonly string[],
  env: Record<string, string> = {},
  { cleansUp = false } = {},
): Promise<Omit<Start, 'bytes'> & { output: string }> {
  if (isInterrupted && !cleansUp) return Promise.reject(new Error('interrupted'));
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const child = spawn(command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    if (!cleansUp) running.add(child);
    let firstOutputMs: number | undefined;
    let output = '';
    let errors = '';
    child.stdout.on('data', (bytes: Buffer) => {
      firstOutputMs ??= performance.now() - began;
      output += bytes.toString();
    });
    child.stderr.on('data', (bytes: Buffer) => {
      errors += bytes.toString();
    });
    child.once('error', (error) => {
      running.delete(child);
      reject(error);
    });
    child.once('close', (code) => {
      running.delete(child);
      const totalMs = performance.now() - began;
      if (code === 0) resolve({ firstOutputMs: firstOutputMs ?? totalMs, totalMs, output });
      else
        reject(new Error(`${command} ${args.join(' ')} ended with ${code}: ${errors.trim().slice(-2000)}`));
    });
  });
}

/** Drops the page cache, so that nothing of an earlier start is left in it. */
export async function dropCaches(): Promise<void> {
  await timed('sync', []);
  await writeFile('/proc/sys/vm/drop_caches', '3');
}

/** Runs `work` against a registry (HOST:PORT) behind an emulated link, and counts the bytes that crossed it. */
export async function throughLink<T>(
  registry: string,
  link: Link,
  work: (host: string) => Promise<T>,
): Promise<T & { bytes: number }> {
  return await onLink(registry, link, async (relay) => {
    const measured = await work(relay.host);
    return { ...measured, bytes: relay.counters().toClient };
  });
}

/** The same, for work that looks at the link's counters meanwhile. */
export async function onLink<T>(
  registry: string,
  { rate, rttMs }: Link,
  work: (relay: Relay) => Promise<T>,
): Promise<T> {
  const [host = '', port] = registry.split(':');
  const relay = await startRelay({
    to: { host, port: Number(port) },
    rttMs,
    ...(rate === undefined ? {} : { rate }),
  });
  try {
    return await work(relay);
  } finally {
    await relay.stop();
  }
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? 0)
    : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}

/** The value that this share of the values, 0 to 1, does not exceed. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
}

/** Rows as a text table, numbers to the right; the first row is the head. */
export function textTable(rows: ReadonlyArray<readonly string[]>): string {
  const columns = Math.max(...rows.map((cells) => cells.length));
  const widths = Array.from({ length: columns }, (_, at) =>
    Math.max(...rows.map((cells) => (cells[at] ?? '').length)),
  );
  return rows
    .map((cells) =>
      cells
        .map((cell, at) => (at === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[at] ?? 0)))
        .join('   ')
        .trimEnd(),
    )
    .join('\n');
}

/** The same for a page of docs. */
export function markdownTable([head = [], ...rows]: ReadonlyArray<readonly string[]>): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
