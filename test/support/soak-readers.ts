/**
 * Readers that run for as long as a soak takes: threads of one process that read pieces of pattern files at random,
 * past the page cache most of the time, and compare each with what it must be. They report failures to the parent at
 * once. The process reports a read that takes longer than `hangMs` while it still waits: the thread itself cannot.
 *
 */
import { type ChildProcess, fork } from 'node:child_process';
import { closeSync, openSync, readSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import {
  isMainThread,
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  Worker,
  workerData,
} from 'node:worker_threads';
import koffi from 'koffi';
import { Random } from './random.ts';
import { fillPattern, PAGE, type PatternFile } from './soak-image.ts';

/** A read with a wrong result. */
export interface BadRead {
  mount: number;
  path: string;
  offset: number;
  /** `wrong`: other bytes; `short`: the first bytes are right, the rest failed; else the errno's name. */
  outcome: string;
  detail?: string;
  startedAt: number;
  endedAt: number;
}

export interface ReadCounts {
  reads: number;
  bytes: number;
  slowestMs: number;
}

export interface ReadersOptions {
  readers: number;
  seed: number;
  /** A read that waits longer hangs, ms. */
  hangMs: number;
  onBad: (read: BadRead) => void;
  onHang: (read: { thread: number; mount: number; ms: number }) => void;
}

export interface SoakReaders {
  pid: number;
  enter(mount: number, dir: string, files: PatternFile[]): void;
  /** Resolves when no reader uses the mount any more; false after `timeoutMs`. */
  leave(mount: number, timeoutMs: number): Promise<boolean>;
  counts(): ReadCounts;
  /** Ends them; kills those that hang. */
  stop(): Promise<void>;
}

type ToThread = { enter: number; dir: string; files: PatternFile[] } | { leave: number };
type FromThread = { bad: BadRead } | { left: number; thread: number };
type ToParent =
  | { bad: BadRead }
  | { left: number }
  | { hang: { thread: number; mount: number; ms: number } }
  | { counts: ReadCounts };

/** Of each thread: when its present read began (0: none), the mount it reads, reads, bytes, ms of the slowest. */
const SLOTS = 5;
const now = (): number => Number(process.hrtime.bigint()) / 1e6;

export function startReaders(options: ReadersOptions): SoakReaders {
  const { readers, seed, hangMs, onBad, onHang } = options;
  const child: ChildProcess = fork(
    fileURLToPath(import.meta.url),
    [String(readers), String(seed), String(hangMs)],
    {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      execArgv: [],
      // A folder outside of all mounts.
      cwd: import.meta.dirname,
    },
  );
  let counts: ReadCounts = { reads: 0, bytes: 0, slowestMs: 0 };
  const leaving = new Map<number, () => void>();
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.on('message', (message: ToParent) => {
    if ('bad' in message) onBad(message.bad);
    else if ('hang' in message) onHang(message.hang);
    else if ('left' in message) leaving.get(message.left)?.();
    else counts = message.counts;
  });
  const send = (message: ToThread) => {
    if (child.connected) child.send(message);
  };
  return {
    pid: child.pid as number,
    enter: (mount, dir, files) => send({ enter: mount, dir, files }),
    leave: (mount, timeoutMs) =>
      new Promise((resolve) => {
        const timer = setTimeout(() => resolve(false), timeoutMs);
        leaving.set(mount, () => {
          clearTimeout(timer);
          leaving.delete(mount);
          resolve(true);
        });
        send({ leave: mount });
      }),
    counts: () => counts,
    stop: async () => {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

// ── The process of the readers ──

function runProcess(readers: number, seed: number, hangMs: number): void {
  const shared = new Float64Array(new SharedArrayBuffer(readers * SLOTS * 8));
  const tell = (message: ToParent) => {
    if (process.connected) process.send?.(message);
  };
  const leaving = new Map<number, Set<number>>();
  const threads = Array.from({ length: readers }, (_, thread) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: { shared, thread, seed } });
    worker.on('message', (message: FromThread) => {
      if ('bad' in message) {
        tell(message);
        return;
      }
      const waiting = leaving.get(message.left);
      waiting?.delete(message.thread);
      if (waiting?.size === 0) {
        leaving.delete(message.left);
        tell({ left: message.left });
      }
    });
    return worker;
  });
  process.on('message', (message: ToThread) => {
    if ('leave' in message) leaving.set(message.leave, new Set(threads.keys()));
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker's port has no origin
    for (const worker of threads) worker.postMessage(message);
  });
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));
  const told = new Map<number, number>();
  setInterval(() => {
    const counts: ReadCounts = { reads: 0, bytes: 0, slowestMs: 0 };
    for (let thread = 0; thread < readers; thread++) {
      const [since = 0, mount = 0, reads = 0, bytes = 0, slowest = 0] = shared.subarray(thread * SLOTS);
      counts.reads += reads;
      counts.bytes += bytes;
      counts.slowestMs = Math.max(counts.slowestMs, slowest, since === 0 ? 0 : now() - since);
      if (since === 0 || now() - since < hangMs || told.get(thread) === since) continue;
      told.set(thread, since);
      tell({ hang: { thread, mount, ms: Math.round(now() - since) } });
    }
    tell({ counts });
  }, 250);
}

