/** posix_fadvise(2): pages of a file that are clean and mapped by nobody leave the page cache. */
import { callOffLoop, declare } from './libc.ts';

// fadvise.h
const POSIX_FADV_DONTNEED = 4;

const advise = declare('posix_fadvise', ['int', 'int64', 'int64', 'int']);

/** Drops what the page cache has of `[offset, offset + length)`; the next read of it goes to the disk. */
export async function dropPages(fd: number, offset: number, length: number): Promise<void> {
  // It returns an errno, and a file that cannot be advised keeps its pages.
  await callOffLoop('posix_fadvise', advise, fd, offset, length, POSIX_FADV_DONTNEED);
}
