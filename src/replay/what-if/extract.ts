/** A start out of the log, as `simulate` takes it. */
import { layerIdOf, tableNameOf } from '../../../actors/device.ts';
import { type NodeState, presentRanges } from '../../../actors/node-state.ts';
import { blockRun } from '../../../actors/ranges.ts';
import { CofaError } from '../../../schemas/errors.ts';
import type { ReplayLog } from '../replay-log.ts';
import { LayerShape } from '../shapes.ts';
import { imageIn, type MountStory, phasesOf } from '../start-phases.ts';
import { type TracedJob, type TracedRead, traceOf } from '../trace.ts';
import { jobsNear } from '../why-read.ts';
import { costsOf, linkOf } from './costs.ts';
import { bytesOfBlocks } from './bytes.ts';
import { programOf } from './program.ts';
import type { LinkState, OrderedRun, Outcome, PhaseCost, Policy, Recording } from './recording.ts';
import { type Account, accountsOf } from './accounts.ts';

/**
 * Round trips of the phases, one after the other: a connection, the manifest, what it names, the sidecar's manifest; its parts, of
 * which some come over new connections.
 */
const RESOLVE_TRIPS = 4;
const PREPARE_TRIPS = 1.5;
/** A pack is asked for so long after it was found, ms; a trip finds it. */
const PACK_AFTER_MS = 60;
/** Packs are a bit smaller than the same blocks in the layers. */
const PACK_SIZE = 0.92;
/** A pause without a waiting read that ends a start of which the log has no account, and its longest, ms. */
const QUIET_MS = 500;
const LIMIT_MS = 60_000;
/** A container that ended so long after its last first read, ms, did so by itself. */
const TAIL_MS = 120_000;
const SLOTS = 4;
/** Of all layers of an image. */
const MOST_BLOCKS = 1 << 24;
const FETCHERS = 2;

export interface ExtractOptions {
  /** What the link was, where the user knows it better than the log. */
  link?: Partial<LinkState>;
  cores?: number;
}

/** Error: `not-found` where the mount never became ready, or its image is not in the log. */
export function recordingOf(log: ReplayLog, mount: MountStory, options: ExtractOptions = {}): Recording {
  const { mountedAt } = mount;
  const image = imageIn(log, mount.manifest);
  if (mountedAt === undefined || image?.prepared === undefined)
    throw new CofaError('not-found', `the log does not tell of mount ${mount.id} being ready`, {
      hint: 'cofa replay --events --type "mount.*" lists the mounts of a log',
    });
  const notes: string[] = [];
  const layers = layersIn(log, image as ImageParts, notes);
  const all = phasesOf(log, mount, mountedAt);
  const at = all[0]?.at ?? mount.requestedAt;
  const attachedAt = all.find(({ phase }) => phase === 'attach')?.end ?? mountedAt;
  const account = accountsOf(log, mount, layers);
  if (account === undefined)
    notes.push('the log has no account of the start: only reads that waited are run again, and no others');
  const traced = readsOf(log, layers, { from: at, mountedAt, until: account?.endedAt });
  const unmountedAt = unmountedAfter(log, mount);
  // The last look comes up to 100 ms after the last read, and after the end of a container that ends with it.
  const lookedAt = Math.min(account?.endedAt ?? 0, unmountedAt ?? Number.POSITIVE_INFINITY);
  const endedAt = traced.reduce((last, read) => Math.max(last, endOf(read)), Math.max(attachedAt, lookedAt));
  const near = jobsNear(log, at, endedAt).filter((job) => layers.has(job.layer));
  const jobs = near.filter(
    (job) => job.class !== 'pack' && job.error === undefined && job.queuedAt <= endedAt,
  );
  const packJobs = new Set(near.flatMap((job) => (job.class === 'pack' ? [`${job.layer}/${job.job}`] : [])));
  const link = { ...linkOf(jobs), ...options.link };
  const sidecarBytes = sidecarBytesOf(log, image as ImageParts, mount.manifest);
  const phases = phaseCosts(all, sidecarBytes);
  const reads = programOf(traced, account?.layers ?? [], { attachedAt, endedAt });
  const packed = account?.ahead === 'pack' ? account.foretold : blocksOnce(reads);
  const packBytes = packed.length === 0 ? undefined : (account?.packBytes ?? sizeOfPack(packed, layers));
  const foretold = foretoldOf(log, image as ImageParts, mount.manifest, account);
  if (account?.ahead === 'pack' && foretold.runs.length === 0)
    notes.push('which hints the image has is not in the log: without its pack the start is run with none');
  const before = log.stateAt(mount.index);
  const present = presentBefore(before, layers);
  const stoppedAt = mount.ran?.ended ?? unmountedAt;
  const tailMs =
    stoppedAt !== undefined && stoppedAt - endedAt < TAIL_MS ? Math.max(0, stoppedAt - endedAt) : undefined;
  const policy = policyOf(log, mount, before, account?.ahead ?? foretold.by, options.cores ?? account?.cores);
  return {
    mount: mount.id,
    ref: mount.ref,
    manifest: mount.manifest,
    dir: mount.dir,
    start: account?.start,
    at,
    phases,
    layers,
    present,
    reads,
    tailMs,
    packed,
    foretold,
    packBytes,
    packAfterMs:
      account?.packAt === undefined
        ? PACK_AFTER_MS + link.rttMs
        : Math.max(0, account.packAt - mount.requestedAt),
    costs: costsOf(jobs, layers, link, packReadyOf(traced, { attachedAt, account, packJobs }), policy.cores),
    link,
    policy,
    measured: measuredOf({ at, attachedAt, endedAt, tailMs, phases, traced, reads, jobs, account }),
    notes,
  };
}

