/**
 * One thread of the kernel-protocol transport. It blocks in read(2) on /dev/fuse, answers what it can on the spot
 * (everything, once a layer's blocks are present) and hands the rest to the main thread: reads of blocks that are not
 * present, and requests for files that a restarted front end has yet to add.
 *
 * A blocked thread receives no messages. So the file table reaches it through a port, which it drains after a read(2)
 * that finds a newer version of the table; the main thread posts a file before the kernel can ask for it. The turn
 * counter (odd while the thread works on a request) tells the main thread when no thread can still use a file's
 * descriptor.
 */
import { readlinkSync, readSync } from 'node:fs';
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { isErrno } from '../kernel/errno.ts';
import { ERRNO, IN, OP, READ_IN, REQUEST_ROOM, ROOT } from './protocol.ts';
import { Replier } from './reply.ts';
import { clamp, readIsPresent, type ServedFile, TALLY, type Tally } from './served-file.ts';
import { CONTROL, type HandedOver, NAME, PER_THREAD, type TableChange, type ThreadData } from './threads.ts';

function serve({ device, index, control: shared, strays, port }: ThreadData): void {
  const control = new Int32Array(shared);
  const own = CONTROL.perThread + index * CONTROL.size;
  const thread = new Thread(device, index, control, strays, port);
  // PID/task/TID; unlike gettid(2) it spares each thread the loading of a foreign function interface.
  Atomics.store(
    control,
    own + PER_THREAD.threadId,
    Number(readlinkSync('/proc/thread-self').split('/').at(-1)),
  );
  Atomics.wait(control, CONTROL.go, 0);
  try {
    // The order matters twice. The turn is odd before the thread looks at the table: a main thread that sees an even
    // turn knows that this thread will see a change posted before. And the thread looks at `stop` before it blocks.
    while (Atomics.load(control, CONTROL.stop) === 0) {
      const length = nextRequest(device, thread.request);
      if (length === 0) continue;
      if (length < 0) break;
      Atomics.add(control, own + PER_THREAD.turn, 1);
      thread.handle(length);
      Atomics.add(control, own + PER_THREAD.turn, 1);
    }
  } finally {
    Atomics.store(control, own + PER_THREAD.ended, 1);
  }
}

/** Blocks. 0: look again; -1: the mount was detached or aborted. */
function nextRequest(device: number, request: Buffer): number {
  try {
    return readSync(device, request, 0, request.length, null);
  } catch (error) {
    // ENOENT: the reader was killed while the kernel handed its request over. EINTR: the main thread interrupts this
    // one.
    if (isErrno(error, 'EINTR', 'EAGAIN', 'ENOENT')) return 0;
    if (isErrno(error, 'ENODEV', 'ECONNABORTED')) return -1;
    throw error;
  }
}

class Thread {
  readonly request = Buffer.alloc(REQUEST_ROOM, 1);
  readonly #words = new Uint32Array(this.request.buffer, this.request.byteOffset, REQUEST_ROOM / 4);
  readonly #control: Int32Array;
  readonly #strays: Tally;
  readonly #port: MessagePort;
  readonly #replier: Replier;
  readonly #byInode = new Map<number, ServedFile>();
  readonly #byName = new Map<string, ServedFile>();
  #version = 0;

  constructor(device: number, index: number, control: Int32Array, strays: Tally, port: MessagePort) {
    this.#replier = new Replier(device, index);
    this.#control = control;
    this.#strays = strays;
    this.#port = port;
  }

