/**
 * Aborts a FUSE connection when the supervisor dies. The kernel aborts it by itself when the last descriptor closes,
 * but for one case. A supervisor that dies while it attaches a file of its own mount has a thread in the kernel that
 * waits for an answer of the dead process. That thread keeps the process's descriptors open, the mount's among them,
 * and every reader of the mount waits with it.
 *
 * The guard is a shell of 1 MB beside the supervisor. The kernel sends it SIGTERM when the supervisor's main thread
 * ends.
 */
import { spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import { controlFile, ensureControl } from './connection.ts';

export interface Guard {
  /** Resolves when the guard watches. */
  ready: Promise<void>;
  /** Ends the guard without an abort: the connection ends in order. */
  stop(): void;
}

/**
 * Its standard input ends with the supervisor, too; the first of the two signs counts. It opens the control file at
 * once: the kernel gives the number of an ended connection to the next one, and a file opened before then controls
 * neither (fs/fuse/control.c, `fuse_ctl_remove_conn`).
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
    // It has ended, or did not start.
    child.stdout?.once('close', () => resolve());
  });
  child.on('error', () => {}); // without it the mount is as safe as the kernel makes it
  child.unref();
  for (const pipe of [child.stdin, child.stdout]) (pipe as Socket | undefined)?.unref?.();
  return { ready, stop: () => void child.kill('SIGKILL') };
}
