/**
 * The tar reader against hand-made archives: where tools disagree, or write nothing of the kind.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import type { Fragment } from '../../src/image/sparse.ts';
import { TarReader } from '../../src/image/tar.ts';
import type { TarMember } from '../../src/image/tar.ts';
import { encodeToc, TocWriter } from '../../src/image/toc-codec.ts';
import { TocBuilder } from '../../src/image/toc.ts';
import type { TocEntry } from '../../src/image/toc.ts';
import { contentOf, tocOf } from './layer-tree.ts';
import { END, gnuLong, header, member, number, padded, pax, SECTOR, sealed, sparse } from './tar-writer.ts';
import type { SparseKind } from './tar-writer.ts';

/** Members as the reader tells them. */
function membersOf(tar: Buffer, step = 65536): TarMember[] {
  const members: TarMember[] = [];
  const reader = new TarReader((found) => {
    members.push(found);
    return [];
  });
  for (let at = 0; at < tar.length; at += step) reader.push(tar.subarray(at, at + step));
  reader.finish();
  return members;
}

function only(tar: Buffer): TocEntry {
  const { entries } = tocOf(tar);
  expect(entries).toHaveLength(1);
  const [entry] = entries;
  if (entry === undefined) throw new Error('no entry');
  return entry;
}

function failure(tar: Buffer): { code: string; message: string } {
  try {
    tocOf(tar);
  } catch (error) {
    if (error instanceof CofaError) return { code: error.code, message: error.message };
    throw error;
  }
  return { code: 'none', message: 'accepted' };
}

describe('numbers in headers', () => {
  test.each([
    ['octal with leading blanks and a trailing blank', '   644 \0', 0o644],
    ['octal that fills the field', '00001234', 0o1234],
    ['an empty field', '\0\0\0\0\0\0\0\0', 0],
    ['octal ended by a NUL, junk behind it', '0644\0xyz', 0o644],
    ['a mode with the file type of some writers', '0100644\0', 0o644],
  ])('%s', (_, text, mode) => {
    const tar = header({ name: 'f' }, (block) => block.write(text, 100, 'latin1'));
    expect(only(tar).mode).toBe(mode);
  });

  test.each(['0000648\0', '-000644\0', '6 44    ', 'abc\0\0\0\0\0'])('%j is no number', (text) => {
    const tar = header({ name: 'f' }, (block) => block.write(text, 100, 'latin1'));
    expect(failure(tar)).toMatchObject({ code: 'integrity', message: expect.stringContaining('mode') });
  });

  test('base-256: large, negative, and beyond 64 bits', () => {
    expect(only(header({ name: 'f', uid: 0xfffffffe, mtime: -5 }))).toMatchObject({
      uid: 0xfffffffe,
      mtime: { sec: -5, nsec: 0 },
    });
    const huge = header({ name: 'f' }, (block) => block.fill(0x81, 136, 148));
    expect(failure(huge)).toMatchObject({
      code: 'integrity',
      message: expect.stringContaining('modification time'),
    });
    expect(failure(header({ name: 'f' }, (block) => number(block, 124, 12, -1)))).toMatchObject({
      code: 'integrity',
      message: expect.stringContaining('negative'),
    });
  });

  test('a checksum of signed bytes, as Sun wrote it', () => {
    const name = Buffer.from([0x61, 0xff, 0xfe]);
    expect(only(header({ name, signedSum: true })).path).toEqual(name);
    expect(only(header({ name })).path).toEqual(name);
    const broken = header({ name });
    broken[0] = 0x62;
    expect(failure(broken)).toMatchObject({
      code: 'integrity',
      message: expect.stringContaining('checksum'),
    });
  });

  test('owners: -1 stays root, -2 is what the kernel makes of it, 2^32 does not exist', () => {
    expect(only(header({ name: 'f', uid: -1, gid: -2 }))).toMatchObject({ uid: 0, gid: 0xfffffffe });
    expect(failure(header({ name: 'f', uid: 2 ** 32 }))).toMatchObject({ code: 'integrity' });
  });

  test('a time that no file system holds becomes 1970', () => {
    const tar = Buffer.concat([pax([['mtime', '9000000000000000000']]), header({ name: 'f' })]);
    expect(only(tar).mtime).toEqual({ sec: 0, nsec: 0 });
  });
});

