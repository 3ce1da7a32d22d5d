/**
 * Serves layer devices by the FUSE kernel protocol, without an addon.
 *
 *     kernel ── read(2) ──▶ thread ── all blocks present: pread, write(2) ──▶ kernel
 *                             │ else
 *                             ▼
 *                        main thread ── cold(…) … answer(0) ── pread, write(2) ──▶ kernel
 *
 * Threads block in read(2) on the descriptor that the session made (session.ts). No thread waits for a cold read, so a
 * few threads suffice for any number of waiting readers: two keep two processors busy, and each costs 25 MB. The main
 * thread answers the reads that waited: their bytes were written a moment ago and come from the page cache.
 *
 * A process may end in any of three ways. After SIGKILL, or any other end outside of Node, the kernel asks the next
 * process again for what was taken and not answered. After process.exit() it does the same: an exit handler here gets
 * the threads out of read(2), without which Node would wait for them without end. After stop() waiting reads get EIO.
 */
import { closeSync, write, writeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { MessageChannel, type MessagePort, SHARE_ENV, Worker } from 'node:worker_threads';
import { CofaError } from '../../schemas/errors.ts';
import { offLoop } from '../kernel/libc.ts';
import { interruptThread } from '../kernel/thread-signal.ts';
import { ERRNO, forgetNameNotification, resendNotification } from './protocol.ts';
import { Replier } from './reply.ts';
import { Retired } from './retired.ts';
import {
  addTally,
  clamp,
  emptyCounters,
  newTally,
  type ServedFile,
  serveFile,
  TALLY,
  type Tally,
  touchedArePresent,
} from './served-file.ts';
import {
  CONTROL,
  controlSize,
  type HandedOver,
  PER_THREAD,
  type TableChange,
  type ThreadData,
} from './threads.ts';
import { type ColdRead, type DeviceFile, type FuseTransport, type TransportCounters } from './transport.ts';

export interface KernelTransportOptions {
  /** The session's descriptor. */
  fd: number;
  /** `FuseSession.resend`: first ask the kernel again for what a predecessor left unanswered. */
  resend: boolean;
  cold: ColdRead;
  /** Threads that take requests; by default one for two processors, 2 to 4. */
  threads?: number;
  /** Warm standby: threads are started but take nothing before `begin()`. */
  standby?: boolean;
  /** How long after the start a request for a file not added yet may wait for it, ms; 10,000 by default. */
  holdMs?: number;
}

export interface KernelTransport extends FuseTransport {
  /** Ends the standby; call it only after the predecessor has exited. */
  begin(): void;
  /** The caller has added all files again: requests for unknown ones fail from now on instead of waiting. */
  settled(): void;
  /**
   * Names threads that hang: those that have worked on one request since the last call. A thread never waits for a cold
   * block. Undefined: none hangs.
   */
  trouble(): string | undefined;
}

/** Serves the FUSE descriptor with threads of its own, until its `stop`. */
export function kernelTransport(options: KernelTransportOptions): KernelTransport {
  return new Transport(options);
}

/** Reads that wait at a time; the next one gets EIO. The kernel itself sends at most 256 of those that count here. */
const MAX_WAITING = 16_384;
const DEFAULT_THREADS = Math.min(4, Math.max(2, Math.floor(availableParallelism() / 2)));
const DEFAULT_HOLD_MS = 10_000;
/** A thread that does not end within this time hangs in the kernel, on a disk that does not answer. */
const STOP_MS = 5_000;
const EXIT_MS = 1_000;

/** A file as the main thread knows it. */
interface OwnFile extends ServedFile {
  /** As the caller gave it, for `cold`. */
  given: DeviceFile;
}

interface WaitingRead {
  file: OwnFile;
  low: number;
  high: number;
  offset: number;
  length: number;
}

class Transport implements KernelTransport {
  readonly ended: Promise<Error | undefined>;
  readonly #options: KernelTransportOptions;
  readonly #threads: number;
  readonly #control: Int32Array;
  readonly #strays: Tally;
  readonly #replier: Replier;
  readonly #all: Array<{ thread: Worker; port: MessagePort }>;
  readonly #files = new Map<number, OwnFile>();
  readonly #waiting = new Set<WaitingRead>();
  /** Writes in flight on the session's descriptor. */
  readonly #notifications = new Set<Promise<void>>();
  /** Requests for files that have not been added yet. */
  #held: HandedOver[] = [];
  #holdTimer: NodeJS.Timeout | undefined;
  /** Descriptors of removed files. */
  readonly #retired = new Retired({ turns: () => this.#turns(), close: closeSync });
  readonly #past = emptyCounters();
  #sequence = 0;
  #lastTurns: number[] = [];
  #running: number;
  #failure: Error | undefined;
  #begun = false;
  #stopping = false;
  #stopped: Promise<void> | undefined;
  readonly #end: (failure: Error | undefined) => void;
  readonly #onProcessExit = () => this.#releaseThreads();

  constructor(options: KernelTransportOptions) {
    this.#options = options;
    this.#threads = options.threads ?? DEFAULT_THREADS;
    if (!Number.isInteger(this.#threads) || this.#threads < 1 || this.#threads > 64)
      throw new CofaError('invalid-argument', `${this.#threads} FUSE threads; 1 to 64 are possible`);
    this.#control = new Int32Array(new SharedArrayBuffer(controlSize(this.#threads)));
    this.#strays = newTally(this.#threads + 1);
    this.#replier = new Replier(options.fd, this.#threads);
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.ended = promise;
    this.#end = resolve;
    this.#running = this.#threads;
    this.#all = Array.from({ length: this.#threads }, (_, index) => this.#startThread(index));
    process.on('exit', this.#onProcessExit);
    if (options.standby !== true) this.begin();
  }

  begin(): void {
    if (this.#begun) return;
    this.#begun = true;
    if (this.#options.resend) writeSync(this.#options.fd, resendNotification());
    Atomics.store(this.#control, CONTROL.hold, 1);
    this.#holdTimer = setTimeout(() => this.settled(), this.#options.holdMs ?? DEFAULT_HOLD_MS);
    Atomics.store(this.#control, CONTROL.go, 1);
    Atomics.notify(this.#control, CONTROL.go);
  }

  settled(): void {
    clearTimeout(this.#holdTimer);
    Atomics.store(this.#control, CONTROL.hold, 0);
    this.#tryHeld();
  }

  trouble(): string | undefined {
    const turns = this.#turns();
    const stuck = turns.filter((turn, i) => turn % 2 === 1 && turn === this.#lastTurns[i]).length;
    this.#lastTurns = turns;
    return stuck === 0 ? undefined : `${stuck} of ${this.#threads} FUSE threads stand still`;
  }

  add(given: DeviceFile): void {
    const old = this.#files.get(given.inode);
    if (old !== undefined && old.name !== given.name)
      throw new CofaError(
        'conflict',
        `device file ${given.name}: ${old.name} has inode ${given.inode} already`,
      );
    if (old !== undefined && old.given.blocks === given.blocks && old.size === given.size) return;
    const file: OwnFile = { ...serveFile(given, this.#threads + 1, this.#sequence++), given };
    const { given: _, ...served } = file;
    const change = { add: served };
    if (old === undefined) this.#changeTable(change);
    else this.#drop(old, change);
    this.#files.set(file.inode, file);
    this.#tryHeld();
  }

  remove(inode: number): void {
    const file = this.#files.get(inode);
    if (file === undefined) return;
    this.#drop(file, { remove: inode });
    const notified = this.#forgetName(file.name);
    this.#notifications.add(notified);
    void notified.then(() => this.#notifications.delete(notified));
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  /**
   * A thread's turn is odd from before it looks at the states until it has written its reply, and all of these accesses
   * are sequentially consistent. So either this call sees the turn odd and waits until the thread has moved on, or the
   * thread sees the states stored before. The main thread looks, reads and replies in one go.
   */
  async quiesce(): Promise<void> {
    const turns = this.#turns();
    const isOver = () =>
      this.#turns().every(
        (turn, thread) =>
          turns[thread] !== turn || turn % 2 === 0 || this.#ofThread(thread, PER_THREAD.ended) === 1,
      );
    for (let looks = 0; !isOver(); looks++) {
      if (looks < QUICK_LOOKS) await nextTurn();
      else await sleep(QUIESCE_STEP_MS);
    }
  }

  counters(inode?: number): TransportCounters {
    if (inode !== undefined) {
      const file = this.#files.get(inode);
      return file === undefined ? emptyCounters() : addTally(file.tally, emptyCounters());
    }
    const total = addTally(this.#strays, { ...this.#past });
    for (const file of this.#files.values()) addTally(file.tally, total);
    return total;
  }

  #startThread(index: number): { thread: Worker; port: MessagePort } {
    const { port1, port2 } = new MessageChannel();
    const data: ThreadData = {
      device: this.#options.fd,
      index,
      control: this.#control.buffer as SharedArrayBuffer,
      strays: this.#strays,
      port: port2,
    };
    const thread = new Worker(new URL('./kernel-thread.ts', import.meta.url), {
      name: `fuse-${index}`,
      workerData: data,
      transferList: [port2],
      execArgv: [],
      env: SHARE_ENV,
      trackUnmanagedFds: false,
    });
    thread.on('message', (message: HandedOver) => this.#take(message));
    thread.on('error', (error) => {
      this.#failure ??= error instanceof Error ? error : new Error(String(error));
      this.#end(this.#failure);
    });
    thread.on('exit', () => {
      port1.close();
      this.#running--;
      if (this.#running === 0) void this.#finish();
    });
    port1.unref();
    return { thread, port: port1 };
  }

  /** A request that a thread could not answer. */
  #take(message: HandedOver): void {
    if (message.kind === 'lookup') return this.#takeLookup(message);
    const { low, high, inode, offset } = message;
    const file = this.#files.get(inode);
    if (file === undefined) {
      if (message.kind !== 'cold' && this.#hold(message)) return;
      this.#refuse(message);
      return;
    }
    if (message.kind === 'attributes') return this.#replier.attributes(low, high, file);
    const length = clamp(file, offset, message.length);
    if (message.kind === 'read') this.#replier.count(file.tally, TALLY.reads, 1);
    // The thread has looked at a cold read's blocks, and the layer actor looks next. A thread that did not know the file has not.
    if (length === 0 || (message.kind === 'read' && touchedArePresent(file, offset, length))) {
      this.#replier.count(file.tally, TALLY.hits, 1);
      return this.#replier.read(file, low, high, offset, length);
    }
    this.#replier.count(file.tally, TALLY.misses, 1);
    if (this.#stopping || this.#waiting.size >= MAX_WAITING) return this.#fail(file, low, high, ERRNO.EIO);
    const read: WaitingRead = { file, low, high, offset, length };
    this.#waiting.add(read);
    return this.#options.cold(file.given, offset, length, (errno) => this.#answer(read, errno));
  }

  #answer(read: WaitingRead, errno: number): void {
    if (!this.#waiting.delete(read)) return; // answered already, removed or stopped
    const { file, low, high, offset, length } = read;
    if (errno !== 0) return this.#fail(file, low, high, errno);
    // A second look, since the read has waited: the reader would take an absent block for zeros.
    if (!touchedArePresent(file, offset, length)) return this.#fail(file, low, high, ERRNO.EIO);
    return this.#replier.read(file, low, high, offset, length);
  }

  #fail(file: OwnFile, low: number, high: number, errno: number): void {
    this.#replier.count(file.tally, TALLY.errors, 1);
    this.#replier.error(low, high, errno);
  }

  #takeLookup(message: HandedOver & { kind: 'lookup' }): void {
    for (const file of this.#files.values())
      if (file.name === message.name) return this.#replier.entry(message.low, message.high, file);
    if (!this.#hold(message)) this.#refuse(message);
  }

  #hold(message: HandedOver): boolean {
    if (Atomics.load(this.#control, CONTROL.hold) === 0 || this.#stopping) return false;
    if (this.#held.length >= MAX_WAITING) return false;
    this.#held.push(message);
    return true;
  }

  #tryHeld(): void {
    const held = this.#held;
    this.#held = [];
    for (const message of held) this.#take(message);
  }

  #refuse({ kind, low, high }: HandedOver): void {
    const isRead = kind === 'read' || kind === 'cold';
    if (isRead) this.#replier.count(this.#strays, TALLY.errors, 1);
    if (kind === 'read') this.#replier.count(this.#strays, TALLY.reads, 1);
    this.#replier.error(low, high, isRead ? ERRNO.EIO : ERRNO.ENOENT);
  }

  /** On a pool thread, since the kernel may wait for a LOOKUP in flight before it forgets the name. */
  #forgetName(name: string): Promise<void> {
    const notification = forgetNameNotification(name);
    return offLoop(
      () =>
        new Promise((resolve) => {
          // After the end the descriptor may be another file's. An error here means that the kernel does not know the
          // name, or that the mount was detached.
          if (this.#stopping) resolve();
          else write(this.#options.fd, notification, 0, notification.length, null, () => resolve());
        }),
    );
  }

  #changeTable(change: TableChange): void {
    for (const { port } of this.#all) port.postMessage(change);
    Atomics.add(this.#control, CONTROL.version, 1);
  }

  /** Takes a file out of service, by this change of the table; its descriptor is closed when no thread can still use it. */
  #drop(file: OwnFile, change: TableChange): void {
    this.#files.delete(file.inode);
    for (const read of this.#waiting) if (read.file === file) this.#answer(read, ERRNO.EIO);
    addTally(file.tally, this.#past);
    this.#retired.add(file.fd, () => this.#changeTable(change));
  }

  #turns(): number[] {
    return this.#all.map((_, index) => this.#ofThread(index, PER_THREAD.turn));
  }

  #ofThread(index: number, field: number): number {
    return Atomics.load(this.#control, CONTROL.perThread + index * CONTROL.size + field);
  }

  async #stop(): Promise<void> {
    this.#stopping = true;
    this.#tellThreadsToStop();
    for (const read of this.#waiting) this.#answer(read, ERRNO.EIO);
    this.settled();
    for (let waited = 0; this.#running > 0; waited += STOP_STEP_MS) {
      if (waited >= STOP_MS)
        throw new CofaError('timeout', `${this.#running} FUSE threads did not end within ${STOP_MS} ms`);
      this.#interruptThreads();
      await sleep(STOP_STEP_MS);
    }
    await this.ended;
  }

  async #finish(): Promise<void> {
    process.removeListener('exit', this.#onProcessExit);
    this.#stopping = true;
    for (const read of this.#waiting) this.#answer(read, ERRNO.EIO);
    this.settled();
    this.#retired.closeAll();
    for (const file of this.#files.values()) {
      addTally(file.tally, this.#past);
      closeSync(file.fd);
    }
    this.#files.clear();
    await Promise.all(this.#notifications);
    this.#end(this.#failure);
  }

  #tellThreadsToStop(): void {
    Atomics.store(this.#control, CONTROL.stop, 1);
    Atomics.store(this.#control, CONTROL.go, 1);
    Atomics.notify(this.#control, CONTROL.go);
  }

  #interruptThreads(): void {
    for (let index = 0; index < this.#threads; index++) {
      const threadId = this.#ofThread(index, PER_THREAD.threadId);
      if (threadId !== 0 && this.#ofThread(index, PER_THREAD.ended) === 0) interruptThread(threadId);
    }
  }

  /** In process.exit(), where Node runs no further callback. */
  #releaseThreads(): void {
    this.#tellThreadsToStop();
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (let waited = 0; waited < EXIT_MS; waited++) {
      this.#interruptThreads();
      const ended = this.#all.every((_, i) => this.#ofThread(i, PER_THREAD.ended) === 1);
      if (ended) return;
      Atomics.wait(pause, 0, 0, 1);
    }
  }
}

const QUICK_LOOKS = 20;
const QUIESCE_STEP_MS = 1;
const STOP_STEP_MS = 5;
