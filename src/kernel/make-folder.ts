/** Folders that a user's option names. */
import { mkdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';

/**
 * Makes a folder and those above it that are missing, with these rights less the umask; what is there stays as it is. The path
 * is absolute. mkdir of Node with `recursive` never ends where the file system says ENOENT to each new name, as /proc does.
 * Errors: `invalid-argument` where the path leads through something else than a folder; `environment` where the file system
 * takes no folder there.
 */
export async function makeFolder(path: string, mode = 0o777): Promise<void> {
  const missing: string[] = [];
  let parent = path;
  for (; !(await isFolder(parent, path)); parent = dirname(parent)) missing.unshift(parent);
  for (const one of missing) {
    try {
      await mkdir(one, { mode });
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // Another process was faster.
      if (code === 'EEXIST' && (await isFolder(one, path))) continue;
      throw new CofaError('environment', `no folder can be made in ${dirname(one)} (${code})`, {
        cause: error,
        hint:
          code === 'EACCES' || code === 'EPERM'
            ? 'run it as root, or name another folder'
            : 'name another one',
      });
    }
  }
}

/** False: nothing has that name. */
async function isFolder(path: string, asked: string): Promise<boolean> {
  const there = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    if (error.code === 'ENOTDIR') return 'no folder';
    throw new CofaError('environment', `${path} cannot be looked at (${error.code})`, { cause: error });
  });
  if (there === undefined) return false;
  if (there !== 'no folder' && there.isDirectory()) return true;
  throw new CofaError('invalid-argument', `${asked} cannot be a folder: a part of it is a file`, {
    hint: 'name another one',
  });
}
