/**
 * The live stream: a page hears when the log has grown, and how the node is. Each page has one connection; the node is asked once
 * for all of them, and not at all while no page is open. What a page does not take in time is left out; when it takes again it
 * hears the newest.
 */
import type { NodeDocument } from '../replay/node-document.ts';
import { nodeOf } from './node-route.ts';
import type { Source } from './source.ts';

/** Pages at once. */
const MOST_STREAMS = 16;
/** The log's growth is told no more often, ms. */
const LOG_MS = 100;
/** Between two looks at the node: while something changes, and else, ms. */
const BUSY_MS = 300;
const CALM_MS = 1_500;
/** Proxies close what is silent, ms. */
const SILENCE_MS = 15_000;
/** Bytes that may wait for a page. */
const MOST_WAITING = 2 ** 20;

/** What the stream tells, by the name of its event. */
export interface Told {
  log: { generation: number; count: number; lastAt: number; isLive: boolean };
  node: NodeDocument;
}

type Controller = ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>;

export class Streams {
  readonly #source: Source;
  /** Each page, and of what it has not heard the newest. */
  readonly #open = new Map<Controller, Set<keyof Told>>();
  /** How the node is, as it was told last. */
  #told: Uint8Array<ArrayBuffer> | undefined;
  readonly #stopGrowth: () => void;
  #logTimer: NodeJS.Timeout | undefined;
  #nodeTimer: NodeJS.Timeout | undefined;
  #silenceTimer: NodeJS.Timeout | undefined;
  #node = '';

  constructor(source: Source) {
    this.#source = source;
    this.#stopGrowth = source.onGrowth(() => {
      if (this.#open.size > 0) this.#logTimer ??= setTimeout(this.#tellLog, LOG_MS);
    });
  }

  /** Until the signal; undefined where too many are open. */
  open(signal: AbortSignal): ReadableStream<Uint8Array<ArrayBuffer>> | undefined {
    if (this.#open.size >= MOST_STREAMS) return undefined;
    let own: Controller | undefined;
    const leave = () => {
      if (own !== undefined) this.#leave(own);
    };
    return new ReadableStream<Uint8Array<ArrayBuffer>>(
      {
        start: (controller) => {
          own = controller;
          this.#open.set(controller, new Set());
          signal.addEventListener('abort', leave, { once: true });
          controller.enqueue(this.#logFrame());
          this.#node = '';
          this.#silenceTimer ??= setInterval(this.#breakSilence, SILENCE_MS);
          this.#soonNode(0);
        },
        pull: (controller) => this.#catchUp(controller),
        cancel: leave,
      },
      { highWaterMark: MOST_WAITING, size: (chunk) => chunk?.byteLength ?? 0 },
    );
  }

  close(): void {
    this.#stopGrowth();
    for (const controller of this.#open.keys()) {
      this.#leave(controller);
      try {
        controller.close();
      } catch {
        // It has gone by itself.
      }
    }
  }

  #leave(controller: Controller): void {
    this.#open.delete(controller);
    if (this.#open.size > 0) return;
    clearTimeout(this.#logTimer);
    clearTimeout(this.#nodeTimer);
    clearInterval(this.#silenceTimer);
    this.#logTimer = this.#nodeTimer = this.#silenceTimer = undefined;
  }

  #logFrame(): Uint8Array<ArrayBuffer> {
    const { log, generation, isLive } = this.#source;
    return frame('log', { generation, count: log.count, lastAt: log.timeOf(log.count), isLive });
  }

  readonly #tellLog = (): void => {
    this.#logTimer = undefined;
    this.#write(this.#logFrame(), 'log');
  };

  readonly #breakSilence = (): void => this.#write(SILENT);

  /** A page has room again. */
  #catchUp(controller: Controller): void {
    const missed = this.#open.get(controller) ?? new Set();
    if (missed.delete('log')) controller.enqueue(this.#logFrame());
    if (missed.delete('node') && this.#told !== undefined) controller.enqueue(this.#told);
  }

  #soonNode(ms: number): void {
    clearTimeout(this.#nodeTimer);
    this.#nodeTimer = setTimeout(() => void this.#tellNode(), ms);
  }

  async #tellNode(): Promise<void> {
    const node = await nodeOf(this.#source).catch(() => undefined);
    if (this.#open.size === 0) return;
    // The time alone is no news.
    const news = node === undefined ? this.#node : JSON.stringify({ ...node, time: null });
    const isBusy = news !== this.#node || node?.images.some(({ blocks }) => blocks.fetching > 0) === true;
    this.#soonNode(this.#source.isOfEngine ? (isBusy ? BUSY_MS : CALM_MS) : SILENCE_MS);
    if (node === undefined || news === this.#node) return;
    this.#node = news;
    this.#told = frame('node', node);
    this.#write(this.#told, 'node');
  }

  #write(bytes: Uint8Array<ArrayBuffer>, event?: keyof Told): void {
    for (const [controller, missed] of this.#open) {
      try {
        if ((controller.desiredSize ?? 0) > 0) controller.enqueue(bytes);
        else if (event !== undefined) missed.add(event);
      } catch {
        this.#leave(controller);
      }
    }
  }
}

const encoder = new TextEncoder();
const frame = <E extends keyof Told>(event: E, news: Told[E]) =>
  encoder.encode(`event: ${event}\ndata: ${JSON.stringify(news)}\n\n`);
const SILENT = encoder.encode(':\n\n');
