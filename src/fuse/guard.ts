/**
 * Ends a FUSE connection when the supervisor dies. Closing its descriptors does that by itself, but for one case: when
 * the supervisor was just waiting for its own mount, to attach a file of it, that thread waits on for an answer that
 * nobody will give, in the kernel, and keeps the descriptors of its process open, the mount's own among them. Then
 * everybody who reads would wait with it.
 *
 * The guard is a shell of 1 MB beside the supervisor. The kernel sends it SIGTERM when the supervisor's main thread ends.
 */
import { spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import { controlFile, ensureControl } from './connection.ts';

export interface Guard {
  /** It watches. */
  ready: Promise<void>;
  /** The connection ends in order. */
  stop(): void;
}

/**
 * Its standard input ends with the supervisor, too; whatever comes first. The control file is opened at once: the kernel
 * gives the number of a connection that has ended to the next one, and this file is then nobody's (fs/fuse/control.c,
 * `fuse_ctl_remove_conn`).
 */
const SCRIPT = `exec 3>"$1"; trap 'echo 1 >&3; exit' TERM; echo; read -r _; echo 1 >&3`;

export function startGuard(connection: number): Guard {
  ensureControl();
  const file = controlFile(connection);
  const child = spawn('setpriv', ['--pdeathsig', 'TERM', '--', 'sh', '-c', SCRIPT, 'cofa-guard', file], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const ready = new Promise<void>((resolve) => {
    child.stdout?.once('data', () => resolve());
    // It ended, or was not started.
    child.stdout?.once('close', () => resolve());
  });
  child.on('error', () => {}); // without it the mount is as safe as the kernel makes it
  child.unref();
  for (const pipe of [child.stdin, child.stdout]) (pipe as Socket | undefined)?.unref?.();
  return { ready, stop: () => void child.kill('SIGKILL') };
}
