/** The kernel's keys, for real. */
import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { forgetKeyring } from '../../src/kernel/keyring.ts';
import { call, declare } from '../../src/kernel/libc.ts';

const [ADD_KEY, KEYCTL] = process.arch === 'arm64' ? [217, 219] : [248, 250];
const add = declare('syscall', ['long', 'str', 'str', 'void *', 'size_t', 'long'], 'int64');
const read = declare('syscall', ['long', 'long', 'long', 'void *', 'size_t'], 'int64');
const USER_KEYRING = -4;
const READ = 11;

test('what cofa 0.1.0 kept in a keyring of root is removed, once', () => {
  const name = `cofa-test:${randomBytes(6).toString('hex')}`;
  const ring = Number(call('add_key', add, ADD_KEY, 'keyring', name, null, 0, USER_KEYRING));
  const secret = Buffer.from('a secret');
  const key = Number(call('add_key', add, ADD_KEY, 'user', 'a', secret, secret.length, ring));
  const length = () => Number(read(KEYCTL, READ, key, Buffer.alloc(100), 100));
  expect(length()).toBe(secret.length);
  expect(forgetKeyring(name)).toBe(true);
  expect(length()).toBe(-1);
  expect(forgetKeyring(name)).toBe(false);
});
