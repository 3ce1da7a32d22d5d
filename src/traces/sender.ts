/**
 * Brings spans to a collector: OTLP over HTTP. Spans wait in a bounded queue and go in batches, one request at a time, off
 * every path that a reader or a caller waits for. A collector that is away, slow or lies costs spans and nothing else:
 *
 * - what finds no room in the queue is dropped, and counted;
 * - a batch is tried again where the answer, or its absence, allows that (OTLP: 429, 502, 503, 504), and given up after some time;
 * - of an answer as much is read as an answer has; redirects lead nowhere.
 */
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import type { SpanTree } from '../../actors/spans.ts';
import { CofaError } from '../../schemas/errors.ts';
import { CONTENT_TYPES, type OtlpSpan, otlpSpans, requestOf, type Sender } from './otlp.ts';
import { isSampled } from './sampler.ts';
import type { TracesSettings } from './settings.ts';

/** What became of spans. */
export type Fate = 'sent' | 'rejected' | 'dropped' | 'failed';

export interface TraceSenderOptions {
  settings: TracesSettings;
  sender: Sender;
  /** Runs once after so many ms; the process does not stay for it. */
  after: (ms: number, run: () => void) => { cancel(): void };
  /** So many spans have had this fate. */
  onFate?: (fate: Fate, spans: number) => void;
  /** A sentence for the log: once when sending begins to fail, undefined once when it works again. */
  onTrouble?: (sentence: string | undefined) => void;
}

/** A batch is tried so often; pauses between tries, ms, each twice as long as the one before. */
const ATTEMPTS = 5;
const PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;
/** Bytes of an answer. */
const MOST_ANSWER = 64 << 10;

const RETRYABLE = new Set([429, 502, 503, 504]);

export class TraceSender {
  readonly #options: TraceSenderOptions;
  readonly #stop = new AbortController();
  #queue: OtlpSpan[] = [];
  #timer: { cancel(): void } | undefined;
  #sending: Promise<void> | undefined;
  #isInTrouble = false;
  #pool: Promise<{ pool: Pool; path: string }> | undefined;

  constructor(options: TraceSenderOptions) {
    this.#options = options;
  }

  /** The address without what may be a secret in it. */
  get #place(): string {
    const { origin, pathname } = new URL(this.#options.settings.url);
    return `${origin}${pathname}`;
  }

  /** Takes the tree where the sampler wants it. Never throws, never waits. */
  add(tree: SpanTree): void {
    const { queue, batch, delayMs, sampler } = this.#options.settings;
    if (this.#stop.signal.aborted || !isSampled(sampler, tree)) return;
    const spans = otlpSpans(tree);
    const room = Math.max(0, queue - this.#queue.length);
    if (spans.length > room) this.#options.onFate?.('dropped', spans.length - room);
    this.#queue.push(...spans.slice(0, room));
    if (this.#sending !== undefined || this.#queue.length === 0) return;
    if (this.#queue.length >= batch) this.#begin();
    else this.#timer ??= this.#options.after(delayMs, () => this.#begin());
  }

  /** Sends what there is, and closes: what is not sent within `withinMs` is given up. Never throws. */
  async close(withinMs: number): Promise<void> {
    const late = this.#options.after(withinMs, () => this.#stop.abort());
    this.#begin();
    await this.#sending;
    late.cancel();
    this.#stop.abort();
    const opened = await this.#pool?.catch(() => undefined);
    await opened?.pool.destroy();
  }

  /** Sends a batch at once, with its tries. Errors: `unavailable`, `timeout`, `unauthorized` as the collector says. */
  async send(spans: readonly OtlpSpan[]): Promise<void> {
    const body = await this.#bodyOf(spans);
    for (let attempt = 1; ; attempt++) {
      const pause = Math.min(LONGEST_PAUSE_MS, PAUSE_MS * 2 ** (attempt - 1));
      let retryAfterMs: number | undefined;
      try {
        const answer = await this.#request(body);
        if (answer.status >= 200 && answer.status < 300) {
          await this.#accepted(spans.length, answer.body);
          return;
        }
        const failure = failureOf(answer.status, this.#place);
        if (!RETRYABLE.has(answer.status)) throw new Final(failure);
        retryAfterMs = answer.retryAfterMs;
        throw failure;
      } catch (error) {
        if (error instanceof Final) throw error.failure;
        if (attempt >= ATTEMPTS || this.#stop.signal.aborted) throw asFailure(error, this.#place);
        this.#trouble(error);
        await this.#sleep(Math.min(LONGEST_PAUSE_MS, retryAfterMs ?? pause));
        if (this.#stop.signal.aborted) throw asFailure(error, this.#place);
      }
    }
  }

  #begin(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    if (this.#queue.length === 0) return;
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = undefined;
    });
  }

  async #sendAll(): Promise<void> {
    const { batch } = this.#options.settings;
    while (this.#queue.length > 0) {
      // A turn of the event loop between two batches: they are encoded on it.
      await new Promise((next) => setImmediate(next));
      const spans = this.#queue.splice(0, batch);
      try {
        await this.send(spans);
        this.#works();
      } catch (error) {
        this.#options.onFate?.('failed', spans.length);
        this.#trouble(error);
      }
    }
  }

  async #bodyOf(spans: readonly OtlpSpan[]): Promise<Uint8Array> {
    const { settings, sender } = this.#options;
    const request = requestOf(spans, sender);
    const bytes =
      settings.encoding === 'http/json'
        ? Buffer.from(JSON.stringify(request))
        : (await import('./protobuf.ts')).encodeRequest(request);
    return settings.isGzip ? await promisify(gzip)(bytes) : bytes;
  }

  async #request(
    body: Uint8Array,
  ): Promise<{ status: number; body: Buffer; retryAfterMs: number | undefined }> {
    const { settings } = this.#options;
    const { pool, path } = await (this.#pool ??= openPool(settings));
    const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(settings.timeoutMs)]);
    const answer = await pool.request({
      method: 'POST',
      path,
      signal,
      headers: {
        ...settings.headers,
        'content-type': CONTENT_TYPES[settings.encoding],
        ...(settings.isGzip ? { 'content-encoding': 'gzip' } : {}),
      },
      body,
    });
    const pieces: Buffer[] = [];
    let length = 0;
    for await (const piece of answer.body as AsyncIterable<Buffer>) {
      length += piece.length;
      // The status has said what matters.
      if (length > MOST_ANSWER) break;
      pieces.push(piece);
    }
    const after = Number(answer.headers['retry-after']);
    return {
      status: answer.statusCode,
      body: Buffer.concat(pieces),
      retryAfterMs: after > 0 ? after * 1000 : undefined,
    };
  }

