/** Takes the folder of a container away, with what the container wrote. */
import { existsSync, readdirSync, readFileSync, rmdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { parseMountinfo } from '../kernel/mountinfo.ts';
import { exec } from './exec.ts';
import type { ContainerFolder } from './record.ts';

/** Removes the folder. Error: `busy`, and nothing is removed, while something is mounted in it. */
export async function removeFolder(folder: ContainerFolder): Promise<void> {
  const mounted = mountsBelow(folder.path);
  if (mounted.length > 0) {
    throw new CofaError('busy', `${folder.path} is not removed: ${mounted.join(', ')} still mounted`);
  }
  if (removeUnwritten(folder)) return;
  // rm(1) takes names of any bytes and any depth, and stays on this file system should a mount appear meanwhile.
  const result = await exec('rm', ['-rf', '--one-file-system', '--', folder.path], 600_000);
  if (result.code !== 0)
    throw new CofaError('internal', `${folder.path} is not removed: ${result.stderr.trim()}`);
}

/** Mount points at or below a path, as this process sees them. */
export function mountsBelow(path: string): string[] {
  return parseMountinfo(readFileSync('/proc/self/mountinfo'))
    .map((entry) => entry.mountPoint)
    .filter((point) => point === path || point.startsWith(`${path}/`));
}

/**
 * The folder of a container that has written nothing has nothing in it but what cofa, runc and overlayfs put there: it goes
 * file by file, in less time than a process takes to begin. False where there is more; nothing is lost by what went before.
 */
function removeUnwritten(folder: ContainerFolder): boolean {
  try {
    // rmdir(2) and unlink(2) refuse whatever is not as expected.
    rmdirSync(folder.upper);
    for (const path of OF_OVERLAYFS.map((name) => join(folder.work, name)))
      if (existsSync(path)) rmdirSync(path);
    for (const path of [folder.work, folder.rootfs, folder.image]) if (existsSync(path)) rmdirSync(path);
    for (const name of readdirSync(folder.etc)) unlinkSync(join(folder.etc, name));
    rmdirSync(folder.etc);
    for (const name of readdirSync(folder.path)) unlinkSync(join(folder.path, name));
    rmdirSync(folder.path);
    return true;
  } catch {
    return false;
  }
}

/** In its work folder, fs/overlayfs/super.c; innermost first. */
const OF_OVERLAYFS = ['work/incompat/volatile', 'work/incompat', 'work', 'index'];
