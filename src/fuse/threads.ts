/** What the main thread and the threads of the kernel-protocol transport tell each other. */
import type { MessagePort } from 'node:worker_threads';
import type { ServedFile, Tally } from './served-file.ts';

export interface ThreadData {
  device: number;
  /** This thread's number, from 0. */
  index: number;
  control: SharedArrayBuffer;
  /** Counts reads that belong to no file. */
  strays: Tally;
  port: MessagePort;
}

/**
 * Int32 places in `control`. First four for all threads: `go` ends the standby, `stop` ends the threads, each change of
 * the file table adds to `version`, `hold` says that more files may be added. Then three for each thread: `turn` is odd
 * while it works on a request, `threadId` is the kernel's (0: not there yet), `ended` is 1 at its end.
 */
export const CONTROL = { go: 0, stop: 1, version: 2, hold: 3, perThread: 4, size: 3 } as const;
export const PER_THREAD = { turn: 0, threadId: 1, ended: 2 } as const;

/** Bytes of `control`. */
export function controlSize(threads: number): number {
  return (CONTROL.perThread + threads * CONTROL.size) * 4;
}

/** To the threads. */
export type TableChange = { add: ServedFile } | { remove: number };

/**
 * From a thread: a request that it cannot answer. `low` and `high` are the halves of its id; offsets and lengths are
 * bytes. `cold`: a block is not present. The others: the file is not known (yet).
 */
export type HandedOver =
  | {
      kind: 'cold' | 'read' | 'attributes';
      low: number;
      high: number;
      inode: number;
      offset: number;
      length: number;
    }
  | { kind: 'lookup'; low: number; high: number; name: string };

/** The form of every file's name; requests for other names need not wait. */
export const NAME = /^[0-9a-f]{64}$/;
