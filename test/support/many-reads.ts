/** Thousands of reads at once: Python's threads cost little and give up the interpreter in pread(2). */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

export interface ManyReads {
  /** By `ok`, `wrong`, `short` or the errno's name. */
  outcomes: Record<string, number>;
  medianMs: number;
  worstMs: number;
}

/** Reads `count` random pieces of `names` below `root` at once, and compares them with those below `truth`. */
export async function readAtOnce(options: {
  root: string;
  truth: string;
  names: readonly string[];
  count: number;
  /** Bytes; 4,096 by default. */
  size?: number;
  seed?: number;
  /** The readers are killed after this; 120,000 by default. */
  timeoutMs?: number;
}): Promise<ManyReads> {
  const { root, truth, names, count, size = 4_096, seed = 1 } = options;
  const files = names.flatMap((name) => [join(root, name), join(truth, name)]);
  const script = join(import.meta.dirname, 'many-reads.py');
  const child = spawn('python3', [script, String(count), String(size), String(seed), ...files], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let out = '';
  let errors = '';
  child.stdout.on('data', (text: Buffer) => (out += text));
  child.stderr.on('data', (text: Buffer) => (errors += text));
  const timeoutMs = options.timeoutMs ?? 120_000;
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (...end) => resolve(end));
  });
  clearTimeout(timer);
  if (code !== 0)
    throw new Error(`the readers of ${root} ended with ${signal ?? code}: ${errors.slice(-2000)}`);
  return JSON.parse(out) as ManyReads;
}
