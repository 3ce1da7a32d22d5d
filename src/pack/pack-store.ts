/**
 * Startup packs and the recordings that they are made of, shared by all nodes of one NATS: a JetStream object store.
 * What one node has learned helps the next one, and no node needs the right to push to a registry. The store is a
 * cache: losing it costs time only.
 *
 *     <manifest hex>.<start>.starts   the newest recordings of each node, msgpack
 *     <manifest hex>.<start>.pack     the pack (format.ts)
 *     <repository>.<start>.files      the files that the newest start of an image of this repository has read, msgpack
 *                                     with zstd; `repository`: the SHA-256 of `registry/repository`, in hex
 *
 * `start` tells one command of an image from another: `default` for the image's own, else a digest of the arguments.
 */
import { promisify } from 'node:util';
import { zstdCompress, zstdDecompress } from 'node:zlib';
import type { NatsConnection } from '@nats-io/nats-core';
import { Objm, type ObjectInfo, type ObjectStore, setSha256Backend } from '@nats-io/obj';
import { z } from 'zod';
import { sha256Hex } from '../digest/digest.ts';
import type { StartFiles } from '../../actors/start-files.ts';
import { newestRecordings, type NodeRecording } from '../../actors/start-recordings.ts';
import { firstBlocks } from '../../actors/start-set.ts';
import { CofaError } from '../../schemas/errors.ts';
import { PACK_BUCKET } from '../../schemas/subjects.ts';
import { decodeIfSound, encode } from '../bus/connection.ts';
import { hexOf } from '../../schemas/digest.ts';
import { MAX_PACKED_BYTES } from './format.ts';
import { readObject, wholeObject } from './stored-object.ts';

// The default is JavaScript: it hashes 14 MB in 230 ms, OpenSSL in 10.
setSha256Backend('native');

/** The image's own command. */
export const DEFAULT_START = 'default';

/** Bytes of all packs; beyond them the store discards the oldest. */
const MAX_BYTES = 2 ** 31;
const MAX_RECORDINGS_BYTES = 16 << 20;
/**
 * Blocks of one start that are noted, the first ones: 4 GiB, four times what a pack takes. A reader goes through them one
 * by one, so a run of 2^50 blocks would never end.
 */
const MAX_START_BLOCKS = 1 << 16;
/** Longest wait for an answer, ms: a later one is of no use to a start. */
const LOOKUP_MS = 1_000;

/** Values of either: some 100 MiB of memory at the worst, in a fetcher. */
const MOST_RECORDED = 5 << 19;
/** Bytes of the notes about files, as stored and unpacked. */
const MAX_FILES_BYTES = 8 << 20;
const MAX_FILES_UNPACKED = 16 << 20;
const MAX_PIECES = 1 << 18;

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

const Runs = z
  .array(z.tuple([z.int().min(0), z.int().min(0), z.int().min(1)]))
  .max(MAX_START_BLOCKS)
  .refine((runs) => runs.reduce((sum, [, , count]) => sum + count, 0) <= MAX_START_BLOCKS);
const StartSetShape = z.object({ devices: z.array(z.string().max(100)).max(1024), runs: Runs });
/** Where an earlier cofa wrote them the node is missing; it reads them without it. */
const Recording = StartSetShape.extend({ node: z.string().max(255).optional() });
const Recordings = z.object({ v: z.literal(1), starts: z.array(Recording).max(64) });
const count = z.int().min(0);
const Files = StartSetShape.extend({
  v: z.literal(1),
  /** Of each device: path, size of the file, offset in it, place in the device. */
  pieces: z
    .array(z.array(z.tuple([z.string().max(8192), count, count, count, count])).max(MAX_PIECES))
    .max(1024)
    .refine((all) => all.reduce((sum, { length }) => sum + length, 0) <= MAX_PIECES),
});

export interface StoredPack {
  name: string;
  /** bytes */
  size: number;
}

export interface StoredPackInfo extends StoredPack {
  manifest: string;
  start: string;
  /** ISO 8601 */
  madeAt: string;
}

export class PackStore {
  readonly #bus: () => Promise<NatsConnection>;
  readonly #maxBytes: number;
  #store: Promise<ObjectStore> | undefined;

