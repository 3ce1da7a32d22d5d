/** Memory with a descriptor, for real. */
import { closeSync, openSync, truncateSync, writeSync } from 'node:fs';
import { expect, test } from 'vitest';
import { call, declare } from '../../src/kernel/libc.ts';
import { readSealed, sealMemory } from '../../src/kernel/sealed-memory.ts';

test('sealed memory is read as it was written, and changed by nobody', () => {
  const bytes = Buffer.alloc(100_000, 'secret');
  const fd = sealMemory('test', bytes);
  expect(readSealed(fd, 100_000)?.equals(bytes)).toBe(true);
  expect(() => writeSync(fd, 'x', 0)).toThrow('EPERM');
  expect(() => truncateSync(`/proc/self/fd/${fd}`, 1)).toThrow('EPERM');
  closeSync(fd);
});

test('what may still change, is larger than expected, or is no memory at all is not read', () => {
  const open = call('memfd_create', declare('memfd_create', ['str', 'uint']), 'open', 1);
  const file = openSync('/etc/passwd', 'r');
  const large = sealMemory('large', Buffer.alloc(11));
  expect([open, file, large].map((fd) => readSealed(fd, 10))).toEqual([undefined, undefined, undefined]);
  for (const fd of [open, file, large]) closeSync(fd);
});
