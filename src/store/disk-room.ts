/**
 * What goes into the store leaves a little of the disk to the event log: JetStream that finds no room for a record switches itself
 * off until nats-server is started again (server/jetstream.go, `handleOutOfSpace`; seen with 2.9), and what could have been answered with
 * "the disk is full" is then answered with nothing at all.
 *
 * This is the last bar. The cache begins to make room much earlier (actors/cache.ts), but cannot where everything that is
 * there was read just now, or where others fill the disk.
 */
import { statfsSync, write, writeSync } from 'node:fs';
import { CofaError } from '../../schemas/errors.ts';

/** The log's, bytes: some thousand events. */
export const LOG_ROOM = 2 ** 20;
/** Bytes that are written between two looks, at most: others write to the same disk. */
const SHARE_MAX = 2 ** 20;
/** Share of what is free that one writer takes before it looks again, so that several do not fill the rest together. */
const SHARE = 1 / 16;

/** The cache leaves so much of the disk free: this share of it, at most so many bytes. */
const RESERVE_SHARE = 0.05;
const RESERVE_MAX = 2 * 2 ** 30;

/** Bytes of the disk of `path` that the cache leaves to others. */
export const diskReserve = (path: string): number => Math.min(diskBytes(path) * RESERVE_SHARE, RESERVE_MAX);

/** Bytes of the disk of `path`, used or free. */
export function diskBytes(path: string): number {
  const { blocks, bsize } = statfsSync(path);
  return blocks * bsize;
}

/** The room that one writer has on the disk of `path`, which has to be there. */
export class DiskRoom {
  readonly #path: string;
  readonly #kept: number;
  #share = 0;

  /** `kept`: bytes of the disk that this writer leaves free, beside the log's room. */
  constructor(path: string, kept = 0) {
    this.#path = path;
    this.#kept = LOG_ROOM + kept;
  }

  /** For so many bytes that are about to be written. Error `no-space`: they would take the log's room. */
  take(bytes: number): void {
    if (this.#share < bytes) {
      const { bavail, bsize } = statfsSync(this.#path);
      const free = bavail * bsize - this.#kept;
      if (free < bytes)
        throw new CofaError(
          'no-space',
          this.#kept === LOG_ROOM
            ? `the disk of ${this.#path} is full but for the room of the event log`
            : `the disk of ${this.#path} has less than ${this.#kept} bytes left, which this leaves free`,
        );
      this.#share = Math.max(Math.min(free * SHARE, SHARE_MAX), bytes);
    }
    this.#share -= bytes;
  }

  /** Writes all of it at `position` of a file on that disk. Error `no-space` as `take`; those of the system. */
  write(fd: number, bytes: Buffer, position: number): void {
    this.take(bytes.length);
    writeAll(fd, bytes, position);
  }

  /** As `write`, in a thread of libuv's pool. Neither the bytes nor the descriptor may go before it has settled. */
  async writeAside(fd: number, bytes: Buffer, position: number): Promise<void> {
    this.take(bytes.length);
    for (let at = 0; at < bytes.length; ) at += await writeOnce(fd, bytes.subarray(at), position + at);
  }
}

function writeOnce(fd: number, bytes: Buffer, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    write(fd, bytes, 0, bytes.length, position, (error, count) => {
      if (error === null) resolve(count);
      else reject(error);
    });
  });
}

/** pwrite(2) until all of it is written. */
export function writeAll(fd: number, bytes: Buffer, position: number): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, position + at);
}
