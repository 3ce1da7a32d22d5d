/**
 * The blocks of a layer at any moment of a log: absent, fetching or present, when each came, and why it was fetched. The history is
 * read once from the layer's own events; a moment is then a fold over its changes, which takes some milliseconds for the 160,000
 * blocks of a 10 GB layer.
 */
import { ORIGINS, type Origin } from '../../schemas/events.ts';
import type { BlockMapDocument, BlockDocument } from '../../schemas/replay.ts';
import { defined } from '../../schemas/defined.ts';
import { checkedEvent } from './checked.ts';
import type { ReplayLog } from './replay-log.ts';
import { type Came, traceOf, type TracedJob, type TracedRead } from './trace.ts';

export const ABSENT = 0;
export const FETCHING = 1;
export const PRESENT = 2;

/** The log names blocks of one flush in two events; a trace may come so long behind its blocks, ms. */
const SAME_FLUSH_MS = 5_000;
/** Reads and fetches of one block that are listed. */
const MOST_LISTED = 50;

/** What an event changed: blocks that are present or absent from there on. */
interface Change {
  /** Events of the log up to and with it. */
  position: number;
  at: number;
  ranges: ReadonlyArray<readonly [first: number, count: number]>;
  to: typeof ABSENT | typeof PRESENT;
}

export interface BlockMap {
  states: Uint8Array;
  /** Of each block that is present: 1 + its place in ORIGINS; 0: the log does not say. */
  origins: Uint8Array;
  /** Of each block that is present: when it came, ms since the epoch; 0: before the log. */
  times: Float64Array;
}

/**
 * A map as bytes: one a block with the state in its lowest two bits and the origin above them, then, from the next multiple of four
 * on, a float32 (little-endian) a block with the time when it came, s since the first of them; 0: not known.
 */
export function packed({ states, origins, times }: BlockMap): Uint8Array<ArrayBuffer> {
  const count = states.length;
  const at = Math.ceil(count / 4) * 4;
  const bytes = new Uint8Array(at + 4 * count);
  let first = Number.POSITIVE_INFINITY;
  for (const time of times) if (time > 0 && time < first) first = time;
  const seconds = new DataView(bytes.buffer, at);
  for (let block = 0; block < count; block++) {
    bytes[block] = (states[block] as number) | ((origins[block] as number) << 2);
    const time = times[block] as number;
    // The first of them is not nothing.
    if (time > 0) seconds.setFloat32(4 * block, Math.max(1e-6, (time - first) / 1000), true);
  }
  return bytes;
}

export class BlockHistory {
  /** `sha256:…` */
  readonly layer: string;
  readonly blockCount: number;
  readonly blockSize: number;
  /** Uncompressed bytes. */
  readonly size: number;
  readonly #log: ReplayLog;
  readonly #changes: Change[] = [];
  /** Ascending by time. */
  readonly #came: Array<{ at: number; came: Came }> = [];
  readonly #reads: TracedRead[] = [];
  readonly #jobs: TracedJob[] = [];
  readonly #beginning: Uint8Array | undefined;
  #read = 0;

  /** `layer`: its id, `sha256:…`. Undefined where the log does not know it. */
  static of(log: ReplayLog, layer: string): BlockHistory | undefined {
    const facts = log.stateAt(log.count).layers.get(layer) ?? log.beginning.state.layers.get(layer);
    return facts === undefined ? undefined : new BlockHistory(log, layer, facts);
  }

  private constructor(
    log: ReplayLog,
    layer: string,
    facts: { blockCount: number; blockSize: number; size: number },
  ) {
    this.#log = log;
    this.layer = layer;
    this.blockCount = facts.blockCount;
    this.blockSize = facts.blockSize;
    this.size = facts.size;
    this.#beginning = log.beginning.state.layers.get(layer)?.present.slice();
    this.follow();
  }

  /** Takes in what the log has got since. */
  follow(): void {
    const { timeline, count } = this.#log;
    const hex = this.layer.slice('sha256:'.length);
    for (; this.#read < count; this.#read++) {
      const index = this.#read;
      if (timeline.kindAt(index) !== 'layer' || timeline.idAt(index) !== hex) continue;
      this.#take(index);
    }
  }

