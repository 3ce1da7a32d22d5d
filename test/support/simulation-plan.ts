import type { DispatcherLimits } from '../../actors/dispatcher.ts';
import type { LayerLimits } from '../../actors/layer.ts';
import type { Random } from './random.ts';

/**
 * What one seed does: sizes, speeds, limits and the mix of faults. Each fault is switched off in many seeds, since
 * faults that always come together hide each other. Times are simulated ms, probabilities 0 to 1.
 */
export interface Plan {
  /** Blocks of each span, by layer. */
  layers: number[][];
  layerLimits: Partial<LayerLimits>;
  dispatcherLimits: Partial<DispatcherLimits>;
  /** Slots of each fetcher. */
  fetchers: number[];
  prefetch: boolean;
  /** Spans whose bytes are bad, of all spans; and layers whose span table lies. */
  badSpan: number;
  liar: number;
  /** Time of a request before its first block, and of each block; how much either varies. */
  latencyMs: number;
  blockMs: number;
  /** Blocks that a fetcher reports together. */
  reportBlocks: number;
  readEveryMs: number;
  readBlocks: number;
  burst: number;
  flushEveryMs: number;
  /** Others begin, and cease, to want the machine this often. Whether they do when the faults end, they do from then on. */
  busyMs: number;
  /** Per message between front end and fetchers. */
  lose: number;
  double: number;
  delayMs: number;
  /** Per block fetched. */
  fail: number;
  /** Per job: the fetcher never answers. */
  hang: number;
  /** Per append. */
  appendFails: number;
  appendMs: number;
  /** Mean times between; Infinity: never. */
  fetcherCrashMs: number;
  frontCrashMs: number;
  powerCutMs: number;
  evictMs: number;
  handOver: boolean;
  /** Between startup packs. */
  packMs: number;
  togglePrefetchMs: number;
  /** Blocks per second of prefetch, of all layers; Infinity: no limit. And the mean time until the pace changes. */
  pace: number;
  paceMs: number;
  /** Until then faults happen; afterwards everything heals and must end well. */
  faultsEndMs: number;
}

export function drawPlan(random: Random): Plan {
  const sometimes = <T>(value: T, otherwise: T, probability = 0.4) =>
    random.chance(probability) ? value : otherwise;
  const never = Number.POSITIVE_INFINITY;
  const layers = Array.from({ length: random.int(1, 3) }, () => {
    const most = random.pick([1, 3, 6]);
    const spans = Array.from({ length: random.int(1, 24) }, () => random.int(1, most));
    if (random.chance(0.1)) spans[random.int(0, spans.length - 1)] = 40;
    return spans;
  });
  return {
    layers,
    layerLimits: {
      readDeadlineMs: random.int(500, 3_000),
      maxWaiters: sometimes(random.int(2, 6), 1_000, 0.2),
      maxReadBlocks: 64,
      demandBatchSpans: random.int(1, 4),
      prefetchBatchSpans: random.int(1, 4),
      prefetchBatchSpansAround: random.int(1, 2),
      prefetchAroundMs: random.int(0, 300),
      prefetchInFlight: random.int(1, 3),
      prefetchPauseMs: random.int(20, 200),
      prefetchPauseMaxMs: 800,
      attempts: random.int(1, 6),
      retryMs: random.int(10, 100),
      retryMaxMs: 400,
      failureMemoryMs: random.int(1, 300),
      stallMs: random.int(1, 600),
      jobSilenceMs: random.int(1_500, 5_000),
      appendRanges: random.int(1, 20),
    },
    dispatcherLimits: {
      maxDemand: sometimes(random.int(1, 4), 1_000, 0.2),
      maxPrefetch: sometimes(random.int(1, 2), 100, 0.2),
      fetcherSilenceMs: random.int(300, 800),
      jobSilenceMs: random.int(300, 1_500),
      attempts: random.int(1, 4),
      demandWaitMs: random.int(300, 2_000),
      prefetchWaitMs: sometimes(random.int(500, 2_000), never),
      demandShare: random.pick([0, 0.25, 0.5]),
      demandAroundMs: random.int(0, 300),
      holdMs: random.int(0, 60),
      breathMs: random.int(0, 30),
      busyWordMs: random.int(20, 100),
      holdFetchMs: random.int(0, 500),
    },
    fetchers: Array.from({ length: random.int(1, 4) }, () => random.int(1, 4)),
    prefetch: random.chance(0.6),
    badSpan: sometimes(random.pick([0.05, 0.3]), 0, 0.3),
    liar: sometimes(0.5, 0, 0.15),
    latencyMs: random.int(1, 60),
    blockMs: random.int(1, 20),
    reportBlocks: random.int(1, 8),
    readEveryMs: random.int(10, 120),
    readBlocks: random.int(1, 12),
    burst: sometimes(random.int(5, 40), 1, 0.3),
    flushEveryMs: random.int(20, 500),
    lose: sometimes(random.pick([0.02, 0.2]), 0),
    double: sometimes(random.pick([0.05, 0.5]), 0),
    delayMs: sometimes(random.pick([20, 400, 3_000]), 2),
    fail: sometimes(random.pick([0.02, 0.2, 0.9]), 0),
    hang: sometimes(random.pick([0.05, 0.3]), 0),
    appendFails: sometimes(random.pick([0.1, 0.7]), 0),
    appendMs: sometimes(random.int(10, 300), 3),
    fetcherCrashMs: sometimes(random.int(300, 3_000), never),
    frontCrashMs: sometimes(random.int(500, 4_000), never, 0.3),
    powerCutMs: sometimes(random.int(1_000, 5_000), never, 0.2),
    evictMs: sometimes(random.int(50, 600), never, 0.35),
    handOver: random.chance(0.5),
    packMs: sometimes(random.int(100, 1_500), never),
    togglePrefetchMs: sometimes(random.int(200, 2_000), never, 0.2),
    busyMs: sometimes(random.int(100, 2_000), never),
    pace: drawPace(random),
    paceMs: sometimes(random.int(100, 2_000), never),
    faultsEndMs: random.int(1_500, 5_000),
  };
}

/** From less than a block in all that a seed has to more than the fetchers can do. */
export function drawPace(random: Random): number {
  return random.chance(0.5) ? Number.POSITIVE_INFINITY : random.pick([5, 100, 1_000]);
}

/** The plan once the faults are over. */
export function healed(plan: Plan): Plan {
  const never = Number.POSITIVE_INFINITY;
  return {
    ...plan,
    prefetch: true,
    burst: 1,
    lose: 0,
    double: 0,
    delayMs: 2,
    fail: 0,
    hang: 0,
    appendFails: 0,
    appendMs: 3,
    busyMs: never,
    fetcherCrashMs: never,
    frontCrashMs: never,
    powerCutMs: never,
    evictMs: never,
    packMs: never,
    togglePrefetchMs: never,
    paceMs: never,
  };
}
