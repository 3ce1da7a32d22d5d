/** What the recorded fetches say of the link, and of what the engine's own work costs. */
import type { LayerShape } from '../shapes.ts';
import type { TracedJob } from '../trace.ts';
import type { Costs, LinkState } from './recording.ts';

/** Where the log tells of few fetches: gzip, of one core. */
const DEFAULT_BLOCK_MS = 0.5;
/** A pack is one stream of zstd, whose blocks are verified alike: it costs this share of what a fetch of the layers does. */
const PACK_SHARE = 0.5;
/** What a registry takes for an answer at the least; what its first bytes take beyond that is the way. */
const SERVER_MS = 1.5;
const DEFAULT_HOP_MS = 0.7;
/**
 * Of what fetches took: a thread that decodes another job, and whatever else runs on the machine, make most of them take longer. The
 * first is in the model, the second cannot be.
 */
const QUIET = 0.25;
/** Blocks, and fetches, that have to have come: a single one may have stood still. */
const LEAST_BLOCKS = 32;
const LEAST_JOBS = 4;
const MOST_HOP_MS = 20;
const REPLY_MS = 0.3;
/** From the layers' attachment to the first block of a pack that has come before, ms. */
const PACK_READY_MS = 60;
/** Over which the rate is taken, ms; less than a round trip says little. */
const WINDOW_MS = 100;
/** Jobs of fewer bytes say nothing of the rate. */
const TELLING_BYTES = 64 * 1024;
/** Of a link that is faster than this share of what decoding lets through nothing is known: bits a second. */
const FASTEST = 2e9;

const MS = 1_000;

/** `jobs`: those of the start that did not fail. `packReadyMs`: as the log tells of it; undefined: it does not. */
export function costsOf(
  jobs: readonly TracedJob[],
  layers: ReadonlyMap<string, LayerShape>,
  { rttMs }: LinkState,
  packReadyMs: number | undefined,
  cores: number,
): Costs {
  const perBlock: number[] = [];
  const own = ownShares(jobs, cores);
  const hops: number[] = [];
  const servers: number[] = [];
  for (const [index, job] of jobs.entries()) {
    const shape = layers.get(job.layer);
    const blocks = shape === undefined ? 0 : (blocksOf(job, shape) * shape.blockSize) / 65_536;
    // Each of them counts: a long fetch says more than a short one.
    const ms = ((job.decodeUs + job.writeUs) / MS) * (own[index] ?? 1);
    for (let block = 0; block < blocks; block++) perBlock.push(ms / blocks);
    hops.push(Math.max(0, job.totalUs - job.sentUs - job.fetchUs - job.decodeUs - job.writeUs) / MS / 2);
    if (job.firstByteUs > 0) servers.push(Math.max(0, job.firstByteUs / MS - rttMs));
  }
  const fetchBlockMs = told(perBlock, LEAST_BLOCKS) ?? DEFAULT_BLOCK_MS;
  return {
    fetchBlockMs,
    packBlockMs: fetchBlockMs * PACK_SHARE,
    packReadyMs: packReadyMs ?? PACK_READY_MS,
    serverMs: told(servers, LEAST_JOBS) ?? SERVER_MS,
    hopMs: Math.min(MOST_HOP_MS, told(hops, LEAST_JOBS) ?? DEFAULT_HOP_MS),
    replyMs: REPLY_MS,
  };
}

/**
 * How much of the time that each fetch took to decode its fetcher was at work for it: the jobs of a fetcher share a thread, and
 * the fetchers share the cores, while each job's watch goes on.
 */
function ownShares(jobs: readonly TracedJob[], cores: number): number[] {
  const spans = jobs.map(
    ({ queuedAt, totalUs, fetchUs, firstByteUs, sentUs, decodeUs, writeUs, fetcher }) => {
      const from = queuedAt + (sentUs + Math.min(firstByteUs, fetchUs)) / MS;
      const to = Math.max(from + 0.1, queuedAt + totalUs / MS);
      return { from, to, fetcher, busy: Math.min(1, (decodeUs + writeUs) / MS / (to - from)) };
    },
  );
  return spans.map(({ from, to, fetcher: mine }) => {
    let inFetcher = 0;
    let inAll = 0;
    for (const { from: begin, to: end, fetcher, busy } of spans) {
      const overlap = Math.min(to, end) - Math.max(from, begin);
      if (overlap <= 0) continue;
      const share = (overlap / (to - from)) * busy;
      inAll += share;
      if (fetcher === mine) inFetcher += share;
    }
    return Math.min(1, 1 / inFetcher, cores / inAll);
  });
}

/** What the fetches say of the link over which they came. */
export function linkOf(jobs: readonly TracedJob[]): LinkState {
  const firstBytes = jobs.flatMap(({ firstByteUs }) => (firstByteUs > 0 ? [firstByteUs / MS] : []));
  const least = firstBytes.length < LEAST_JOBS ? undefined : quantile(firstBytes, 0.1);
  const rttMs = least === undefined ? 0 : Math.max(0, least - SERVER_MS);
  return { rate: rateOf(jobs), rttMs: rttMs < 1 ? 0 : rttMs };
}

/** The most that came in a stretch of time, bits a second; Infinity: too little came to say. */
function rateOf(jobs: readonly TracedJob[]): number {
  const spans = jobs
    .filter(({ bytes, fetchUs, firstByteUs }) => bytes >= TELLING_BYTES && fetchUs > firstByteUs)
    .map(({ queuedAt, sentUs, firstByteUs, bytes, totalUs }) => {
      const from = queuedAt + (sentUs + firstByteUs) / MS;
      return { from, to: Math.max(from + 0.5, queuedAt + totalUs / MS), bytes };
    });
  if (spans.length === 0) return Number.POSITIVE_INFINITY;
  let most = 0;
  for (const { from: at } of spans) {
    let bytes = 0;
    for (const { from, to, bytes: all } of spans) {
      const overlap = Math.min(to, at + WINDOW_MS) - Math.max(from, at);
      if (overlap > 0) bytes += (all * overlap) / (to - from);
    }
    most = Math.max(most, bytes / WINDOW_MS);
  }
  const rate = most * 8_000;
  return rate >= FASTEST ? Number.POSITIVE_INFINITY : rate;
}

function blocksOf({ span, spans, runs = [[span, spans]] }: TracedJob, shape: LayerShape): number {
  let blocks = 0;
  for (const [first, count] of runs)
    for (let one = first; one < Math.min(first + count, shape.spanCount); one++)
      blocks += shape.span(one).blockCount;
  return blocks;
}

/** What quick ones took; undefined: there are too few to say. */
const told = (values: readonly number[], least: number): number | undefined =>
  values.length < least ? undefined : quantile(values, QUIET);

/** The value that this share of the values does not exceed; undefined: there are none. */
function quantile(values: readonly number[], share: number): number | undefined {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))];
}
