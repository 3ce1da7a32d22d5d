/**
 * A FUSE mount apart from the process that serves it.
 *
 *     supervisor:  open /dev/fuse ── mount ── answer INIT ── keeps the descriptor for the mount's life
 *     front end:   inherits it ── RESEND ── serves … dies
 *     front end:                                    inherits it ── RESEND ── serves …
 *
 * The connection lives as long as one descriptor is open. So a front end may die at any moment: the kernel asks the
 * next one again for what the dead one had taken and not answered (kernel 6.9 and newer), and readers notice a pause
 * only. This file answers INIT, once, so that every front end starts alike.
 *
 * Opening and closing files must not need a server at all. A new process closes the files that it inherited when it
 * calls exec(2), and the close of a FUSE file waits for the server's answer to FLUSH. If that new process is the next
 * server, both would wait without end, and so would every process that looks at them in /proc. So before another
 * process can see the mount, this file opens and closes one file there, and tells the kernel that OPEN and FLUSH are
 * not implemented: the kernel remembers that for the mount's life.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, read, writeSync } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { explain, isErrno } from '../kernel/errno.ts';
import { call, declare } from '../kernel/libc.ts';
import { findMount, MS, mountSync, unmountSync } from '../kernel/mount.ts';
import { abortConnection, clearDeadMount, connectionOf } from './connection.ts';
import {
  answerInit,
  assertByteOrder,
  ERRNO,
  forgetNameNotification,
  IN,
  MAX_READ,
  OP,
  REQUEST_ROOM,
  ROOT,
} from './protocol.ts';
import { Replier } from './reply.ts';

export interface FuseSession {
  /** /dev/fuse, close-on-exec: a front end inherits it through spawn's stdio. */
  fd: number;
  /** Directory name below /sys/fs/fuse/connections. */
  connection: number;
  /** The kernel asks again for what a dead front end had taken (6.9 and newer). */
  resend: boolean;
  /** Every request, waiting or new, fails at once. For mounts that no server will answer again. */
  abort(): void;
  /**
   * Aborts, detaches the mount and closes the descriptor. A loop device that still stands on a file here keeps the
   * mount alive: its reads give EIO, and changeBacking still repairs it. Stop a transport in this very process first:
   * the descriptor's number may mean another file afterwards.
   */
  close(): void;
}

/**
 * Opens /dev/fuse, mounts it at `target` (an existing folder) and answers INIT. Detaches a dead mount that a crash left
 * there first. Errors: `environment` (no /dev/fuse, no right to mount, kernel too old), `busy` when something alive is
 * mounted there.
 */
export async function openFuseSession(target: string): Promise<FuseSession> {
  assertByteOrder();
  await clearDeadMount(target);
  const fd = openDevice();
  // The kernel uses numbers of connections and mounts again; this name is unique, and the list of mounts shows it.
  const source = `cofa-${randomBytes(6).toString('hex')}`;
  let mounted = false;
  try {
    mountSync({
      source,
      target,
      type: 'fuse',
      flags: MS.RDONLY | MS.NOSUID | MS.NODEV | MS.NOEXEC | MS.NOATIME,
      // Without allow_other no other user may look in. Loops and EROFS read as root, for any reader.
      data: `fd=${fd},rootmode=40000,user_id=0,group_id=0,default_permissions,max_read=${MAX_READ}`,
    });
    mounted = true;
    const connection = connectionOf(target);
    if (connection === undefined) throw new CofaError('internal', 'the new mount is not to be found');
    // No server runs yet. Should this ever wait in vain, the abort makes its calls fail with ENODEV.
    const alarm = setTimeout(() => abort({ target, fd, connection }), START_MS);
    try {
      const { reply, resend } = answerInit(await readRequest(fd));
      writeSync(fd, reply);
      await Promise.all([teachKernel(fd), openAndClose(target)]);
      writeSync(fd, forgetNameNotification(LESSON));
      // For trials: behaves as on a kernel before 6.9.
      const asOld = process.env.COFA_FUSE_RESEND === '0';
      return session({ target, source, fd, connection, resend: resend && !asOld });
    } finally {
      clearTimeout(alarm);
    }
  } catch (error) {
    if (mounted) unmountSync(target, { lazy: true });
    closeSync(fd);
    throw explain(error, `FUSE mount at ${target}`);
  }
}

