/**
 * What leaves the cache when it is too full. The cache is the bytes of the layer devices on the disk of the root, with the
 * metadata beside them; what leaves is spans, since a span is what a fetch brings back.
 *
 * **How much**: `cachePressure`. Between two marks nothing happens; above the upper one spans go until the lower one is
 * reached, so that work comes in portions. Spans that are on their way count as if they were there: the room is made
 * before they arrive. Prefetch never causes an eviction: it pauses below the marks. What lies ahead of a reader in order may, up to
 * `windowOf`.
 *
 * A disk that runs low counts like a limit, with one difference: mounted images give no more than the cache has grown by since
 * then, so that it does not grow. What others fill costs them nothing: the room would be others' again, and a container would miss
 * what it had.
 *
 * A spare room that is wanted on the disk costs what no mount uses, alone.
 *
 * **What**: `planEviction`. By rank first, within a rank the span that was used longest ago:
 *
 *     0  layers that no image on the node names
 *     1  layers of images that are not mounted
 *     2  layers of mounted images
 *     3  startup spans of images that are not mounted     (a start reads them before anything else)
 *     4  startup spans of mounted images
 *
 * Startup spans count as such only up to half of the limit, the most recently used ones: starts of long ago must not push
 * out what runs now.
 *
 * **Not at once again**: a span that came or was read within the residence time stays, unless the cache is over its limit;
 * then the time shrinks to what a reader needs to get through a span. Beyond the slack there is no such time at all, for
 * the reads that wait for a span are answered when it comes. So the cache exceeds its limit by the slack, by what is being
 * fetched, and by what comes while an eviction is carried out.
 *
 * **Handed-over devices**: the kernel reads them without asking, so cofa does not know which spans are in use; the device as a
 * whole counts as used when its loop was last seen reading. One whose turn comes is taken back first; its spans can go
 * a moment later. After that it is left alone for a while, or devices would go back and forth.
 *
 * Pure: time comes in as ticks of the clock that `lastUse` is in.
 */
import { addBlocks, type BlockRun } from './ranges.ts';

export interface CacheLimits {
  /** Bytes; Infinity: none but the disk's. */
  limit: number;
  /** Bytes of the disk that are to stay free. */
  reserve: number;
  /**
   * Bytes of the disk: with less free, what no mount uses leaves, and nothing is fetched ahead. More than the reserve where
   * others would remove images then that are more than a cache, such as a kubelet.
   */
  spare: number;
  /** Shares of the limit: eviction begins, ends, prefetch pauses, goes on. */
  high: number;
  low: number;
  prefetchOff: number;
  prefetchOn: number;
  /** Bytes above the limit from which on residence counts no more; also a share of the limit, whichever is more. */
  slack: number;
  slackShare: number;
  /** Residence below and above the limit, in ticks. */
  residence: number;
  shortResidence: number;
  /** A device that was handed over stays so for this long, in ticks; above the limit a tenth of it. */
  pause: number;
  /** Share of the limit that startup spans may hold against all others. */
  startupShare: number;
}

/** Ticks are 100 ms. */
export const TICK_MS = 100;

export const CACHE_LIMITS: CacheLimits = {
  limit: Number.POSITIVE_INFINITY,
  reserve: 0,
  spare: 0,
  high: 0.95,
  low: 0.9,
  prefetchOff: 0.85,
  prefetchOn: 0.75,
  slack: 16 * 2 ** 20,
  slackShare: 0.02,
  residence: 100,
  shortResidence: 5,
  pause: 300,
  startupShare: 0.5,
};

/** calm: below the limit. urgent: above it, or the disk has half of its reserve left. flooded: far above, or less than a quarter. */
export type CacheUrgency = 'calm' | 'urgent' | 'flooded';

/** Bytes: of the cache, with what is on its way; free on the disk; what the layers have grown by while the disk was low. */
export interface CacheUse {
  used: number;
  free: number;
  grown: number;
}

export interface CachePressure {
  /** Bytes that have to go; 0: none. From mounted images some go only while fewer than `ofMounted` have gone in all. */
  need: number;
  ofMounted: number;
  urgency: CacheUrgency;
  /** Whether prefetch may go on. */
  prefetch: boolean;
}