describe('names', () => {
  test('a ustar prefix, none in v7 and GNU headers', () => {
    expect(only(header({ name: 'name', prefix: 'some/prefix' })).path.toString()).toBe('some/prefix/name');
    const v7 = header({ name: 'name', dialect: 'v7' }, (block) => block.write('prefix', 345));
    expect(only(v7).path.toString()).toBe('name');
    const gnu = header({ name: 'name', dialect: 'gnu' }, (block) =>
      block.write('00000000001 00000000002', 345),
    );
    expect(only(gnu).path.toString()).toBe('name');
  });

  test('a ustar name and prefix that fill their fields', () => {
    const tar = header({ name: 'n'.repeat(100), prefix: `${'p'.repeat(100)}/${'q'.repeat(54)}` });
    expect(only(tar).path.toString()).toBe(`${'p'.repeat(100)}/${'q'.repeat(54)}/${'n'.repeat(100)}`);
  });

  test('the prefix that Go wrote into GNU headers before 2017', () => {
    const tar = header({ name: 'name', dialect: 'gnu' }, (block) => block.write('usr/share', 345));
    expect(only(tar).path.toString()).toBe('usr/share/name');
  });

  test('star: a shorter prefix, times behind it', () => {
    const tar = header({ name: 'name', prefix: 'dir' }, (block) => {
      number(block, 476, 12, 7);
      number(block, 488, 12, 8);
      block.write('tar\0', 508);
    });
    expect(only(tar).path.toString()).toBe('dir/name');
  });

  test.each([
    ['/absolute/path', 'absolute/path'],
    ['././a/./b', 'a/b'],
    ['a//b///c', 'a/b/c'],
    ['.//..a/b..', '..a/b..'],
    ['a/../b', 'b'],
    ['../../etc/passwd', 'etc/passwd'],
    ['a/../../../b/.', 'b'],
    ['/..', ''],
    ['...', '...'],
    ['a/.../b', 'a/.../b'],
  ])('%s becomes %s', (name, path) => {
    expect(only(header({ name: `${name}/`, type: '5' })).path.toString()).toBe(path);
    expect(only(Buffer.concat([gnuLong('L', name), header({ name: 'x', type: '5' })])).path.toString()).toBe(
      path,
    );
  });

  test('the root is kept as a directory only', () => {
    expect(only(header({ name: './', type: '5', mode: 0o700 }))).toMatchObject({ type: 'dir', mode: 0o700 });
    expect(tocOf(member({ name: '.' }, 'data')).entries).toEqual([]);
    expect(tocOf(header({ name: '..', type: '2', link: '/etc' })).entries).toEqual([]);
  });

  test('symlink targets are kept as they are, hard link targets are paths in the layer', () => {
    expect(only(header({ name: 's', type: '2', link: '/../x//./y/' })).link.toString()).toBe('/../x//./y/');
    expect(only(header({ name: 'h', type: '1', link: '/../x//./y' })).link.toString()).toBe('x/y');
  });

  test('names that Linux cannot have are refused', () => {
    expect(failure(longName('n'.repeat(256)))).toMatchObject({ code: 'unsupported' });
    expect(failure(longName(`${'d/'.repeat(2047)}ff`))).toMatchObject({ code: 'unsupported' });
    expect(only(longName(`${'d/'.repeat(2047)}f`)).path).toHaveLength(4095);
    expect(failure(header({ name: 's', type: '2' }))).toMatchObject({ code: 'integrity' });
    expect(failure(header({ name: 'h', type: '1', link: '/' }))).toMatchObject({ code: 'integrity' });
  });

  test('GNU long names beat pax paths; a pax path that is empty leaves the header its name', () => {
    const records = pax([
      ['path', 'pax'],
      ['path', ''],
      ['linkpath', 'target'],
    ]);
    expect(only(Buffer.concat([records, header({ name: 'own', type: '2' })]))).toMatchObject({
      path: Buffer.from('own'),
      link: Buffer.from('target'),
    });
    const both = Buffer.concat([
      gnuLong('L', 'gnu'),
      gnuLong('K', 'long'),
      records,
      header({ name: 'own', type: '2' }),
    ]);
    expect(only(both)).toMatchObject({ path: Buffer.from('gnu'), link: Buffer.from('long') });
  });
});

