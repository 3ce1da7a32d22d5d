/** What the kernel tells about a FUSE connection and takes from any process, not only from its server. */
import { writeFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { explain, isErrno } from '../kernel/errno.ts';
import { findMount, isMounted, MS, mountSync, unmount } from '../kernel/mount.ts';

/** The number is the mount's device, which mountinfo shows without asking a server. Undefined: no FUSE mount there. */
export function connectionOf(target: string): number | undefined {
  const entry = findMount(target);
  return entry?.type === 'fuse' ? entry.major * 2 ** 20 + entry.minor : undefined;
}

/**
 * Aborts: every request of the connection fails, as after `FuseSession.abort`. For tools that clean up after others.
 */
export function abortConnection(connection: number): void {
  ensureControl();
  try {
    writeFileSync(controlFile(connection), '1');
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw explain(error, `abort of FUSE connection ${connection}`);
    // The connection has ended already.
  }
}

/** The file to which a write aborts the connection. */
export const controlFile = (connection: number): string => join(CONTROL, String(connection), 'abort');

/**
 * Detaches a FUSE mount that a crash left at `target`, to make room for a new one. Errors: `busy` when something alive
 * is mounted there.
 */
export async function clearDeadMount(target: string): Promise<void> {
  const entry = findMount(target);
  if (entry === undefined) return;
  if (entry.type !== 'fuse' || !(await isDead(target)))
    throw new CofaError('busy', `${target} has a mount already (${entry.type})`, {
      hint: 'another engine may use this root; else unmount it',
    });
  await unmount(target, { lazy: true });
}

/** A connection whose last descriptor was closed answers ENOTCONN; a served one answers, or takes its time. */
async function isDead(target: string): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), DEAD_MS);
  });
  const answer = statfs(target).then(
    () => false,
    (error) => isErrno(error, 'ENOTCONN', 'ECONNABORTED'),
  );
  return Promise.race([answer, late]).finally(() => clearTimeout(timer));
}

const CONTROL = '/sys/fs/fuse/connections';
const DEAD_MS = 2_000;

/** Mounts the control file system, once for the machine, as systemd does; connections are aborted through it. */
export function ensureControl(): void {
  if (isMounted(CONTROL)) return;
  try {
    mountSync({
      source: 'fusectl',
      target: CONTROL,
      type: 'fusectl',
      flags: MS.NOSUID | MS.NODEV | MS.NOEXEC,
    });
  } catch (error) {
    if (!isErrno((error as CofaError).cause, 'EBUSY')) throw error; // EBUSY: another process was faster
  }
}
