import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { lookupUser } from '../../src/container/users.ts';

const passwd = [
  'root:x:0:0:root:/root:/bin/sh',
  '# comment:x:1:1::/:',
  'broken line',
  'negative:x:-1:1::/n:',
  'daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin',
  'alice:x:1000:1001:Alice,,,:/home/alice:/bin/bash',
  '1000:x:7:8:a name of digits:/seven:',
  'bare:x:9:9',
  '',
].join('\n');
const group = [
  'root:x:0:',
  'daemon:x:1:root',
  'alice:x:1001:alice',
  'wheel:x:10:root,alice',
  'video:x:44:alice',
  '77:x:5:',
].join('\n');

describe('the user of a container', () => {
  it.each([
    ['', { uid: 0, gid: 0, additionalGids: [1, 10], home: '/root' }],
    ['root', { uid: 0, gid: 0, additionalGids: [1, 10], home: '/root' }],
    ['alice', { uid: 1000, gid: 1001, additionalGids: [10, 44], home: '/home/alice' }],
    ['1', { uid: 1, gid: 1, additionalGids: [], home: '/usr/sbin' }],
    ['alice:wheel', { uid: 1000, gid: 10, additionalGids: [], home: '/home/alice' }],
    ['alice:4444', { uid: 1000, gid: 4444, additionalGids: [], home: '/home/alice' }],
    ['4000', { uid: 4000, gid: 0, additionalGids: [], home: '/' }],
    ['4000:44', { uid: 4000, gid: 44, additionalGids: [], home: '/' }],
    [':video', { uid: 0, gid: 44, additionalGids: [], home: '/root' }],
    ['bare', { uid: 9, gid: 9, additionalGids: [], home: '/' }],
    ['alice:77', { uid: 1000, gid: 5, additionalGids: [], home: '/home/alice' }],
  ])('%j', (wanted, user) => expect(lookupUser(wanted, passwd, group)).toEqual(user));

  it('takes the first line that fits by name or number', () => {
    expect(lookupUser('1000', passwd, group)).toMatchObject({ uid: 1000, home: '/home/alice' });
    const swapped = passwd.split('\n').toReversed().join('\n');
    expect(lookupUser('1000', swapped, group)).toMatchObject({ uid: 7, home: '/seven' });
  });

  it('needs no files for numbers', () => {
    expect(lookupUser('5:6', undefined, undefined)).toEqual({
      uid: 5,
      gid: 6,
      additionalGids: [],
      home: '/',
    });
    expect(lookupUser('', undefined, undefined)).toEqual({ uid: 0, gid: 0, additionalGids: [], home: '/' });
  });

  it.each(['bob', 'negative', 'alice:nosuch', '2147483648', '-1', '99999999999999', 'alice:2147483648'])(
    '%s is refused, and makes no user root',
    (wanted) =>
      expect(() => lookupUser(wanted, passwd, group)).toThrow(
        expect.objectContaining({ code: 'invalid-argument' }),
      ),
  );

  it('never gives a number outside of what runc takes, whatever the files say', () => {
    fc.assert(
      fc.property(
        fc.string(),
        fc.string(),
        fc.constantFrom('', 'a', 'a:b', '0', '12:13', 'x:1'),
        (p, g, wanted) => {
          try {
            const user = lookupUser(wanted, `a:x:${p}\n${p}`, `b:x:${g}\n${g}`);
            for (const id of [user.uid, user.gid, ...user.additionalGids]) {
              expect(Number.isInteger(id) && id >= 0 && id < 2 ** 31).toBe(true);
            }
          } catch (error) {
            expect(error).toMatchObject({ code: 'invalid-argument' });
          }
        },
      ),
    );
  });
});