describe('pax records', () => {
  test.each([
    ['1500000000.123456789', { sec: 1500000000, nsec: 123456789 }],
    ['1500000000.1', { sec: 1500000000, nsec: 100000000 }],
    ['1500000000.0000000019', { sec: 1500000000, nsec: 1 }],
    ['-1.25', { sec: -2, nsec: 750000000 }],
    ['-0.5', { sec: -1, nsec: 500000000 }],
    ['-3', { sec: -3, nsec: 0 }],
    ['-0', { sec: 0, nsec: 0 }],
    ['7.', { sec: 7, nsec: 0 }],
  ])('mtime %s', (text, mtime) => {
    expect(only(Buffer.concat([pax([['mtime', text]]), header({ name: 'f' })])).mtime).toStrictEqual(mtime);
  });

  test.each(['1.x', 'x', '.5', '1e9', '0x10', '1.2.3', ' 1'])('%j is no time', (text) => {
    expect(failure(Buffer.concat([pax([['mtime', text]]), header({ name: 'f' })])).code).toBe('integrity');
  });

  test('lengths rule, so values may hold newlines, "=" and NUL; the last of a key wins', () => {
    const value = Buffer.from([0, 10, 0x3d, 0x20, 0xff, 0x80, 0x31]);
    const tar = Buffer.concat([
      pax([
        ['SCHILY.xattr.user.x', 'old'],
        ['SCHILY.xattr.user.x', value],
        ['SCHILY.xattr.user.empty', ''],
        ['SCHILY.xattr.security.a=b', 'first "=" ends the key'],
        ['comment', value],
        ['hdrcharset', 'BINARY'],
        ['path', Buffer.from([0xff, 0x0a])],
        ['uid', '4000000000'],
        ['gid', '12'],
        ['size', '3'],
      ]),
      header({ name: 'f', size: 0 }),
      padded('abc'),
    ]);
    const entry = only(tar);
    expect(entry).toMatchObject({ path: Buffer.from([0xff, 0x0a]), uid: 4e9, gid: 12, size: 3 });
    expect(entry.xattrs.map(([name, bytes]) => [name.toString(), bytes.toString('latin1')])).toEqual([
      ['security.a', 'b=first "=" ends the key'],
      ['user.empty', ''],
      ['user.x', value.toString('latin1')],
    ]);
  });

  test('xattrs that no container sees are left out', () => {
    const records = pax([
      ['SCHILY.xattr.trusted.overlay.opaque', 'y'],
      ['SCHILY.xattr.com.apple.provenance', 'x'],
      ['SCHILY.xattr.system.nfs4_acl', 'x'],
      ['SCHILY.xattr.system.posix_acl_access', 'acl'],
      ['SCHILY.xattr.user.', 'x'],
      ['SCHILY.xattr.user.a', 'x'],
    ]);
    const names = (type: string): string[] =>
      only(Buffer.concat([records, header({ name: 'f', type, link: 't' })])).xattrs.map(([name]) =>
        name.toString(),
      );
    expect(names('0')).toEqual(['system.posix_acl_access', 'user.a']);
    expect(names('5')).toEqual(['system.posix_acl_access', 'user.a']);
    expect(names('2')).toEqual(['system.posix_acl_access']);
  });

  test('LIBARCHIVE records: names with percent signs, values in base64; SCHILY wins; damage is passed over', () => {
    const tar = Buffer.concat([
      pax([
        ['LIBARCHIVE.xattr.user.a%3Db%25', 'AP8='],
        ['LIBARCHIVE.xattr.user.both', 'AAAA'],
        ['SCHILY.xattr.user.both', 'schily'],
        ['LIBARCHIVE.xattr.user.bad%zz', 'AAAA'],
        ['LIBARCHIVE.xattr.user.bad', '!!'],
      ]),
      header({ name: 'f' }),
    ]);
    expect(only(tar).xattrs).toEqual([
      [Buffer.from('user.a=b%'), Buffer.from([0, 0xff])],
      [Buffer.from('user.both'), Buffer.from('schily')],
    ]);
  });

  test('device numbers from SCHILY records; what Linux has no device for', () => {
    expect(only(deviceMember('4095', '1048575'))).toMatchObject({
      type: 'block',
      major: 4095,
      minor: 1048575,
    });
    expect(failure(deviceMember('4096', '0')).code).toBe('integrity');
    expect(failure(deviceMember('1', '-1')).code).toBe('integrity');
  });

  test('global records are checked, not applied, and make those before them forgotten', () => {
    const tar = Buffer.concat([
      pax([['uid', '5']]),
      pax(
        [
          ['gid', '6'],
          ['path', 'global'],
        ],
        'g',
      ),
      header({ name: 'f' }),
    ]);
    expect(only(tar)).toMatchObject({ path: Buffer.from('f'), uid: 0, gid: 0 });
    expect(
      failure(Buffer.concat([member({ name: 'g', type: 'g' }, 'nonsense'), header({ name: 'f' })])).code,
    ).toBe('integrity');
  });

  test('of two extended headers the second counts', () => {
    const tar = Buffer.concat([
      pax([
        ['uid', '5'],
        ['gid', '6'],
      ]),
      pax([['uid', '7']]),
      header({ name: 'f', gid: 8 }),
    ]);
    expect(only(tar)).toMatchObject({ uid: 7, gid: 8 });
  });

  test.each([
    ['a length beyond the header', '99 path=x\n'],
    ['a length that cuts its own key', '5 path=x\n'],
    ['a length of zero', '0 path=x\n'],
    ['a negative length', '-9 path=x\n'],
    ['no newline at its end', '9 path=xy'],
    ['no "="', '8 pathx\n'],
    ['a NUL in a path', '9 path=\0\n'],
    ['no number', 'x path=x\n'],
    ['nothing but digits', '9999999999999999'],
  ])('a record with %s is refused', (_, text) => {
    const tar = Buffer.concat([member({ name: 'x', type: 'x' }, text), header({ name: 'f' })]);
    expect(failure(tar)).toMatchObject({ code: 'integrity', message: expect.stringContaining('at byte 0') });
  });

  test('an extended header of more than 1 MiB is refused before it is read', () => {
    const tar = header({ name: 'x', type: 'x', size: 1 + (1 << 20) });
    expect(failure(tar)).toMatchObject({ code: 'integrity', message: expect.stringContaining('1048577') });
    expect(failure(header({ name: 'L', type: 'L', size: 8 ** 11 - 1 })).code).toBe('integrity');
  });
});