  /** The collector says that it has them; it may say that it does not want some. */
  async #accepted(spans: number, body: Buffer): Promise<void> {
    const { settings, onFate } = this.#options;
    const said =
      settings.encoding === 'http/json'
        ? partialOf(body)
        : (await import('./protobuf.ts')).decodeAnswer(body).rejected;
    const rejected = Number.isSafeInteger(said) ? Math.min(spans, Math.max(0, said)) : 0;
    if (rejected > 0) onFate?.('rejected', rejected);
    if (spans > rejected) onFate?.('sent', spans - rejected);
  }

  #trouble(error: unknown): void {
    if (this.#isInTrouble || this.#stop.signal.aborted) return;
    this.#isInTrouble = true;
    this.#options.onTrouble?.(`traces are not sent: ${asFailure(error, this.#place).message}`);
  }

  #works(): void {
    if (!this.#isInTrouble) return;
    this.#isInTrouble = false;
    this.#options.onTrouble?.(undefined);
  }

  async #sleep(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { signal } = this.#stop;
    const timer = this.#options.after(ms, resolve);
    const stop = () => resolve();
    signal.addEventListener('abort', stop, { once: true });
    await promise;
    timer.cancel();
    signal.removeEventListener('abort', stop);
  }
}

/** No further try helps. */
class Final extends Error {
  readonly failure: CofaError;

  constructor(failure: CofaError) {
    super(failure.message);
    this.failure = failure;
  }
}

type Pool = InstanceType<typeof import('undici').Pool>;

/** undici is loaded for the first request. */
async function openPool({ url, tls, timeoutMs }: TracesSettings): Promise<{ pool: Pool; path: string }> {
  const { Pool } = await import('../registry/undici-parts.ts');
  const { origin, pathname, search } = new URL(url);
  const connect = { ...tls, timeout: timeoutMs };
  const pool = new Pool(origin, {
    connections: 1,
    connect,
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
  });
  return { pool, path: `${pathname}${search}` };
}

function failureOf(status: number, url: string): CofaError {
  const code = status === 401 || status === 403 ? 'unauthorized' : 'unavailable';
  return new CofaError(code, `${url} answered ${status}`);
}

function asFailure(error: unknown, url: string): CofaError {
  if (error instanceof CofaError) return error;
  const { name, message, code } = error as { name?: string; message?: string; code?: string };
  if (name === 'TimeoutError')
    return new CofaError('timeout', `${url} did not answer in time`, { cause: error });
  return new CofaError('unavailable', `${url}: ${code ?? message}`, { cause: error });
}

/** `{"partialSuccess":{"rejectedSpans":"3"}}`; what is no such answer rejects nothing. */
function partialOf(body: Buffer): number {
  try {
    const answer = JSON.parse(body.toString('utf8')) as {
      partialSuccess?: { rejectedSpans?: unknown };
    } | null;
    return Number(answer?.partialSuccess?.rejectedSpans ?? 0);
  } catch {
    return 0;
  }
}
