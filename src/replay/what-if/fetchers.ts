/** The fetchers in simulated time: a job becomes a request, its bytes come over the link, and its blocks are decoded piece by piece. */
import type { SimulatedClock } from './clock.ts';
import type { Flow, Link } from './link.ts';
import type { Processors } from './processors.ts';
import type { Costs, OrderedRun } from './recording.ts';

/** Blocks that are decoded together, and reported together at most. */
const PIECE_BLOCKS = 4;
/** Bytes of a held pack that a fetcher keeps. */
const HELD_BYTES = 32 << 20;

/** Blocks that come in a row, in one piece of the stream. */
export interface Piece {
  runs: OrderedRun[];
  blocks: number;
  bytes: number;
  /** Of one core. */
  ms: number;
  /** Its blocks, and those before it, are told behind it. */
  isReported: boolean;
}

export interface JobPlan {
  pieces: Piece[];
  isRest: boolean;
  /** Its pieces are kept until it is released: of a pack. */
  isHeld: boolean;
}

export interface JobTold {
  /** Its first bytes are here, and may be used. */
  begun?(): void;
  /** `bytes`: compressed, since the last word. */
  blocks(runs: readonly OrderedRun[], bytes: number): void;
  end(times: { firstByteUs: number; fetchUs: number; decodeUs: number }, bytes: number): void;
}

interface Running {
  readonly fetcher: string;
  readonly plan: JobPlan;
  readonly told: JobTold;
  readonly startedAt: number;
  flow: Flow | undefined;
  firstByteAt: number;
  came: number;
  /** Pieces that came and are not decoded. */
  waiting: number;
  decoded: number;
  isDecoding: boolean;
  isOnHold: boolean;
  isReleased: boolean;
  isReady: boolean;
  lastByteAt: number;
  bytes: number;
  runs: OrderedRun[];
  holdEnds: (() => void) | undefined;
  isOver: boolean;
}

export class Fetchers {
  readonly #clock: SimulatedClock;
  readonly #link: Link;
  readonly #processors: Processors;
  readonly #costs: Costs;
  readonly #running = new Map<number, Running>();
  /** Connections of each fetcher that no request uses. */
  readonly #idle = new Map<string, number>();
  requests = 0;

  constructor(clock: SimulatedClock, link: Link, processors: Processors, costs: Costs) {
    this.#clock = clock;
    this.#link = link;
    this.#processors = processors;
    this.#costs = costs;
  }

