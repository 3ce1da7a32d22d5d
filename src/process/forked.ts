/**
 * Work that is done in a process of its own, once: its memory goes when it ends, it can be ended, and what breaks it breaks
 * nothing else. Both ends agree on a `Dialogue`; a process that says anything else is ended, and none of it is believed.
 *
 *     parent                          process
 *     runForked ─ startForked ──────▶ serveForked
 *               ─ askForked   ─ order ─▶
 *                             ◀─ note ─   none or more
 *                             ◀─ done ─   or failed, and it ends
 */
import { type ChildProcess, fork } from 'node:child_process';
import { setPriority } from 'node:os';
import { fileURLToPath } from 'node:url';
import { limitMemory } from '../kernel/memory-limit.ts';
import { makeExpendable } from '../kernel/oom-score.ts';
import { raiseBeforeEnd, setGroupNice } from '../kernel/priority.ts';
import {
  CofaError,
  type ErrorRecord,
  fromErrorRecord,
  isErrorRecord,
  SAME_VERSION,
  toErrorRecord,
} from '../../schemas/errors.ts';
import { isKind, type Shape } from '../../schemas/shapes.ts';
import { leave } from './leave.ts';

/** What is said to a process and by it. */
export interface Dialogue<Order, Note, Result> {
  isOrder: Shape<Order>;
  /** A sign of life on the way. */
  isNote: Shape<Note>;
  isResult: Shape<Result>;
}

type Message<Note, Result> =
  | { kind: 'note'; note: Note }
  | { kind: 'done'; result: Result }
  | { kind: 'failed'; error: ErrorRecord };

export interface ForkOptions {
  /** Module that calls `serveForked`. */
  program: URL;
  args?: readonly string[];
  /** Bounds the heap of each of its threads, MiB. */
  heapMiB: number;
  /** Bounds all its memory, buffers and threads included, MiB; absent: nothing does but its heap. */
  memoryMiB?: number;
  /** Of node. */
  flags?: readonly string[];
  /** Its priority, 19 is the lowest, and that of its session where it has one of its own; absent: as this process. */
  nice?: number | undefined;
  /** A session of its own, whose group the kernel can give another share of the processors (src/kernel/priority.ts). */
  ownSession?: boolean;
}

export interface AskOptions<Note> {
  /** For messages: "the rebuild of …". */
  what: string;
  /** Without a sign of life for this long, ms, it is ended. */
  silenceMs: number;
  onNote?: ((note: Note) => void) | undefined;
  /** It has said something for the first time. */
  onSign?: () => void;
  signal?: AbortSignal | undefined;
}

/** A process that was killed and does not end is not waited for any longer, ms. */
const END_MS = 2_000;

/** Resolves with what the process answers. Errors: those of `askForked`. */
export async function runForked<Order, Note, Result>(
  dialogue: Dialogue<Order, Note, Result>,
  order: Order,
  options: ForkOptions & AskOptions<Note>,
): Promise<Result> {
  options.signal?.throwIfAborted();
  return await askForked(startForked(options), dialogue, order, options);
}

/** A process that waits for its order. The kernel ends it rather than others when memory runs out. */
export function startForked(options: ForkOptions): ChildProcess {
  const { program, args = [], heapMiB, memoryMiB, flags = [], nice, ownSession = false } = options;
  const child = fork(fileURLToPath(program), args, {
    serialization: 'advanced',
    execArgv: [...flags, `--max-old-space-size=${heapMiB}`],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    detached: ownSession,
  });
  makeExpendable(child.pid);
  if (memoryMiB !== undefined) limitMemory(child.pid, memoryMiB);
  // At once: threads that it starts later begin with the priority of the first one.
  if (nice !== undefined && child.pid !== undefined) lower(child.pid, nice);
  return child;
}

/** Also one at idle priority: see `raiseBeforeEnd`. */
export function killForked(child: ChildProcess): void {
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null)
    raiseBeforeEnd(child.pid);
  child.kill('SIGKILL');
}

/**
 * Gives a process its order, and resolves with its answer. Errors: its own; `timeout` when it falls silent; `internal` when it
 * ends early, or says what is not in the dialogue; the signal's reason. It has ended by then, mostly.
 */
