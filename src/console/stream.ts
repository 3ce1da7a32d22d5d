/**
 * The live stream: a page hears when the log has grown, and how the node is. Each page has one connection; the node is asked once
 * for all of them, and not at all while no page is open. What a page does not take in time is left out, since the next one
 * says more.
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
  readonly #open = new Set<Controller>();
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
          this.#open.add(controller);
          signal.addEventListener('abort', leave, { once: true });
          controller.enqueue(frame('log', JSON.stringify(this.#logNow())));
          this.#node = '';
          this.#silenceTimer ??= setInterval(this.#breakSilence, SILENCE_MS);
          this.#soonNode(0);
        },
        cancel: leave,
      },
      { highWaterMark: MOST_WAITING, size: (chunk) => chunk?.byteLength ?? 0 },
    );
  }

  close(): void {
    this.#stopGrowth();
    for (const controller of this.#open) {
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

  #logNow(): Told['log'] {
    const { log, generation, isLive } = this.#source;
    return { generation, count: log.count, lastAt: log.timeOf(log.count), isLive };
  }

  readonly #tellLog = (): void => {
    this.#logTimer = undefined;
    this.#send('log', JSON.stringify(this.#logNow()));
  };

  readonly #breakSilence = (): void => this.#write(SILENT);

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
    this.#send('node', JSON.stringify(node));
  }

  #send<E extends keyof Told>(event: E, data: string): void {
    this.#write(frame(event, data));
  }

  #write(bytes: Uint8Array<ArrayBuffer>): void {
    for (const controller of this.#open) {
      try {
        if ((controller.desiredSize ?? 0) > 0) controller.enqueue(bytes);
      } catch {
        this.#leave(controller);
      }
    }
  }
}

const encoder = new TextEncoder();
const frame = (event: string, data: string) => encoder.encode(`event: ${event}\ndata: ${data}\n\n`);
const SILENT = encoder.encode(':\n\n');