  handle(length: number): void {
    const version = Atomics.load(this.#control, CONTROL.version);
    if (version !== this.#version) this.#updateTable(version);
    const opcode = this.#word(IN.opcode);
    const low = this.#word(IN.unique);
    const high = this.#word(IN.unique + 4);
    const inode = this.#number(IN.inode);
    const reply = this.#replier;
    switch (opcode) {
      case OP.READ:
        return this.#read(low, high, inode);
      case OP.LOOKUP:
        return this.#lookup(low, high, inode, length);
      case OP.GETATTR:
        return this.#attributes(low, high, inode);
      case OP.READDIR:
        if (inode !== ROOT) return reply.error(low, high, ERRNO.ENOTDIR);
        return reply.list(
          low,
          high,
          this.#byInode.values(),
          this.#number(READ_IN.offset),
          this.#word(READ_IN.length),
        );
      case OP.OPENDIR:
        return reply.opened(low, high);
      case OP.STATFS:
        return reply.statfs(low, high, this.#byInode.size);
      case OP.RELEASEDIR:
      case OP.DESTROY:
        return reply.error(low, high, 0);
      case OP.FORGET:
      case OP.BATCH_FORGET:
        return; // have no reply, and inode numbers here need no keeping
      default:
        // To OPEN, FLUSH, INTERRUPT, ACCESS, xattr calls and the like the kernel remembers the answer "not
        // implemented": it then opens and closes without asking, and a signal to a reader does not disturb.
        return reply.error(low, high, ERRNO.ENOSYS);
    }
  }

  #read(low: number, high: number, inode: number): void {
    const offset = this.#number(READ_IN.offset);
    const asked = this.#word(READ_IN.length);
    const file = this.#byInode.get(inode);
    const reply = this.#replier;
    if (file === undefined) {
      if (this.#holding()) return this.#hand({ kind: 'read', low, high, inode, offset, length: asked });
      reply.count(this.#strays, TALLY.reads, 1);
      reply.count(this.#strays, TALLY.errors, 1);
      return reply.error(low, high, ERRNO.EIO);
    }
    reply.count(file.tally, TALLY.reads, 1);
    const length = clamp(file, offset, asked);
    if (readIsPresent(file, offset, length)) {
      reply.count(file.tally, TALLY.hits, 1);
      return reply.read(file, low, high, offset, length);
    }
    return this.#hand({ kind: 'cold', low, high, inode, offset, length });
  }

  #lookup(low: number, high: number, parent: number, length: number): void {
    const name = this.request.toString('latin1', IN.size, length - 1);
    const file = parent === ROOT ? this.#byName.get(name) : undefined;
    if (file !== undefined) return this.#replier.entry(low, high, file);
    if (parent === ROOT && this.#holding() && NAME.test(name))
      return this.#hand({ kind: 'lookup', low, high, name });
    return this.#replier.error(low, high, ERRNO.ENOENT);
  }

  #attributes(low: number, high: number, inode: number): void {
    const file = this.#byInode.get(inode);
    if (file !== undefined || inode === ROOT) return this.#replier.attributes(low, high, file);
    if (this.#holding()) return this.#hand({ kind: 'attributes', low, high, inode, offset: 0, length: 0 });
    return this.#replier.error(low, high, ERRNO.ENOENT);
  }

  #holding(): boolean {
    return Atomics.load(this.#control, CONTROL.hold) === 1;
  }

  #hand(message: HandedOver): void {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, not a window
    parentPort?.postMessage(message);
  }

  #updateTable(version: number): void {
    for (
      let next = receiveMessageOnPort(this.#port);
      next !== undefined;
      next = receiveMessageOnPort(this.#port)
    ) {
      const change = next.message as TableChange;
      const old = this.#byInode.get('add' in change ? change.add.inode : change.remove);
      if (old !== undefined) {
        this.#byInode.delete(old.inode);
        this.#byName.delete(old.name);
      }
      if ('add' in change) {
        this.#byInode.set(change.add.inode, change.add);
        this.#byName.set(change.add.name, change.add);
      }
    }
    this.#version = version;
  }

  #word(at: number): number {
    return this.#words[at >> 2] as number;
  }

  /** A u64 of which the values here use at most 53 bits. */
  #number(at: number): number {
    return this.#word(at) + this.#word(at + 4) * 2 ** 32;
  }
}

// The entry; last, since classes exist only from their line on.
if (parentPort !== null && (workerData as Partial<ThreadData> | null)?.control !== undefined)
  serve(workerData as ThreadData);