/** How much has to go. `prefetching`: what this function said last. */
export function cachePressure(use: CacheUse, limits: CacheLimits, prefetching: boolean): CachePressure {
  const { limit, reserve, spare, high, low, prefetchOff, prefetchOn } = limits;
  const slack = Math.max(limits.slack, limit * limits.slackShare);
  const overLimit = use.used > limit * high ? use.used - limit * low : 0;
  const overDisk = isDiskLow(use.free, limits) ? reserve * 1.25 - use.free : 0;
  const overSpare = use.free < spare ? spare * SPARE_ROOM - use.free : 0;
  const share = prefetching ? prefetchOff : prefetchOn;
  const roomNeeded = Math.max(reserve * (prefetching ? 1.5 : 2), spare * (prefetching ? 1 : SPARE_ROOM));
  return {
    need: Math.ceil(Math.max(overLimit, overDisk, overSpare, 0)),
    ofMounted: Math.ceil(Math.max(overLimit, Math.min(overDisk, use.grown), 0)),
    urgency:
      use.used > limit + slack || use.free < reserve / 4
        ? 'flooded'
        : use.used > limit || use.free < reserve / 2
          ? 'urgent'
          : 'calm',
    prefetch: use.used <= limit * share && (roomNeeded === 0 || use.free >= roomNeeded),
  };
}

/**
 * Bytes that may be fetched ahead of a reader in order while the cache has no room for prefetch: he reads them in a moment, and
 * what he has read is evicted for them.
 */
export const windowOf = ({ limit }: CacheLimits): number => Math.min(MOST_WINDOW, limit * WINDOW_SHARE);

const MOST_WINDOW = 8 * 2 ** 20;
/** There may be many such readers. */
const WINDOW_SHARE = 1 / 32;

/** What no mount uses leaves until so much more than the spare room is free: in portions. */
const SPARE_ROOM = 1.05;

export const isDiskLow = (free: number, { reserve }: CacheLimits): boolean => free < reserve;

/** What needs a layer: nothing, an image that is known, a mount. */
export type CacheNeed = 'none' | 'image' | 'mount';

export interface CacheLayer {
  id: string;
  need: CacheNeed;
  blockSize: number;
  /** First block of each span, and the block count at the end. */
  starts: ArrayLike<number>;
  /** Blocks of each span that are present. */
  present: ArrayLike<number>;
  /** When each span was last read or came, in ticks. */
  lastUse: ArrayLike<number>;
  /** 1: the span is read in a start. */
  startup: ArrayLike<number>;
  /** The kernel reads the device itself; `seen`: the tick at which it was last seen reading, `since`: of the last change. */
  direct: boolean;
  seen: number;
  since: number;
}

export interface EvictionPlan {
  /** By layer: ascending, no two adjacent. */
  evict: Map<string, BlockRun[]>;
  /** Handed-over devices that have to be taken back before their spans can go. */
  takeBack: string[];
  /** Bytes in `evict`. */
  bytes: number;
}

