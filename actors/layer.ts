/**
 * The layer actor: owns the block states of one layer device and decides what is fetched when, who waits for what, and
 * when the layer is whole. Pure: `handle` takes an event and returns effects; time comes in with the events.
 *
 * One rule carries the rest: **a span has at most one job**. A read that finds a block absent starts a job for its span
 * or joins the one that runs; whoever asks for the same bytes waits for the same request.
 *
 *     lazy ─every block present→ verifying ─proven→ complete → handed-over
 *                                    └─not the layer→ corrupt
 */
import { setup, transition } from 'xstate';
import { BlockEvent, BlockState, allPresent, stepRange } from './block.ts';

/** Which blocks a span has; src/image/span-table.ts fits. */
export interface LayerGeometry {
  readonly blockCount: number;
  readonly spanCount: number;
  spanOfBlock(block: number): number;
  span(index: number): { firstBlock: number; blockCount: number };
}

export interface LayerLimits {
  /** A read that waits longer is answered with EIO, ms. */
  readDeadlineMs: number;
  /** Reads that may wait at once; further ones are answered with EIO. */
  waiters: number;
  /** Consecutive absent spans that one read asks for in one job. */
  demandSpans: number;
  /** Spans of one prefetch job, and jobs that may run at once. */
  prefetchSpans: number;
  prefetchJobs: number;
  /** How often a span is tried while somebody waits for it, and the pause before the next try (doubled each time), ms. */
  attempts: number;
  retryMs: number;
  /** Prefetch pauses this long after a failure, ms. */
  prefetchPauseMs: number;
}

export const LAYER_LIMITS: LayerLimits = {
  readDeadlineMs: 30_000,
  waiters: 10_000,
  demandSpans: 4,
  prefetchSpans: 4,
  prefetchJobs: 2,
  attempts: 5,
  retryMs: 100,
  prefetchPauseMs: 2_000,
};

export type LayerEvent =
  | { type: 'restore'; ranges: ReadonlyArray<readonly [number, number]>; complete: boolean }
  /** `firstBlock` to `lastBlock`, both included. */
  | { type: 'read'; id: number; firstBlock: number; lastBlock: number; now: number }
  | { type: 'prefetch'; on: boolean; now: number }
  /** Verified and written. `bytes`: compressed bytes, for whoever counts. */
  | { type: 'blocks.fetched'; job: number; firstBlock: number; count: number; bytes: number; now: number }
  | { type: 'job.done'; job: number; now: number }
  | { type: 'job.failed'; job: number; code: string; message: string; retryable: boolean; now: number }
  /** Take what became present since the last flush. */
  | { type: 'flush'; now: number }
  | { type: 'verified'; ok: boolean; now: number }
  | { type: 'handed-over' }
  | { type: 'tick'; now: number }
  | { type: 'close' };

export type LayerEffect =
  | { type: 'answer'; id: number; errno: number }
  | { type: 'fetch'; job: number; firstSpan: number; spanCount: number; class: 'demand' | 'prefetch' }
  | { type: 'promote'; job: number }
  | { type: 'cancel'; job: number }
  /** The log is to learn of these, once their bytes are synced. */
  | { type: 'append'; ranges: Array<[number, number]> }
  /** Every block is present: hash the device. */
  | { type: 'verify' }
  | { type: 'complete' }
  | { type: 'corrupt' }
  /** Send a tick at this time, ms. */
  | { type: 'wake'; at: number };

const EIO = 5;

export const layerMachine = setup({
  types: { events: {} as { type: 'FILLED' | 'PROVEN' | 'REFUTED' | 'HANDED_OVER' | 'RESTORED' | 'CLOSE' } },
}).createMachine({
  id: 'layer',
  initial: 'lazy',
  on: { CLOSE: '.closed' },
  states: {
    lazy: { on: { FILLED: 'verifying', RESTORED: 'complete' } },
    verifying: { on: { PROVEN: 'complete', REFUTED: 'corrupt' } },
    complete: { on: { HANDED_OVER: 'handed-over' } },
    'handed-over': {},
    corrupt: {},
    closed: { type: 'final' },
  },
});

interface Waiter {
  id: number;
  firstBlock: number;
  lastBlock: number;
  deadline: number;
}

interface Job {
  job: number;
  class: 'demand' | 'prefetch';
  firstSpan: number;
  spanCount: number;
}

interface Retry {
  attempts: number;
  /** Not before this time, ms. */
  at: number;
}

