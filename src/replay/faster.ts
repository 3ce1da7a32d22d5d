/**
 * What would have made a start faster, with an estimate of what it would have saved: sentences for people, from what the log says
 * of its waits, of the machine and of what was fetched. An estimate takes one cause away and leaves all else as it was; those of
 * several causes may be about the same time, so they do not add up.
 */
import type { Faster, StartPart, StartWall } from '../../schemas/replay.ts';
import { formatBytes } from '../terminal/table.ts';
import { formatUs } from './format.ts';

export interface StartFacts {
  wall: StartWall;
  ref: string;
  /** Who built the flat image; undefined: it was prepared before this start. */
  origin: 'sidecar' | 'node' | undefined;
  /** µs in which the supervisor looked names up, before the mount. */
  lookupUs: number;
  /** µs in which the supervisor waited for the log until the file system was mounted. */
  logUs: number;
  /** Fetches that ended during the start. */
  jobs: ReadonlyArray<{
    class: 'demand' | 'prefetch' | 'pack';
    lookupUs: number;
    firstByteUs: number;
    fetchUs: number;
    bytes: number;
  }>;
  /** Compressed bytes of fetches that reads waited for. */
  waitedBytes: number;
  /** Blocks of 64 KiB that were evicted for room during the start, and of these such that came a second time. */
  evictedBlocks: number;
  refetchedBlocks: number;
}

/** What is less than this of a start is not worth a sentence: µs, and share. */
const LEAST_US = 20_000;
const LEAST_SHARE = 0.03;
/** What is taken for good: a first byte after so long, µs; bytes at this rate, MB/s (bytes a µs). */
const GOOD_FIRST_BYTE_US = 5_000;
const GOOD_RATE = 100;
/** Sidecar and tables from a registry that is near, µs. */
const GOOD_PREPARE_US = 100_000;
/** Others have a processor's time when they take this share of all, and tasks wait for so much of the start. */
const BUSY_SHARE = 0.25;
const STALLED_SHARE = 0.2;
const BLOCK_BYTES = 65_536;

/** The most first. */
export function fasterOf(facts: StartFacts): Faster[] {
  const { wall } = facts;
  const found = [dns, registry, link, processor, disk, theLog, cache, sidecar, pack].flatMap(
    (rule) => rule(facts) ?? [],
  );
  return found
    .map((one) => ({ ...one, us: cut(one.us, wall.us), savedUs: cut(one.savedUs, wall.us) }))
    .filter(({ savedUs }) => savedUs >= LEAST_US && savedUs >= LEAST_SHARE * wall.us)
    .sort((a, b) => b.savedUs - a.savedUs);
}

const cut = (us: number, most: number): number => Math.round(Math.min(Math.max(us, 0), most));

type Rule = (facts: StartFacts) => Faster | undefined;

const dns: Rule = ({ wall, lookupUs }) => {
  const us = Math.min(lookupUs, before(wall)) + (wall.steps['lookup'] ?? 0);
  const text = `Looking up the registry's name took ${formatUs(us)}. A DNS server that answers at once, or a line in /etc/hosts, saves nearly all of it.`;
  return { cause: 'dns', us, savedUs: us, text };
};

const registry: Rule = ({ wall, jobs, lookupUs, logUs, origin }) => {
  const first = median(
    jobs.filter(({ firstByteUs }) => firstByteUs > 0).map((job) => job.firstByteUs - job.lookupUs),
  );
  const waited = (wall.steps['first-byte'] ?? 0) * (1 - starved(wall).reads);
  const resolve = partUs(wall, 'resolve') - lookupUs - logUs;
  // The sidecar is a few requests, one after the other; an index on the node is something else.
  const prepare = origin === 'sidecar' ? partUs(wall, 'prepare') - GOOD_PREPARE_US : 0;
  const asked =
    (Math.max(0, resolve - GOOD_FIRST_BYTE_US) + Math.max(0, prepare)) * (1 - starved(wall).before);
  const each = first ?? Math.max(0, resolve);
  const spared = each <= GOOD_FIRST_BYTE_US ? 0 : 1 - GOOD_FIRST_BYTE_US / each;
  const us = waited + asked;
  const text = `The registry let each request wait ${formatUs(each)} for its first byte. A registry that answers within ${formatUs(GOOD_FIRST_BYTE_US)}, or a mirror nearby (docs/mirrors.md), saves the most of that.`;
  return { cause: 'registry', us, savedUs: spared * us, text };
};

const link: Rule = ({ wall, jobs }) => {
  const transferUs = jobs.reduce((sum, job) => sum + Math.max(0, job.fetchUs - job.firstByteUs), 0);
  const bytes = jobs.reduce((sum, job) => sum + job.bytes, 0);
  const rate = transferUs === 0 ? Number.POSITIVE_INFINITY : bytes / transferUs;
  const us = (wall.steps['transfer'] ?? 0) * (1 - starved(wall).reads);
  const savedUs = rate >= GOOD_RATE ? 0 : us * (1 - rate / GOOD_RATE);
  const text = `Bytes came at ${formatBytes(Math.round(rate * 1e6))} a second for each fetch, and reads waited ${formatUs(us)} for them. A link of 1 Gbit/s, or a mirror nearby, saves the most of that.`;
  return { cause: 'link', us, savedUs, text };
};

