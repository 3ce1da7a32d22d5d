/**
 * Memory with a descriptor and no name (memfd_create(2)), sealed: who gets the descriptor reads what its maker wrote.
 * A process reaches it only by the descriptor; another one's needs the rights of a debugger (/proc/PID/fd, ptrace(2)),
 * which no container has. It is gone with the last descriptor.
 */
import { closeSync, fstatSync, readSync, writeSync } from 'node:fs';
import { call, declare } from './libc.ts';

const create = declare('memfd_create', ['str', 'uint']);
const control = declare('fcntl', ['int', 'int', 'ulong']);

/** linux/memfd.h */
const MFD_CLOEXEC = 1;
const MFD_NOEXEC_SEAL = 8;
/** linux/fcntl.h */
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
/** F_SEAL_SEAL, SHRINK, GROW and WRITE. */
const SEALED = 1 | 2 | 4 | 8;

/** New memory with these bytes. The caller closes the descriptor. Throws SystemCallError. */
export function sealMemory(name: string, bytes: Uint8Array): number {
  const fd = call('memfd_create', create, name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    call('fcntl', control, fd, F_ADD_SEALS, SEALED);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** What is in it; undefined where the descriptor is of something else, of memory that may still change, or of more than `most` bytes. */
export function readSealed(fd: number, most: number): Buffer | undefined {
  if ((control(fd, F_GET_SEALS, 0) & SEALED) !== SEALED) return undefined;
  const { size } = fstatSync(fd);
  if (size > most) return undefined;
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; ) {
    const got = readSync(fd, bytes, at, size - at, at);
    if (got === 0) return undefined;
    at += got;
  }
  return bytes;
}