/** Chooses spans of `need` bytes at least, where there are so many that may go; of mounted images until it is `ofMounted`. */
export function planEviction(
  layers: readonly CacheLayer[],
  order: { need: number; ofMounted: number; urgency: CacheUrgency; now: number },
  limits: CacheLimits,
): EvictionPlan {
  const { need, ofMounted, urgency, now } = order;
  const residence = { calm: limits.residence, urgent: limits.shortResidence, flooded: 0 }[urgency];
  const youngest = now - residence;
  const pause = { calm: limits.pause, urgent: limits.pause / 10, flooded: 0 }[urgency];
  const protectedFrom = startupMark(layers, limits);
  const ranks: Ranked[] = Array.from({ length: RANKS }, () => ({ layer: [], span: [], use: [] }));
  for (const [index, layer] of layers.entries()) {
    if (layer.need === 'mount' && ofMounted <= 0) continue;
    // A device that was handed over or taken back just now stays as it is.
    if (layer.direct && layer.since > now - pause) continue;
    for (let span = 0; span < layer.present.length; span++) {
      if (at(layer.present, span) === 0) continue;
      const use = usedAt(layer, span);
      if (use > youngest) continue;
      const rank = ranks[rankOf(layer, span, protectedFrom)] as Ranked;
      rank.layer.push(index);
      rank.span.push(span);
      rank.use.push(use);
    }
  }
  const chosen = new Map<number, number[]>();
  const takeBack = new Set<string>();
  let bytes = 0;
  let promised = 0;
  for (const [number, rank] of ranks.entries()) {
    const enough = MOUNTED_RANKS.has(number) ? ofMounted : need;
    for (const place of byUse(rank.use)) {
      if (bytes + promised >= enough) break;
      const index = rank.layer[place] as number;
      const layer = layers[index] as CacheLayer;
      const size = at(layer.present, rank.span[place] as number) * layer.blockSize;
      if (layer.direct) {
        takeBack.add(layer.id);
        promised += size;
        continue;
      }
      bytes += size;
      const spans = chosen.get(index);
      if (spans === undefined) chosen.set(index, [rank.span[place] as number]);
      else spans.push(rank.span[place] as number);
    }
  }
  const evict = new Map<string, BlockRun[]>();
  for (const [index, spans] of chosen) {
    const layer = layers[index] as CacheLayer;
    evict.set(layer.id, blocksOfSpans(layer, spans));
  }
  return { evict, takeBack: [...takeBack], bytes };
}

const RANKS = 5;
const MOUNTED_RANKS: ReadonlySet<number> = new Set([2, 4]);

interface Ranked {
  layer: number[];
  span: number[];
  use: number[];
}

const at = (values: ArrayLike<number>, index: number): number => values[index] as number;

const usedAt = (layer: CacheLayer, span: number): number =>
  layer.direct ? Math.max(layer.seen, at(layer.lastUse, span)) : at(layer.lastUse, span);

function rankOf(layer: CacheLayer, span: number, protectedFrom: number): number {
  if (layer.need === 'none') return 0;
  const mounted = layer.need === 'mount' ? 1 : 0;
  const startup = at(layer.startup, span) === 1 && usedAt(layer, span) >= protectedFrom;
  return (startup ? 3 : 1) + mounted;
}

/** Startup spans that were last used before this tick are like any others. */
function startupMark(layers: readonly CacheLayer[], limits: CacheLimits): number {
  if (limits.limit === Number.POSITIVE_INFINITY) return 0;
  const uses: number[] = [];
  const sizes: number[] = [];
  for (const layer of layers) {
    if (layer.need === 'none') continue;
    for (let span = 0; span < layer.present.length; span++) {
      if (at(layer.startup, span) !== 1 || at(layer.present, span) === 0) continue;
      uses.push(usedAt(layer, span));
      sizes.push(at(layer.present, span) * layer.blockSize);
    }
  }
  let room = limits.limit * limits.startupShare;
  for (const place of byUse(uses).toReversed()) {
    room -= sizes[place] as number;
    if (room < 0) return (uses[place] as number) + 1;
  }
  return 0;
}

/** Places of the list, the earliest use first; of equal ones the first place first. */
function byUse(uses: readonly number[]): number[] {
  // Numbers sort several times as fast as anything that needs a comparison: a tick has 32 bits, a place fits into 21.
  if (uses.length >= 2 ** 21)
    return [...uses.keys()].sort((a, b) => (uses[a] as number) - (uses[b] as number));
  const keys = new Float64Array(uses.length);
  for (const [place, use] of uses.entries()) keys[place] = use * 2 ** 21 + place;
  keys.sort();
  return Array.from(keys, (key) => key % 2 ** 21);
}

function blocksOfSpans(layer: CacheLayer, spans: number[]): BlockRun[] {
  const runs: BlockRun[] = [];
  for (const span of spans.sort((a, b) => a - b)) {
    const first = at(layer.starts, span);
    addBlocks(runs, first, at(layer.starts, span + 1) - first);
  }
  return runs;
}
