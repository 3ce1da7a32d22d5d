/**
 * How long this process has looked up names of hosts. A start whose registry is reached by a slow DNS waits before the first byte
 * as for a slow registry; only here can the two be told apart.
 */
import { lookup } from 'node:dns';
import type { LookupFunction } from 'node:net';

/** Lookups that are remembered. */
const MOST = 64;

export class NameLookups {
  readonly #now: () => number;
  /** `end`: undefined while it is under way. */
  readonly #lookups: Array<{ from: number; end: number | undefined }> = [];

  /** `now`: monotonic, ms. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Is told the length of each lookup, seconds. */
  told: ((seconds: number) => void) | undefined;

  /** Looks up as the machine does (`dns.lookup`), and notes how long it takes. */
  readonly lookup: LookupFunction = (host, options, done) => {
    const end = this.begun();
    lookup(host, options, (...answer) => {
      end();
      (done as (...answer: unknown[]) => void)(...answer);
    });
  };

  /** Returns what is to be called at its end. */
  begun(): () => void {
    const one: { from: number; end: number | undefined } = { from: this.#now(), end: undefined };
    this.#lookups.push(one);
    if (this.#lookups.length > MOST) this.#lookups.shift();
    return () => {
      one.end = this.#now();
      this.told?.((one.end - one.from) / 1_000);
    };
  }

  /** µs from `from` to now (monotonic, ms) in which at least one was under way. */
  since(from: number): number {
    const now = this.#now();
    let sum = 0;
    let until = from;
    for (const one of this.#lookups) {
      // In the order of their beginnings.
      const begin = Math.max(one.from, until);
      const end = one.end ?? now;
      if (end <= begin) continue;
      sum += end - begin;
      until = end;
    }
    return Math.round(sum * 1000);
  }
}

/** Those of this process: all of its registry clients share its resolver. */
export const nameLookups: NameLookups = new NameLookups();