const processor: Rule = ({ wall }) => {
  const { machine } = wall;
  if (machine?.stalledUs === undefined || wall.us === 0) return undefined;
  const { cpus, othersUs, stalledUs } = machine;
  const share = othersUs / (cpus * wall.us);
  if (share < BUSY_SHARE || stalledUs.cpu < STALLED_SHARE * wall.us) return undefined;
  const { before: early, reads } = starved(wall);
  const us = early * before(wall) + reads * partUs(wall, 'reads');
  const text = `Other programs took ${(share * cpus).toFixed(1)} of ${cpus} processors: for ${formatUs(us)} of the start processes of the engine could have gone on and had none. A machine with room, or a limit for the others, saves that.`;
  return { cause: 'processor', us, savedUs: us, text };
};

const disk: Rule = ({ wall }) => {
  const io = wall.machine?.stalledUs?.io;
  // What is synced before a client hears of the mount, what fetchers write, and new device files.
  const attach = partUs(wall, 'attach') * (1 - starved(wall).before);
  const us = (wall.steps['write'] ?? 0) + partUs(wall, 'record') + attach;
  // Where no task of the machine waited for the disk, it was not the disk.
  const savedUs = io === undefined ? (wall.steps['write'] ?? 0) : Math.min(io, us);
  const text = `Writing to the disk held the start up for about ${formatUs(savedUs)}. A faster disk below the root, or one that others leave alone, saves that.`;
  return { cause: 'disk', us, savedUs, text };
};

const theLog: Rule = ({ wall, logUs }) => {
  const io = wall.machine?.stalledUs?.io ?? 0;
  const messages = ((wall.steps['queue'] ?? 0) + (wall.steps['other'] ?? 0)) * (1 - starved(wall).reads);
  const asked = Math.max(logUs, partUs(wall, 'log')) * (1 - starved(wall).before);
  // What the disk held up is the disk's.
  const us = asked + Math.max(0, partUs(wall, 'record') - io) + messages;
  const text = `The log and messages between processes took ${formatUs(us)}: NATS was away, or slow. With a NATS that answers the start does without.`;
  return { cause: 'log', us, savedUs: us, text };
};

const cache: Rule = ({ wall, evictedBlocks, refetchedBlocks }) => {
  if (evictedBlocks === 0) return undefined;
  const waited = partUs(wall, 'reads');
  const share = Math.min(1, refetchedBlocks / evictedBlocks);
  const size = formatBytes(evictedBlocks * BLOCK_BYTES);
  const again = formatBytes(refetchedBlocks * BLOCK_BYTES);
  const text = `The cache was full: ${size} were evicted during the start, and ${again} fetched again. A higher --cache-limit, or less on the disk (cofa prune), saves these fetches.`;
  return { cause: 'cache', us: waited, savedUs: waited * share, text };
};

const sidecar: Rule = ({ wall, origin, ref }) => {
  if (origin !== 'node') return undefined;
  const us = partUs(wall, 'prepare');
  const text = `The node indexed the image, since there was no sidecar to use. After cofa index ${ref} that takes about ${formatUs(GOOD_PREPARE_US)}.`;
  return { cause: 'sidecar', us, savedUs: us - GOOD_PREPARE_US, text };
};

const pack: Rule = ({ wall, jobs, waitedBytes }) => {
  if (jobs.some((job) => job.class === 'pack') || waitedBytes === 0) return undefined;
  const us = partUs(wall, 'reads');
  const demanded = jobs.filter((job) => job.class === 'demand');
  const transferUs = demanded.reduce((sum, job) => sum + Math.max(0, job.fetchUs - job.firstByteUs), 0);
  const bytes = demanded.reduce((sum, job) => sum + job.bytes, 0);
  const rate = transferUs === 0 ? GOOD_RATE : Math.max(0.1, bytes / transferUs);
  // One request, and its bytes come while the start goes on.
  const left = (median(demanded.map((job) => job.firstByteUs)) ?? 0) + waitedBytes / rate;
  const text = `No startup pack brought what it reads: ${formatBytes(waitedBytes)} came read by read. The next start of this command has a pack of it, also on other nodes after cofa pack push.`;
  return { cause: 'pack', us, savedUs: us - left, text };
};

/**
 * For which share of its waits a start waited for a processor, as far as the kernel says: the main threads of the processes that did
 * the work could have run and had none.
 */
function starved(wall: StartWall): { before: number; reads: number } {
  const waitOf = (name: string) => wall.processes.find((one) => one.name === name)?.waitUs ?? 0;
  const fetchers = wall.processes.filter(({ name }) => name.startsWith('fetcher'));
  const reads = waitOf('front-end') + Math.max(0, ...fetchers.map(({ waitUs }) => waitUs));
  return {
    before: Math.min(1, waitOf('supervisor') / Math.max(1, before(wall))),
    reads: Math.min(1, reads / Math.max(1, partUs(wall, 'reads'))),
  };
}

const partUs = (wall: StartWall, part: StartPart): number =>
  wall.parts.find((one) => one.part === part)?.us ?? 0;

/** Before the file system stood. */
const before = (wall: StartWall): number =>
  (['resolve', 'log', 'prepare', 'attach', 'mount'] as const).reduce(
    (sum, part) => sum + partUs(wall, part),
    0,
  );

function median(values: readonly number[]): number | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)];
}
