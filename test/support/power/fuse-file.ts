/**
 * Serves a disk with a write cache (cached-disk.ts) as the one file of a FUSE mount, in a process of its own: a loop device stands on
 * that file, and a server in the process that waits for the loop would wait for itself.
 *
 *     file system ── loop, direct I/O ── FUSE: WRITE, READ, FSYNC ── this: cache ── flush ──▶ a file
 *
 * The loop driver makes of each flush of a file system an fsync of the file (lo_req_flush in drivers/block/loop.c), and of a write that
 * has to be durable by itself (FUA) the block layer makes a write and a flush. The file is opened for direct I/O, so the kernel keeps
 * nothing of it: each write comes here before it is answered.
 */
import { closeSync, openSync, read, writeSync } from 'node:fs';
import { answerInit, BODY, ERRNO, IN, MAX_READ, OP, OUT, READ_IN, ROOT } from '../../../src/fuse/protocol.ts';
import { isErrno } from '../../../src/kernel/errno.ts';
import { MS, mountSync } from '../../../src/kernel/mount.ts';
import { Random } from '../random.ts';
import { CachedDisk, type Cut } from './cached-disk.ts';

export type Order =
  /** Mount it at an empty folder. */
  | { order: 'serve'; target: string }
  /** The power is off: from now on no request is carried out or answered. */
  | { order: 'stop' }
  /** What the cache held is lost, or not, by the chance of a seed. */
  | { order: 'cut'; seed: number }
  | { order: 'look' };

export interface Look {
  unflushed: number;
  writes: number;
  flushes: number;
}

export interface Answer {
  cut?: Cut;
  look?: Look;
  error?: string;
}

/** Requests that write or sync; the engine's own mounts know none (src/fuse/protocol.ts). */
const WRITE = 16;
const FSYNC = 20;
/** struct fuse_write_in, byte offsets in the request; the bytes follow at `data`. */
const WRITE_IN = { offset: IN.size + 8, length: IN.size + 16, data: IN.size + 40 } as const;
/** Of struct fuse_init_out. */
const MAX_WRITE = OUT.size + 20;
const FOPEN_DIRECT_IO = 1;
const INODE = 2;
const NO_REPLY: ReadonlySet<number> = new Set([OP.FORGET, OP.BATCH_FORGET, OP.INTERRUPT]);
const DONE: ReadonlySet<number> = new Set([OP.FLUSH, OP.RELEASE, OP.DESTROY]);
/** Requests that wait in read(2) at the same time. */
const READERS = 2;
const ROOM = MAX_READ + 8192;
/** After `stop` the connection is aborted within this time, ms. */
const STOPPED_MS = 60_000;
const FOREVER_S = 1_000_000_000n;

class Connection {
  readonly #disk: CachedDisk;
  readonly #fd: number;
  readonly #counts: Look;
  #readers = 0;
  #isOff = false;

