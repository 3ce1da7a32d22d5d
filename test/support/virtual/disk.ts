/**
 * The disk of a virtual machine, with a write cache of its own (test/support/power/cached-disk.ts). A file on this machine would keep
 * all that the guest's kernel has written, flushed or not, when its qemu is killed.
 *
 *     guest ── virtio-blk ── qemu ── NBD, a unix socket ── this: cache ── flush ──▶ a sparse file ── above a base that never changes
 *
 * The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (fixed newstyle, simple replies).
 */
import { unlinkSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import type { CachedDisk } from '../power/cached-disk.ts';

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
