/**
 * A disk with a write cache of its own: what was not flushed is lost with the power, kept, or torn between two sectors, block by
 * block in any order. So does a real disk. A file on this machine would keep all that a kernel has written, flushed or not, and no
 * missing fsync(2) would be seen.
 *
 * A virtual machine has it by NBD (test/support/virtual/disk.ts), a file system of this machine by FUSE and a loop (fuse-disk.ts).
 */
import { closeSync, ftruncateSync, openSync, readSync, statSync, writeSync } from 'node:fs';
import type { Random } from '../random.ts';

/** What is kept or lost as one, bytes. A file system's block. */
export const BLOCK = 4096;
/** A block may be torn between these, bytes. */
const SECTOR = 512;
/**
 * It is never torn: ext4's superblock lies there, with one checksum over two sectors, and ext4 does not survive that. Disks of today
 * write 4096 bytes at once, whatever they call a sector.
 */
const FIRST = 0;

export interface CachedDiskOptions {
  /** What the disk holds at first. It is only read. */
  base: string;
  /** What differs from it; made anew. */
  file: string;
  /** Bytes that the cache holds; what does not fit any more is written, the oldest first. */
  cacheBytes?: number;
}

export interface Cut {
  /** Blocks that were written and not flushed. */
  unflushed: number;
  lost: number;
  torn: number;
}

/** Blocks of a disk, and what a power cut leaves of them. Synchronous: the order of calls is the order on the disk. */
export class CachedDisk {
  readonly size: number;
  readonly #base: number;
  readonly #file: number;
  readonly #cacheBytes: number;
  /** A bit for each block: it is in the file, not in the base. */
  readonly #own: Uint8Array;
  /** Versions of each block since the last flush, the newest last. In the order of their first writes. */
  readonly #cache = new Map<number, Buffer[]>();
  #cached = 0;

  constructor({ base, file, cacheBytes = 64 << 20 }: CachedDiskOptions) {
    this.size = statSync(base).size;
    if (this.size % BLOCK !== 0) throw new Error(`${base} does not end with a whole block`);
    this.#base = openSync(base, 'r');
    this.#file = openSync(file, 'w+');
    ftruncateSync(this.#file, this.size);
    this.#own = new Uint8Array(Math.ceil(this.size / BLOCK / 8));
    this.#cacheBytes = cacheBytes;
  }

  /** Bytes that were written and not flushed. */
  get unflushed(): number {
    return this.#cache.size * BLOCK;
  }

  read(offset: number, length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length);
    for (let at = 0; at < length; ) {
      const block = Math.floor((offset + at) / BLOCK);
      const within = (offset + at) % BLOCK;
      const newest = this.#cache.get(block)?.at(-1);
      if (newest !== undefined) {
        at += newest.copy(bytes, at, within);
        continue;
      }
      // As many as lie in the same file, with one call.
      const own = this.#isOwn(block);
      let end = block + 1;
      while (end * BLOCK < offset + length && !this.#cache.has(end) && this.#isOwn(end) === own) end += 1;
      const wanted = Math.min(end * BLOCK - offset - at, length - at);
      readFull(own ? this.#file : this.#base, bytes.subarray(at, at + wanted), offset + at);
      at += wanted;
    }
    return bytes;
  }

  write(offset: number, bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const block = Math.floor((offset + at) / BLOCK);
      const within = (offset + at) % BLOCK;
      const length = Math.min(BLOCK - within, bytes.length - at);
      const version = length === BLOCK ? Buffer.allocUnsafe(BLOCK) : this.read(block * BLOCK, BLOCK);
      bytes.copy(version, within, at, at + length);
      const versions = this.#cache.get(block);
      if (versions === undefined) this.#cache.set(block, [version]);
      else versions.push(version);
      this.#cached += BLOCK;
      at += length;
    }
    for (const block of this.#cache.keys()) {
      if (this.#cached <= this.#cacheBytes) break;
      this.#keep(block);
    }
  }

  /** All that was written is there also after a cut. */
  flush(): void {
    for (const block of this.#cache.keys()) this.#keep(block);
  }

  /** Durable when it returns; other writes stay in the cache. */
  writeThrough(offset: number, bytes: Buffer): void {
    this.write(offset, bytes);
    const last = Math.floor((offset + bytes.length - 1) / BLOCK);
    for (let block = Math.floor(offset / BLOCK); block <= last; block++) this.#keep(block);
  }

  /** The power is cut. One time in three nothing is kept of what was not flushed, else some of it, by chance. */
  cut(random: Random): Cut {
    const chance = random.chance(1 / 3) ? 0 : random.next();
    const cut: Cut = { unflushed: this.#cache.size, lost: 0, torn: 0 };
    for (const [block, versions] of this.#cache) {
      if (!random.chance(chance)) {
        cut.lost += 1;
        continue;
      }
      const version = versions[random.int(0, versions.length - 1)] as Buffer;
      if (block !== FIRST && random.chance(1 / 16)) {
        cut.torn += 1;
        const before = this.#durable(block);
        before.copy(version, 0, 0, SECTOR * random.int(1, BLOCK / SECTOR - 1));
      }
      this.#put(block, version);
    }
    this.#cache.clear();
    this.#cached = 0;
    return cut;
  }

  close(): void {
    closeSync(this.#base);
    closeSync(this.#file);
  }

  #isOwn(block: number): boolean {
    return ((this.#own[block >> 3] ?? 0) & (1 << (block & 7))) !== 0;
  }

  /** A block as it would be after a cut that loses all. */
  #durable(block: number): Buffer {
    const bytes = Buffer.allocUnsafe(BLOCK);
    readFull(this.#isOwn(block) ? this.#file : this.#base, bytes, block * BLOCK);
    return bytes;
  }

  #keep(block: number): void {
    const versions = this.#cache.get(block);
    if (versions === undefined) return;
    this.#put(block, versions.at(-1) as Buffer);
    this.#cache.delete(block);
    this.#cached -= versions.length * BLOCK;
  }

  #put(block: number, bytes: Buffer): void {
    writeSync(this.#file, bytes, 0, BLOCK, block * BLOCK);
    this.#own[block >> 3] = (this.#own[block >> 3] ?? 0) | (1 << (block & 7));
  }
}

function readFull(fd: number, bytes: Buffer, offset: number): void {
  for (let at = 0; at < bytes.length; ) {
    const read = readSync(fd, bytes, at, bytes.length - at, offset + at);
    if (read === 0) throw new Error('the disk ended too early');
    at += read;
  }
}