  /** `bus`: gives a connection of the packs' user. */
  constructor(bus: () => Promise<NatsConnection>, options: { maxBytes?: number } = {}) {
    this.#bus = bus;
    this.#maxBytes = options.maxBytes ?? MAX_BYTES;
  }

  /**
   * The pack of a start, else that of the image's own command; undefined without a pack, or without an answer in time.
   */
  async find(manifest: string, start: string): Promise<StoredPack | undefined> {
    return await this.#find([start, DEFAULT_START].map((key) => nameOf(manifest, key, 'pack')));
  }

  /** The first of these objects that exists. */
  async #find(names: readonly string[]): Promise<StoredPack | undefined> {
    const store = await this.#open();
    const found = await Promise.all([...new Set(names)].map((name) => within(LOOKUP_MS, store.info(name))));
    const best = found.find((info): info is ObjectInfo => info != null && !info.deleted);
    return best === undefined ? undefined : { name: best.name, size: best.size };
  }

  /** All packs, by manifest. */
  async list(): Promise<StoredPackInfo[]> {
    const all = await (await this.#open()).list();
    const packs = all.flatMap(({ name, size, mtime, deleted }): StoredPackInfo[] => {
      const match = /^([0-9a-f]{64})\.([a-z0-9]{1,64})\.pack$/.exec(name);
      if (match === null || deleted) return [];
      return [{ name, size, madeAt: mtime, manifest: `sha256:${match[1]}`, start: match[2] as string }];
    });
    return packs.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * A pack as it arrives. Errors: `not-found`; `integrity` for more bytes than a pack can have, and at the end where they
   * are not those that were put.
   */
  async *read(name: string): AsyncGenerator<Uint8Array, void, undefined> {
    const info = await this.#info(name);
    if (info === undefined) throw new CofaError('not-found', `the startup pack ${name} is gone`);
    yield* readObject(await this.#bus(), info, MAX_PACKED_BYTES);
  }

  async #info(name: string): Promise<ObjectInfo | undefined> {
    const info = await (await this.#open()).info(name);
    return info === null || info.deleted ? undefined : info;
  }

  /** Stores a pack in place of the one before it. */
  async put(manifest: string, start: string, body: AsyncIterable<Uint8Array>): Promise<StoredPack> {
    const store = await this.#open();
    const name = nameOf(manifest, start, 'pack');
    const info = await store.put({ name }, ReadableStream.from(body) as ReadableStream<Uint8Array>);
    await this.#trim(store, name);
    return { name: info.name, size: info.size };
  }

  /** The recordings of a start that count, oldest first; none where they cannot be read. */
  async recordings(manifest: string, start: string): Promise<NodeRecording[]> {
    const info = await this.#info(nameOf(manifest, start, 'starts'));
    if (info === undefined) return [];
    try {
      return parseRecordings(await wholeObject(await this.#bus(), info, MAX_RECORDINGS_BYTES));
    } catch (error) {
      if (error instanceof CofaError && error.code !== 'integrity') throw error;
      return [];
    }
  }

  /**
   * Keeps the newest of the recordings. Of two nodes that write at once one loses its own: a later start records again.
   */
  async remember(manifest: string, start: string, recordings: readonly NodeRecording[]): Promise<void> {
    const name = nameOf(manifest, start, 'starts');
    const bounded = recordings.map(({ node, set }) => ({ node, set: firstBlocks(set, MAX_START_BLOCKS) }));
    const starts = newestRecordings(bounded).map(({ node, set: { devices, runs } }) => ({
      devices,
      runs,
      node,
    }));
    await (await this.#open()).putBlob({ name }, encode({ v: 1, starts }));
  }

  /**
   * The files that the repository's newest start has read, under the same key or the default one; undefined as with
   * `find`.
   */
  async findFiles(repository: string, start: string): Promise<StoredPack | undefined> {
    return await this.#find([start, DEFAULT_START].map((key) => filesName(repository, key)));
  }

  /** Errors: `not-found`, `integrity` where they are not what `rememberFiles` writes. */
  async files(name: string): Promise<StartFiles> {
    const info = await this.#info(name);
    if (info === undefined) throw new CofaError('not-found', `${name} is gone from the startup packs`);
    return await parseFiles(await wholeObject(await this.#bus(), info, MAX_FILES_BYTES));
  }

  /** Keeps the files of a start in place of those of the start before; not where they are too large to be of use. */
  async rememberFiles(repository: string, start: string, files: StartFiles): Promise<void> {
    const { devices, runs } = firstBlocks(files, MAX_START_BLOCKS);
    const pieces = files.pieces.map((of) =>
      of.map(({ path, size, at, from, to }) => [path, size, at, from, to]),
    );
    const raw = encode({ v: 1, devices, runs, pieces });
    if (raw.length > MAX_FILES_UNPACKED || pieces.flat().length > MAX_PIECES) return;
    const bytes = await compress(raw);
    if (bytes.length > MAX_FILES_BYTES) return;
    await (await this.#open()).putBlob({ name: filesName(repository, start) }, bytes);
  }

  async remove(manifest: string, start: string): Promise<void> {
    const store = await this.#open();
    for (const kind of ['pack', 'starts'] as const) await store.delete(nameOf(manifest, start, kind));
  }

  /** Deletes a pack that is of no use. The recordings that it was made of stay, and make the next one. */
  async discard(name: string): Promise<void> {
    await (await this.#open()).delete(name);
  }

  async #trim(store: ObjectStore, keep: string): Promise<void> {
    const all = (await store.list()).filter(({ deleted }) => !deleted);
    let total = all.reduce((sum, { size }) => sum + size, 0);
    for (const info of all.sort((a, b) => (a.mtime < b.mtime ? -1 : 1))) {
      if (total <= this.#maxBytes) return;
      if (info.name === keep) continue;
      await store.delete(info.name);
      total -= info.size;
    }
  }

  #open(): Promise<ObjectStore> {
    this.#store ??= this.#bus()
      .then((bus) => new Objm(bus).create(PACK_BUCKET, { max_bytes: this.#maxBytes * 2 }))
      .catch((cause: unknown) => {
        this.#store = undefined;
        const text = cause instanceof Error ? cause.message : String(cause);
        throw new CofaError('unavailable', `NATS does not keep startup packs: ${text}`, { cause });
      });
    return this.#store;
  }
}

/** What `remember` has written. Error `integrity` for anything else. */
export function parseRecordings(bytes: Uint8Array): NodeRecording[] {
  try {
    const { starts } = Recordings.parse(decodeIfSound(bytes, MOST_RECORDED));
    return newestRecordings(starts.map(({ node = '', devices, runs }) => ({ node, set: { devices, runs } })));
  } catch (cause) {
    throw new CofaError('integrity', 'recordings of the startup packs are malformed', { cause });
  }
}

/** What `rememberFiles` has written. Error `integrity` for anything else. */
export async function parseFiles(bytes: Uint8Array): Promise<StartFiles> {
  try {
    const raw = await decompress(bytes, { maxOutputLength: MAX_FILES_UNPACKED });
    const { devices, runs, pieces } = Files.parse(decodeIfSound(raw, MOST_RECORDED));
    return {
      devices,
      runs,
      pieces: pieces.map((of) => of.map(([path, size, at, from, to]) => ({ path, size, at, from, to }))),
    };
  } catch (cause) {
    throw new CofaError('integrity', 'notes of the startup packs are malformed', { cause });
  }
}

function nameOf(manifest: string, start: string, kind: 'pack' | 'starts'): string {
  return `${hexOf(manifest)}.${checked(start)}.${kind}`;
}

function filesName(repository: string, start: string): string {
  const digest = sha256Hex(repository);
  return `${digest}.${checked(start)}.files`;
}

function checked(start: string): string {
  if (!/^[a-z0-9]{1,64}$/.test(start))
    throw new RangeError(`not the key of a start: ${JSON.stringify(start)}`);
  return start;
}

async function within<T>(ms: number, work: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms);
  });
  try {
    return await Promise.race([work.catch(() => undefined), late]);
  } finally {
    clearTimeout(timer);
  }
}