  constructor(disk: CachedDisk, target: string, counts: Look) {
    this.#disk = disk;
    this.#counts = counts;
    this.#fd = openSync('/dev/fuse', 'r+');
    mountSync({
      source: 'cofa-test-disk',
      target,
      type: 'fuse',
      flags: MS.NOSUID | MS.NODEV | MS.NOEXEC,
      data: `fd=${this.#fd},rootmode=40000,user_id=0,group_id=0,max_read=${MAX_READ}`,
    });
    for (; this.#readers < READERS; this.#readers++) this.#next(Buffer.allocUnsafeSlow(ROOM));
  }

  /** Its requests stay without an answer, until the connection is aborted. */
  off(): void {
    this.#isOff = true;
  }

  #next(request: Buffer): void {
    read(this.#fd, request, 0, request.length, null, (error, length) => {
      if (error !== null && !isErrno(error, 'ENOENT', 'EINTR', 'EAGAIN')) {
        // The connection was aborted, or unmounted.
        this.#readers -= 1;
        if (this.#readers === 0) closeSync(this.#fd);
        return;
      }
      if (error === null && !this.#isOff) this.#answer(request.subarray(0, length));
      this.#next(request);
    });
  }

  #answer(request: Buffer): void {
    const opcode = request.readUInt32LE(IN.opcode);
    const inode = Number(request.readBigUInt64LE(IN.inode));
    if (NO_REPLY.has(opcode)) return;
    if (opcode === OP.INIT) {
      const { reply } = answerInit(request);
      reply.writeUInt32LE(MAX_READ, MAX_WRITE);
      writeSync(this.#fd, reply);
    } else if (opcode === OP.READ) {
      const offset = Number(request.readBigUInt64LE(READ_IN.offset));
      const wanted = request.readUInt32LE(READ_IN.length);
      this.#reply(
        request,
        0,
        this.#disk.read(offset, Math.max(0, Math.min(wanted, this.#disk.size - offset))),
      );
    } else if (opcode === WRITE) {
      const offset = Number(request.readBigUInt64LE(WRITE_IN.offset));
      const length = request.readUInt32LE(WRITE_IN.length);
      this.#disk.write(offset, request.subarray(WRITE_IN.data, WRITE_IN.data + length));
      this.#counts.writes += 1;
      const written = Buffer.alloc(8);
      written.writeUInt32LE(length, 0);
      this.#reply(request, 0, written);
    } else if (opcode === FSYNC) {
      this.#disk.flush();
      this.#counts.flushes += 1;
      this.#reply(request, 0);
    } else if (opcode === OP.LOOKUP) {
      const name = request.toString('latin1', IN.size, request.length - 1);
      if (inode === ROOT && name === fileName) this.#reply(request, 0, this.#entry());
      else this.#reply(request, ERRNO.ENOENT);
    } else if (opcode === OP.GETATTR) {
      const body = Buffer.alloc(BODY.attr);
      body.writeBigUInt64LE(FOREVER_S, 0);
      this.#attributes(inode).copy(body, 16);
      this.#reply(request, 0, body);
    } else if (opcode === OP.OPEN) {
      const body = Buffer.alloc(BODY.open);
      body.writeUInt32LE(FOPEN_DIRECT_IO, 8);
      this.#reply(request, 0, body);
    } else this.#reply(request, DONE.has(opcode) ? 0 : ERRNO.ENOSYS);
  }

  /** struct fuse_entry_out of the file. */
  #entry(): Buffer {
    const body = Buffer.alloc(BODY.entry);
    body.writeBigUInt64LE(BigInt(INODE), 0);
    body.writeBigUInt64LE(FOREVER_S, 16);
    body.writeBigUInt64LE(FOREVER_S, 24);
    this.#attributes(INODE).copy(body, 40);
    return body;
  }

  /** struct fuse_attr. */
  #attributes(inode: number): Buffer {
    const isFile = inode === INODE;
    const attributes = Buffer.alloc(88);
    attributes.writeBigUInt64LE(BigInt(inode), 0);
    attributes.writeBigUInt64LE(BigInt(isFile ? this.#disk.size : 0), 8);
    attributes.writeUInt32LE(isFile ? 0o100600 : 0o040700, 60);
    attributes.writeUInt32LE(isFile ? 1 : 2, 64);
    attributes.writeUInt32LE(4096, 80);
    return attributes;
  }

  #reply(request: Buffer, errno: number, body: Buffer = Buffer.alloc(0)): void {
    const head = Buffer.alloc(OUT.size);
    head.writeUInt32LE(OUT.size + body.length, OUT.length);
    head.writeInt32LE(-errno, OUT.error);
    request.copy(head, OUT.unique, IN.unique, IN.unique + 8);
    try {
      writeSync(this.#fd, Buffer.concat([head, body]));
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'ENODEV', 'ECONNABORTED', 'ENOTCONN')) throw error;
    }
  }
}

const [base, file, fileName] = process.argv.slice(2) as [string, string, string];
const disk = new CachedDisk({ base, file });
const counts: Look = { unflushed: 0, writes: 0, flushes: 0 };
let connection: Connection | undefined;
let alarm: NodeJS.Timeout | undefined;

/** At once: an orderly exit would wait for the threads that read requests. */
const end = () => process.kill(process.pid, 'SIGKILL');

function obey(order: Order): Answer {
  switch (order.order) {
    case 'serve':
      connection = new Connection(disk, order.target, counts);
      return {};
    case 'stop':
      connection?.off();
      // Should its parent itself wait for the disk, the end of this process makes an end of that.
      clearTimeout(alarm);
      alarm = setTimeout(end, STOPPED_MS);
      return {};
    case 'cut':
      clearTimeout(alarm);
      return { cut: disk.cut(new Random(order.seed)) };
    case 'look':
      return { look: { ...counts, unflushed: disk.unflushed } };
  }
}

process.on('message', (order: Order) => {
  let answer: Answer;
  try {
    answer = obey(order);
  } catch (error) {
    answer = { error: String(error) };
  }
  process.send?.(answer);
});
// Its parent has ended.
process.on('disconnect', end);
