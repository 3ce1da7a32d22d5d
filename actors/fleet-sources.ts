/**
 * Where askers of one home are sent for each piece: to the home itself, or to a member that has got the piece before. Each
 * takes so many at once, and each of those, when it has got the piece, is another one to send askers to. So their number
 * grows as a tree does, and a thousand members have a piece some ten transfers after the first.
 *
 * An asker that was sent and says nothing gives its place back after `assignMs`. A member that askers complain about is
 * sent to no more, once as many as `accusers` of them have: fewer might be liars.
 */
import { TimerQueue } from './timers.ts';

export interface SourceLimits {
  /** Askers sent to one holder at once for one piece. */
  perHolder: number;
  assignMs: number;
  holdersPerPiece: number;
  /** Pieces of which holders are known. */
  pieces: number;
  accusers: number;
}

export const SOURCE_LIMITS: SourceLimits = {
  perHolder: 2,
  assignMs: 10_000,
  holdersPerPiece: 256,
  pieces: 65_536,
  accusers: 3,
};

interface Assignment {
  key: string;
  asker: string;
  source: string;
}

export class Sources {
  readonly #limits: SourceLimits;
  /** By piece and holder: askers on their way to it. The holder that was taken longest ago comes first. */
  readonly #holders = new Map<string, Map<string, number>>();
  readonly #assigned = new Map<string, Assignment>();
  readonly #ends = new TimerQueue<string>();
  /** Of each piece: askers that were sent somewhere and have not come back. */
  readonly #outstanding = new Map<string, number>();
  /** Of each member: askers that were sent to it and have not come back. */
  readonly #sent = new Map<string, number>();
  readonly #accused = new Map<string, Set<string>>();

  constructor(limits: Partial<SourceLimits> = {}) {
    this.#limits = { ...SOURCE_LIMITS, ...limits };
  }

  /** The member has the piece. */
  add(key: string, holder: string): void {
    if (this.#isAccused(holder)) return;
    const known = this.#holders.get(key);
    if (known === undefined) {
      this.#holders.set(key, new Map([[holder, 0]]));
      if (this.#holders.size > this.#limits.pieces)
        this.#holders.delete(this.#holders.keys().next().value as string);
    } else if (!known.has(holder) && known.size < this.#limits.holdersPerPiece) known.set(holder, 0);
  }

  remove(key: string, holder: string): void {
    const known = this.#holders.get(key);
    known?.delete(holder);
    if (known?.size === 0) this.#holders.delete(key);
  }

  /** An asker says that the member's bytes were wrong. True: enough have by this word, and askers are no longer sent to it. */
  accuse(accuser: string, member: string): boolean {
    if (this.#isAccused(member)) return false;
    const accusers = this.#accused.get(member) ?? new Set();
    if (accusers.size === 0 && this.#accused.size >= 1_024)
      this.#accused.delete(this.#accused.keys().next().value as string);
    this.#accused.set(member, accusers);
    accusers.add(accuser);
    if (!this.#isAccused(member)) return false;
    for (const key of this.#holders.keys()) this.remove(key, member);
    return true;
  }

  /** A holder of the piece that has a place, other than these. The asker is sent to it: it has to be assigned. */
  free(key: string, but: readonly string[], isAsked: (member: string) => boolean): string | undefined {
    for (const [holder, busy] of this.#holders.get(key) ?? [])
      if (busy < this.#limits.perHolder && !but.includes(holder) && isAsked(holder)) return holder;
    return undefined;
  }

  /** A holder of the piece, other than these, whether it has a place or not. */
  holder(key: string, but: readonly string[], isAsked: (member: string) => boolean): string | undefined {
    if (this.#limits.perHolder === 0) return undefined;
    for (const holder of this.#holders.get(key)?.keys() ?? [])
      if (!but.includes(holder) && isAsked(holder)) return holder;
    return undefined;
  }

  /** Askers that were sent for the piece and may yet come back with it. */
  outstanding(key: string): number {
    return this.#outstanding.get(key) ?? 0;
  }

  /** Askers that were sent to the member, for any piece, and may yet come. */
  sentTo(member: string): number {
    return this.#sent.get(member) ?? 0;
  }

  /** Whether the asker was sent there for the piece. */
  isSent(key: string, asker: string, source: string): boolean {
    return this.#assigned.get(`${key} ${asker}`)?.source === source;
  }

  assign(key: string, asker: string, source: string, now: number, ms = this.#limits.assignMs): void {
    const id = `${key} ${asker}`;
    this.release(key, asker);
    this.#assigned.set(id, { key, asker, source });
    this.#ends.set(id, now + ms);
    count(this.#outstanding, key, 1);
    count(this.#sent, source, 1);
    const holders = this.#holders.get(key);
    const busy = holders?.get(source);
    if (holders === undefined || busy === undefined) return;
    holders.delete(source);
    holders.set(source, busy + 1);
  }

  /** The asker has come back, with the piece or without. Returns where it had been sent. */
  release(key: string, asker: string): string | undefined {
    const id = `${key} ${asker}`;
    const assigned = this.#assigned.get(id);
    if (assigned === undefined) return undefined;
    this.#assigned.delete(id);
    this.#ends.delete(id);
    count(this.#outstanding, key, -1);
    count(this.#sent, assigned.source, -1);
    const holders = this.#holders.get(key);
    const busy = holders?.get(assigned.source);
    if (busy !== undefined) holders?.set(assigned.source, Math.max(0, busy - 1));
    return assigned.source;
  }

  /** ms. */
  get nextWake(): number {
    return this.#ends.next;
  }

  /** Takes one whose time is over: its piece, and where it had been sent. */
  takeLate(now: number): Assignment | undefined {
    const id = this.#ends.next <= now ? this.#ends.take(now) : undefined;
    const assigned = id === undefined ? undefined : this.#assigned.get(id);
    if (assigned !== undefined) this.release(assigned.key, assigned.asker);
    return assigned;
  }

  #isAccused(member: string): boolean {
    return (this.#accused.get(member)?.size ?? 0) >= this.#limits.accusers;
  }
}

function count(map: Map<string, number>, key: string, by: number): void {
  const left = (map.get(key) ?? 0) + by;
  if (left > 0) map.set(key, left);
  else map.delete(key);
}
