/**
 * Holes in files: fallocate(2) with FALLOC_FL_PUNCH_HOLE gives the disk space of a range back, lseek(2) with SEEK_HOLE
 * tells where there is none. Both work on ext4, xfs, btrfs, f2fs and tmpfs.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { CofaError } from '../../schemas/errors.ts';
import { isErrno } from './errno.ts';
import { call, callOffLoop, declare } from './libc.ts';

// linux/falloc.h, unistd.h
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

const fallocate = declare('fallocate', ['int', 'int', 'int64', 'int64']);
const lseek = declare('lseek', ['int', 'int64', 'int'], 'int64');

/**
 * Makes `[offset, offset + length)` of the file a hole; its size stays. Runs on a pool thread: a large range of a
 * fragmented file takes a while. Errors: `unsupported` where the file system cannot.
 */
export async function punchHole(fd: number, offset: number, length: number): Promise<void> {
  const mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  try {
    await callOffLoop('fallocate', fallocate, fd, mode, offset, length);
  } catch (cause) {
    if (!isErrno(cause, 'EOPNOTSUPP', 'ENOTSUP', 'ENOSYS')) throw cause;
    throw new CofaError('unsupported', 'the file system below the cofa root cannot punch holes into files', {
      cause,
      hint: 'keep the cofa root on ext4, xfs or btrfs',
    });
  }
}

/** Bytes of a file, from `from` up to `to`, which is not one of them. */
export interface ByteHole {
  from: number;
  to: number;
}

/**
 * The holes of the first `size` bytes, in order; none on a file system that does not report holes. Moves the file's
 * position.
 */
export async function holesOf(fd: number, size: number): Promise<ByteHole[]> {
  const holes: ByteHole[] = [];
  for (let at = 0, seeks = 1; at < size; seeks++) {
    const hole = seek(fd, at, SEEK_HOLE);
    if (hole === undefined || hole >= size) break;
    const data = Math.min(seek(fd, hole, SEEK_DATA) ?? size, size);
    holes.push({ from: hole, to: data });
    at = data;
    // Each is a look into the file's extents, a few microseconds; a fragmented file has thousands.
    if (seeks % SEEKS_AT_ONCE === 0) await nextTurn();
  }
  return holes;
}

const SEEKS_AT_ONCE = 256;

/** Undefined: there is none behind `from` (ENXIO), or the file system does not know (EINVAL). */
function seek(fd: number, from: number, whence: number): number | undefined {
  try {
    return call('lseek', lseek, fd, from, whence);
  } catch (error) {
    if (isErrno(error, 'ENXIO', 'EINVAL', 'EOPNOTSUPP')) return undefined;
    throw error;
  }
}