  /** A job was sent to a fetcher. */
  send(job: number, fetcher: string, plan: JobPlan, told: JobTold): void {
    const running: Running = {
      fetcher,
      plan,
      told,
      startedAt: this.#clock.now + this.#costs.hopMs,
      flow: undefined,
      firstByteAt: 0,
      came: 0,
      waiting: 0,
      decoded: 0,
      isDecoding: false,
      isOnHold: false,
      isReleased: !plan.isHeld,
      isReady: !plan.isHeld,
      lastByteAt: 0,
      bytes: 0,
      runs: [],
      holdEnds: undefined,
      isOver: false,
    };
    this.#running.set(job, running);
    this.requests += 1;
    const { rttMs } = this.#link;
    const idle = this.#idle.get(fetcher) ?? 0;
    if (idle > 0) this.#idle.set(fetcher, idle - 1);
    const trips = idle > 0 ? 1 : 2;
    this.#clock.after(this.#costs.hopMs + trips * rttMs + this.#costs.serverMs, () => {
      if (running.isOver) return;
      running.firstByteAt = this.#clock.now;
      running.flow = this.#link.begin(
        plan.pieces.map(({ bytes }) => bytes),
        () => this.#arrived(job, running),
      );
      if (running.isReleased) this.#clock.after(this.#costs.hopMs, () => told.begun?.());
      this.#steer(running);
    });
  }

  /** Nothing more of the job is read or decoded for so long, ms. */
  hold(job: number, ms: number): void {
    const running = this.#running.get(job);
    if (running === undefined) return;
    running.holdEnds?.();
    running.isOnHold = ms > 0;
    running.holdEnds = ms > 0 ? this.#clock.after(ms, () => this.hold(job, 0)) : undefined;
    this.#steer(running);
    this.#decode(job, running);
  }

  /** The layers of a held pack are open. */
  release(job: number): void {
    const running = this.#running.get(job);
    if (running === undefined) return;
    running.isReleased = true;
    if (running.flow !== undefined) running.told.begun?.();
    this.#steer(running);
    // Its fetcher makes ready to decode.
    this.#clock.after(this.#costs.packReadyMs, () => {
      running.isReady = true;
      this.#decode(job, running);
    });
  }

  stop(job: number): void {
    const running = this.#running.get(job);
    if (running === undefined) return;
    running.isOver = true;
    if (running.flow !== undefined) this.#link.end(running.flow);
    running.holdEnds?.();
    this.#running.delete(job);
  }

  #steer(running: Running): void {
    const { flow, isOnHold, isReleased, bytes } = running;
    if (flow === undefined) return;
    const isFull = !isReleased && bytes >= HELD_BYTES;
    if ((isOnHold || isFull) && !flow.isHeld) this.#link.hold(flow);
    else if (!isOnHold && !isFull && flow.isHeld) this.#link.goOn(flow);
  }

  #arrived(job: number, running: Running): void {
    const piece = running.plan.pieces[running.came];
    running.came += 1;
    running.waiting += 1;
    running.bytes += piece?.bytes ?? 0;
    if (running.came === running.plan.pieces.length) {
      running.lastByteAt = this.#clock.now;
      this.#idle.set(running.fetcher, (this.#idle.get(running.fetcher) ?? 0) + 1);
    }
    this.#steer(running);
    this.#decode(job, running);
  }

  #decode(job: number, running: Running): void {
    const { isDecoding, isOnHold, isReady, waiting, plan, fetcher } = running;
    if (isDecoding || isOnHold || !isReady || waiting === 0 || running.isOver) return;
    const piece = plan.pieces[running.decoded];
    if (piece === undefined) return;
    running.isDecoding = true;
    running.waiting -= 1;
    this.#processors.work(fetcher, piece.ms, () => this.#decodedPiece(job, running, piece), plan.isRest);
  }

  #decodedPiece(job: number, running: Running, piece: Piece): void {
    running.isDecoding = false;
    running.decoded += 1;
    if (running.isOver) return;
    const { told, plan } = running;
    running.runs.push(...piece.runs);
    const isLast = running.decoded === plan.pieces.length;
    if (piece.isReported || isLast) {
      const { runs, bytes } = running;
      running.runs = [];
      running.bytes = running.isReleased ? 0 : bytes;
      this.#clock.after(this.#costs.hopMs, () => told.blocks(runs, bytes));
    }
    if (isLast) {
      running.isOver = true;
      this.#running.delete(job);
      running.holdEnds?.();
      const us = (ms: number) => Math.round(ms * 1_000);
      const times = {
        firstByteUs: us(running.firstByteAt - running.startedAt),
        fetchUs: us(running.lastByteAt - running.startedAt),
        decodeUs: us(plan.pieces.reduce((sum, { ms }) => sum + ms, 0)),
      };
      const all = plan.pieces.reduce((sum, { bytes }) => sum + bytes, 0);
      this.#clock.after(this.#costs.hopMs, () => told.end(times, all));
    } else this.#decode(job, running);
  }
}

/** Cuts spans into pieces. `isEnd`: other blocks than the next ones follow. `reportBlocks`: how many are told together. */
export function piecesOf(
  runs: ReadonlyArray<OrderedRun & { bytes: number; isEnd: boolean }>,
  blockMs: number,
  reportBlocks: number,
): Piece[] {
  const pieces: Piece[] = [];
  let unreported = 0;
  for (const { layer, first, count, bytes, isEnd } of runs) {
    for (let at = 0; at < count; at += PIECE_BLOCKS) {
      const blocks = Math.min(PIECE_BLOCKS, count - at);
      unreported += blocks;
      const isReported = unreported >= reportBlocks || (isEnd && at + blocks === count);
      if (isReported) unreported = 0;
      pieces.push({
        runs: [{ layer, first: first + at, count: blocks }],
        blocks,
        bytes: (bytes * blocks) / count,
        ms: blocks * blockMs,
        isReported,
      });
    }
  }
  return pieces;
}