export class LayerActor {
  readonly #geometry: LayerGeometry;
  readonly #states: Uint8Array;
  readonly #limits: LayerLimits;
  readonly #counts = { absent: 0, fetching: 0, present: 0 };
  readonly #waiters = new Map<number, Waiter>();
  readonly #jobs = new Map<number, Job>();
  readonly #jobOfSpan = new Map<number, number>();
  readonly #retries = new Map<number, Retry>();
  readonly #unflushed: Array<[number, number]> = [];
  #snapshot = layerMachine.resolveState({ value: 'lazy', context: {} });
  #nextJob = 1;
  #prefetch = false;
  #prefetchFrom = 0;
  #prefetchNotBefore = 0;

  /** `states`: one zeroed byte a block, shared with those who serve reads. */
  constructor(geometry: LayerGeometry, states: Uint8Array, limits: Partial<LayerLimits> = {}) {
    this.#geometry = geometry;
    this.#states = states;
    this.#limits = { ...LAYER_LIMITS, ...limits };
    this.#counts.absent = geometry.blockCount;
  }

  get state(): 'lazy' | 'verifying' | 'complete' | 'handed-over' | 'corrupt' | 'closed' {
    return this.#snapshot.value as never;
  }

  get blockCount(): number {
    return this.#geometry.blockCount;
  }

  /** Blocks by state. */
  get counts(): Readonly<{ absent: number; fetching: number; present: number }> {
    return this.#counts;
  }

  handle(event: LayerEvent): LayerEffect[] {
    const effects: LayerEffect[] = [];
    if (this.state === 'closed') {
      if (event.type === 'read') effects.push({ type: 'answer', id: event.id, errno: EIO });
      if (event.type === 'flush') this.#flush(effects);
      return effects;
    }
    this.#apply(event, effects);
    return effects;
  }