interface ImageParts {
  resolved: { layers: ReadonlyArray<{ diffId: string; blob: string; blobSize: number }> };
  prepared: {
    origin: string;
    devices: ReadonlyArray<{
      diffId: string;
      size: number;
      spans: string;
      root?: string | undefined;
      table?: string | undefined;
    }>;
  };
}

const endOf = (read: TracedRead): number => read.at + read.us / 1_000;

function layersIn(log: ReplayLog, image: ImageParts, notes: string[]): Map<string, LayerShape> {
  const layers = new Map<string, LayerShape>();
  let guessed = 0;
  for (const device of image.prepared.devices) {
    const table = log.shapes.table(tableNameOf(device as never));
    if (table !== undefined) {
      layers.set(layerIdOf(device as never), LayerShape.of(table));
      continue;
    }
    guessed += 1;
    const blobSize =
      image.resolved.layers.find(({ blob }) => blob === device.spans)?.blobSize ?? device.size / 3;
    layers.set(layerIdOf(device as never), LayerShape.guessed(65_536, device.size, blobSize));
  }
  const blocks = [...layers.values()].reduce((sum, { blockCount }) => sum + blockCount, 0);
  if (blocks > MOST_BLOCKS)
    throw new CofaError('unsupported', 'the image is too large to be run again: it has more than 1 TB');
  if (guessed > 0)
    notes.push(
      `the span tables of ${guessed} of ${layers.size} layers are not at hand, their spans are guessed: export the log where they are`,
    );
  return layers;
}

/** Reads that waited, of the start alone. */
function readsOf(
  log: ReplayLog,
  layers: ReadonlyMap<string, LayerShape>,
  { from, mountedAt, until }: { from: number; mountedAt: number; until: number | undefined },
): TracedRead[] {
  const all: TracedRead[] = [];
  const last = until ?? mountedAt + LIMIT_MS;
  for (const index of log.traces.between(from, last)) {
    const event = log.timeline.eventAt(index);
    if (!layers.has(`sha256:${event.id}`)) continue;
    all.push(...traceOf(event).reads.filter((read) => read.at >= from && read.at <= last));
  }
  all.sort((a, b) => a.at - b.at);
  if (until !== undefined) return all;
  const list: TracedRead[] = [];
  let busyUntil = mountedAt;
  for (const read of all) {
    if (list.length > 0 && read.at - busyUntil > QUIET_MS) break;
    list.push(read);
    busyUntil = Math.max(busyUntil, endOf(read));
  }
  return list;
}