describe('member types', () => {
  test('NUL and 7 are files; NUL with a trailing slash is a directory, 0 with one is a file', () => {
    expect(only(member({ name: 'f', type: '\0' }, 'abc'))).toMatchObject({ type: 'file', size: 3 });
    expect(only(member({ name: 'f', type: '7' }, 'abc'))).toMatchObject({ type: 'file', size: 3 });
    expect(only(header({ name: 'd/', type: '\0', dialect: 'v7' }))).toMatchObject({
      type: 'dir',
      path: Buffer.from('d'),
    });
    expect(only(member({ name: 'f/' }, 'abc'))).toMatchObject({
      type: 'file',
      path: Buffer.from('f'),
      size: 3,
    });
  });

  test.each(['1', '2', '3', '4', '5', '6'])('type %s has no data, whatever its size says', (type) => {
    const tar = Buffer.concat([
      header({ name: 'a', type, link: 't', size: 700 }),
      member({ name: 'b' }, 'xyz'),
    ]);
    const { entries } = tocOf(tar);
    expect(entries.map(({ path, size }) => [path.toString(), size])).toEqual([
      ['a', 0],
      ['b', 3],
    ]);
    expect(contentOf(entries[1] as TocEntry, tar).toString()).toBe('xyz');
  });

  test('a hard link with data, as pax allows and no runtime reads, is refused and explained', () => {
    const tar = Buffer.concat([
      header({ name: 'a', type: '1', link: 't', size: 700 }),
      padded(Buffer.alloc(700, 0x61)),
    ]);
    expect(failure(tar)).toMatchObject({
      code: 'integrity',
      message: expect.stringContaining('claims 700 bytes'),
    });
  });

  test.each(['V', 'M', 'N', 'D', 'A', 'Z', '8'])('type %s, which no runtime unpacks, is refused', (type) => {
    expect(failure(member({ name: 'a', type }, 'x'))).toMatchObject({ code: 'unsupported' });
  });

  test('a sparse file of star, and a sparse directory, are refused', () => {
    expect(failure(header({ name: 'a', type: 'S' })).code).toBe('unsupported');
    const records = pax([
      ['GNU.sparse.map', '0,1'],
      ['GNU.sparse.numblocks', '1'],
    ]);
    expect(failure(Buffer.concat([records, header({ name: 'd', type: '5' })])).code).toBe('integrity');
  });
});

