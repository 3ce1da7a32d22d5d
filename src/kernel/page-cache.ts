/** posix_fadvise(2): tells the page cache which parts of a file to load or to drop. */
import { callOffLoop, declare } from './libc.ts';

// fadvise.h
const POSIX_FADV_WILLNEED = 3;
const POSIX_FADV_DONTNEED = 4;

const advise = declare('posix_fadvise', ['int', 'int64', 'int64', 'int']);

/**
 * Begins to read `[offset, offset + length)` into the page cache, in large requests, and does not wait for them. A file
 * system that ignores the advice reads the pages on first use.
 */
export async function willNeedPages(fd: number, offset: number, length: number): Promise<void> {
  await callOffLoop('posix_fadvise', advise, fd, offset, length, POSIX_FADV_WILLNEED);
}

/**
 * Drops the pages of `[offset, offset + length)` that are clean and that no process maps; the next read of them reaches
 * the disk.
 */
export async function dropPages(fd: number, offset: number, length: number): Promise<void> {
  // The call returns an errno. A file system that ignores the advice keeps its pages.
  await callOffLoop('posix_fadvise', advise, fd, offset, length, POSIX_FADV_DONTNEED);
}