function phaseCosts(all: ReturnType<typeof phasesOf>, sidecarBytes: number): PhaseCost[] {
  return all.flatMap(({ phase, at, end }): PhaseCost[] => {
    const ms = end - at;
    if (phase === 'resolve') return [{ phase, ms, trips: RESOLVE_TRIPS, bytes: 0 }];
    if (phase === 'prepare')
      return [{ phase, ms, trips: sidecarBytes > 0 ? PREPARE_TRIPS : 0, bytes: sidecarBytes }];
    return phase === 'attach' ? [{ phase, ms, trips: 0, bytes: 0 }] : [];
  });
}

/** Bytes of the sidecar that came for the mount, about; 0: none did. */
function sidecarBytesOf(log: ReplayLog, image: ImageParts, manifest: string): number {
  if (image.prepared.origin !== 'sidecar') return 0;
  let bytes = log.shapes.flatBytes(manifest) ?? 0;
  for (const device of image.prepared.devices)
    bytes += log.shapes.table(tableNameOf(device as never))?.packedBytes ?? 0;
  return bytes;
}

/** The blocks of reads in their order, each once. */
function blocksOnce(reads: readonly OrderedRun[]): OrderedRun[] {
  const known = new Set<string>();
  const runs: OrderedRun[] = [];
  for (const { layer, first, count } of reads)
    for (let block = first; block < first + count; block++) {
      if (known.has(`${layer}/${block}`)) continue;
      known.add(`${layer}/${block}`);
      const last = runs.at(-1);
      if (last?.layer === layer && last.first + last.count === block) last.count += 1;
      else runs.push({ layer, first: block, count: 1 });
    }
  return runs;
}

function sizeOfPack(runs: readonly OrderedRun[], layers: ReadonlyMap<string, LayerShape>): number {
  let bytes = 0;
  for (const { layer, first, count } of runs) {
    const shape = layers.get(layer);
    if (shape !== undefined) bytes += bytesOfBlocks(shape, blockRun(first, count));
  }
  return Math.round(bytes * PACK_SIZE);
}

function foretoldOf(
  log: ReplayLog,
  image: ImageParts,
  manifest: string,
  account: Account | undefined,
): Recording['foretold'] {
  if (account !== undefined && (account.ahead === 'hints' || account.ahead === 'files'))
    return { by: account.ahead, runs: account.foretold };
  const hints = account === undefined || account.start === 'default' ? log.shapes.hints(manifest) : undefined;
  if (hints === undefined || hints.runs.length === 0) return { by: 'nothing', runs: [] };
  const ids = new Map(image.prepared.devices.map((device) => [device.diffId, layerIdOf(device as never)]));
  return {
    by: 'hints',
    runs: hints.runs.flatMap(([device, first, count]) => {
      const layer = ids.get(hints.devices[device] ?? '');
      return layer === undefined ? [] : [{ layer, first, count }];
    }),
  };
}

/** When the first block of a pack could be read, where a read waited for it: ms from the layers' attachment. */
function packReadyOf(
  traced: readonly TracedRead[],
  {
    attachedAt,
    account,
    packJobs,
  }: { attachedAt: number; account: Account | undefined; packJobs: ReadonlySet<string> },
): number | undefined {
  if (account?.ahead !== 'pack') return undefined;
  const ends = traced
    .filter(({ jobs, errno, layer }) => errno === 0 && jobs.every((job) => packJobs.has(`${layer}/${job}`)))
    .map(endOf);
  return ends.length === 0 ? undefined : Math.max(0, Math.min(...ends) - attachedAt);
}

