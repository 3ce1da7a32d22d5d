/**
 * Answers EIO in place of a front end that does not come, so that no reader waits without end. It lives in the
 * supervisor, beside the descriptor, and only while no front end serves: both would take requests from one queue.
 *
 * It reads through a descriptor of its own on the same connection (FUSE_DEV_IOC_CLONE). The front end's descriptor
 * blocks in read(2) and this one must not, but the two would share the flag.
 */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { explain, isErrno } from '../kernel/errno.ts';
import { call, declare } from '../kernel/libc.ts';
import { ERRNO, IN, OP, OUT, REQUEST_ROOM, resendNotification } from './protocol.ts';

/** Time between two looks into the kernel's queue, ms. */
const LOOK_MS = 20;
/** Requests answered in one turn, so that the supervisor gets to its other work in between. */
const MOST_AT_ONCE = 2_000;

export interface StandIn {
  /** Requests answered so far. */
  readonly answered: number;
  /** Of them reads, which have failed. */
  readonly reads: number;
  /** Ends the stand-in: a front end serves from now on. */
  stop(): void;
}

/**
 * Begins to answer on the session's connection; with `resend` also what a dead front end had taken. Error:
 * `environment` when the kernel cannot clone the descriptor.
 */
export function startStandIn(session: { fd: number; resend: boolean }): StandIn {
  const fd = cloneDevice(session.fd);
  const request = Buffer.alloc(REQUEST_ROOM);
  const reply = Buffer.alloc(OUT.size);
  let answered = 0;
  let reads = 0;
  const answer = () => {
    for (let i = 0; i < MOST_AT_ONCE; i++) {
      try {
        readSync(fd, request, 0, request.length, null);
      } catch (error) {
        if (isErrno(error, 'ENOENT', 'EINTR')) continue;
        return; // EAGAIN: nothing waits. ENODEV: the mount was detached or aborted
      }
      const opcode = request.readUInt32LE(IN.opcode);
      const errno = answerTo(opcode);
      if (errno === undefined) continue;
      reply.writeUInt32LE(OUT.size, OUT.length);
      reply.writeInt32LE(-errno, OUT.error);
      request.copy(reply, OUT.unique, IN.unique, IN.unique + 8);
      try {
        writeSync(fd, reply);
        answered += 1;
        if (opcode === OP.READ) reads += 1;
      } catch {
        // The reader was killed, or the mount detached.
      }
    }
  };
  try {
    if (session.resend) writeSync(session.fd, resendNotification());
  } catch {
    // The mount was detached or aborted.
  }
  answer();
  const timer = setInterval(answer, LOOK_MS);
  return {
    get answered() {
      return answered;
    },
    get reads() {
      return reads;
    },
    stop: () => {
      clearInterval(timer);
      // All that this descriptor read has been answered; what waits stays for the front end.
      closeSync(fd);
    },
  };
}

/**
 * Undefined: the request has no reply. The kernel remembers "not implemented", so it is given only where it always
 * holds.
 */
function answerTo(opcode: number): number | undefined {
  switch (opcode) {
    case OP.FORGET:
    case OP.BATCH_FORGET:
      return undefined;
    case OP.READ:
    case OP.LOOKUP:
    case OP.GETATTR:
    case OP.READDIR:
    case OP.OPENDIR:
    case OP.STATFS:
      return ERRNO.EIO;
    case OP.RELEASEDIR:
    case OP.DESTROY:
      return 0;
    default:
      return ERRNO.ENOSYS;
  }
}

const ioctl = declare('ioctl', ['int', 'ulong', 'void *']);
/** linux/fuse.h: _IOR(229, 0, uint32_t) */
const FUSE_DEV_IOC_CLONE = 0x8004e500;

function cloneDevice(of: number): number {
  const fd = openSync('/dev/fuse', constants.O_RDWR | constants.O_NONBLOCK);
  try {
    const old = Buffer.alloc(4);
    old.writeUInt32LE(of, 0);
    call('ioctl(FUSE_DEV_IOC_CLONE)', ioctl, fd, FUSE_DEV_IOC_CLONE, old);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw explain(error, 'second descriptor of the FUSE mount');
  }
}