describe('the end of an archive', () => {
  const file = member({ name: 'file' }, 'x'.repeat(600));

  test.each([
    ['two blocks of zeros', END],
    ['one block of zeros', END.subarray(0, SECTOR)],
    ['nothing', Buffer.alloc(0)],
    ['zeros and garbage behind them', Buffer.concat([END, Buffer.from('garbage'), file])],
    ['many zeros', Buffer.alloc(10240)],
  ])('%s', (_, end) => {
    expect(tocOf(Buffer.concat([file, end])).entries).toHaveLength(1);
    expect(tocOf(Buffer.concat([file, end]), 7).entries).toHaveLength(1);
  });

  test('an archive of no bytes and one of zeros are empty layers', () => {
    expect(tocOf(Buffer.alloc(0)).entries).toEqual([]);
    expect(tocOf(END).entries).toEqual([]);
  });

  test('the padding of the last member may be missing', () => {
    expect(tocOf(file.subarray(0, SECTOR + 600)).entries).toHaveLength(1);
  });

  test('one block of zeros between members is damage', () => {
    const tar = Buffer.concat([file, Buffer.alloc(SECTOR), file]);
    expect(failure(tar)).toMatchObject({ code: 'integrity', message: expect.stringContaining('lone block') });
  });

  test('cut anywhere: refused inside a member, accepted between members', () => {
    const pieces = Array.from({ length: 6 }, (_, i) => ({ offset: i * 600, length: 512 }));
    const tar = Buffer.concat([
      pax([['path', 'p'.repeat(90)]]),
      file,
      sparse('old', 's', Buffer.alloc(4096, 1), pieces),
      header({ name: 'd', type: '5' }),
    ]);
    const accepted: number[] = [];
    for (let length = 0; length <= tar.length; length++) {
      const result = failure(tar.subarray(0, length));
      if (result.code === 'none') accepted.push(length);
      else
        expect(result).toMatchObject({
          code: 'integrity',
          message: expect.stringContaining(`${length} bytes are all there is`),
        });
    }
    // In front of each header block, and in the padding behind data.
    const paxEnd = SECTOR + '99 path=\n'.length + 90;
    const fileEnd = 2 * SECTOR + SECTOR + 600;
    const expected = [
      0,
      ...range(paxEnd, 2 * SECTOR),
      ...range(fileEnd, 2 * SECTOR + file.length),
      tar.length - SECTOR,
      tar.length,
    ];
    expect(accepted).toEqual(expected);
  });

  test('an error says where and in which member', () => {
    const tar = Buffer.concat([file, header({ name: 'bad/\nname', size: 100 }), Buffer.alloc(50)]);
    expect(failure(tar).message).toBe(
      `layer tar at byte 1536 ("bad/\\nname"): it is cut short: ${tar.length} bytes are all there is`,
    );
    const broken = Buffer.concat([file, sealed(Buffer.alloc(SECTOR, 0x61))]);
    broken[1600] = 0;
    expect(failure(broken).message).toBe(
      'layer tar at byte 1536 (after "file"): the header has a wrong checksum',
    );
  });

  test('after an error every call repeats it', () => {
    const builder = new TocBuilder();
    const bad = Buffer.alloc(SECTOR, 0x61);
    expect(() => builder.push(bad)).toThrow('checksum');
    expect(() => builder.push(file)).toThrow('checksum');
    expect(() => builder.finish()).toThrow('checksum');
  });
});

