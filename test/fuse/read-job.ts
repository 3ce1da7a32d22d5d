/**
 * Reads for the FUSE tests, done by a process of its own: a test that serves a mount must not block on it, and Node's
 * file calls share four threads unless the environment says otherwise before the start.
 */
import { spawn } from 'node:child_process';
import { constants, open, read } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export interface ReadJob {
  path: string;
  /** File whose bytes are the right ones. Without it bytes are not compared. */
  truth?: string;
  pieces: Array<{ offset: number; length: number }>;
  /** Reads under way at a time, at most 64. */
  parallel: number;
  /** O_DIRECT: each read goes to the server as it is. */
  direct?: boolean;
}

export interface ReadReport {
  /** For each piece: `ok`, `short N`, `wrong at N`, or the errno's name. */
  results: string[];
  /** From the first read to the last answer. */
  ms: number;
}

export interface RunningJob {
  report: Promise<ReadReport>;
  kill(): void;
}

export function startReadJob(job: ReadJob): RunningJob {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url)], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, UV_THREADPOOL_SIZE: '68' },
  });
  child.stdin.on('error', () => {});
  child.stdin.end(JSON.stringify(job));
  const report = new Promise<ReadReport>((resolve, reject) => {
    const out: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) resolve(JSON.parse(Buffer.concat(out).toString()) as ReadReport);
      else reject(new Error(`the reading process ended with ${code ?? signal}`));
    });
  });
  return { report, kill: () => child.kill('SIGKILL') };
}

/** Reads the pieces, and compares them with the truth. */
export function readPieces(job: ReadJob): Promise<ReadReport> {
  return startReadJob(job).report;
}

export function allOk(count: number): string[] {
  return Array.from({ length: count }, () => 'ok');
}

async function run(job: ReadJob): Promise<ReadReport> {
  const openFile = promisify(open);
  const readAt = promisify(read);
  const flags = constants.O_RDONLY | (job.direct === true ? constants.O_DIRECT : 0);
  let fd: number;
  try {
    fd = await openFile(job.path, flags);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return { results: job.pieces.map(() => `open ${code}`), ms: 0 };
  }
  const truth = job.truth === undefined ? undefined : await openFile(job.truth, 'r');
  const results: string[] = [];
  const start = performance.now();
  let next = 0;
  const reader = async () => {
    while (next < job.pieces.length) {
      const index = next++;
      const { offset, length } = job.pieces[index] as ReadJob['pieces'][number];
      const got = Buffer.alloc(length, 0xee);
      try {
        const { bytesRead } = await readAt(fd, got, 0, length, offset);
        results[index] =
          truth === undefined ? 'ok' : await compare(truth, got.subarray(0, bytesRead), length, offset);
      } catch (error) {
        results[index] = (error as NodeJS.ErrnoException).code ?? String(error);
      }
    }
  };
  const compare = async (file: number, got: Buffer, length: number, offset: number): Promise<string> => {
    const want = Buffer.alloc(length);
    const { bytesRead } = await readAt(file, want, 0, length, offset);
    if (got.length !== bytesRead) return `short ${got.length}`;
    for (let i = 0; i < bytesRead; i++) if (got[i] !== want[i]) return `wrong at ${offset + i}`;
    return 'ok';
  };
  await Promise.all(Array.from({ length: Math.min(job.parallel, 64) }, reader));
  const ms = performance.now() - start;
  return { results, ms };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  const report = await run(JSON.parse(Buffer.concat(chunks).toString()) as ReadJob);
  process.stdout.write(JSON.stringify(report));
}
