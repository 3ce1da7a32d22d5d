/** Virtual time, links and the registry of a simulated fleet. One seed, one course of events. */
import type { BlobSource } from '../../../schemas/fetch.ts';
import { Random } from '../random.ts';

/** What a rule says, and when it was broken. */
export class BrokenRule extends Error {}

export class World {
  readonly random: Random;
  /** A binary heap; those that were cancelled stay until their time. */
  readonly #heap: Due[] = [];
  #order = 0;
  now = 0;
  events = 0;

  constructor(seed: number) {
    this.random = new Random(seed);
  }

  after(ms: number, run: () => void): () => void {
    const due: Due = { at: this.now + Math.max(0, ms), order: this.#order++, run };
    let at = this.#heap.push(due) - 1;
    while (at > 0) {
      const above = this.#heap[(at - 1) >> 1] as Due;
      if (!isBefore(due, above)) break;
      this.#heap[at] = above;
      at = (at - 1) >> 1;
    }
    this.#heap[at] = due;
    return () => {
      due.run = undefined;
    };
  }

  /** Until nothing is left, or virtual time has come to `until`, or `isOver`. */
  run(until: number, isOver: () => boolean = () => false): void {
    for (;;) {
      while (this.#heap[0] !== undefined && this.#heap[0].run === undefined) this.#take();
      const next = this.#heap[0];
      if (next === undefined || next.at > until || isOver()) break;
      this.#take();
      this.now = next.at;
      this.events += 1;
      const run = next.run;
      next.run = undefined;
      run?.();
    }
    if (!isOver()) this.now = Math.max(this.now, until);
  }

  break(rule: string): never {
    throw new BrokenRule(`${this.now.toFixed(1)} ms: ${rule}`);
  }

  /** The first one goes; the last one takes its place and sinks. */
  #take(): void {
    const heap = this.#heap;
    const last = heap.pop() as Due;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let below = at * 2 + 1;
      if (below >= heap.length) break;
      if (below + 1 < heap.length && isBefore(heap[below + 1] as Due, heap[below] as Due)) below += 1;
      if (!isBefore(heap[below] as Due, last)) break;
      heap[at] = heap[below] as Due;
      at = below;
    }
    heap[at] = last;
  }
}

interface Due {
  readonly at: number;
  /** Among those of one time. */
  readonly order: number;
  /** Undefined: cancelled. */
  run: (() => void) | undefined;
}

const isBefore = (a: Due, b: Due): boolean => a.at < b.at || (a.at === b.at && a.order < b.order);

/**
 * One direction of a link: what is sent waits for what was sent before. Nothing is reserved ahead, so what a slow sender has yet
 * to send takes nothing of the receiver's link; and what is cancelled leaves room for others. Bytes per ms.
 */
export class Link {
  readonly #world: World;
  rate: number;
  /** That went through, those of a transfer that is under way included. */
  bytes = 0;
  readonly #queue = new Set<Transfer>();
  #running: { transfer: Transfer; since: number; stop: () => void } | undefined;
  #freeAt = 0;

  constructor(world: World, rate: number) {
    this.#world = world;
    this.rate = rate;
  }

  /** Calls `through` when the last byte is. Returns what cancels the rest. */
  send(bytes: number, through: () => void): () => void {
    return this.#add({ bytes, from: this.#world.now, through });
  }

  /** As `send`, of bytes of which the other end has just sent the last one: the first ones have come meanwhile, where there was room. */
  arrive(bytes: number, through: () => void): () => void {
    return this.#add({ bytes, from: this.#world.now - bytes / this.rate, through });
  }

  #add(transfer: Transfer): () => void {
    this.#queue.add(transfer);
    this.#next();
    return () => this.#cancel(transfer);
  }

  #next(): void {
    if (this.#running !== undefined) return;
    for (const transfer of this.#queue) {
      this.#queue.delete(transfer);
      this.bytes += transfer.bytes;
      const since = Math.max(this.#freeAt, transfer.from);
      const end = since + transfer.bytes / this.rate;
      const stop = this.#world.after(end - this.#world.now, () => {
        this.#free(end);
        transfer.through();
      });
      this.#running = { transfer, since, stop };
      return;
    }
  }

  #free(at: number): void {
    this.#running = undefined;
    this.#freeAt = at;
    this.#next();
  }

  #cancel(transfer: Transfer): void {
    if (this.#queue.delete(transfer) || this.#running?.transfer !== transfer) return;
    const { since, stop } = this.#running;
    const { now } = this.#world;
    stop();
    this.bytes -= Math.max(0, transfer.bytes - (now - since) * this.rate);
    this.#free(now);
  }
}

/** Processors of a member, or of several that share them: what is to be done waits for what came before. */
export class Processors {
  readonly #world: World;
  /** When each is done with what it has, ms. */
  readonly #freeAt: number[];
  /** Of a member's message, and of a piece, at each end: decryption, writing, decoding. ms. */
  readonly messageMs: number;
  readonly pieceMs: number;

  constructor(world: World, { count, messageMs, pieceMs }: ProcessorOptions) {
    this.#world = world;
    this.#freeAt = Array.from({ length: count }, () => 0);
    this.messageMs = messageMs;
    this.pieceMs = pieceMs;
  }

  /** Calls `then` when the work is done. Returns what keeps it from that; the time is spent all the same. */
  run(ms: number, then: () => void): () => void {
    const { now } = this.#world;
    const next = this.#freeAt.indexOf(Math.min(...this.#freeAt));
    const end = Math.max(now, this.#freeAt[next] ?? 0) + ms;
    this.#freeAt[next] = end;
    return this.#world.after(end - now, then);
  }
}

export interface ProcessorOptions {
  count: number;
  messageMs: number;
  pieceMs: number;
}

interface Transfer {
  readonly bytes: number;
  /** When its first byte could have been on the link, ms. */
  readonly from: number;
  readonly through: () => void;
}

/** `public`: gives to everyone. `tokens`, `basic`: to members that it lets, with a token or with a password alone. */
export type RegistryKind = 'public' | 'tokens' | 'basic';

export class Registry {
  readonly kind: RegistryKind;
  readonly link: Link;
  readonly latencyMs: number;
  readonly #allowed: ReadonlySet<string>;
  isAway = false;
  /** Requests for bytes of a piece, by zone and piece. */
  readonly origin = new Map<string, number>();
  checks = 0;

  constructor(world: World, kind: RegistryKind, rate: number, latencyMs: number, allowed: Iterable<string>) {
    this.kind = kind;
    this.link = new Link(world, rate);
    this.latencyMs = latencyMs;
    this.#allowed = new Set(allowed);
  }

  /** Whether it gives the blob to this member; without one: to everyone. */
  gives(member: string | undefined): boolean {
    return this.kind === 'public' || (member !== undefined && this.#allowed.has(member));
  }

  count(zone: string, source: BlobSource, index: number): void {
    const key = `${zone} ${source.digest} ${index}`;
    this.origin.set(key, (this.origin.get(key) ?? 0) + 1);
  }
}