  #take(index: number): void {
    const event = this.#log.timeline.eventAt(index);
    const [position, at] = [index + 1, event.at];
    const all: Change['ranges'] = [[0, this.blockCount]];
    const present = checkedEvent(event, 'layer.blocks');
    const evicted = checkedEvent(event, 'layer.evicted');
    if (present !== undefined) this.#changes.push({ position, at, ranges: present.ranges, to: PRESENT });
    else if (evicted !== undefined) this.#changes.push({ position, at, ranges: evicted.ranges, to: ABSENT });
    else if (event.type === 'layer.dropped' || event.type === 'layer.removed')
      this.#changes.push({ position, at, ranges: all, to: ABSENT });
    else if (event.type === 'layer.trace') {
      const { reads, jobs, came } = traceOf(event);
      this.#reads.push(...reads);
      this.#jobs.push(...jobs);
      for (const one of came) this.#came.push({ at, came: one });
    }
  }

  /** After `position` events of the log. */
  at(position: number): BlockMap {
    const { blockCount } = this;
    const map: BlockMap = {
      states: new Uint8Array(blockCount),
      origins: new Uint8Array(blockCount),
      times: new Float64Array(blockCount),
    };
    const { states, origins, times } = map;
    for (const [block, is] of this.#beginning?.entries() ?? [])
      if (is === 1 && block < blockCount) states[block] = PRESENT;
    let until = 0;
    for (const change of this.#changes) {
      if (change.position > position) break;
      until = change.at;
      for (const [first, end] of this.#within(change.ranges)) {
        states.fill(change.to, first, end);
        times.fill(change.to === PRESENT ? change.at : 0, first, end);
        if (change.to === ABSENT) origins.fill(0, first, end);
      }
    }
    // The trace of a flush follows its blocks: a block has the origin that was told last before or right behind it.
    for (const { at, came } of this.#came) {
      if (at > until + SAME_FLUSH_MS) break;
      const [first, count, origin] = came;
      const code = 1 + ORIGINS.indexOf(origin);
      const end = Math.min(first + count, blockCount);
      for (let block = first; block < end; block++)
        if (states[block] === PRESENT && (times[block] as number) <= at + SAME_FLUSH_MS)
          origins[block] = code;
    }
    this.#markFetching(states, this.#log.timeOf(position));
    return map;
  }

  #markFetching(states: Uint8Array, at: number): void {
    const mark = (first: number, count: number) => {
      const end = Math.min(first + count, this.blockCount);
      for (let block = first; block < end; block++) if (states[block] === ABSENT) states[block] = FETCHING;
    };
    for (const { queuedAt, totalUs, blocks = [] } of this.#jobs)
      if (queuedAt <= at && at < queuedAt + totalUs / 1000) for (const run of blocks) mark(...run);
    for (const read of this.#reads)
      if (read.at <= at && at < read.at + read.us / 1000) mark(read.block, read.blocks);
  }

  /** [from, to) of each run, as far as the layer has it. */
  *#within(ranges: Change['ranges']): IterableIterator<[number, number]> {
    for (const [first, count] of ranges) {
      const end = Math.min(first + count, this.blockCount);
      if (end > first) yield [first, end];
    }
  }

  /** The map as runs of equal blocks, for other programs. */
  document(position: number): BlockMapDocument {
    const { states, origins, times } = this.at(position);
    const began = this.#changes[0]?.at ?? this.#log.timeOf(position);
    const runs: BlockMapDocument['runs'] = [];
    const counts = { absent: 0, fetching: 0, present: 0 };
    let from = 0;
    for (let block = 0; block <= this.blockCount; block++) {
      const isSame =
        block < this.blockCount &&
        states[block] === states[from] &&
        origins[block] === origins[from] &&
        times[block] === times[from];
      if (isSame || block === from) continue;
      const state = NAMES[states[from] as 0 | 1 | 2];
      counts[state] += block - from;
      const time = times[from] as number;
      runs.push([
        from,
        block - from,
        state,
        originOf(origins[from]),
        time === 0 ? 0 : Math.round(time - began),
      ]);
      from = block;
    }
    return {
      layer: this.layer,
      diffId: this.#log.diffIdOf(this.layer),
      blockSize: this.blockSize,
      blockCount: this.blockCount,
      size: this.size,
      position,
      began: new Date(began).toISOString(),
      counts,
      runs,
    };
  }

  /** One block at a moment: which files lie in it, who waited for it, what fetched it. */
  block(block: number, position: number): BlockDocument {
    const { states, origins, times } = this.at(position);
    const now = this.#log.timeOf(position);
    const reads = this.#reads.filter(
      (read) => read.at <= now && read.block <= block && block < read.block + read.blocks,
    );
    const jobs = this.#jobs.filter(
      (job) =>
        job.queuedAt <= now &&
        (job.blocks ?? []).some(([first, count]) => first <= block && block < first + count),
    );
    const time = times[block] ?? 0;
    return defined({
      layer: this.layer,
      block,
      offset: block * this.blockSize,
      state: NAMES[(states[block] ?? 0) as 0 | 1 | 2],
      origin: originOf(origins[block]) ?? undefined,
      time: time === 0 ? undefined : new Date(time).toISOString(),
      paths: [...new Set(this.#log.pathsOf(this.layer, block))],
      reads: reads
        .slice(-MOST_LISTED)
        .map(({ id, at, us, errno }) => ({ id, time: new Date(at).toISOString(), us, errno })),
      jobs: jobs.slice(-MOST_LISTED).map((job) =>
        defined({
          job: job.job,
          class: job.class,
          fetcher: job.fetcher,
          time: new Date(job.queuedAt).toISOString(),
          us: job.totalUs,
          bytes: job.bytes,
          error: job.error,
        }),
      ),
    });
  }
}

const NAMES = ['absent', 'fetching', 'present'] as const;

const originOf = (code: number | undefined): Origin | null => ORIGINS[(code ?? 0) - 1] ?? null;
