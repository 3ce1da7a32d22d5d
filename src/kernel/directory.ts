/**
 * Directories whose paths others may have a hand in. A path is looked up once, to a descriptor, and what is done then is
 * done to that very directory: between a check of a path and its use, who may write above could put a symbolic link in
 * its place.
 *
 * A link is followed where only root could have put it there, such as `/var/run`: its owner is root, and none but root may
 * write into its directory, or it is sticky (as protected_symlinks of the kernel has it, proc_sys_fs(5)). The last part
 * of a path may be no link. With `links: 'none'` no part may be one, for clients who are root of some container and may
 * write below the path.
 */
import { closeSync, constants, fstatSync, type Stats } from 'node:fs';
import { mkdir, readdir, readlink, rmdir } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { explain, isErrno } from './errno.ts';
import { callOffLoop, declare, offLoop } from './libc.ts';
import { systemNumber } from './system-numbers.ts';

export interface Lookup {
  links: 'ours' | 'none';
  /** Directories that are missing are made. */
  make?: boolean;
  /** The last part, too, may be a link that is followed; it may be none otherwise. */
  isAbove?: boolean;
}

/** An open directory. */
export class Directory {
  /** Opened with O_PATH. */
  readonly fd: number;
  constructor(fd: number) {
    this.fd = fd;
  }

  /** A path that leads to this directory, also after it was renamed or something was mounted over its name. */
  get self(): string {
    return `/proc/self/fd/${this.fd}`;
  }

  close(): void {
    closeSync(this.fd);
  }
}

/**
 * Opens the directory; `path` is absolute, without `.` and `..`. The caller closes it. Errors: `not-found`; `conflict`
 * where the path leads through a link that is not followed, or to something else than a directory.
 */
export async function openDirectory(path: string, lookup: Lookup): Promise<Directory> {
  try {
    return new Directory((await openWithoutLinks(path)) ?? (await new Walk(path, lookup).toEnd()));
  } catch (error) {
    throw explain(error, path);
  }
}

/** Names in it; undefined where it is missing. Errors: as of `openDirectory`. */
export async function listDirectory(path: string, lookup: Lookup): Promise<string[] | undefined> {
  return await withDirectory(path, lookup, ({ self }) => offLoop(() => readdir(self)));
}

/** Makes it and those above it, mode 0777 less the umask. Errors: as of `openDirectory`. */
export async function makeDirectory(path: string, lookup: Lookup): Promise<void> {
  (await openDirectory(path, { ...lookup, make: true })).close();
}

/** Removes it where it is empty and nothing is mounted there. Errors: as of `openDirectory` and rmdir(2). */
export async function removeDirectory(path: string, lookup: Lookup): Promise<void> {
  const name = basename(path);
  await withDirectory(dirname(path), { ...lookup, isAbove: true }, ({ self }) =>
    offLoop(() => rmdir(`${self}/${name}`)),
  );
}

async function withDirectory<T>(
  path: string,
  lookup: Lookup,
  work: (directory: Directory) => Promise<T>,
): Promise<T | undefined> {
  let directory: Directory;
  try {
    directory = await openDirectory(path, lookup);
  } catch (error) {
    if (error instanceof CofaError && error.code === 'not-found') return undefined;
    throw error;
  }
  try {
    return await work(directory);
  } finally {
    directory.close();
  }
}

const openat = declare('openat', ['int', 'str', 'int', 'uint']);
const syscall = declare('syscall', ['long', 'int', 'str', 'void *', 'size_t'], 'int64');
const OPENAT2 = systemNumber('openat2');
const AT_FDCWD = -100;
/** fcntl.h; Node names neither. */
const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
/** linux/openat2.h */
const RESOLVE_NO_SYMLINKS = 4;
/** As the kernel's own limit, path_resolution(7). */
const MOST_LINKS = 40;

