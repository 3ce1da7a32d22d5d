/**
 * A FUSE mount apart from whoever serves it.
 *
 *     supervisor:  open /dev/fuse ── mount ── answer INIT ── keeps the descriptor for the mount's life
 *     front end:   inherits it ── RESEND ── serves … dies
 *     front end:                                    inherits it ── RESEND ── serves …
 *
 * The connection lives as long as one descriptor is open. So a front end may die at any moment: what it had taken
 * and not answered is asked again of the next one (kernel 6.9 and newer), and readers notice a pause only. INIT is
 * answered here, once, so that every front end starts alike.
 */
import { closeSync, openSync, read, writeSync } from 'node:fs';
import { CofaError } from '../../schemas/errors.ts';
import { explain, isErrno } from '../kernel/errno.ts';
import { offLoop } from '../kernel/libc.ts';
import { MS, mountSync, unmountSync } from '../kernel/mount.ts';
import { abortConnection, clearDeadMount, connectionOf } from './connection.ts';
import { answerInit, assertByteOrder, MAX_READ, REQUEST_ROOM } from './protocol.ts';

export interface FuseSession {
  /** /dev/fuse, close-on-exec: a front end inherits it through spawn's stdio. */
  fd: number;
  /** Directory name below /sys/fs/fuse/connections. */
  connection: number;
  /** The kernel asks again for what a dead front end had taken (6.9 and newer). */
  resend: boolean;
  /** Every request, waiting or new, fails at once. For when nothing answers any more. */
  abort(): void;
  /**
   * Aborts, detaches the mount and closes the descriptor. A loop device that still stands on a file here keeps it
   * open: its reads give EIO, and changeBacking still repairs it.
   */
  close(): void;
}

/**
 * Opens /dev/fuse, mounts it at `target` (an existing folder) and answers INIT. A dead mount that a crash left there
 * is detached first. Errors: `environment` (no /dev/fuse, no right to mount, kernel too old), `busy` when something
 * alive is mounted there.
 */
export async function openFuseSession(target: string): Promise<FuseSession> {
  assertByteOrder();
  await clearDeadMount(target);
  const fd = openDevice();
  let mounted = false;
  try {
    mountSync({
      source: 'cofa',
      target,
      type: 'fuse',
      flags: MS.RDONLY | MS.NOSUID | MS.NODEV | MS.NOEXEC | MS.NOATIME,
      // Without allow_other no other user may look in; loops and EROFS read as root whoever the reader is.
      data: `fd=${fd},rootmode=40000,user_id=0,group_id=0,default_permissions,max_read=${MAX_READ}`,
    });
    mounted = true;
    const connection = connectionOf(target);
    if (connection === undefined) throw new CofaError('internal', 'the new mount is not to be found');
    const { reply, resend } = answerInit(await readInit(fd, connection));
    writeSync(fd, reply);
    return session({ target, fd, connection, resend });
  } catch (error) {
    if (mounted) unmountSync(target, { lazy: true });
    closeSync(fd);
    throw explain(error, `FUSE mount at ${target}`);
  }
}

/** The kernel queues INIT before mount(2) returns, so this is for what should never happen. */
const INIT_MS = 10_000;

function session(own: { target: string; fd: number; connection: number; resend: boolean }): FuseSession {
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
        if (connectionOf(own.target) === own.connection) unmountSync(own.target, { lazy: true });
        closeSync(own.fd);
      }
    },
  };
}

function abort({ target, connection }: { target: string; connection: number }): void {
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

function readInit(fd: number, connection: number): Promise<Buffer> {
  return offLoop(
    () =>
      new Promise((resolve, reject) => {
        const buffer = Buffer.alloc(REQUEST_ROOM);
        // After an abort the read returns ENODEV.
        const timer = setTimeout(() => abortConnection(connection), INIT_MS);
        read(fd, buffer, 0, buffer.length, null, (error, length) => {
          clearTimeout(timer);
          if (error) reject(error);
          else resolve(buffer.subarray(0, length));
        });
      }),
  );
}