export function askForked<Order, Note, Result>(
  child: ChildProcess,
  dialogue: Dialogue<Order, Note, Result>,
  order: Order,
  options: AskOptions<Note>,
): Promise<Result> {
  const { what, silenceMs, onNote, onSign, signal } = options;
  return new Promise<Result>((resolve, reject) => {
    let silence: NodeJS.Timeout | undefined;
    let failure: { error: unknown } | undefined;
    let hasSpoken = false;
    const end = (error: unknown) => {
      failure ??= { error };
      killForked(child);
      setTimeout(() => reject(error), END_MS).unref();
    };
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => end(new CofaError('timeout', `${what} came to a halt`)), silenceMs);
    };
    const abort = () => end(signal?.reason);
    alive();
    if (signal?.aborted === true) abort();
    signal?.addEventListener('abort', abort, { once: true });
    child.on('message', (message: unknown) => {
      // What it says after it was told to end, or has failed, is not waited for.
      if (failure !== undefined) return;
      if (!isMessage(dialogue, message)) {
        end(new CofaError('internal', `${what} said what it may not say`, { hint: SAME_VERSION }));
        return;
      }
      alive();
      if (!hasSpoken) onSign?.();
      hasSpoken = true;
      if (message.kind === 'note') onNote?.(message.note);
      else if (message.kind === 'done') resolve(message.result);
      else failure ??= { error: fromErrorRecord(message.error) };
    });
    const over = (error: unknown) => {
      clearTimeout(silence);
      signal?.removeEventListener('abort', abort);
      reject(failure === undefined ? error : failure.error);
    };
    child.once('error', over);
    child.once('exit', (code, by) => over(new CofaError('internal', `${what} ended early (${by ?? code})`)));
    // Without a function Node makes an event of it: one that did not start has had its own, and nothing hears a second.
    child.send(order as never, (error) => error !== null && over(error));
  });
}

function isMessage<Order, Note, Result>(
  { isNote, isResult }: Dialogue<Order, Note, Result>,
  value: unknown,
): value is Message<Note, Result> {
  return isKind(
    {
      note: (message) => isNote((message as { note?: unknown }).note),
      done: (message) => isResult((message as { result?: unknown }).result),
      failed: (message) => isErrorRecord((message as { error?: unknown }).error),
    },
    value,
  );
}

function lower(pid: number, nice: number): void {
  try {
    setPriority(pid, nice);
    setGroupNice(pid, nice);
  } catch {
    // It has ended already, and says so itself.
  }
}

/** The process's end of its channel to the one who started it for one order. */
export interface OrderChannel {
  /** The order; it may come long after the process has started. */
  readonly order: Promise<unknown>;
  /** Resolves when the message is under way. */
  say(message: unknown): Promise<void>;
}

/** The channel of this process, which ends when its parent has ended: nothing waits for the outcome then. */
export function orderChannel(): OrderChannel {
  const { promise, resolve } = Promise.withResolvers<unknown>();
  process.once('disconnect', () => leave(1));
  process.once('message', resolve);
  return {
    order: promise,
    say: (message) =>
      new Promise<void>((resolve) => {
        if (process.send === undefined) throw new Error('this process is started for one order, by fork()');
        process.send(message, () => resolve());
      }),
  };
}

/** In the process: takes the one order, answers it, ends. */
export async function serveForked<Order, Note, Result>(
  dialogue: Dialogue<Order, Note, Result>,
  work: (order: Order, note: (note: Note) => void) => Promise<Result>,
): Promise<void> {
  await answerOrder(dialogue, orderChannel(), work);
  leave(0);
}

/** Takes the one order of a channel, and answers it. */
export async function answerOrder<Order, Note, Result>(
  { isOrder }: Dialogue<Order, Note, Result>,
  { order, say }: OrderChannel,
  work: (order: Order, note: (note: Note) => void) => Promise<Result>,
): Promise<void> {
  const answer = async (): Promise<Message<Note, Result>> => {
    const given = await order;
    try {
      if (!isOrder(given))
        throw new CofaError('internal', 'what was ordered is no order', { hint: SAME_VERSION });
      const result = await work(given, (note) => void say({ kind: 'note', note }));
      return { kind: 'done', result };
    } catch (error) {
      return { kind: 'failed', error: toErrorRecord(error) };
    }
  };
  await say(await answer());
}