/** In one call, where no part of the path is a link and none is missing: the rule. Undefined: it has to be walked. */
async function openWithoutLinks(path: string): Promise<number | undefined> {
  // struct open_how: flags, mode, resolve.
  const how = Buffer.alloc(24);
  how.writeBigUInt64LE(BigInt(O_PATH | O_CLOEXEC | constants.O_DIRECTORY | constants.O_NOFOLLOW), 0);
  how.writeBigUInt64LE(BigInt(RESOLVE_NO_SYMLINKS), 16);
  try {
    return Number(await callOffLoop('openat2', syscall, OPENAT2, AT_FDCWD, path, how, how.length));
  } catch (error) {
    // A link at the end counts as no directory.
    if (isErrno(error, 'ELOOP', 'ENOENT', 'ENOTDIR')) return undefined;
    throw error;
  }
}

/** The way to a directory, part by part. */
class Walk {
  readonly #path: string;
  readonly #lookup: Lookup;
  /** What is still to go, the next part at the end. */
  readonly #rest: Part[];
  #links = 0;

  constructor(path: string, lookup: Lookup) {
    this.#path = path;
    this.#lookup = lookup;
    this.#rest = partsOf(path, lookup.isAbove !== true);
  }

  async toEnd(): Promise<number> {
    let here = await openFrom(AT_FDCWD, '/');
    try {
      for (let part = this.#rest.pop(); part !== undefined; part = this.#rest.pop()) {
        const next = await this.#step(here, part);
        closeSync(here);
        here = next;
      }
      return here;
    } catch (error) {
      closeSync(here);
      throw error;
    }
  }

  async #step(here: number, { name, isLast }: Part): Promise<number> {
    const next = await this.#open(here, name);
    const stats = fstatSync(next);
    if (stats.isDirectory()) return next;
    closeSync(next);
    if (!stats.isSymbolicLink())
      throw new CofaError('conflict', `${this.#path} is not a directory`, {
        hint: 'choose an empty or a new directory',
      });
    if (isLast || this.#lookup.links === 'none' || !isOurs(stats, fstatSync(here))) {
      throw new CofaError('conflict', `${this.#path} leads through a symbolic link: ${name}`, {
        hint: 'write the path without it',
      });
    }
    if (++this.#links > MOST_LINKS)
      throw new CofaError('conflict', `${this.#path} leads through too many symbolic links`);
    // Only root could replace it since it was looked at.
    const target = await offLoop(() => readlink(`/proc/self/fd/${here}/${name}`));
    this.#rest.push(...partsOf(target, false));
    return await openFrom(target.startsWith('/') ? AT_FDCWD : here, target.startsWith('/') ? '/' : '.');
  }

  async #open(here: number, name: string): Promise<number> {
    try {
      return await openFrom(here, name);
    } catch (error) {
      if (this.#lookup.make !== true || !isErrno(error, 'ENOENT')) throw error;
      await offLoop(() => mkdir(`/proc/self/fd/${here}/${name}`)).catch((failure: unknown) => {
        if (!isErrno(failure, 'EEXIST')) throw failure;
      });
      return await openFrom(here, name);
    }
  }
}

const openFrom = (directory: number, name: string): Promise<number> =>
  callOffLoop('openat', openat, directory, name, O_PATH | O_CLOEXEC | constants.O_NOFOLLOW, 0);

interface Part {
  name: string;
  /** It is the last one of the path that was asked for, not of a link's, and may be no link. */
  isLast: boolean;
}

/** The next one at the end. */
const partsOf = (path: string, isOwn: boolean): Part[] =>
  path
    .split('/')
    .filter((name) => name !== '')
    .toReversed()
    .map((name, at) => ({ name, isLast: isOwn && at === 0 }));

/** Whether only root, or whose process this is, can have made the link and can replace it. */
function isOurs(link: Stats, directory: Stats): boolean {
  const isMine = ({ uid }: Stats) => uid === 0 || uid === process.getuid?.();
  const STICKY = 0o1000;
  return (
    isMine(link) && isMine(directory) && ((directory.mode & 0o022) === 0 || (directory.mode & STICKY) !== 0)
  );
}
