/**
 * Work that is done in a process of its own, once: its memory goes when it ends, it can be ended, and what breaks it
 * breaks nothing else. The parent's side is `runForked`, the process calls `serveForked`.
 */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
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
  onNote?: (note: Note) => void;
  signal?: AbortSignal | undefined;
}

/** Resolves with what the process answers. Errors: its own; `timeout` when it falls silent; the signal's reason. */
export function runForked<Order, Note, Result>(order: Order, options: ForkedOptions<Note>): Promise<Result> {
  const { program, what, silenceMs, heapMiB, onNote, signal } = options;
  if (signal?.aborted === true) return Promise.reject(signal.reason);
  const child = fork(fileURLToPath(program), {
    serialization: 'advanced',
    execArgv: heapMiB === undefined ? [] : [`--max-old-space-size=${heapMiB}`],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  return new Promise<Result>((resolve, reject) => {
    let silence: NodeJS.Timeout | undefined;
    const end = (error: unknown) => {
      reject(error);
      child.kill('SIGKILL');
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
      else reject(fromErrorRecord(message.error));
    });
    const over = (error: unknown) => {
      clearTimeout(silence);
      signal?.removeEventListener('abort', abort);
      reject(error);
    };
    child.once('error', over);
    child.once('exit', (code, by) => over(new CofaError('internal', `${what} ended early (${by ?? code})`)));
    child.send(order as never);
  });
}

/** In the process: takes the one order, answers it, ends. It also ends when its parent is gone. */
export function serveForked<Order, Note, Result>(
  work: (order: Order, note: (note: Note) => void) => Promise<Result>,
): void {
  const say = (message: Message<Note, Result>) =>
    new Promise<void>((resolve) => {
      if (process.send === undefined) throw new Error('this process is started by runForked');
      process.send(message, () => resolve());
    });
  process.once('disconnect', () => process.exit(1));
  process.once('message', async (order: Order) => {
    try {
      await say({ kind: 'done', result: await work(order, (note) => void say({ kind: 'note', note })) });
    } catch (error) {
      await say({ kind: 'failed', error: toErrorRecord(error) });
    }
    process.exit(0);
  });
}
