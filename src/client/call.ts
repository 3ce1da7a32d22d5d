/**
 * One call of the engine's API, whatever way it takes: waiting for an engine that starts, deadlines, progress, and the answer
 * that becomes a result or an error.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Operation, Progress, RequestOf, ResultOf } from '../../schemas/api.ts';
import { CofaError, type Reply, resultOf } from '../../schemas/errors.ts';

export interface CallOptions {
  /** An answer has to come within this time, ms. Default 10 min, since an image without a sidecar is indexed first. */
  timeoutMs?: number | undefined;
  /** With `onProgress`: error `timeout` when neither progress nor an answer comes for so long, ms. */
  silenceMs?: number | undefined;
  /** An engine that does not run, or not yet, is waited for so long, ms. Default 0. */
  patienceMs?: number | undefined;
  onProgress?: ((progress: Progress) => void) | undefined;
  /** The caller leaves; what it asked for goes on. */
  signal?: AbortSignal | undefined;
}

/**
 * One operation. Errors: those of the engine by code; `timeout`; `not-running` when no engine answers; `unavailable` when the
 * connection broke, so that the caller cannot know whether the operation was carried out; the signal's reason.
 */
export type CallEngine = <O extends Operation>(
  operation: O,
  request: RequestOf<O>,
  options?: CallOptions,
) => Promise<ResultOf<O>>;

/** A way to the engine. */
export interface Transport {
  /**
   * Carries a request there and its answer back. Errors: `not-running` when no engine took the request; `unavailable`,
   * `timeout`, the signal's reason.
   */
  ask(operation: Operation, request: unknown, terms: Terms): Promise<Reply>;
  close(): Promise<void>;
}

/** What a transport keeps to. */
export interface Terms {
  /** Aborted when the call ends for its caller. */
  signal: AbortSignal;
  /** The signal ends the call within this time, ms. */
  limitMs: number;
  /** Undefined: the caller wants none. */
  onProgress: ((progress: Progress) => void) | undefined;
}

/** Calls over the first of the ways on which an engine takes the request. */
export function callOver(...ways: readonly Transport[]): CallEngine {
  return async <O extends Operation>(operation: O, request: RequestOf<O>, options: CallOptions = {}) =>
    resultOf((await askOver(ways, operation, request, options)) as Reply<ResultOf<O>>);
}

/** Resolves when what was asked for a moment ago is written: connected in one turn of the event loop, written in the next. */
export async function sent(): Promise<void> {
  for (let turn = 0; turn < 2; turn++) await new Promise((next) => setImmediate(next));
}

const CALL_MS = 600_000;
/** Between two looks for an engine that starts, ms. */
const PAUSE_MS = 100;

async function askOver(
  ways: readonly Transport[],
  operation: Operation,
  request: unknown,
  options: CallOptions,
): Promise<Reply> {
  let away: unknown;
  for (const end = performance.now() + (options.patienceMs ?? 0); ; await sleep(PAUSE_MS)) {
    for (const way of ways) {
      const limit = new Limit(operation, options);
      try {
        limit.signal.throwIfAborted();
        return await way.ask(operation, request, limit);
      } catch (error) {
        if (!(error instanceof CofaError) || error.code !== 'not-running') throw error;
        away = error;
      } finally {
        limit.end();
      }
    }
    if (performance.now() >= end) throw away;
  }
}

/** Ends a call that lasts too long, of which nothing is heard for too long, or whose caller leaves. */
class Limit implements Terms {
  readonly limitMs: number;
  readonly onProgress: Terms['onProgress'];
  readonly #stop = new AbortController();
  readonly #caller: AbortSignal | undefined;
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #leave = (): void => this.#stop.abort(this.#caller?.reason);

  constructor(operation: Operation, options: CallOptions) {
    const { timeoutMs = CALL_MS, silenceMs, onProgress, signal } = options;
    this.limitMs = timeoutMs;
    this.#end(timeoutMs, `the engine did not answer ${operation} within ${timeoutMs / 1000} s`);
    const silence =
      silenceMs === undefined
        ? undefined
        : this.#end(silenceMs, `nothing was heard of ${operation} for ${silenceMs / 1000} s`);
    this.onProgress =
      onProgress &&
      ((progress) => {
        silence?.refresh();
        onProgress(progress);
      });
    this.#caller = signal;
    if (signal?.aborted === true) this.#leave();
    signal?.addEventListener('abort', this.#leave, { once: true });
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** The call has ended. */
  end(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#caller?.removeEventListener('abort', this.#leave);
  }

  #end(ms: number, message: string): NodeJS.Timeout {
    const timer = setTimeout(() => this.#stop.abort(new CofaError('timeout', message)), ms);
    this.#timers.push(timer);
    return timer;
  }
}
