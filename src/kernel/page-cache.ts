/** posix_fadvise(2): what the page cache is to have of a file. */
import { callOffLoop, declare } from './libc.ts';

// fadvise.h
const POSIX_FADV_WILLNEED = 3;
const POSIX_FADV_DONTNEED = 4;

const advise = declare('posix_fadvise', ['int', 'int64', 'int64', 'int']);

/**
 * Begins to read `[offset, offset + length)` into the page cache, in large requests, and does not wait for them. A file
 * that cannot be advised is read when it is needed.
 */
export async function willNeedPages(fd: number, offset: number, length: number): Promise<void> {
  await callOffLoop('posix_fadvise', advise, fd, offset, length, POSIX_FADV_WILLNEED);
}

/**
 * Drops what the page cache has of `[offset, offset + length)`, where it is clean and mapped by nobody; the next read of
 * it goes to the disk.
 */
export async function dropPages(fd: number, offset: number, length: number): Promise<void> {
  // It returns an errno, and a file that cannot be advised keeps its pages.
  await callOffLoop('posix_fadvise', advise, fd, offset, length, POSIX_FADV_DONTNEED);
}