function presentBefore(before: NodeState, layers: ReadonlyMap<string, LayerShape>): Recording['present'] {
  const present: Recording['present'] = new Map();
  for (const id of layers.keys()) {
    const known = before.layers.get(id);
    if (known !== undefined && known.presentCount > 0) present.set(id, presentRanges(known.present));
  }
  return present;
}

function unmountedAfter(log: ReplayLog, mount: MountStory): number | undefined {
  const { timeline } = log;
  for (let index = mount.index + 1; index < log.count; index++)
    if (timeline.typeAt(index) === 'mount.unmounted' && timeline.idAt(index) === mount.id)
      return timeline.timeAt(index);
  return undefined;
}

function policyOf(
  log: ReplayLog,
  mount: MountStory,
  before: NodeState,
  ahead: Policy['ahead'],
  cores: number | undefined,
): Policy {
  const { prefetch, prefetchLimit } = log.timeline.eventAt(mount.index).data;
  let fetchers = 0;
  for (const { role } of before.processes.values()) if (role === 'fetcher') fetchers += 1;
  if (fetchers === 0) fetchers = FETCHERS;
  return {
    ahead,
    prefetch: prefetch !== false,
    prefetchLimit: typeof prefetchLimit === 'number' && prefetchLimit > 0 ? prefetchLimit : undefined,
    fetchers,
    slots: SLOTS,
    // One fetcher a core is the engine's default.
    cores: Math.max(1, cores ?? Math.max(fetchers, FETCHERS)),
    block: undefined,
  };
}

function measuredOf(start: {
  at: number;
  attachedAt: number;
  endedAt: number;
  tailMs: number | undefined;
  phases: readonly PhaseCost[];
  traced: readonly TracedRead[];
  reads: ReadonlyArray<{ layer: string }>;
  jobs: readonly TracedJob[];
  account: Account | undefined;
}): Outcome {
  const { at, attachedAt, endedAt, tailMs, phases, traced, reads, jobs, account } = start;
  const us = (ms: number) => Math.max(0, Math.round(ms * 1_000));
  const lengths = traced.map((read) => read.us).sort((a, b) => a - b);
  let blocked = 0;
  let until = Number.NEGATIVE_INFINITY;
  for (const read of traced) {
    blocked += Math.max(0, endOf(read) - Math.max(until, read.at));
    until = Math.max(until, endOf(read));
  }
  const bytesOf = (kind: TracedJob['class']) =>
    jobs.reduce(
      (sum, job) => (job.class === kind ? sum + Math.round(job.bytes * cameBy(job, endedAt)) : sum),
      0,
    );
  return {
    us: us(endedAt - at),
    endUs: tailMs === undefined ? undefined : us(endedAt + tailMs - at),
    phases: [
      ...phases.map(({ phase, ms }) => ({ phase, us: us(ms) })),
      { phase: 'reads', us: us(endedAt - attachedAt) },
    ],
    reads: {
      count: reads.length,
      waited: traced.length,
      failed: traced.filter(({ errno }) => errno !== 0).length,
      waitedUs: lengths.reduce((sum, one) => sum + one, 0),
      blockedUs: us(blocked),
      p50Us: lengths[Math.max(0, Math.ceil(lengths.length / 2) - 1)] ?? 0,
      maxUs: lengths.at(-1) ?? 0,
    },
    bytes: {
      sidecar: phases.reduce((sum, { bytes }) => sum + bytes, 0),
      pack: account?.packBytes ?? 0,
      demand: bytesOf('demand'),
      ahead: bytesOf('prefetch'),
      rest: 0,
    },
    requests: jobs.length + (account?.packBytes === undefined ? 0 : 1),
  };
}

/** How much of a fetch had come by then. */
function cameBy({ queuedAt, totalUs }: TracedJob, at: number): number {
  const ms = Math.max(1, totalUs / 1_000);
  return Math.min(1, Math.max(0, (at - queuedAt) / ms));
}
