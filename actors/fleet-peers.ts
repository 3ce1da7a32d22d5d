/**
 * How other members have behaved towards this one, and whom it asks therefore. What one member thinks of another stays with
 * it: a liar cannot talk others out of the fleet.
 *
 * - **Wrong bytes**: left out for an hour and named in `status`. Where the member had them from a third one, and says so, it
 *   may itself have been cheated: it is left out briefly, each time for longer, the third time for the hour.
 * - **Silent, slow, broken off**: left out for a second, then for twice as long each time; a piece that came ends that. One
 *   that says that it has got a piece is there again: it may be the only one in the zone that has it.
 * - **Busy**: not asked before it said.
 *
 * A member that is slow costs a reader time before it can be called silent. So when an answer takes longer than nineteen of
 * twenty did lately, the next home is asked as well; at most a tenth of all questions are asked twice, since where
 * everything is slow a second question makes it slower. What is usual lately also says how long one is waited for before it is
 * called silent: where all members are slow, none of them is.
 */
export interface PeerLimits {
  wrongMs: number;
  /** First pause of one that was silent, and the longest. */
  silentMs: number;
  silentMaxMs: number;
  /** Wrong bytes of a third member that are forgiven. */
  cheated: number;
  /** Bounds of the time after which another home is asked as well. */
  hedgeMinMs: number;
  hedgeMaxMs: number;
  hedgeShare: number;
  most: number;
}

export const PEER_LIMITS: PeerLimits = {
  wrongMs: 3_600_000,
  silentMs: 1_000,
  silentMaxMs: 60_000,
  cheated: 2,
  hedgeMinMs: 50,
  hedgeMaxMs: 2_000,
  hedgeShare: 0.1,
  most: 1_024,
};

export type LeftOutFor = 'wrong' | 'cheated' | 'silent';

export interface LeftOut {
  member: string;
  reason: LeftOutFor;
  /** ms. */
  until: number;
  /** Since this member knows it. */
  times: number;
}

interface Record_ {
  wrong: number;
  cheated: number;
  silent: number;
  reason: LeftOutFor;
  until: number;
  busyUntil: number;
}

const QUANTILE = 0.95;
/** Times that quantiles are of. */
const WINDOW = 64;
/** So few say nothing of what is usual. */
const FEW = 4;

/** How long something took, the last times. ms. */
class Times {
  readonly #list: number[] = [];
  #at = 0;
  #sorted: number[] | undefined;

  add(ms: number): void {
    this.#list[this.#at] = ms;
    this.#at = (this.#at + 1) % WINDOW;
    this.#sorted = undefined;
  }

  /** Undefined: it happened less than `least` times. */
  quantile(share: number, least = 1): number | undefined {
    if (this.#list.length < least) return undefined;
    this.#sorted ??= this.#list.toSorted((a, b) => a - b);
    return this.#sorted[Math.min(this.#sorted.length - 1, Math.floor(this.#sorted.length * share))];
  }
}

export class Peers {
  readonly #limits: PeerLimits;
  readonly #random: () => number;
  /** By member, the one that did something last at the end. */
  readonly #records = new Map<string, Record_>();
  readonly #times = { answer: new Times(), piece: new Times(), want: new Times() };
  /** Hedges that may be spent: each question earns a share of one. */
  #credit = 1;

  /** `random`: in [0, 1); members that lost sight of one together do not all come back to it at once. */
  constructor(random: () => number, limits: Partial<PeerLimits> = {}) {
    this.#random = random;
    this.#limits = { ...PEER_LIMITS, ...limits };
  }

  isAsked(member: string, now: number): boolean {
    const record = this.#records.get(member);
    return record === undefined || (now >= record.until && now >= record.busyUntil);
  }

