/**
 * When does the work rest that no reader waits for? While tasks of others wait for a processor or for the disk. The kernel says
 * for how long any task has waited, and the work's own tasks wait as well: so what was seen while it ran is not taken for
 * others' before a look at the machine without it.
 *
 *     free ─pressure→ held ─no pressure→ free, and trusted for a while: that was the work's own
 *                       └─ageMs of holding→ aged: works for turnMs at a low priority, also under pressure
 *
 * While it is trusted, pressure that is clearly more than its own is others' all the same. Priorities alone do not do: work at idle
 * priority in one cgroup gets as much as work at normal priority in another one.
 *
 * Time and figures come in with each call. A machine that has no figures is never busy.
 */
export interface IdleWorkLimits {
  /** Share of time in which tasks waited, from which on the machine is busy. */
  share: number;
  /** So much above the share that the work makes itself, others wait as well. */
  more: number;
  /** A look takes at least so long, ms: a moment says little. */
  lookMs: number;
  /** So long after it was told to hold the work may still be at it, ms. */
  settleMs: number;
  /** Pressure that went on without others is the work's own for so long, ms, and twice as long each time after that. */
  trustMs: number;
  trustMaxMs: number;
  /** Work that has been held for so long more than it went on, ms, has waited enough, and goes on for so long, ms. */
  ageMs: number;
  turnMs: number;
  /** What counts of the time in which it goes on under pressure: it may starve, or be the one that presses. */
  starvedShare: number;
}

export const IDLE_WORK: IdleWorkLimits = {
  share: 0.15,
  more: 0.2,
  lookMs: 100,
  settleMs: 100,
  trustMs: 1_000,
  trustMaxMs: 4_000,
  ageMs: 30_000,
  starvedShare: 1 / 8,
  turnMs: 30_000,
};

/** Time in which tasks of the machine have waited, since some moment, ms. */
export interface Waited {
  cpuMs: number;
  ioMs: number;
}

export type IdleWorkState = 'free' | 'held' | 'aged';

export class IdleWork {
  readonly #limits: IdleWorkLimits;
  #state: IdleWorkState = 'free';
  /** Since when the figures are compared, and those of then; undefined: from the next look on. */
  #from: { at: number; waited: Waited } | undefined;
  /** Since when it is in its state, ms. */
  #since = 0;
  /** For how long it was held or had to wait itself, less the time that it went on, ms. */
  #deferredMs = 0;
  #lookedAt = 0;
  #trustedUntil = Number.NEGATIVE_INFINITY;
  /** Share of the time in which tasks waited when it was held last, and what of that is known to be its own. */
  #heldAtShare = 0;
  #ownShare = 0;
  #trustMs: number;

  constructor(limits: Partial<IdleWorkLimits> = {}) {
    this.#limits = { ...IDLE_WORK, ...limits };
    this.#trustMs = this.#limits.trustMs;
  }

  get state(): IdleWorkState {
    return this.#state;
  }

  /** `hasWork`: some waits or runs. `waited`: absent where the machine has no such figures. */
  look(now: number, hasWork: boolean, waited: Waited | undefined): IdleWorkState {
    if (!hasWork || waited === undefined) {
      this.#turnTo('free', now);
      this.#deferredMs = 0;
      this.#lookedAt = now;
      return this.#state;
    }
    const { ageMs, turnMs, starvedShare } = this.#limits;
    const ms = now - this.#since;
    if (this.#state === 'aged') {
      this.#lookedAt = now;
      if (ms >= turnMs) this.#turnTo('free', now);
      return this.#state;
    }
    const pressure = this.#shareSince(now, waited);
    const isBusy = pressure === undefined ? undefined : pressure >= this.#limits.share;
    const sinceMs = Math.max(0, now - this.#lookedAt);
    this.#lookedAt = now;
    if (this.#state === 'held') this.#deferredMs += sinceMs;
    else if (isBusy === true) this.#deferredMs += sinceMs * starvedShare;
    else if (isBusy === false) this.#deferredMs = Math.max(0, this.#deferredMs - sinceMs);
    if (this.#deferredMs >= ageMs) {
      this.#turnTo('aged', now);
      this.#deferredMs = 0;
    } else if (pressure !== undefined && this.#state === 'free' && this.#isOthers(pressure, now))
      this.#hold(pressure, now);
    else if (isBusy === false && this.#state === 'held') this.#letGo(now, ms);
    return this.#state;
  }

  #turnTo(state: IdleWorkState, now: number): void {
    this.#state = state;
    this.#since = now;
    this.#from = undefined;
  }

  #isOthers(pressure: number, now: number): boolean {
    const { share, more } = this.#limits;
    return pressure >= (now < this.#trustedUntil ? Math.max(share, this.#ownShare + more) : share);
  }

  /** Share of the time in which tasks waited since the last look. Undefined: it is too early to say. */
  #shareSince(now: number, waited: Waited): number | undefined {
    const { lookMs, settleMs } = this.#limits;
    const from = this.#from;
    // What is counted from here on happened without the work.
    const isSettling = this.#state === 'held' && now - this.#since < settleMs;
    if (from === undefined || isSettling || now < from.at) {
      this.#from = { at: now, waited };
      return undefined;
    }
    const ms = now - from.at;
    if (ms < lookMs) return undefined;
    this.#from = { at: now, waited };
    const waitedMs = Math.max(waited.cpuMs - from.waited.cpuMs, waited.ioMs - from.waited.ioMs);
    return waitedMs / ms;
  }

  #hold(pressure: number, now: number): void {
    this.#heldAtShare = pressure;
    // Long after the last doubt there is a new reason.
    if (now - this.#trustedUntil > this.#limits.trustMaxMs) this.#trustMs = this.#limits.trustMs;
    this.#turnTo('held', now);
  }

  #letGo(now: number, heldMs: number): void {
    const { trustMaxMs, lookMs, settleMs, trustMs } = this.#limits;
    this.#turnTo('free', now);
    // The first look without the work found a machine that is not busy: the pressure was the work's own.
    const wasOwn = heldMs < 3 * lookMs + 2 * settleMs;
    this.#trustedUntil = wasOwn ? now + this.#trustMs : now;
    if (wasOwn) this.#ownShare = this.#heldAtShare;
    this.#trustMs = wasOwn ? Math.min(trustMaxMs, this.#trustMs * 2) : trustMs;
  }
}
