/**
 * Many readers at once, each in its own random order. They compare the bytes of a mount with those of an unpacked copy.
 * Each reader is a thread that blocks in read(2), as programs do; Node's own file calls would share four threads. They
 * live in a process of their own, so that one stuck in the kernel can be ended by its id.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { Job, ReaderData, ReaderReport } from './reader-thread.ts';
import type { Tree } from './tree.ts';

export interface ParallelReadOptions {
  /** Folder under test, such as a lazy mount. */
  root: string;
  /** The same tree, unpacked: the truth. `readTree(…, { content: false })` is enough. */
  expected: Tree;
  /** Threads; 32 by default. */
  readers?: number;
  /** How many readers read each piece; 2 by default, so that readers meet at absent blocks. */
  copies?: number;
  /** Bytes a read; 128 KiB by default. Every byte of every file belongs to one piece. */
  pieceSize?: number;
  seed?: number;
  /** The readers are killed after this many milliseconds; 120,000 by default. */
  timeoutMs?: number;
  /** Give up after this many failed pieces; 20 by default. */
  maxFailures?: number;
}

export interface ParallelReadResult extends ReaderReport {
  /** From the first reader's start to the last one's end, in milliseconds. */
  ms: number;
}

/** Reads every byte of every file of a tree `copies` times through `root`, in parallel and in random order. */
export async function readInParallel(options: ParallelReadOptions): Promise<ParallelReadResult> {
  const job: Job = {
    root: options.root,
    expectedRoot: options.expected.root,
    // Reads all names of one inode: each has to lead to the same bytes.
    files: options.expected.nodes
      .filter((node) => node.type === 'file' && node.size > 0)
      .map((node) => [node.path.toString('base64'), node.size]),
    readers: options.readers ?? 32,
    copies: options.copies ?? 2,
    pieceSize: options.pieceSize ?? 128 * 1024,
    seed: options.seed ?? 1,
    maxFailures: options.maxFailures ?? 20,
  };
  const timeoutMs = options.timeoutMs ?? 120_000;
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url)], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  child.stdin.on('error', () => {});
  child.stdin.end(JSON.stringify(job));
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    child.kill('SIGKILL');
  }, timeoutMs);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  clearTimeout(timer);
  if (timedOut) throw new Error(`the readers of ${options.root} were not done after ${timeoutMs} ms`);
  if (code !== 0) throw new Error(`the readers ended with ${code}: ${Buffer.concat(err).toString()}`);
  return JSON.parse(Buffer.concat(out).toString()) as ParallelReadResult;
}

/** A small generator with a seed (xorshift32), so that an order that failed can be repeated. */
export function seededRandom(seed: number): (below: number) => number {
  let state = (seed * 2654435761) >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % below;
  };
}

function dealPieces(job: Job): Uint32Array[] {
  const random = seededRandom(job.seed);
  const hands: number[][] = Array.from({ length: job.readers }, () => []);
  job.files.forEach(([, size], file) => {
    for (let piece = 0; piece * job.pieceSize < size; piece++) {
      const first = random(job.readers);
      for (let copy = 0; copy < Math.min(job.copies, job.readers); copy++)
        (hands[(first + copy) % job.readers] as number[]).push(file, piece);
    }
  });
  return hands.map((hand) => {
    const pieces = Uint32Array.from(hand);
    for (let i = pieces.length / 2 - 1; i > 0; i--) {
      const j = random(i + 1);
      for (const half of [0, 1]) {
        const value = pieces[2 * i + half] as number;
        pieces[2 * i + half] = pieces[2 * j + half] as number;
        pieces[2 * j + half] = value;
      }
    }
    return pieces;
  });
}

async function runJob(job: Job): Promise<ParallelReadResult> {
  const started = performance.now();
  const reports = await Promise.all(
    dealPieces(job).map(
      (pieces) =>
        new Promise<ReaderReport>((resolve, reject) => {
          const data: ReaderData = { job, pieces };
          const worker = new Worker(new URL('reader-thread.ts', import.meta.url), {
            workerData: data,
            resourceLimits: { maxYoungGenerationSizeMb: 8 },
          });
          worker.once('message', resolve);
          worker.once('error', reject);
        }),
    ),
  );
  return {
    pieces: reports.reduce((sum, report) => sum + report.pieces, 0),
    bytes: reports.reduce((sum, report) => sum + report.bytes, 0),
    failures: reports.flatMap((report) => report.failures).slice(0, job.maxFailures),
    ms: Math.round(performance.now() - started),
  };
}

async function readStdin(): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

if (import.meta.main)
  process.stdout.write(JSON.stringify(await runJob(JSON.parse(await readStdin()) as Job)));
