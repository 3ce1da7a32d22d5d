/** What the kernel keeps of a file in memory. */
import { declare } from './libc.ts';

const fadvise = declare('posix_fadvise', ['int', 'int64', 'int64', 'int']);

/** POSIX_FADV_DONTNEED (linux/fadvise.h); s390x alone has another number. */
const DONTNEED = 4;

/**
 * Drops what the page cache holds of the range, as far as it is clean and nobody has it mapped: what is read next comes
 * from the disk, and what was read once does not push out what others need. Advice: it never fails.
 */
export function forgetCached(fd: number, offset: number, length: number): void {
  fadvise(fd, offset, length, DONTNEED);
}