describe('whiteouts', () => {
  test('of files, of directories, opaque ones, in the root', () => {
    expect(namesOf('.wh.file', 'a/b/.wh.dir', './a/.wh..wh..opq', '.wh..wh..opq', 'a/x.wh.y')).toEqual([
      ['whiteout', 'file'],
      ['whiteout', 'a/b/dir'],
      ['opaque', 'a'],
      ['opaque', ''],
      ['file', 'a/x.wh.y'],
    ]);
  });

  test('of a name so long that its whiteout is no name', () => {
    const tar = Buffer.concat([pax([['path', `d/.wh.${'n'.repeat(255)}`]]), header({ name: 'f' })]);
    expect(only(tar)).toMatchObject({ type: 'whiteout', path: Buffer.from(`d/${'n'.repeat(255)}`) });
    expect(failure(longName(`d/.wh.${'n'.repeat(256)}`))).toMatchObject({ code: 'unsupported' });
  });

  test('of any type of member, and without its attributes', () => {
    const entry = only(
      Buffer.concat([
        pax([['SCHILY.xattr.user.a', 'b']]),
        header({ name: 'd/.wh.x', type: 'V', mode: 0o700, uid: 1, mtime: 5 }),
      ]),
    );
    expect(entry).toMatchObject({
      type: 'whiteout',
      path: Buffer.from('d/x'),
      mode: 0,
      uid: 0,
      mtime: { sec: 0, nsec: 0 },
      xattrs: [],
    });
  });

  test.each(['.wh.', 'a/.wh..', 'a/.wh...'])('%s removes nothing and is refused', (name) => {
    expect(failure(header({ name }))).toMatchObject({ code: 'integrity' });
  });

  test('names of AUFS are dropped; hard links into its folder become the file and links to it', () => {
    const tar = Buffer.concat([
      header({ name: '.wh..wh.aufs' }),
      header({ name: '.wh..wh.plnk/', type: '5' }),
      header({ name: '.wh..wh.orph/', type: '5' }),
      member({ name: '.wh..wh.plnk/12.34', mode: 0o755 }, 'shared'),
      header({ name: '.wh..wh.plnk/.wh..wh..opq' }),
      header({ name: 'a', type: '1', link: '.wh..wh.plnk/12.34' }),
      header({ name: 'b', type: '1', link: '/.wh..wh.plnk/12.34' }),
    ]);
    const { entries } = tocOf(tar);
    expect(entries.map(({ type, path, link }) => [type, path.toString(), link.toString()])).toEqual([
      ['file', 'a', ''],
      ['hardlink', 'b', 'a'],
    ]);
    expect(contentOf(entries[0] as TocEntry, tar).toString()).toBe('shared');
    expect(failure(header({ name: 'a', type: '1', link: '.wh..wh.plnk/9.9' })).code).toBe('integrity');
  });
});

describe('sparse files', () => {
  const KINDS: SparseKind[] = ['old', '0.0', '0.1', '1.0'];

  test.each(KINDS)(
    '%s: fragments anywhere give the file, in extents where sectors fit and patches elsewhere',
    (kind) => {
      fc.assert(
        fc.property(fragmentsOf(), fc.integer({ min: 1, max: 3000 }), ({ content, fragments }, step) => {
          const tar = Buffer.concat([
            sparse(kind, 'file', content, fragments),
            member({ name: 'next' }, 'n'),
          ]);
          const { entries } = tocOf(tar, step);
          expect(entries.map(({ path }) => path.toString())).toEqual(['file', 'next']);
          const [entry] = entries as [TocEntry];
          expect(contentOf(entry, tar).equals(content)).toBe(true);
          for (const extent of entry.extents) {
            expect([extent.fileOffset % SECTOR, extent.deviceOffset % SECTOR]).toEqual([0, 0]);
            if (extent.length % SECTOR !== 0) expect(extent.fileOffset + extent.length).toBe(entry.size);
          }
          if (
            fragments.every(
              ({ offset, length }) =>
                offset % SECTOR === 0 && (length % SECTOR === 0 || offset + length === content.length),
            )
          ) {
            expect(entry.patches).toEqual([]);
          }
        }),
        { numRuns: 150 },
      );
    },
  );

  test('an old map of three extension blocks', () => {
    const content = Buffer.alloc(60 * 1024);
    const fragments = Array.from({ length: 60 }, (_, i) => ({ offset: i * 1024, length: 512 }));
    for (const { offset } of fragments) content.fill(1 + (offset % 255), offset, offset + 512);
    const tar = Buffer.concat([sparse('old', 'f', content, fragments), member({ name: 'next' })]);
    const [entry, next] = tocOf(tar).entries as [TocEntry, TocEntry];
    expect(contentOf(entry, tar).equals(content)).toBe(true);
    expect([entry.extents.length, next.path.toString()]).toEqual([60, 'next']);
  });

  test('a 1.0 map does not go on in the member behind it', () => {
    const records = pax([
      ['GNU.sparse.major', '1'],
      ['GNU.sparse.minor', '0'],
      ['GNU.sparse.realsize', '512'],
    ]);
    const tar = Buffer.concat([
      records,
      member({ name: 'f' }, '2\n0\n'),
      member({ name: 'g' }, '0\n512\n0\n'),
    ]);
    expect(failure(tar)).toMatchObject({
      code: 'integrity',
      message: expect.stringContaining('end of its member'),
    });
  });

  test('an aligned file of many fragments needs no patch; neighbours become one extent', () => {
    const content = Buffer.alloc(8192, 1);
    const entry = only(
      sparse('1.0', 'f', content, [
        { offset: 0, length: 512 },
        { offset: 512, length: 1024 },
        { offset: 1536, length: 0 },
      ]),
    );
    expect(entry.extents).toEqual([{ fileOffset: 0, deviceOffset: 2048, length: 1536 }]);
    expect(entry.patches).toEqual([]);
  });

  test.each<[string, Fragment[]]>([
    [
      'overlap',
      [
        { offset: 0, length: 100 },
        { offset: 50, length: 100 },
      ],
    ],
    [
      'go backwards',
      [
        { offset: 512, length: 10 },
        { offset: 0, length: 10 },
      ],
    ],
    ['lead beyond the end', [{ offset: 4000, length: 200 }]],
  ])('fragments that %s are refused', (_, fragments) => {
    for (const kind of KINDS) {
      const tar = sparse(kind, 'f', Buffer.alloc(4096, 1), fragments);
      expect(failure(tar)).toMatchObject({
        code: 'integrity',
        message: expect.stringContaining('sparse map'),
      });
    }
  });

  test('a map that does not speak of as many bytes as are stored is refused', () => {
    for (const stored of ['a', 'abc']) {
      const records = pax([
        ['GNU.sparse.map', '0,2'],
        ['GNU.sparse.numblocks', '1'],
        ['GNU.sparse.size', '9'],
      ]);
      expect(failure(Buffer.concat([records, member({ name: 'f' }, stored)]))).toMatchObject({
        code: 'integrity',
      });
    }
  });

  test.each([
    ['a count of more lines than there are', '3\n0\n512\n'],
    ['a negative count', '-1\n'],
    ['a count that is no number', 'x\n0\n1\n'],
    ['a huge count', '99999999999\n'],
    ['no newline', '1'],
  ])('a 1.0 map with %s is refused', (_, map) => {
    const records = pax([
      ['GNU.sparse.major', '1'],
      ['GNU.sparse.minor', '0'],
      ['GNU.sparse.realsize', '512'],
    ]);
    expect(failure(Buffer.concat([records, member({ name: 'f' }, padded(map))]))).toMatchObject({
      code: 'integrity',
    });
  });

  test('a file of petabytes, and patches without end, are refused', () => {
    expect(
      failure(Buffer.concat([sparseRecords('9000000000000000', '0,0', '1'), header({ name: 'f' })])).code,
    ).toBe('unsupported');
    const unaligned = Buffer.concat([
      sparseRecords('99999999', '1,88888888', '1'),
      header({ name: 'f', size: 88888888 }),
    ]);
    expect(failure(unaligned)).toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('aligned'),
    });
  });
});

