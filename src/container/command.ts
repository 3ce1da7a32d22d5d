/**
 * Looks for the container's command before runc does. runc gives a missing command the same exit code as a command that
 * fails. Callers tell the two cases apart (126 and 127), so this finds them from metadata alone, without fetching file
 * data.
 */
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { resolveInRoot } from './rootfs.ts';

export type CommandCheck =
  | { kind: 'found'; path: string }
  /** It lies below a volume or in /proc, /dev, /sys: only runc can find out. */
  | { kind: 'unknown' }
  | { kind: 'missing' }
  | { kind: 'not-executable'; path: string; why: string };

/**
 * Looks the command up as execvp(3) would: with a slash from `cwd`, else along PATH. `covered`: container paths over
 * which something is mounted.
 */
export function findCommand(
  rootfs: string,
  command: string,
  o: { path: string; cwd: string; covered: readonly string[] },
): CommandCheck {
  const candidates = command.includes('/')
    ? [command]
    : o.path.split(':').map((folder) => join(folder || '.', command));
  let refused: CommandCheck | undefined;
  for (const candidate of candidates) {
    const absolute = candidate.startsWith('/') ? candidate : join(o.cwd, candidate);
    if (isCovered(absolute, o.covered)) return { kind: 'unknown' };
    const found = resolveInRoot(rootfs, absolute);
    if (found === undefined) continue;
    if (isCovered(found.inside, o.covered)) return { kind: 'unknown' };
    if (found.stats.isDirectory()) {
      refused ??= { kind: 'not-executable', path: absolute, why: 'it is a directory' };
    } else if ((found.stats.mode & 0o111) === 0) {
      refused ??= { kind: 'not-executable', path: absolute, why: 'nobody may execute it' };
    } else {
      return { kind: 'found', path: absolute };
    }
  }
  return refused ?? { kind: 'missing' };
}

/** What `cofa run` throws when the container did not start; `exit` is its exit code (125, 126 or 127). */
export class StartError extends CofaError {
  readonly exit: 125 | 126 | 127;
  constructor(exit: 125 | 126 | 127, message: string, options: { cause?: unknown; hint?: string } = {}) {
    super(exit === 127 ? 'not-found' : exit === 126 ? 'invalid-argument' : 'environment', message, options);
    this.exit = exit;
  }
}

/** The exit code for a message of runc that says why the container did not start. */
export function startErrorOf(message: string): StartError {
  const text = message.replace(/^runc run failed: /, '').replace(/^unable to start container process: /, '');
  if (/executable file not found|exec: .*no such file or directory/.test(text)) {
    return new StartError(127, `the container did not start: ${text}`);
  }
  if (/exec: .*(permission denied|is a directory)|exec format error/.test(text)) {
    return new StartError(126, `the container did not start: ${text}`);
  }
  return new StartError(125, `the container did not start: ${text}`);
}

function isCovered(path: string, covered: readonly string[]): boolean {
  return covered.some((mount) => path === mount || path.startsWith(`${mount}/`));
}
