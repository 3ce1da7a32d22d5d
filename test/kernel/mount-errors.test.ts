/** What a refused mount says. Needs no root. */
import { expect, test } from 'vitest';
import { mountErrors } from '../../src/kernel/mount-errors.ts';

test('a kernel that refuses a flat image may be too old, and the hint says so', () => {
  expect(mountErrors('erofs').EINVAL).toEqual({
    code: 'unsupported',
    hint: 'flat images take Linux 6.4 or newer: cofa doctor tries it; the kernel log (dmesg) says what it refused',
  });
  expect(mountErrors('overlay').EINVAL.hint).toBe('the kernel log (dmesg) says what it refused');
});