  #apply(event: LayerEvent, effects: LayerEffect[]): void {
    switch (event.type) {
      case 'restore':
        for (const [first, count] of event.ranges) this.#step(first, count, BlockEvent.RESTORED);
        if (event.complete) this.#move('RESTORED');
        else this.#checkFilled(effects);
        return;
      case 'read':
        this.#read(event, effects);
        return;
      case 'prefetch':
        this.#prefetch = event.on;
        this.#prefetchFrom = 0;
        if (event.on) this.#prefetchMore(event.now, effects);
        return;
      case 'blocks.fetched':
        this.#fetched(event.firstBlock, event.count, effects);
        return;
      case 'job.done':
        this.#end(event.job, effects);
        this.#refetch(event.now, effects);
        this.#prefetchMore(event.now, effects);
        return;
      case 'job.failed':
        this.#failed(event, effects);
        this.#prefetchMore(event.now, effects);
        return;
      case 'flush':
        this.#flush(effects);
        return;
      case 'verified':
        if (this.state !== 'verifying') return;
        this.#move(event.ok ? 'PROVEN' : 'REFUTED');
        if (event.ok) effects.push({ type: 'complete' });
        else this.#refuse(effects);
        return;
      case 'handed-over':
        this.#move('HANDED_OVER');
        return;
      case 'tick':
        this.#expire(event.now, effects);
        this.#refetch(event.now, effects);
        this.#prefetchMore(event.now, effects);
        return;
      case 'close':
        for (const { id } of this.#waiters.values()) effects.push({ type: 'answer', id, errno: EIO });
        this.#waiters.clear();
        for (const job of this.#jobs.keys()) effects.push({ type: 'cancel', job });
        this.#jobs.clear();
        this.#jobOfSpan.clear();
        this.#move('CLOSE');
    }
  }

  #read(event: LayerEvent & { type: 'read' }, effects: LayerEffect[]): void {
    const { id, firstBlock, lastBlock, now } = event;
    const bad = !(firstBlock >= 0 && firstBlock <= lastBlock && lastBlock < this.#geometry.blockCount);
    if (bad || this.state === 'corrupt' || this.#waiters.size >= this.#limits.waiters) {
      effects.push({ type: 'answer', id, errno: EIO });
      return;
    }
    if (allPresent(this.#states, firstBlock, lastBlock)) {
      effects.push({ type: 'answer', id, errno: 0 });
      return;
    }
    const deadline = now + this.#limits.readDeadlineMs;
    this.#waiters.set(id, { id, firstBlock, lastBlock, deadline });
    effects.push({ type: 'wake', at: deadline });
    this.#demand(firstBlock, lastBlock, now, effects);
  }

  /** Starts or joins a job for every span of the range that is not present. */
  #demand(firstBlock: number, lastBlock: number, now: number, effects: LayerEffect[]): void {
    const last = this.#geometry.spanOfBlock(lastBlock);
    for (let span = this.#geometry.spanOfBlock(firstBlock); span <= last; span++) {
      if (this.#isPresent(span)) continue;
      const running = this.#jobOfSpan.get(span);
      if (running !== undefined) {
        const job = this.#jobs.get(running);
        if (job?.class === 'prefetch') {
          job.class = 'demand';
          effects.push({ type: 'promote', job: running });
        }
        continue;
      }
      const retry = this.#retries.get(span);
      if (retry !== undefined && retry.at > now) {
        effects.push({ type: 'wake', at: retry.at });
        continue;
      }
      let count = 1;
      while (count < this.#limits.demandSpans && span + count <= last && this.#isFree(span + count)) count++;
      this.#fetch(span, count, 'demand', effects);
      span += count - 1;
    }
  }

  #fetch(firstSpan: number, spanCount: number, kind: 'demand' | 'prefetch', effects: LayerEffect[]): void {
    const job = this.#nextJob++;
    this.#jobs.set(job, { job, class: kind, firstSpan, spanCount });
    for (let span = firstSpan; span < firstSpan + spanCount; span++) {
      this.#jobOfSpan.set(span, job);
      const { firstBlock, blockCount } = this.#geometry.span(span);
      this.#step(firstBlock, blockCount, BlockEvent.FETCH);
    }
    effects.push({ type: 'fetch', job, firstSpan, spanCount, class: kind });
  }

  /** Also for a job that ended or failed: the bytes are verified and in the file. */
  #fetched(firstBlock: number, count: number, effects: LayerEffect[]): void {
    if (this.state === 'corrupt' || firstBlock < 0 || firstBlock + count > this.#geometry.blockCount) return;
    if (this.#step(firstBlock, count, BlockEvent.FETCHED) === 0) return;
    this.#note(firstBlock, count);
    for (const waiter of [...this.#waiters.values()]) {
      if (waiter.lastBlock < firstBlock || waiter.firstBlock >= firstBlock + count) continue;
      if (!allPresent(this.#states, waiter.firstBlock, waiter.lastBlock)) continue;
      this.#waiters.delete(waiter.id);
      effects.push({ type: 'answer', id: waiter.id, errno: 0 });
    }
    this.#checkFilled(effects);
  }

  /** The job is over; blocks that it did not bring are absent again. */
  #end(number: number, _effects: LayerEffect[]): Job | undefined {
    const job = this.#jobs.get(number);
    if (job === undefined) return undefined;
    this.#jobs.delete(number);
    for (let span = job.firstSpan; span < job.firstSpan + job.spanCount; span++) {
      this.#jobOfSpan.delete(span);
      const { firstBlock, blockCount } = this.#geometry.span(span);
      this.#step(firstBlock, blockCount, BlockEvent.FAILED);
      if (this.#isPresent(span)) this.#retries.delete(span);
    }
    return job;
  }

  #failed(event: LayerEvent & { type: 'job.failed' }, effects: LayerEffect[]): void {
    const job = this.#end(event.job, effects);
    if (job === undefined) return;
    if (job.class === 'prefetch') this.#prefetchNotBefore = event.now + this.#limits.prefetchPauseMs;
    for (let span = job.firstSpan; span < job.firstSpan + job.spanCount; span++) {
      if (this.#isPresent(span)) continue;
      const attempts = (this.#retries.get(span)?.attempts ?? 0) + 1;
      if (event.retryable && attempts < this.#limits.attempts) {
        const at = event.now + this.#limits.retryMs * 2 ** (attempts - 1);
        this.#retries.set(span, { attempts, at });
        effects.push({ type: 'wake', at });
        continue;
      }
      // The next reader starts anew; those who wait now have waited long enough.
      this.#retries.delete(span);
      const { firstBlock, blockCount } = this.#geometry.span(span);
      for (const waiter of [...this.#waiters.values()]) {
        if (waiter.lastBlock < firstBlock || waiter.firstBlock >= firstBlock + blockCount) continue;
        this.#waiters.delete(waiter.id);
        effects.push({ type: 'answer', id: waiter.id, errno: EIO });
      }
    }
  }

  /** Readers that wait for a span without a job get one when its pause is over. */
  #refetch(now: number, effects: LayerEffect[]): void {
    for (const { firstBlock, lastBlock } of this.#waiters.values())
      this.#demand(firstBlock, lastBlock, now, effects);
  }

  #expire(now: number, effects: LayerEffect[]): void {
    let next = Number.POSITIVE_INFINITY;
    for (const waiter of [...this.#waiters.values()]) {
      if (waiter.deadline > now) {
        next = Math.min(next, waiter.deadline);
        continue;
      }
      this.#waiters.delete(waiter.id);
      effects.push({ type: 'answer', id: waiter.id, errno: EIO });
    }
    for (const [span, { at }] of this.#retries) {
      if (at > now) next = Math.min(next, at);
      else if (!this.#isWanted(span)) this.#retries.delete(span);
    }
    if (next < Number.POSITIVE_INFINITY) effects.push({ type: 'wake', at: next });
  }

  #prefetchMore(now: number, effects: LayerEffect[]): void {
    if (!this.#prefetch || this.state !== 'lazy') return;
    if (now < this.#prefetchNotBefore) {
      effects.push({ type: 'wake', at: this.#prefetchNotBefore });
      return;
    }
    let running = 0;
    for (const job of this.#jobs.values()) if (job.class === 'prefetch') running += 1;
    let from = this.#prefetchFrom;
    let passed = false;
    while (running < this.#limits.prefetchJobs && from < this.#geometry.spanCount) {
      if (!this.#isFree(from)) {
        // Spans that are present stay so: the next search starts after them.
        if (!passed && this.#isPresent(from)) this.#prefetchFrom = from + 1;
        else passed = true;
        from += 1;
        continue;
      }
      let count = 1;
      while (
        count < this.#limits.prefetchSpans &&
        from + count < this.#geometry.spanCount &&
        this.#isFree(from + count)
      )
        count++;
      this.#fetch(from, count, 'prefetch', effects);
      running += 1;
      from += count;
      passed = true;
    }
  }

  #flush(effects: LayerEffect[]): void {
    if (this.#unflushed.length === 0) return;
    effects.push({ type: 'append', ranges: this.#unflushed.splice(0) });
  }

  #note(first: number, count: number): void {
    const last = this.#unflushed.at(-1);
    if (last !== undefined && last[0] + last[1] === first) last[1] += count;
    else this.#unflushed.push([first, count]);
  }

  #refuse(effects: LayerEffect[]): void {
    this.#unflushed.length = 0;
    this.#step(0, this.#geometry.blockCount, BlockEvent.EVICTED);
    for (const { id } of this.#waiters.values()) effects.push({ type: 'answer', id, errno: EIO });
    this.#waiters.clear();
    effects.push({ type: 'corrupt' });
  }

  #checkFilled(effects: LayerEffect[]): void {
    if (this.#counts.present < this.#geometry.blockCount || this.state !== 'lazy') return;
    this.#move('FILLED');
    effects.push({ type: 'verify' });
  }

  #isPresent(span: number): boolean {
    const { firstBlock, blockCount } = this.#geometry.span(span);
    return allPresent(this.#states, firstBlock, firstBlock + blockCount - 1);
  }

  #isFree(span: number): boolean {
    return !this.#jobOfSpan.has(span) && !this.#retries.has(span) && !this.#isPresent(span);
  }

  #isWanted(span: number): boolean {
    const { firstBlock, blockCount } = this.#geometry.span(span);
    for (const waiter of this.#waiters.values()) {
      if (waiter.lastBlock >= firstBlock && waiter.firstBlock < firstBlock + blockCount) return true;
    }
    return false;
  }

  #step(first: number, count: number, event: BlockEvent): number {
    return stepRange(this.#states, first, count, event, (block, from) => {
      this.#counts[NAMES[from]] -= 1;
      this.#counts[NAMES[this.#states[block] as BlockState]] += 1;
    });
  }

  #move(type: 'FILLED' | 'PROVEN' | 'REFUTED' | 'HANDED_OVER' | 'RESTORED' | 'CLOSE'): void {
    [this.#snapshot] = transition(layerMachine, this.#snapshot, { type });
  }
}

const NAMES = {
  [BlockState.absent]: 'absent',
  [BlockState.fetching]: 'fetching',
  [BlockState.present]: 'present',
} as const;
