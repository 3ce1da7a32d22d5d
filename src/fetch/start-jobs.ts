/** The jobs around an image's start: bring what its startup pack has, and make the pack of what a start has read. */
import { type FileHandle, open, readFile } from 'node:fs/promises';
import type { NatsConnection } from '@nats-io/nats-core';
import { filesOfStart, movedStart, pathsToFind, startInLayers } from '../../actors/start-files.ts';
import { difference, isWorth, mergeNodes, newestRecordings } from '../../actors/start-recordings.ts';
import { firstBlocks, type StartSet } from '../../actors/start-set.ts';
import { CofaError } from '../../schemas/errors.ts';
import {
  type JobLayer,
  layerOf,
  type PackJob,
  type PackSource,
  type RecordJob,
  type StartRun,
} from '../../schemas/fetch.ts';
import { abortable } from '../bus/abortable.ts';
import { BLOCK_SIZE } from '../image/span-table.ts';
import { encodePack, MAX_PACK_BYTES } from '../pack/format.ts';
import { PackStore } from '../pack/pack-store.ts';
import type { RegistryClient } from '../registry/client.ts';
import { extentsOf } from '../image/file-paths.ts';
import { DiskRoom } from '../store/disk-room.ts';
import type { Layout } from '../store/layout.ts';
import type { SpanTables } from './fetch-job.ts';
import { Ahead } from './ahead.ts';
import { type PackedLayer, runPack } from './pack-job.ts';

export interface StartContext {
  layout: Layout;
  packs: () => Promise<NatsConnection>;
  registry: RegistryClient;
  tables: SpanTables;
  signal: AbortSignal;
  /** Of a held job: the same as it comes when it may go on. */
  released?: Promise<PackJob>;
}

export interface RecordContext extends StartContext {
  /** This node, as others know it. */
  node: string;
  /** In [0, 1). */
  random: () => number;
}

/** Runs of one message: some 8 bytes each, far below what NATS takes. */
const RUNS_AT_ONCE = 20_000;
/** Blocks of a layer in a row. */
export type LayerRun = readonly [layer: string, first: number, count: number];

/**
 * Blocks that came are told after so long, ms, or when so many runs have come: a message costs more than what it says. The
 * first are told at once: what reads wait for then is where a start begins.
 */
const TELL_MS = 2;
const RUNS_TOLD = 16;
/** A pack is made again when so many of its blocks would change. */
const WORTH_SHARE = 0.05;

/**
 * Brings a startup pack into the layer devices. Resolves with the bytes that came and were not reported.
 * Errors: those of `runPack`.
 */
export async function bringPack(
  job: PackJob,
  context: StartContext,
  on: {
    runs(devices: readonly string[], runs: readonly StartRun[]): void;
    blocks(found: [LayerRun, ...LayerRun[]], bytes: number): void;
  },
): Promise<number> {
  const { layout, signal } = context;
  if (job.pack.kind === 'files') {
    await foretell(job, job.pack.name, context, on.runs);
    return 0;
  }
  let bytes = 0;
  let found: LayerRun[] = [];
  let timer: NodeJS.Timeout | undefined;
  let toldAt = Number.NEGATIVE_INFINITY;
  const tell = () => {
    clearTimeout(timer);
    timer = undefined;
    toldAt = performance.now();
    const [first, ...more] = found;
    if (first !== undefined) on.blocks([first, ...more], bytes);
    found = [];
    bytes = 0;
  };
  // Asked for at once: what is held comes while the image is prepared.
  const source = job.held === true ? new Ahead(sourceOf(job.pack, context)) : sourceOf(job.pack, context);
  async function* counted() {
    for await (const chunk of source) {
      bytes += chunk.length;
      yield chunk;
    }
  }
  try {
    const { layers } = job.held === true ? await releaseOf(context) : job;
    const packed = await packedLayers(layers, context);
    await runPack(counted(), {
      layout,
      layers: packed,
      signal,
      onHeader: (devices, runs) => tellRuns({ devices, runs }, layers, on.runs),
      onBlocks: (layer, first, count) => {
        found.push([layer, first, count]);
        // What was kept is decoded in one turn, in which no timer fires.
        if (found.length === RUNS_TOLD || performance.now() - toldAt >= TELL_MS) tell();
        else timer ??= setTimeout(tell, TELL_MS);
      },
    });
    const { pack } = job;
    if (pack.kind === 'registry') context.registry.right(pack, pack, [[0, pack.size]]);
  } catch (error) {
    if (error instanceof CofaError && error.code === 'integrity') await discredit(job.pack, context);
    throw error;
  } finally {
    // What came before an error is verified and written: it stays.
    if (found.length > 0) tell();
    clearTimeout(timer);
    if (source instanceof Ahead) source.close();
  }
  return bytes;
}

