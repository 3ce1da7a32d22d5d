/**
 * Work that is done in a process of its own, once: its memory goes when it ends, it can be ended, and what breaks it
 * breaks nothing else. The parent's side is `runForked`, the process calls `serveForked`.
 */
import { fork } from 'node:child_process';
import { setPriority } from 'node:os';
import { fileURLToPath } from 'node:url';
import { makeExpendable } from '../kernel/oom-score.ts';
import { CofaError, type ErrorRecord, fromErrorRecord, toErrorRecord } from '../../schemas/errors.ts';

type Message<Note, Result> =
  | { kind: 'note'; note: Note }
  | { kind: 'done'; result: Result }
  | { kind: 'failed'; error: ErrorRecord };

export interface ForkedOptions<Note> {
  /** Module that calls `serveForked`. */
  program: URL;
  /** For messages: "the rebuild of …". */
  what: string;
  /** Without a sign of life for this long, ms, it is ended. */
  silenceMs: number;
  /** Bounds its heap, MiB. */
  heapMiB?: number;
  /** Its priority, 19 is the lowest; absent: as this process. */
  nice?: number;
  onNote?: (note: Note) => void;
  signal?: AbortSignal | undefined;
}

/** A process that was killed and does not end is not waited for any longer, ms. */
const END_MS = 2_000;

/**
 * Resolves with what the process answers. Errors: its own; `timeout` when it falls silent; the signal's reason. It has
 * ended by then, mostly.
 */
export function runForked<Order, Note, Result>(order: Order, options: ForkedOptions<Note>): Promise<Result> {
  const { program, what, silenceMs, heapMiB, nice, onNote, signal } = options;
  if (signal?.aborted === true) return Promise.reject(signal.reason);
  const child = fork(fileURLToPath(program), {
    serialization: 'advanced',
    execArgv: heapMiB === undefined ? [] : [`--max-old-space-size=${heapMiB}`],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  makeExpendable(child.pid);
  // At once: threads that it starts later begin with the priority of the first one.
  if (nice !== undefined && child.pid !== undefined) lower(child.pid, nice);
  return new Promise<Result>((resolve, reject) => {
    let silence: NodeJS.Timeout | undefined;
    let failure: { error: unknown } | undefined;
    const end = (error: unknown) => {
      failure ??= { error };
      child.kill('SIGKILL');
      setTimeout(() => reject(error), END_MS).unref();
    };
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => end(new CofaError('timeout', `${what} came to a halt`)), silenceMs);
    };
    const abort = () => end(signal?.reason);
    alive();
    signal?.addEventListener('abort', abort, { once: true });
    child.on('message', (message: Message<Note, Result>) => {
      alive();
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
    child.send(order as never);
  });
}

function lower(pid: number, nice: number): void {
  try {
    setPriority(pid, nice);
  } catch {
    // It has ended already, and says so itself.
  }
}

/** The process's end of its channel to the one who started it for one order. */
export interface OrderChannel<Order, Message> {
  /** The order; it may come long after the process has started. */
  readonly order: Promise<Order>;
  /** Resolves when the message is under way. */
  say(message: Message): Promise<void>;
}

/** The channel of this process, which ends when its parent has ended: nothing waits for the outcome then. */
export function orderChannel<Order, Message>(): OrderChannel<Order, Message> {
  const { promise, resolve } = Promise.withResolvers<Order>();
  process.once('disconnect', () => process.exit(1));
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
  work: (order: Order, note: (note: Note) => void) => Promise<Result>,
): Promise<void> {
  const { order, say } = orderChannel<Order, Message<Note, Result>>();
  const answer = work(await order, (note) => void say({ kind: 'note', note })).then(
    (result): Message<Note, Result> => ({ kind: 'done', result }),
    (error: unknown): Message<Note, Result> => ({ kind: 'failed', error: toErrorRecord(error) }),
  );
  await say(await answer);
  process.exit(0);
}