  /** It has been silent or false: another home may stand in for it. For one that is merely busy no other one need. */
  isLeftOut(member: string, now: number): boolean {
    return now < (this.#records.get(member)?.until ?? 0);
  }

  /** A piece came from it, so many ms after the question. */
  came(member: string, ms: number): void {
    const record = this.#records.get(member);
    if (record !== undefined) record.silent = 0;
    this.#times.piece.add(ms);
    this.#credit = Math.min(8, this.#credit + this.#limits.hedgeShare);
  }

  /** It has answered a question, so many ms after it; also later than it was waited for: it is there all the same. */
  answered(member: string, ms: number, now: number): void {
    this.#times.answer.add(ms);
    this.heard(member, now);
  }

  /** What a reader waited for has come, or was given up, so many ms after it came to be wanted. */
  ended(ms: number): void {
    this.#times.want.add(ms);
  }

  /**
   * So many ms it took lately, whichever members it was: to answer a question, to send a piece, to bring one that a reader waits for.
   * Half took longer. 0: not known yet.
   */
  usualMs(what: 'answer' | 'piece' | 'want'): number {
    return this.#times[what].quantile(0.5, FEW) ?? 0;
  }

  /** It was silent, or broke off. */
  silent(member: string, now: number): void {
    const record = this.#record(member);
    record.silent += 1;
    const { silentMs, silentMaxMs } = this.#limits;
    const pause = Math.min(silentMaxMs, silentMs * 2 ** (record.silent - 1));
    this.#leaveOut(record, 'silent', now + pause * (1 - this.#random() / 2));
  }

  /** It says that it has got a piece. When it is silent again it is left out for longer than the last time all the same. */
  heard(member: string, now: number): void {
    const record = this.#records.get(member);
    if (record?.reason === 'silent') record.until = Math.min(record.until, now);
  }

  busy(member: string, ms: number, now: number): void {
    const record = this.#record(member);
    record.busyUntil = Math.max(record.busyUntil, now + ms * (1 - this.#random() / 2));
  }

  /** Its bytes were wrong. `from`: where it said that it had them from; itself or a registry where it said nothing else. */
  wrong(member: string, from: string | undefined, now: number): void {
    const record = this.#record(member);
    const { cheated, wrongMs, silentMs } = this.#limits;
    if (from !== undefined && from !== member && from !== 'registry' && record.cheated < cheated) {
      record.cheated += 1;
      this.#leaveOut(record, 'cheated', now + silentMs * 10 ** record.cheated);
      return;
    }
    record.wrong += 1;
    this.#leaveOut(record, 'wrong', now + wrongMs);
  }

  /** Others say that its bytes were wrong, which proves nothing: it is left out briefly, however often they say so. */
  doubted(member: string, now: number): void {
    this.#leaveOut(this.#record(member), 'cheated', now + this.#limits.silentMs * 10);
  }

  /** It was found to lie before this process began, and is left out until then. */
  wrongUntil(member: string, until: number): void {
    const record = this.#record(member);
    record.wrong += 1;
    this.#leaveOut(record, 'wrong', until);
  }

  /** After so many ms without bytes another home is asked as well. */
  get hedgeMs(): number {
    const { hedgeMinMs, hedgeMaxMs } = this.#limits;
    return Math.min(hedgeMaxMs, Math.max(hedgeMinMs, this.#times.piece.quantile(QUANTILE) ?? hedgeMaxMs / 4));
  }

  /** Whether one more question may be asked twice: takes it from what may be. */
  takeHedge(): boolean {
    if (this.#credit < 1) return false;
    this.#credit -= 1;
    return true;
  }

  /** For `status`: those who are left out, liars first. */
  leftOut(now: number): LeftOut[] {
    const list: LeftOut[] = [];
    for (const [member, { reason, until, wrong, cheated, silent }] of this.#records)
      if (until > now) list.push({ member, reason, until, times: { wrong, cheated, silent }[reason] });
    const rank = { wrong: 0, cheated: 1, silent: 2 };
    return list.sort((a, b) => rank[a.reason] - rank[b.reason] || (a.member < b.member ? -1 : 1));
  }

  #leaveOut(record: Record_, reason: LeftOutFor, until: number): void {
    if (until <= record.until) return;
    record.until = until;
    record.reason = reason;
  }

  #record(member: string): Record_ {
    const known = this.#records.get(member);
    const record = known ?? { wrong: 0, cheated: 0, silent: 0, reason: 'silent', until: 0, busyUntil: 0 };
    this.#records.delete(member);
    this.#records.set(member, record);
    if (this.#records.size > this.#limits.most) this.#forgetOne();
    return record;
  }

  /** The oldest; a liar only where all are. */
  #forgetOne(): void {
    const members = [...this.#records.keys()];
    const harmless = members.find((one) => this.#records.get(one)?.wrong === 0);
    this.#records.delete(harmless ?? (members[0] as string));
  }
}