/** A pack is not what it should be, and would fail every start from now on. That of a registry is its owner's. */
async function discredit(pack: Exclude<PackSource, { kind: 'files' }>, { packs, registry }: StartContext) {
  if (pack.kind === 'nats') await new PackStore(packs).discard(pack.name).catch(() => {});
  else registry.doubt(pack, pack);
}

/** What a start is likely to read, as another image of the repository did. */
async function foretell(
  job: PackJob,
  name: string,
  { layout, packs }: StartContext,
  tell: (devices: readonly string[], runs: readonly StartRun[]) => void,
): Promise<void> {
  const before = await new PackStore(packs).files(name);
  const layers = new Set(job.layers.map(({ diffId }) => diffId));
  tellRuns(startInLayers(before, layers), job.layers, tell);
  const paths = pathsToFind(before, layers);
  if (paths.size === 0) return;
  const files = extentsOf(await readFile(layout.flat(job.manifest)), paths);
  tellRuns(movedStart(before, layers, files, BLOCK_SIZE), job.layers, tell);
}

/** `tell` gets the layers by their ids. */
function tellRuns(
  { devices, runs }: StartSet,
  layers: readonly JobLayer[],
  tell: (devices: readonly string[], runs: readonly StartRun[]) => void,
): void {
  const ids = new Map(layers.map((layer) => [layer.diffId, layerOf(layer)]));
  const named = devices.map((diffId) => ids.get(diffId) ?? diffId);
  for (let at = 0; at < runs.length; at += RUNS_AT_ONCE) tell(named, runs.slice(at, at + RUNS_AT_ONCE));
}

/** A set whose layers are named by the ids of this node, with diffIDs, as all nodes know them. */
function byDiffId({ devices, runs }: StartSet, layers: readonly JobLayer[]): StartSet {
  const diffIds = new Map(layers.map((layer) => [layerOf(layer), layer.diffId]));
  return { devices: devices.map((id) => diffIds.get(id) ?? id), runs };
}

/**
 * Adds a recording to those that are known of the start, and makes a new pack where the result is another than before:
 * than the pack of the store, or else than the one beside the image. Where many nodes have recorded the same, nothing is done.
 * Blocks that are not in the devices (any more) are left out. Errors: those of the store and of the disk.
 */
export async function recordStart(job: RecordJob, context: RecordContext): Promise<void> {
  const { manifest, start } = job;
  const store = new PackStore(context.packs);
  const layers = new Set(job.layers.map(({ diffId }) => diffId));
  // Other nodes write into the store too.
  const earlier = (await store.recordings(manifest, start)).filter(({ set }) =>
    set.devices.every((diffId) => layers.has(diffId)),
  );
  const mine = { node: context.node, set: byDiffId(job.set, job.layers) };
  const recordings = newestRecordings([...earlier, mine]);
  const set = mergeNodes(recordings);
  if (set.runs.length === 0) return;
  const known = earlier.length > 0 ? await store.find(manifest, start) : undefined;
  const brought = job.brought && byDiffId(job.brought, job.layers);
  const hasPack = known !== undefined || brought !== undefined;
  if (hasPack && !isWorth(earlier, mine, context.random)) return;
  const before = known === undefined ? brought : mergeNodes(earlier);
  if (before === undefined || difference(before, set) > WORTH_SHARE) {
    await makePack(job, set, store, context);
    context.signal.throwIfAborted();
  }
  await store.remember(manifest, start, recordings);
  await noteFiles(job, set, store, context);
}

