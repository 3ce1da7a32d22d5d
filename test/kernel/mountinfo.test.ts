import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseMountinfo, topmostAt } from '../../src/kernel/mountinfo.ts';

test('mountinfo: a line with tags, one without, one with an empty source', () => {
  const [tagged, plain, bare] = parseMountinfo(
    [
      '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue',
      '40 35 0:52 / /devices ro - fuse cofa ro,user_id=0',
      '41 35 7:300 / /x ro - erofs  ro',
    ].join('\n'),
  );
  expect(tagged).toEqual({
    id: 36,
    parent: 35,
    major: 98,
    minor: 0,
    root: '/mnt1',
    mountPoint: '/mnt2',
    options: 'rw,noatime',
    tags: ['master:1', 'shared:7'],
    type: 'ext3',
    source: '/dev/root',
    superOptions: 'rw,errors=continue',
  });
  expect(plain).toMatchObject({ tags: [], type: 'fuse', source: 'cofa', minor: 52 });
  expect(bare).toMatchObject({ major: 7, minor: 300, source: '', superOptions: 'ro' });
});

test('mountinfo: names with blank, tab, newline, backslash and non-ASCII letters come back as they are', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom(' ', '\t', '\n', '\\', '#', 'a', '0', '4', 'é', '層') }),
      (name) => {
        const escaped = Buffer.from(name)
          .toString('latin1')
          .replace(/[ \t\n\\#]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`);
        const [entry] = parseMountinfo(Buffer.from(`1 2 0:3 / /${escaped} ro - tmpfs t rw\n`, 'latin1'));
        expect(entry?.mountPoint).toBe(`/${name}`);
      },
    ),
  );
});

test('mountinfo: any bytes at all give entries or nothing, and never an error', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      parseMountinfo(Buffer.from(bytes));
    }),
  );
});

test('mountinfo: every line of this machine is understood', () => {
  const text = readFileSync('/proc/self/mountinfo');
  const entries = parseMountinfo(text);
  expect(entries.length).toBe(text.toString().trimEnd().split('\n').length);
  expect(entries.some((entry) => entry.mountPoint === '/proc' && entry.type === 'proc')).toBe(true);
});

test('mountinfo: the topmost mount at a path is the last whose mount point it is, whatever other fields say', () => {
  const paths = ['/', '/a', '/a b', '/a#', '/é', '/a\\040b', '/a/b', 'ro', '-'];
  const escaped = (path: string) =>
    Buffer.from(path)
      .toString('latin1')
      .replace(/[ \t\n\\#]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`);
  fc.assert(
    fc.property(
      fc.array(fc.record({ root: fc.constantFrom(...paths), point: fc.constantFrom(...paths) })),
      fc.constantFrom(...paths),
      fc.boolean(),
      (mounts, wanted, isCut) => {
        const lines = mounts.map(
          ({ root, point }, id) =>
            `${id} 1 0:3 ${escaped(root)} ${escaped(point)} ro - tmpfs ${escaped(root)} rw`,
        );
        const text = Buffer.from(lines.join('\n') + (isCut ? '' : '\n'), 'latin1');
        const expected = parseMountinfo(text).findLast(({ mountPoint }) => mountPoint === wanted);
        expect(topmostAt(text, wanted)).toEqual(expected);
      },
    ),
  );
});
