/**
 * Reads files of an image as the container would see them. The author of an image writes its symbolic links, and they
 * may point anywhere (`/etc/passwd -> /etc/shadow`). So this resolves each part of a path below the root by hand and
 * never lets the kernel do it, which would leave the root.
 */
import { constants, lstatSync, readlinkSync, type Stats } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';

/** Links followed for one path, as in the kernel. */
const MAX_LINKS = 40;

export interface InRoot {
  /** Path in the container with all links resolved: absolute, no `..`. */
  inside: string;
  /** Path on the host; no part of it below the root is a symbolic link. */
  outside: string;
  stats: Stats;
}

/**
 * Follows `path` below `root`; `..` stops at the root. Undefined when a part is missing or is no directory, or when the
 * links run in a circle. Throws other errors of the file system (such as EIO). The metadata of a mounted image are all on the
 * node: a call takes microseconds, and a way through the pool of threads for each part of a path takes longer.
 */
export function resolveInRoot(root: string, path: string, cwd = '/'): InRoot | undefined {
  const todo = partsOf(path.startsWith('/') ? path : `${cwd}/${path}`).toReversed();
  const done: string[] = [];
  let stats = lstatSync(root);
  let links = 0;
  for (let part = todo.pop(); part !== undefined; part = todo.pop()) {
    if (part === '..') {
      done.pop();
      stats = lstatSync(join(root, ...done));
      continue;
    }
    if (!stats.isDirectory()) return undefined;
    const here = join(root, ...done, part);
    try {
      stats = lstatSync(here);
    } catch (error) {
      if (isAbsent(error)) return undefined;
      throw error;
    }
    if (!stats.isSymbolicLink()) {
      done.push(part);
      continue;
    }
    if (++links > MAX_LINKS) return undefined;
    const target = readlinkSync(here);
    if (target.startsWith('/')) done.length = 0;
    todo.push(...partsOf(target).toReversed());
    stats = lstatSync(join(root, ...done));
  }
  return { inside: `/${done.join('/')}`, outside: join(root, ...done), stats };
}

/**
 * The text of a regular file of the image, at most `limit` bytes of it; undefined when there is none. Any other kind of
 * file counts as none: a FIFO would block without end.
 */
export async function readTextInRoot(root: string, path: string, limit: number): Promise<string | undefined> {
  const found = resolveInRoot(root, path);
  if (found === undefined || !found.stats.isFile()) return undefined;
  const file = await open(found.outside, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const buffer = Buffer.alloc(Math.min(limit, found.stats.size));
    let length = 0;
    while (length < buffer.length) {
      const { bytesRead } = await file.read(buffer, length, buffer.length - length, length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    return buffer.toString('utf8', 0, length);
  } finally {
    await file.close();
  }
}

function partsOf(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.');
}

function isAbsent(error: unknown): boolean {
  const code = (error as { code?: unknown }).code;
  return code === 'ENOENT' || code === 'ENOTDIR' || code === 'ENAMETOOLONG';
}