/** Notes for the next image of the repository which files this start has read. The newest start of any of its images replaces the notes. */
async function noteFiles(
  { manifest, start, repository }: RecordJob,
  set: StartSet,
  store: PackStore,
  { layout, signal }: StartContext,
): Promise<void> {
  const flat = await readFile(layout.flat(manifest)).catch((error: NodeJS.ErrnoException) => {
    // The image was removed meanwhile.
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (flat === undefined) return;
  signal.throwIfAborted();
  await store.rememberFiles(repository, start, filesOfStart(set, extentsOf(flat), BLOCK_SIZE));
}

async function makePack(
  job: RecordJob,
  wanted: StartSet,
  store: PackStore,
  context: StartContext,
): Promise<void> {
  const layers = await packedLayers(job.layers, context);
  const blockSize = layers.values().next().value?.table.blockSize ?? 0;
  const set = firstBlocks(wanted, Math.floor(MAX_PACK_BYTES / blockSize));
  const mine = set.devices.map((diffId) => layers.get(diffId) as PackedLayer);
  const files: FileHandle[] = [];
  try {
    for (const { id } of mine) files.push(await open(context.layout.device(id), 'r'));
    const buffer = Buffer.alloc(blockSize);
    const read = async (device: number, block: number, length: number) => {
      context.signal.throwIfAborted();
      const { bytesRead } = await (files[device] as FileHandle).read(buffer, 0, length, block * blockSize);
      return bytesRead === length ? buffer.subarray(0, length) : Buffer.alloc(0);
    };
    const tableOf = (device: number) => (mine[device] as PackedLayer).table;
    // A block may have been evicted since it was read: first find out which ones can be packed.
    const runs: Array<[number, number, number]> = [];
    for (const [device, first, count] of set.runs) {
      const table = tableOf(device);
      for (let block = first; block < Math.min(first + count, table.blockCount); block++) {
        if (!table.verify(block, await read(device, block, table.blockLength(block)))) continue;
        const last = runs.at(-1);
        if (last !== undefined && last[0] === device && last[1] + last[2] === block) last[2] += 1;
        else runs.push([device, block, 1]);
      }
    }
    if (runs.length === 0) return;
    // Packs lie beside the log where the engine has a nats-server of its own.
    const blocks = runs.reduce((sum, [, , count]) => sum + count, 0);
    new DiskRoom(context.layout.root).take(blocks * blockSize);
    const header = {
      manifest: job.manifest,
      blockSize,
      devices: set.devices,
      sizes: set.devices.map((_, device) => tableOf(device).rawSize),
      runs,
    };
    const readAgain = async (device: number, block: number, length: number) => {
      const bytes = await read(device, block, length);
      if (tableOf(device).verify(block, bytes)) return bytes;
      throw new CofaError('unavailable', 'a block of the start was evicted while its pack was made');
    };
    await store.put(job.manifest, job.start, encodePack(header, readAgain));
  } finally {
    await Promise.all(files.map((file) => file.close()));
  }
}

/** Throws the reason of the signal where the job is stopped first. */
async function releaseOf({ released, signal }: StartContext): Promise<PackJob> {
  return await abortable(released ?? Promise.reject(new Error('no order would release it')), signal);
}

/** By diffID. */
async function packedLayers(
  layers: readonly JobLayer[],
  { tables }: StartContext,
): Promise<Map<string, PackedLayer>> {
  const pairs = layers.map(async (layer): Promise<[string, PackedLayer]> => {
    const id = layerOf(layer);
    return [layer.diffId, { id, table: await tables.of(layer.table ?? layer.blob, id) }];
  });
  return new Map(await Promise.all(pairs));
}

function sourceOf(
  pack: Exclude<PackSource, { kind: 'files' }>,
  { packs, registry, signal }: StartContext,
): AsyncIterable<Uint8Array> {
  if (pack.kind === 'nats') return new PackStore(packs).read(pack.name);
  return registry.blobRange(pack, pack, 0, pack.size, signal);
}
