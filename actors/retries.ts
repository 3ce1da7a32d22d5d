/**
 * Spans whose last try failed: when they may be tried again, how often they have been, and what new readers are told
 * meanwhile. Two kinds: weather (`retryable`: tried again while a read waits), and bad bytes (remembered for a moment,
 * so that a reader that repeats its read does not become a storm of requests).
 */
import type { ReadFailure } from './layer-protocol.ts';
import { TimerQueue } from './timers.ts';

export interface RetryLimits {
  attempts: number;
  /** ms */
  retryMs: number;
  retryMaxMs: number;
  failureMemoryMs: number;
}

interface SpanFailure {
  attempts: number;
  retryable: boolean;
  reason: ReadFailure;
}

export class Retries {
  readonly #limits: RetryLimits;
  readonly #random: () => number;
  readonly #failures = new Map<number, SpanFailure>();
  readonly #pauses = new TimerQueue<number>();
  readonly #suspects = new Set<number>();

  /** `random`: in [0, 1). */
  constructor(limits: RetryLimits, random: () => number) {
    this.#limits = limits;
    this.#random = random;
  }

  /** Spans that have failed, and those that may not be tried yet. */
  get size(): { failures: number; paused: number } {
    return { failures: this.#failures.size, paused: this.#pauses.size };
  }

  /** When the earliest pause ends, ms. */
  get nextEnd(): number {
    return this.#pauses.next;
  }

  isPaused(span: number): boolean {
    return this.#pauses.has(span);
  }

  /** It shared a job in which bad bytes were found, so its next job has it alone. */
  isSuspect(span: number): boolean {
    return this.#suspects.has(span);
  }

  /** Why a read of the span need not try, if it need not. */
  verdict(span: number): ReadFailure | undefined {
    const failure = this.#failures.get(span);
    return failure?.retryable === false ? failure.reason : undefined;
  }

  /** Pauses the span before its next try; false when it has been tried often enough. */
  again(span: number, reason: ReadFailure, now: number): boolean {
    const attempts = (this.#failures.get(span)?.attempts ?? 0) + 1;
    if (attempts >= this.#limits.attempts) return false;
    const pause = Math.min(this.#limits.retryMs * 2 ** (attempts - 1), this.#limits.retryMaxMs);
    this.#failures.set(span, { attempts, retryable: true, reason });
    // Between half of the pause and all of it: spans that failed together need not come back together.
    this.#pauses.set(span, now + pause * (1 - this.#random() / 2));
    return true;
  }

  /** The span's bytes are bad. */
  remember(span: number, reason: ReadFailure, now: number): void {
    this.#suspects.delete(span);
    this.#failures.set(span, { attempts: 1, retryable: false, reason });
    this.#pauses.set(span, now + this.#limits.failureMemoryMs);
  }

  suspect(span: number): void {
    this.#suspects.add(span);
  }

  /** Takes a span whose pause is over. Bad ones are forgotten by that, others keep the number of their tries. */
  takeEnded(now: number): { span: number; retryable: boolean } | undefined {
    const span = this.#pauses.take(now);
    if (span === undefined) return undefined;
    const retryable = this.#failures.get(span)?.retryable === true;
    if (!retryable) this.#failures.delete(span);
    return { span, retryable };
  }

  /** No read wants the span any more: its tries do not count. */
  drop(span: number): void {
    this.#failures.delete(span);
    this.#pauses.delete(span);
  }

  /** The span is present. */
  forgive(span: number): void {
    this.drop(span);
    this.#suspects.delete(span);
  }

  clear(): void {
    this.#failures.clear();
    this.#pauses.clear();
    this.#suspects.clear();
  }
}