describe('any bytes', () => {
  const samples = [
    Buffer.concat([
      pax([
        ['path', 'a/b'],
        ['mtime', '1.5'],
        ['SCHILY.xattr.user.a', 'b'],
      ]),
      member({ name: 'x' }, 'data'),
      END,
    ]),
    Buffer.concat([
      gnuLong('L', 'n'.repeat(200)),
      gnuLong('K', 't'),
      header({ name: 'x', type: '2', dialect: 'gnu' }),
      END,
    ]),
    ...(['old', '0.0', '0.1', '1.0'] as const).map((kind) =>
      sparse(kind, 'f', Buffer.alloc(20000, 7), [
        { offset: 0, length: 512 },
        { offset: 1024, length: 100 },
        { offset: 3000, length: 5 },
        { offset: 4096, length: 512 },
        { offset: 8192, length: 512 },
        { offset: 19000, length: 1000 },
      ]),
    ),
    Buffer.concat([
      header({ name: 'd/.wh.x' }),
      header({ name: 'd', type: '5' }),
      member({ name: 'd/f', prefix: 'p' }, 'x'.repeat(1000)),
      header({ name: 'l', type: '1', link: 'd/f' }),
      END,
    ]),
  ];

  test('damaged archives give an error of ours or a table, never anything else', () => {
    const mutation = fc.record({
      block: fc.nat(30),
      at: fc.nat(511),
      bytes: fc.uint8Array({ maxLength: 13 }),
      seal: fc.boolean(),
    });
    const kept = fc.constantFrom(...samples);
    fc.assert(
      fc.property(
        kept,
        fc.array(mutation, { minLength: 1, maxLength: 6 }),
        fc.nat(40000),
        (sample, mutations, cut) => {
          const tar = Buffer.from(sample.subarray(0, Math.max(SECTOR, cut)));
          for (const { block, at, bytes, seal } of mutations) {
            const start = (block % Math.floor(tar.length / SECTOR)) * SECTOR;
            tar.set(bytes.subarray(0, Math.max(0, tar.length - start - at)), start + at);
            if (seal) sealed(tar.subarray(start, start + SECTOR));
          }
          try {
            tocOf(tar, 1000);
          } catch (error) {
            if (!(error instanceof CofaError) || (error.code !== 'integrity' && error.code !== 'unsupported'))
              throw error;
          }
        },
      ),
      { numRuns: 5000 },
    );
  });

  test('chunks of any size give the same members', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...samples),
        fc.array(fc.integer({ min: 1, max: 1500 }), { minLength: 1, maxLength: 20 }),
        (sample, steps) => {
          const builder = new TocBuilder();
          const writer = new TocWriter();
          const giving = new TocBuilder(undefined, (entry) => writer.add(entry));
          for (let at = 0, i = 0; at < sample.length; i++) {
            const step = steps[i % steps.length] ?? 1;
            // A copy that is spoiled afterwards: nothing of a chunk may be kept.
            const chunk = Buffer.from(sample.subarray(at, at + step));
            builder.push(chunk);
            giving.push(chunk);
            chunk.fill(0xaa);
            at += step;
          }
          expect(builder.finish()).toEqual(tocOf(sample));
          // Entries that are given one by one are whole, patches and all.
          expect(giving.finish()).toEqual({ entries: [] });
          expect(writer.finish()).toEqual(encodeToc(tocOf(sample)));
        },
      ),
      { numRuns: 300 },
    );
    for (const sample of samples) expect(tocOf(sample, 1)).toEqual(tocOf(sample));
  });

  test('memory does not grow with the bodies: 16 GiB pass by', () => {
    const size = 2 ** 34;
    const builder = new TocBuilder();
    builder.push(header({ name: 'large', size }));
    const chunk = Buffer.alloc(1 << 20, 0x61);
    for (let at = 0; at < size; at += chunk.length) builder.push(chunk);
    builder.push(header({ name: 'next' }));
    const { entries } = builder.finish();
    expect(entries[0]?.extents).toEqual([{ fileOffset: 0, deviceOffset: 512, length: size }]);
    expect(entries[1]?.path.toString()).toBe('next');
  });
});

