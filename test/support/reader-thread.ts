/** One of the readers of readers.ts: a thread. Dozens of them start at once, so it imports next to nothing. */
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { joinBytes, printable } from './byte-paths.ts';

export interface Job {
  root: string;
  expectedRoot: string;
  files: Array<[pathBase64: string, size: number]>;
  readers: number;
  copies: number;
  pieceSize: number;
  seed: number;
  maxFailures: number;
}

/** What one thread gets: pairs of file index and piece index, already shuffled. */
export interface ReaderData {
  job: Job;
  pieces: Uint32Array;
}

export interface ReaderReport {
  pieces: number;
  bytes: number;
  /** Failures in words: wrong bytes, an errno, a short read. Empty when all is right. */
  failures: string[];
}

function readPieces({ job, pieces }: ReaderData): ReaderReport {
  const report: ReaderReport = { pieces: 0, bytes: 0, failures: [] };
  const root = Buffer.from(job.root);
  const expectedRoot = Buffer.from(job.expectedRoot);
  const got = Buffer.alloc(job.pieceSize);
  const want = Buffer.alloc(job.pieceSize);
  for (let i = 0; i < pieces.length && report.failures.length < job.maxFailures; i += 2) {
    const [pathBase64, size] = job.files[pieces[i] as number] as [string, number];
    const path = Buffer.from(pathBase64, 'base64');
    const offset = (pieces[i + 1] as number) * job.pieceSize;
    const length = Math.min(job.pieceSize, size - offset);
    try {
      const wantLength = readAt(joinBytes(expectedRoot, path), want, offset, length);
      got.fill(0xee, 0, length);
      const gotLength = readAt(joinBytes(root, path), got, offset, length);
      if (gotLength !== wantLength)
        report.failures.push(`${printable(path)}@${offset}: ${gotLength} bytes instead of ${wantLength}`);
      else if (got.compare(want, 0, length, 0, length) !== 0)
        report.failures.push(`${printable(path)}@${offset}: wrong bytes`);
      report.bytes += gotLength;
      report.pieces++;
    } catch (error) {
      report.failures.push(`${printable(path)}@${offset}: ${String(error)}`);
    }
  }
  return report;
}

function readAt(path: Buffer, into: Buffer, offset: number, length: number): number {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    let done = 0;
    while (done < length) {
      const read = readSync(fd, into, done, length - done, offset + done);
      if (read === 0) break;
      done += read;
    }
    return done;
  } finally {
    closeSync(fd);
  }
}

// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker's port has no origin
parentPort?.postMessage(readPieces(workerData as ReaderData));
