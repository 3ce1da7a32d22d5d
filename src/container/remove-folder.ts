/** Removes the folder of a container, with what the container wrote. */
import { readFileSync } from 'node:fs';
import { CofaError } from '../../schemas/errors.ts';
import { parseMountinfo } from '../kernel/mountinfo.ts';
import { removeSmallFolder } from '../kernel/small-folder.ts';
import { exec } from './exec.ts';

/** Removes the folder. Error: `busy`, and nothing is removed, while something is mounted in it. */
export async function removeFolder(path: string): Promise<void> {
  const mounted = mountsBelow(path);
  if (mounted.length > 0) {
    throw new CofaError('busy', `${path} is not removed: ${mounted.join(', ')} still mounted`);
  }
  if (await removeSmallFolder(path)) return;
  // rm(1) takes any depth, and stays on this file system should a mount appear meanwhile.
  const result = await exec('rm', ['-rf', '--one-file-system', '--', path], 600_000);
  if (result.code !== 0) throw new CofaError('internal', `${path} is not removed: ${result.stderr.trim()}`);
}

/** Mount points at or below a path, as this process sees them. */
export function mountsBelow(path: string): string[] {
  return parseMountinfo(readFileSync('/proc/self/mountinfo'))
    .map((entry) => entry.mountPoint)
    .filter((point) => point === path || point.startsWith(`${path}/`));
}