/** A mount that another process has opened, by a descriptor of this one (hand-over.ts). */
export const adoptSession = (own: Own & { source: string }): FuseSession => session({ ...own, resend: true });

const START_MS = 10_000;
/** The file of the lesson, and a name whose LOOKUP ends it. Inodes of device files have 52 bits. */
const LESSON = '.open-and-close';
const LESSON_INODE = 2 ** 52 + 1;
const LESSON_END = '.end';

interface Own {
  target: string;
  fd: number;
  connection: number;
}

function session(own: Own & { source: string; resend: boolean }): FuseSession {
  let closed = false;
  return {
    fd: own.fd,
    connection: own.connection,
    resend: own.resend,
    abort: () => abort(own),
    close() {
      if (closed) return;
      closed = true;
      try {
        abort(own);
      } finally {
        if (findMount(own.target)?.source === own.source) unmountSync(own.target, { lazy: true });
        closeSync(own.fd);
      }
    },
  };
}

function abort({ target, fd, connection }: Own): void {
  // Another mount may have the number of a connection that ended.
  if (!isConnected(fd)) return;
  try {
    abortConnection(connection);
  } catch (error) {
    // A container may see /sys read-only. A forced unmount aborts too, even when it then finds the mount busy.
    if (connectionOf(target) !== connection) throw error;
    try {
      unmountSync(target, { force: true });
    } catch (busy) {
      if (!isErrno((busy as CofaError).cause, 'EBUSY')) throw error;
    }
  }
}

/** poll(2) shows POLLERR on /dev/fuse when the mount was detached or aborted. */
function isConnected(fd: number): boolean {
  const pollfd = Buffer.alloc(8); // struct pollfd: int fd, short events, short revents
  pollfd.writeInt32LE(fd, 0);
  return call('poll', poll, pollfd, 1, 0) === 0 || (pollfd.readInt16LE(6) & POLLERR) === 0;
}

const POLLERR = 8;
const poll = declare('poll', ['void *', 'ulong', 'int']);

function openDevice(): number {
  try {
    return openSync('/dev/fuse', 'r+'); // Node opens everything close-on-exec
  } catch (error) {
    const hint = 'load the module: modprobe fuse; in a container pass --device /dev/fuse';
    throw explain(error, 'open of /dev/fuse', {
      ENOENT: { code: 'environment', hint },
      ENODEV: { code: 'environment', hint },
      ENXIO: { code: 'environment', hint },
    });
  }
}

async function openAndClose(target: string): Promise<void> {
  try {
    await (await open(join(target, LESSON), 'r')).close();
  } finally {
    await stat(join(target, LESSON_END)).catch(() => {});
  }
}

/** Serves the lesson's file, with OPEN and FLUSH "not implemented", until its end. */
async function teachKernel(fd: number): Promise<void> {
  const replier = new Replier(fd, 0);
  const blocks = new Uint8Array(new SharedArrayBuffer(0));
  const tally = new Float64Array(new SharedArrayBuffer(0));
  const lesson = {
    name: LESSON,
    inode: LESSON_INODE,
    size: 0,
    fd: -1,
    blockSize: 512,
    blocks,
    tally,
    sequence: 0,
  };
  for (;;) {
    const request = await readRequest(fd);
    const [low, high] = [request.readUInt32LE(IN.unique), request.readUInt32LE(IN.unique + 4)];
    const opcode = request.readUInt32LE(IN.opcode);
    if (opcode === OP.FORGET || opcode === OP.BATCH_FORGET) continue;
    if (opcode === OP.GETATTR) {
      const isRoot = Number(request.readBigUInt64LE(IN.inode)) === ROOT;
      replier.attributes(low, high, isRoot ? undefined : lesson);
    } else if (opcode === OP.LOOKUP) {
      const name = request.toString('latin1', IN.size, request.length - 1);
      if (name === LESSON) replier.entry(low, high, lesson);
      else replier.error(low, high, ERRNO.ENOENT);
      if (name === LESSON_END) return;
    } else {
      replier.error(low, high, ERRNO.ENOSYS);
    }
  }
}

function readRequest(fd: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const buffer = Buffer.alloc(REQUEST_ROOM);
    read(fd, buffer, 0, buffer.length, null, (error, length) => {
      if (error) reject(error);
      else resolve(buffer.subarray(0, length));
    });
  });
}
