/**
 * The link to the registry: bytes flow on each connection at the same rate, a share of the link's or what the window of a
 * connection allows in a round trip. Only the way to the node is modelled; requests are small. No loss, no slow start.
 */
import type { SimulatedClock } from './clock.ts';

export interface LinkOptions {
  /** Bits a second; Infinity: no limit. */
  rate: number;
  rttMs: number;
  /** Bytes that a connection may have on their way. */
  windowBytes: number;
}

/** Stands for a link without a limit, bytes per ms. */
const FASTEST = 1e9;

export interface Flow {
  /** Bytes that are still to come of this piece. */
  left: number;
  /** Of the pieces behind it; the first one is next. */
  readonly pieces: number[];
  readonly onPiece: () => void;
  isHeld: boolean;
}

export class Link {
  readonly #clock: SimulatedClock;
  readonly #bytesPerMs: number;
  readonly #mostPerMs: number;
  readonly rttMs: number;
  readonly #flows = new Set<Flow>();
  #since = 0;
  #cancel: (() => void) | undefined;
  /** Bytes that came. */
  carried = 0;

  constructor(clock: SimulatedClock, { rate, rttMs, windowBytes }: LinkOptions) {
    this.#clock = clock;
    this.rttMs = rttMs;
    this.#bytesPerMs = Math.min(FASTEST, rate / 8_000);
    this.#mostPerMs = rttMs > 0 ? Math.min(FASTEST, windowBytes / rttMs) : FASTEST;
  }

  /** Bytes begin to come, in these pieces; `onPiece` at the end of each. */
  begin(pieces: readonly number[], onPiece: () => void): Flow {
    this.#advance();
    const [first = 0, ...rest] = pieces;
    const flow: Flow = { left: first, pieces: rest, onPiece, isHeld: false };
    this.#flows.add(flow);
    this.#plan();
    return flow;
  }

  /** Nothing of it comes until `goOn`. */
  hold(flow: Flow): void {
    this.#change(() => (flow.isHeld = true));
  }

  goOn(flow: Flow): void {
    this.#change(() => (flow.isHeld = false));
  }

  end(flow: Flow): void {
    this.#change(() => this.#flows.delete(flow));
  }

  #change(change: () => void): void {
    this.#advance();
    change();
    this.#plan();
  }

  get #rate(): number {
    let active = 0;
    for (const { isHeld } of this.#flows) if (!isHeld) active += 1;
    return active === 0 ? 0 : Math.min(this.#mostPerMs, this.#bytesPerMs / active);
  }

  #advance(): void {
    const bytes = this.#rate * (this.#clock.now - this.#since);
    this.#since = this.#clock.now;
    if (bytes === 0) return;
    for (const flow of this.#flows) {
      if (flow.isHeld) continue;
      const came = Math.min(flow.left, bytes);
      flow.left -= came;
      this.carried += came;
    }
  }

  #plan(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    const rate = this.#rate;
    if (rate === 0) return;
    let least = Number.POSITIVE_INFINITY;
    for (const { isHeld, left } of this.#flows) if (!isHeld) least = Math.min(least, left);
    this.#cancel = this.#clock.after(least / rate, () => this.#deliver());
  }

  #deliver(): void {
    this.#cancel = undefined;
    this.#advance();
    const ended: Flow[] = [];
    for (const flow of this.#flows) {
      // What is left of a byte is rounding.
      if (flow.isHeld || flow.left > 0.5) continue;
      this.carried += flow.left;
      const next = flow.pieces.shift();
      if (next === undefined) this.#flows.delete(flow);
      else flow.left = next;
      ended.push(flow);
    }
    this.#plan();
    for (const flow of ended) flow.onPiece();
  }
}
