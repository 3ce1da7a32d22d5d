/**
 * When to try again, and how long to wait before. Exponential backoff with jitter, so that many nodes that lost the
 * same registry do not return in step; the registry's own Retry-After where it gives one.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { CofaError } from '../../schemas/errors.ts';
import { RequestFailure } from './failure.ts';

export interface RetrySettings {
  /** Attempts in all, at least 1. */
  attempts: number;
  /** Wait before the second attempt, in ms; each further one waits twice as long. */
  baseMs: number;
  /** Longest wait of our own choice, in ms. */
  maxMs: number;
  /** Longest Retry-After to wait for, ms; a longer one ends the request with an error. */
  maxRetryAfterMs: number;
}

export const DEFAULT_RETRY: RetrySettings = {
  attempts: 5,
  baseMs: 200,
  maxMs: 10_000,
  maxRetryAfterMs: 60_000,
};

/** Time and chance, injected so that tests own them. */
export interface Ambient {
  /** Milliseconds since 1970. */
  now(): number;
  /** Rejects when the signal fires. */
  sleep(ms: number, signal: AbortSignal | undefined): Promise<void>;
  /** Uniform in [0, 1). */
  random(): number;
}

export const realAmbient: Ambient = {
  now: () => Date.now(),
  sleep: (ms, signal) => delay(ms, undefined, signal === undefined ? {} : { signal }),
  random: () => Math.random(),
};

export interface RetryContext {
  settings: RetrySettings;
  ambient: Ambient;
  signal: AbortSignal | undefined;
  /** Called before each wait. */
  onRetry?: (failure: RequestFailure, attempt: number, waitMs: number) => void;
}

/** Runs `work` until it succeeds, fails for good, or has failed `settings.attempts` times. */
export async function retrying<T>(context: RetryContext, work: () => Promise<T>): Promise<T> {
  const retries = new Retries(context);
  for (;;) {
    throwIfAborted(context.signal);
    try {
      return await work();
    } catch (error) {
      await retries.failed(error);
    }
  }
}

/** Counts the failures of one piece of work. */
export class Retries {
  #context: RetryContext;
  #failures = 0;

  constructor(context: RetryContext) {
    this.#context = context;
  }

  /** The work made progress: earlier failures no longer count. */
  progressed(): void {
    this.#failures = 0;
  }

  /** Returns after the wait when another attempt is due; otherwise throws the error. */
  async failed(error: unknown): Promise<void> {
    const { settings, ambient, signal, onRetry } = this.#context;
    throwIfAborted(signal);
    if (!(error instanceof RequestFailure) || !error.retryable) throw error;
    this.#failures++;
    if (this.#failures >= settings.attempts) throw error;
    const { retryAfterMs } = error;
    if (retryAfterMs !== undefined && retryAfterMs > settings.maxRetryAfterMs) {
      throw new RequestFailure(
        'unavailable',
        `${error.message}; it asks to wait ${Math.ceil(retryAfterMs / 1000)} s`,
        {
          cause: error,
          ...(error.hint === undefined ? {} : { hint: error.hint }),
        },
      );
    }
    // A registry may close an idle connection in the moment when it is used again. Every client meets that now and
    // then, a new connection mends it, and a reader waits: no pause the first time.
    const isStale = error.reason === 'broken' && this.#failures === 1;
    const waitMs = retryAfterMs ?? (isStale ? 0 : backoffMs(settings, this.#failures, ambient.random()));
    onRetry?.(error, this.#failures, waitMs);
    try {
      await ambient.sleep(waitMs, signal);
    } catch (cause) {
      throwIfAborted(signal);
      throw cause;
    }
  }
}

/** Wait after the `failures`-th failure: half of it fixed, half of it by chance. `random` in [0, 1). */
export function backoffMs(settings: RetrySettings, failures: number, random: number): number {
  const full = Math.min(settings.maxMs, settings.baseMs * 2 ** Math.min(failures - 1, 30));
  return Math.round(full / 2 + (full / 2) * random);
}

/**
 * Reads a Retry-After header (RFC 9110, 10.2.3): seconds, or a date. Milliseconds from `now`, undefined if unreadable.
 */
export function parseRetryAfter(value: string | undefined, now: number): number | undefined {
  if (value === undefined) return undefined;
  const text = value.trim();
  if (/^\d{1,10}$/.test(text)) return Number(text) * 1000;
  // A date has a name of a day or month; without this check Date.parse would accept "-5" and the like.
  if (!/^[A-Za-z]{3}/.test(text)) return undefined;
  const date = Date.parse(text);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

/** Throws what the caller's signal means: its reason, or `timeout` for the signal of a deadline. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw abortError(signal);
}

export function abortError(signal: AbortSignal): unknown {
  const reason: unknown = signal.reason;
  if (reason instanceof DOMException && reason.name === 'TimeoutError') {
    return new CofaError('timeout', 'the registry did not answer within the time allowed', { cause: reason });
  }
  return reason;
}

/** Waits for work that others share: the signal ends the wait, not the work. */
export async function waitFor<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await work;
  throwIfAborted(signal);
  let onAbort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(abortError(signal));
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    if (onAbort !== undefined) signal.removeEventListener('abort', onAbort);
  }
}
