/** The kernel's side of a FUSE mount, kept by the supervisor so that front ends may come and go. */
import { CofaError } from '../../schemas/errors.ts';

export interface FuseSession {
  /** /dev/fuse, close-on-exec: a front end inherits it through spawn's stdio. */
  fd: number;
  /** Directory name below /sys/fs/fuse/connections. */
  connection: number;
  /** The kernel asks again for what a dead front end had taken (6.9 and newer). */
  resend: boolean;
  /** Every request, waiting or new, fails at once. For when nothing answers. */
  abort(): void;
  /** Aborts, detaches the mount and closes the descriptor. */
  close(): void;
}

/** Opens /dev/fuse, mounts it at `target` and answers INIT. Errors: `environment`, `busy`. */
export async function openFuseSession(target: string): Promise<FuseSession> {
  throw new CofaError('internal', `not there yet: ${target}`);
}