// ── One reader ──

const MAX_PAGES = 32;
/** Pause after a read that failed, ms: a dead mount must not cause a storm of reads. */
const AFTER_FAILURE_MS = 20;

function runThread(port: MessagePort, shared: Float64Array, thread: number, seed: number): void {
  const advise = koffi
    .load('libc.so.6')
    .func('int posix_fadvise(int fd, long offset, long length, int advice)');
  const DONTNEED = 4;
  const mine = shared.subarray(thread * SLOTS, (thread + 1) * SLOTS);
  const random = new Random(seed + thread);
  const mounts = new Map<number, { dir: string; files: PatternFile[] }>();
  const still = new Int32Array(new SharedArrayBuffer(4));
  const got = new Uint8Array(MAX_PAGES * PAGE);
  const want = new Uint32Array(got.length / 4);
  for (;;) {
    for (let one = receiveMessageOnPort(port); one !== undefined; one = receiveMessageOnPort(port)) {
      const message = one.message as ToThread;
      if ('leave' in message) {
        mounts.delete(message.leave);
        // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker's port has no origin
        port.postMessage({ left: message.leave, thread });
      } else mounts.set(message.enter, message);
    }
    if (mounts.size === 0) {
      Atomics.wait(still, 0, 0, 20);
      continue;
    }
    const [id, { dir, files }] = random.pick([...mounts]);
    const { path, size, key } = random.pick(files);
    const pages = size / PAGE;
    const first = random.int(0, pages - 1);
    const count = Math.min(random.pick([1, 4, 16, MAX_PAGES]), pages - first);
    const offset = first * PAGE;
    const length = count * PAGE;
    const startedAt = now();
    mine[1] = id;
    mine[0] = startedAt;
    let outcome = 'ok';
    let detail: string | undefined;
    let read = length;
    try {
      const fd = openSync(`${dir}/${path}`, 'r');
      try {
        if (random.chance(0.8)) advise(fd, 0, 0, DONTNEED);
        read = readSync(fd, got, 0, length, offset);
        if (read !== length) outcome = 'short';
      } finally {
        closeSync(fd);
      }
    } catch (error) {
      outcome = (error as NodeJS.ErrnoException).code ?? String(error);
    }
    const endedAt = now();
    mine[0] = 0;
    mine[2] = (mine[2] as number) + 1;
    mine[3] = (mine[3] as number) + length;
    mine[4] = Math.max(mine[4] as number, endedAt - startedAt);
    if (outcome === 'ok' || outcome === 'short') {
      const words = want.subarray(0, length / 4);
      fillPattern(words, key, offset);
      const expected = Buffer.from(want.buffer, 0, read);
      if (expected.compare(got, 0, read) !== 0) {
        outcome = 'wrong';
        detail = difference(expected, got);
      }
    }
    if (outcome === 'ok') continue;
    const bad: BadRead = { mount: id, path, offset, outcome, startedAt, endedAt };
    if (detail !== undefined) bad.detail = detail;
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker's port has no origin
    port.postMessage({ bad });
    Atomics.wait(still, 0, 0, AFTER_FAILURE_MS);
  }
}

function difference(expected: Uint8Array, got: Uint8Array): string {
  const wrong = expected.findIndex((byte, at) => byte !== got[at]);
  const bytes = expected.reduce((sum, byte, at) => sum + (byte === got[at] ? 0 : 1), 0);
  const zeros = got.subarray(wrong, wrong + 512).every((byte) => byte === 0);
  return `first at ${wrong}, ${bytes} bytes${zeros ? ', zeros' : ''}`;
}

if (!isMainThread && (workerData as { shared?: Float64Array } | null)?.shared instanceof Float64Array) {
  const { shared, thread, seed } = workerData as { shared: Float64Array; thread: number; seed: number };
  runThread(parentPort as MessagePort, shared, thread, seed);
} else if (isMainThread && process.argv[1] === fileURLToPath(import.meta.url)) {
  const [readers = 16, seed = 1, hangMs = 30_000] = process.argv.slice(2).map(Number);
  runProcess(readers, seed, hangMs);
}
