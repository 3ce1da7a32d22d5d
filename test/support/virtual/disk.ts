/**
 * The disk of a virtual machine, with a write cache of its own: what the guest has not flushed is lost with the power, kept, or
 * torn between two sectors, block by block in any order. So does a real disk. A file on this machine would keep all that the
 * guest's kernel has written, flushed or not, when its qemu is killed, and no missing fsync(2) would be seen.
 *
 *     guest ── virtio-blk ── qemu ── NBD, a unix socket ── this: cache ── flush ──▶ a sparse file ── above a base that never changes
 *
 * The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (fixed newstyle, simple replies).
 */
import { closeSync, ftruncateSync, openSync, readSync, statSync, unlinkSync, writeSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import type { Random } from '../random.ts';

/** What is kept or lost as one, bytes. A file system's block. */
export const BLOCK = 4096;
/** A block may be torn between these, bytes. */
const SECTOR = 512;

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
      if (random.chance(1 / 16)) {
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

const IHAVEOPT = Buffer.from('IHAVEOPT');
const OPTION = { exportName: 1, abort: 2, go: 7 } as const;
const REPLY = { ack: 1, info: 3, unsupported: 0x8000_0001 } as const;
const FIXED_NEWSTYLE = 1;
/** FLAGS, FLUSH, FUA. Without TRIM and WRITE_ZEROES the guest writes zeros. */
const EXPORT_FLAGS = 1 | 4 | 8;
const REQUEST = 0x2560_9513;
const SIMPLE_REPLY = 0x6744_6698;
const COMMAND = { read: 0, write: 1, disconnect: 2, flush: 3 } as const;
const FUA = 1;
const EINVAL = 22;

export interface DiskServer {
  /** No request of the qemu that was there is carried out any more: with its power it is gone. */
  disconnect(): void;
  close(): Promise<void>;
}

/** Serves a disk at a unix socket, one qemu after the other. */
export async function serveDisk(disk: CachedDisk, socketPath: string): Promise<DiskServer> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    serve(socket, disk).catch(() => socket.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, resolve);
  });
  const disconnect = () => {
    for (const socket of sockets) socket.destroy();
    sockets.clear();
  };
  return {
    disconnect,
    close: async () => {
      disconnect();
      await new Promise((resolve) => server.close(resolve));
      try {
        unlinkSync(socketPath);
      } catch {}
    },
  };
}

async function serve(socket: Socket, disk: CachedDisk): Promise<void> {
  const input = new Input(socket);
  socket.write(Buffer.concat([Buffer.from('NBDMAGIC'), IHAVEOPT, u16(FIXED_NEWSTYLE)]));
  await input.take(4);
  if (!(await negotiate(socket, input, disk.size))) return void socket.end();
  for (;;) {
    const head = await input.take(28);
    if (head.readUInt32BE(0) !== REQUEST) throw new Error('no request');
    const [flags, command] = [head.readUInt16BE(4), head.readUInt16BE(6)];
    const handle = head.subarray(8, 16);
    const [offset, length] = [Number(head.readBigUInt64BE(16)), head.readUInt32BE(24)];
    const bytes = command === COMMAND.write ? await input.take(length) : undefined;
    // The power may have been cut while the bytes were on their way.
    if (socket.destroyed) return;
    const reply = (error: number, ...data: Buffer[]) =>
      socket.write(Buffer.concat([u32(SIMPLE_REPLY), u32(error), handle, ...data]));
    if (command === COMMAND.disconnect) return void socket.end();
    if (offset + length > disk.size) reply(EINVAL);
    else if (command === COMMAND.read) reply(0, disk.read(offset, length));
    else if (bytes !== undefined) {
      if ((flags & FUA) === 0) disk.write(offset, bytes);
      else disk.writeThrough(offset, bytes);
      reply(0);
    } else if (command === COMMAND.flush) {
      disk.flush();
      reply(0);
    } else reply(EINVAL);
  }
}

/** Whether the client wants the disk. */
async function negotiate(socket: Socket, input: Input, size: number): Promise<boolean> {
  const description = Buffer.concat([u64(size), u16(EXPORT_FLAGS)]);
  for (;;) {
    const head = await input.take(16);
    if (!head.subarray(0, 8).equals(IHAVEOPT)) throw new Error('no option');
    const option = head.readUInt32BE(8);
    await input.take(head.readUInt32BE(12));
    const answer = (type: number, data = Buffer.alloc(0)) =>
      socket.write(
        Buffer.concat([
          Buffer.from('0003e889045565a9', 'hex'),
          u32(option),
          u32(type),
          u32(data.length),
          data,
        ]),
      );
    if (option === OPTION.exportName) {
      socket.write(Buffer.concat([description, Buffer.alloc(124)]));
      return true;
    }
    if (option === OPTION.go) {
      answer(REPLY.info, Buffer.concat([u16(0), description]));
      answer(REPLY.ack);
      return true;
    }
    if (option === OPTION.abort) {
      answer(REPLY.ack);
      return false;
    }
    answer(REPLY.unsupported);
  }
}

/** A stream in pieces of the lengths that are asked for. */
class Input {
  readonly #chunks: Buffer[] = [];
  #length = 0;
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#length += chunk.length;
      this.#wake?.();
    });
    socket.on('close', () => {
      this.#ended = true;
      this.#wake?.();
    });
  }

  async take(length: number): Promise<Buffer> {
    while (this.#length < length) {
      if (this.#ended) throw new Error('the connection has ended');
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const taken: Buffer[] = [];
    for (let left = length; left > 0; ) {
      const first = this.#chunks[0] as Buffer;
      if (first.length <= left) {
        taken.push(first);
        this.#chunks.shift();
        left -= first.length;
      } else {
        taken.push(first.subarray(0, left));
        this.#chunks[0] = first.subarray(left);
        left = 0;
      }
    }
    this.#length -= length;
    return taken.length === 1 ? (taken[0] as Buffer) : Buffer.concat(taken, length);
  }
}

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