test('the reader hands on what it found, raw', () => {
  const [found] = membersOf(member({ name: '../a//b', uid: -7 }, 'xy'), 3);
  expect(found).toMatchObject({ type: 'file', uid: -7, size: 2, dataOffset: 512, fragments: undefined });
  expect(found?.name.toString()).toBe('../a//b');
});

/** A file's content and a map that covers all of it that is not zero. */
function fragmentsOf(): fc.Arbitrary<{ content: Buffer; fragments: Fragment[] }> {
  const piece = fc.record({
    gap: fc.oneof(
      fc.nat(1500),
      fc.nat(4).map((n) => n * SECTOR),
    ),
    length: fc.oneof(
      fc.nat(2500),
      fc.nat(6).map((n) => n * SECTOR),
    ),
  });
  return fc
    .record({ pieces: fc.array(piece, { maxLength: 30 }), tail: fc.oneof(fc.constant(0), fc.nat(2000)) })
    .map(({ pieces, tail }) => {
      const fragments: Fragment[] = [];
      let end = 0;
      for (const { gap, length } of pieces) {
        fragments.push({ offset: end + gap, length });
        end += gap + length;
      }
      const content = Buffer.alloc(end + tail);
      let value = 1;
      for (const { offset, length } of fragments) {
        for (let i = 0; i < length; i++) content[offset + i] = value = (value * 5 + 3) % 251 || 1;
      }
      // A GNU map ends with the size of the file, as an empty fragment.
      if (fragments.length === 0) fragments.push({ offset: content.length, length: 0 });
      return { content, fragments };
    });
}

function longName(name: string): Buffer {
  return Buffer.concat([pax([['path', name]]), header({ name: 'f' })]);
}

function deviceMember(major: string, minor: string): Buffer {
  const records = pax([
    ['SCHILY.devmajor', major],
    ['SCHILY.devminor', minor],
  ]);
  return Buffer.concat([records, header({ name: 'd', type: '4' })]);
}

function namesOf(...paths: string[]): Array<[string, string]> {
  const tar = Buffer.concat(paths.map((name) => member({ name, uid: 5, mtime: 9 }, 'x')));
  return tocOf(tar).entries.map(({ type, path }) => [type, path.toString()]);
}

function sparseRecords(size: string, map: string, count: string): Buffer {
  return pax([
    ['GNU.sparse.map', map],
    ['GNU.sparse.numblocks', count],
    ['GNU.sparse.size', size],
  ]);
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}
