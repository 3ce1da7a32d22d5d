/**
 * Blobs of layers as files, each fetched whole from its registry when it is first read:
 *
 *     ROOT/blobs/<hex> ── first read ──▶ registry ──▶ scratch file ── its digest is right ──▶ the reader
 *                                                        └── unread for a while: its room is given back
 *
 * No byte of a blob is given to a reader before the whole blob has hashed to its name. A reader waits meanwhile; where
 * the blob cannot be had it gets EIO. A copy of a blob therefore has all of it, or an error.
 *
 * The files are a FUSE mount for root alone. They need nothing on the disk but what was just read: a scratch file has no
 * name, and ends with this process.
 */
import { constants } from 'node:fs';
import { closeSync, ftruncateSync, mkdirSync, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { hexOf } from '../../schemas/digest.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type { LazyBlob } from '../containerd/lazy-content.ts';
import { type KernelTransport, kernelTransport } from '../fuse/kernel-transport.ts';
import { clearDeadMount } from '../fuse/connection.ts';
import { type FuseSession, openFuseSession } from '../fuse/session.ts';
import { BLOCK_ABSENT, BLOCK_PRESENT, type ColdRead, inodeOf } from '../fuse/transport.ts';
import type { RegistryClient } from '../registry/client.ts';
import { DiskRoom } from '../store/disk-room.ts';

export interface BlobFilesOptions {
  /** The mount point; made where it is missing. */
  dir: string;
  /** An existing folder, on whose disk blobs lie while they are read. */
  scratch: string;
  registry: Pick<RegistryClient, 'blobStream'>;
  /** A blob that was not read for so long is given up, ms. */
  keepMs?: number;
  /** A registry that does not answer is waited for so long, ms. */
  patienceMs?: number;
  /** Mounts the files; by default with FUSE. */
  open?: (dir: string, cold: ColdRead) => Promise<BlobMount>;
  log: Logger;
}

/** The files as they are mounted. */
export interface BlobMount {
  session: Pick<FuseSession, 'close'>;
  transport: KernelTransport;
}

interface Entry {
  blob: LazyBlob;
  inode: number;
  fd: number;
  state: Uint8Array;
  /** Under way: a fetch, or the giving up of what was fetched. */
  work: Promise<void> | undefined;
  /** Reads of it when it was last looked at; undefined: it is not here. */
  seen: number | undefined;
}

const KEEP_MS = 60_000;
/**
 * docker save ends well, and leaves half a file, when it cannot read a blob (`getImagesGet` in moby's
 * daemon/server/router/image): so a registry that is away for a while had better be waited for.
 */
const PATIENCE_MS = 120_000;
const AGAIN_MS = 2_000;
/** Blobs that are fetched at a time; further readers wait. */
const AT_ONCE = 3;
/** Each costs two descriptors. */
const MOST = 16_384;
/** The first reader waits for the whole blob. */
const EIO = 5;

export class BlobFiles {
  readonly #options: BlobFilesOptions;
  readonly #entries = new Map<number, Entry>();
  readonly #leaving = new AbortController();
  #mount: Promise<BlobMount> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #running = 0;
  readonly #queue: Array<() => void> = [];

  /** The mount of a process that was killed is gone. */
  readonly #tidied: Promise<void>;

  constructor(options: BlobFilesOptions) {
    this.#options = options;
    this.#tidied = clearDeadMount(options.dir).catch((error: unknown) =>
      options.log.warn({ error }, 'blobs of another process are mounted'),
    );
  }

  /** Path of a blob's file. */
  pathOf(digest: string): string {
    return join(this.#options.dir, hexOf(digest));
  }

  digests(): string[] {
    return [...this.#entries.values()].map(({ blob }) => blob.digest);
  }

  /**
   * The blob has a file when this resolves to true; false where there are too many. Errors: those of FUSE, such as
   * `environment` without it.
   */
  async add(blob: LazyBlob): Promise<boolean> {
    const inode = inodeOf(blob.digest);
    const { transport } = await this.#mounted();
    if (this.#entries.has(inode)) return true;
    if (this.#entries.size >= MOST) return false;
    const fd = this.#scratch(blob.size);
    const blocks = new SharedArrayBuffer(1);
    try {
      transport.add({
        name: hexOf(blob.digest),
        inode,
        size: blob.size,
        anySize: true,
        fd,
        // One block: it is here whole or not at all.
        blockSize: 2 ** Math.max(9, Math.ceil(Math.log2(blob.size))),
        blocks,
      });
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    const state = new Uint8Array(blocks);
    this.#entries.set(inode, { blob, inode, fd, state, work: undefined, seen: undefined });
    return true;
  }

  /** Readers get EIO from now on. */
  async remove(digest: string): Promise<void> {
    const entry = this.#entries.get(inodeOf(digest));
    if (entry === undefined) return;
    this.#entries.delete(entry.inode);
    (await this.#mounted()).transport.remove(entry.inode);
    await entry.work?.catch(() => {});
    closeSync(entry.fd);
  }

  /** All that was here before a restart has been added: from now on what is not known does not exist. */
  async settled(): Promise<void> {
    if (this.#mount !== undefined) (await this.#mounted()).transport.settled();
  }

  /** Unmounts; readers get EIO. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#leaving.abort();
    await this.#tidied;
    const mount = await this.#mount?.catch(() => undefined);
    if (mount === undefined) return;
    await mount.transport.stop();
    mount.session.close();
  }

  #mounted(): Promise<BlobMount> {
    this.#leaving.signal.throwIfAborted();
    this.#mount ??= this.#open().catch((error: unknown) => {
      this.#mount = undefined;
      throw error;
    });
    return this.#mount;
  }

  async #open(): Promise<BlobMount> {
    const { dir, log, open = openFuse } = this.#options;
    // A dead mount is there, and cannot be looked at.
    try {
      mkdirSync(dir, { mode: 0o700 });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    await this.#tidied;
    const mount = await open(dir, this.#cold);
    void mount.transport.ended.then((error) => {
      if (error !== undefined)
        log.error({ error }, 'blobs cannot be read until the snapshotter starts again');
    });
    return mount;
  }

  /** A file without a name, of zeros. */
  #scratch(size: number): number {
    const path = join(this.#options.scratch, `blob-${process.pid}.draft`);
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC, 0o600);
    unlinkSync(path);
    ftruncateSync(fd, size);
    return fd;
  }

  readonly #cold: ColdRead = ({ inode }, _offset, _length, answer) => {
    const entry = this.#entries.get(inode);
    if (entry === undefined) return answer(EIO);
    void this.#here(entry).then(
      () => answer(0),
      () => answer(EIO),
    );
  };

  async #here(entry: Entry): Promise<void> {
    for (;;) {
      // It may have been removed meanwhile: its descriptor is closed then, or soon, and another file's next.
      if (this.#entries.get(entry.inode) !== entry)
        throw new CofaError('not-found', `${entry.blob.digest} was removed`);
      if (Atomics.load(entry.state, 0) === BLOCK_PRESENT) return;
      if (entry.work === undefined) break;
      await entry.work;
    }
    entry.work = this.#fetch(entry).finally(() => {
      entry.work = undefined;
    });
    await entry.work;
  }

  async #fetch(entry: Entry): Promise<void> {
    const { log } = this.#options;
    const { blob, state } = entry;
    if (this.#running >= AT_ONCE) await new Promise<void>((resolve) => this.#queue.push(resolve));
    else this.#running += 1;
    try {
      await this.#download(entry);
      entry.seen = -1;
      Atomics.store(state, 0, BLOCK_PRESENT);
      this.#timer ??= setInterval(() => this.#giveUp(), (this.#options.keepMs ?? KEEP_MS) / 2).unref();
      log.info({ blob: blob.digest, bytes: blob.size }, 'a blob was fetched for a reader');
    } catch (error) {
      log.warn(
        { blob: blob.digest, source: blob.source.text, error: toErrorRecord(error) },
        'a blob cannot be read',
      );
      empty(entry);
      throw error;
    } finally {
      const next = this.#queue.shift();
      if (next === undefined) this.#running -= 1;
      else next();
    }
  }

  async #download({ blob, fd }: Entry): Promise<void> {
    const { registry, scratch, patienceMs = PATIENCE_MS } = this.#options;
    const { signal } = this.#leaving;
    const room = new DiskRoom(scratch);
    const until = performance.now() + patienceMs;
    for (;;) {
      let position = 0;
      try {
        // Throws at its end where the digest is wrong.
        for await (const piece of registry.blobStream(blob.source, blob, signal)) {
          room.write(fd, piece, position);
          position += piece.length;
        }
        return;
      } catch (error) {
        const { code } = toErrorRecord(error);
        const isAway = code === 'unavailable' || code === 'timeout';
        if (!isAway || signal.aborted || performance.now() + AGAIN_MS > until) throw error;
      }
      await sleep(AGAIN_MS, undefined, { signal });
    }
  }

  /** Looks which blobs were not read since the last look, and gives back their room. */
  async #giveUp(): Promise<void> {
    const { transport } = await this.#mounted();
    for (const entry of this.#entries.values()) {
      if (entry.seen === undefined || entry.work !== undefined) continue;
      const { reads } = transport.counters(entry.inode);
      const isIdle = entry.seen === reads;
      entry.seen = reads;
      if (!isIdle) continue;
      entry.seen = undefined;
      entry.work = (async () => {
        Atomics.store(entry.state, 0, BLOCK_ABSENT);
        await transport.quiesce();
        empty(entry);
      })().finally(() => {
        entry.work = undefined;
      });
    }
  }
}

async function openFuse(dir: string, cold: ColdRead): Promise<BlobMount> {
  const session = await openFuseSession(dir);
  return { session, transport: kernelTransport({ fd: session.fd, resend: false, cold, threads: 1 }) };
}

function empty({ fd, blob }: Entry): void {
  ftruncateSync(fd, 0);
  ftruncateSync(fd, blob.size);
}
