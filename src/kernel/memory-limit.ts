/** A bound for the memory of another process: prlimit(2), RLIMIT_DATA. */
import { declare } from './libc.ts';

const RLIMIT_DATA = 2;
const prlimit = declare('prlimit', ['int', 'int', 'void *', 'void *']);

/**
 * What a Node process reserves before it does anything, MiB: V8's code range and the stacks of its threads are private and
 * writable, so they count, although little of them is ever used.
 */
const RESERVED_MIB = 640;

/**
 * Lets the process allocate so many MiB, threads and native buffers included. What it asks for beyond is refused, and most
 * processes end of that. One that has ended already stays as it is.
 */
export function limitMemory(pid: number | undefined, mib: number): void {
  if (pid === undefined) return;
  const limit = Buffer.alloc(16);
  const bytes = BigInt(mib + RESERVED_MIB) << 20n;
  limit.writeBigUInt64LE(bytes, 0);
  limit.writeBigUInt64LE(bytes, 8);
  prlimit(pid, RLIMIT_DATA, limit, null);
}
