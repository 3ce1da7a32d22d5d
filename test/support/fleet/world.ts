/** Virtual time, links and the registry of a simulated fleet. One seed, one course of events. */
import { TimerQueue } from '../../../actors/timers.ts';
import type { BlobSource } from '../../../schemas/fetch.ts';
import { Random } from '../random.ts';

/** What a rule says, and when it was broken. */
export class BrokenRule extends Error {}

export class World {
  readonly random: Random;
  readonly #timers = new TimerQueue<() => void>();
  now = 0;
  events = 0;

  constructor(seed: number) {
    this.random = new Random(seed);
  }

  after(ms: number, run: () => void): () => void {
    // A key of its own for each call.
    const timer = () => run();
    this.#timers.set(timer, this.now + Math.max(0, ms));
    return () => this.#timers.delete(timer);
  }

  /** Until nothing is left, or virtual time has come to `until`, or `isOver`. */
  run(until: number, isOver: () => boolean = () => false): void {
    for (let next = this.#timers.next; next <= until && !isOver(); next = this.#timers.next) {
      this.now = Math.max(this.now, next);
      this.events += 1;
      this.#timers.take(next)?.();
    }
    if (!isOver()) this.now = Math.max(this.now, until);
  }

  break(rule: string): never {
    throw new BrokenRule(`${this.now.toFixed(1)} ms: ${rule}`);
  }
}

/** One direction of a link: what is sent waits for what was sent before. Bytes per ms. */
export class Link {
  rate: number;
  #freeAt = 0;
  bytes = 0;

  constructor(rate: number) {
    this.rate = rate;
  }

  /** When the bytes that are sent from `from` on are through, ms. */
  send(bytes: number, from: number): number {
    this.bytes += bytes;
    this.#freeAt = Math.max(this.#freeAt, from) + bytes / this.rate;
    return this.#freeAt;
  }
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

  constructor(kind: RegistryKind, rate: number, latencyMs: number, allowed: Iterable<string>) {
    this.kind = kind;
    this.link = new Link(rate);
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
