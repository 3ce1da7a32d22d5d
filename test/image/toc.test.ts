/**
 * Tables of contents: from random trees through an archive and back, and the bytes they are stored as.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { ByteReader, ByteWriter } from '../../src/image/bytes.ts';
import { classify, normalisePath, pathProblem } from '../../src/image/layer-path.ts';
import { entryProblem, keepsXattr } from '../../src/image/toc-limits.ts';
import { decodeToc, encodeToc } from '../../src/image/toc.ts';
import type { EntryType, Extent, Patch, TocEntry, Xattr } from '../../src/image/toc.ts';
import { entryOf, SAMPLE } from '../fixtures/tar/toc-v1.ts';
import { contentOf, tocOf } from './layer-tree.ts';
import { END, gnuLong, header, member, pax, SECTOR } from './tar-writer.ts';

const FIXTURE = new URL('../fixtures/tar/toc-v1.bin', import.meta.url);

function thrown(run: () => unknown): CofaError {
  try {
    run();
  } catch (error) {
    if (error instanceof CofaError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

describe('random trees, written by a tar writer of the test, give the table that the tree says', () => {
  const name = fc.oneof(
    fc.constantFrom(
      'a',
      'b',
      'usr',
      'lib',
      '...',
      '..x',
      'new\nline',
      'é',
      '\x01',
      'n'.repeat(99),
      'w'.repeat(255),
    ),
    fc
      .uint8Array({ minLength: 1, maxLength: 20 })
      .map((bytes) => Buffer.from(bytes.map((b) => (b === 0 || b === 0x2f ? 0x78 : b)))),
  );
  const path = fc
    .array(name, { minLength: 1, maxLength: 5 })
    .map((names) =>
      Buffer.concat(names.flatMap((part, i) => [Buffer.from(i === 0 ? '' : '/'), Buffer.from(part)])),
    )
    .filter((bytes) => pathProblem(bytes) === undefined && classify(bytes).kind === 'plain');
  const node = fc.record({
    path,
    link: path,
    type: fc.constantFrom<EntryType>(
      'file',
      'dir',
      'symlink',
      'hardlink',
      'char',
      'block',
      'fifo',
      'whiteout',
      'opaque',
    ),
    mode: fc.nat(0o7777),
    uid: fc.oneof(fc.nat(70000), fc.nat(0xfffffffe)),
    gid: fc.nat(0xfffffffe),
    sec: fc.integer({ min: -(2 ** 40), max: 2 ** 40 - 1 }),
    nsec: fc.nat(999_999_999),
    content: fc.uint8Array({ maxLength: 1500 }).map((bytes) => Buffer.from(bytes)),
    major: fc.nat(4095),
    minor: fc.nat(1048575),
    xattrs: fc.uniqueArray(
      fc.tuple(fc.constantFrom('user.a', 'user.b', 'security.x'), fc.uint8Array({ maxLength: 30 })),
      { selector: ([key]) => key },
    ),
    style: fc.constantFrom<'pax' | 'gnu'>('pax', 'gnu'),
    decoration: fc.constantFrom('', './', '/', '././/', '../', 'x/../'),
  });
  type TreeNode = typeof node extends fc.Arbitrary<infer T> ? T : never;
  const flags: Record<string, string> = {
    file: '0',
    dir: '5',
    symlink: '2',
    hardlink: '1',
    char: '3',
    block: '4',
    fifo: '6',
  };

  function rawName({ path, type, decoration }: TreeNode): Buffer {
    if (type === 'opaque')
      return Buffer.concat([Buffer.from(decoration), path, Buffer.from('/.wh..wh..opq')]);
    const slash = path.lastIndexOf(0x2f) + 1;
    const mark = Buffer.from(type === 'whiteout' ? '.wh.' : '');
    return Buffer.concat([
      Buffer.from(decoration),
      path.subarray(0, slash),
      mark,
      path.subarray(slash),
      Buffer.from(type === 'dir' ? '/' : ''),
    ]);
  }

  function archived(tree: TreeNode): Buffer {
    const { type, mode, uid, gid, sec, nsec, content, major, minor, xattrs, style, link } = tree;
    const data = type === 'file' ? content : Buffer.alloc(0);
    const linked = type === 'symlink' || type === 'hardlink' ? link : Buffer.alloc(0);
    const short = { name: 'short', type: flags[type] ?? '0', mode, link: 'short', size: data.length };
    const devices = type === 'char' || type === 'block' ? { major, minor } : {};
    if (style === 'gnu') {
      const headers = [gnuLong('L', rawName(tree)), ...(linked.length > 0 ? [gnuLong('K', linked)] : [])];
      return Buffer.concat([
        ...headers,
        member({ ...short, ...devices, dialect: 'gnu', uid, gid, mtime: sec }, data),
      ]);
    }
    const negative = sec < 0 && nsec > 0;
    const time = negative
      ? `-${-sec - 1}.${String(1_000_000_000 - nsec).padStart(9, '0')}`
      : `${sec}.${String(nsec).padStart(9, '0')}`;
    const records = pax([
      ['path', rawName(tree)],
      ['linkpath', linked],
      ['uid', String(uid)],
      ['gid', String(gid)],
      ['mtime', time],
      ...xattrs.map(([key, value]) => [`SCHILY.xattr.${key}`, Buffer.from(value)] as const),
    ]);
    return Buffer.concat([records, member({ ...short, ...devices }, data)]);
  }

  function expectedOf(tree: TreeNode, dataAt: number): TocEntry {
    const { type, mode, uid, gid, sec, nsec, content, major, minor, style, link } = tree;
    const path = tree.path;
    if (type === 'whiteout' || type === 'opaque') return entryOf({ path, type, mode: 0 });
    const size = type === 'file' ? content.length : 0;
    const xattrs = tree.xattrs
      .filter(([key]) => style === 'pax' && keepsXattr(key, type))
      .map(([key, value]): Xattr => [Buffer.from(key), Buffer.from(value)])
      .sort((a, b) => a[0].compare(b[0]));
    return entryOf({
      path,
      type,
      mode,
      uid,
      gid,
      mtime: { sec, nsec: style === 'gnu' ? 0 : nsec },
      size,
      link: type === 'symlink' || type === 'hardlink' ? link : Buffer.alloc(0),
      ...(type === 'char' || type === 'block' ? { major, minor } : {}),
      xattrs,
      extents: size > 0 ? [{ fileOffset: 0, deviceOffset: dataAt, length: size }] : [],
    });
  }

  test('in any chunks, with names in any disguise', () => {
    fc.assert(
      fc.property(fc.array(node, { maxLength: 12 }), fc.integer({ min: 1, max: 5000 }), (nodes, step) => {
        const parts: Buffer[] = [];
        const expected: TocEntry[] = [];
        let at = 0;
        for (const tree of nodes) {
          const bytes = archived(tree);
          const stored = tree.type === 'file' ? Math.ceil(tree.content.length / SECTOR) * SECTOR : 0;
          expected.push(expectedOf(tree, at + bytes.length - stored));
          parts.push(bytes);
          at += bytes.length;
        }
        const tar = Buffer.concat([...parts, END]);
        const toc = tocOf(tar, step);
        expect(toc.entries).toStrictEqual(expected);
        for (const [i, entry] of toc.entries.entries()) {
          if (entry.type === 'file')
            expect(contentOf(entry, tar).equals(nodes[i]?.content ?? Buffer.alloc(0))).toBe(true);
        }
        expect(decodeToc(encodeToc(toc))).toStrictEqual(toc);
      }),
      { numRuns: 400 },
    );
  });
});

describe('the stored bytes', () => {
  test('version 1, as it was released, opens and is written again byte for byte', () => {
    const stored = readFileSync(FIXTURE);
    expect(decodeToc(stored)).toStrictEqual(SAMPLE);
    expect(encodeToc(SAMPLE).equals(stored)).toBe(true);
  });

  test('an empty table', () => {
    expect(decodeToc(encodeToc({ entries: [] }))).toEqual({ entries: [] });
  });

  test('a real tree: the table comes back, in few bytes', () => {
    const tar = execFileSync('tar', ['-c', '--format=posix', '--sort=name', '-C', '/usr/share', 'doc'], {
      maxBuffer: 1 << 29,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const toc = tocOf(tar);
    const bytes = encodeToc(toc);
    expect(decodeToc(bytes)).toStrictEqual(toc);
    expect(toc.entries.length).toBeGreaterThan(100);
    expect(zstdCompressSync(bytes).length / toc.entries.length).toBeLessThan(20);
  });

  test('a table of a later version is named as such', () => {
    const later = Buffer.from(encodeToc(SAMPLE));
    later[8] = 2;
    expect(thrown(() => decodeToc(later))).toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('version 2'),
    });
  });

  test('cut anywhere, or with something behind it, it is refused', () => {
    const bytes = encodeToc(SAMPLE);
    for (let length = 0; length < bytes.length; length++) {
      expect(thrown(() => decodeToc(bytes.subarray(0, length))).code).toBe('integrity');
    }
    expect(thrown(() => decodeToc(Buffer.concat([bytes, Buffer.of(0)]))).code).toBe('integrity');
  });

  test('changed bytes are refused, or are the one encoding of another table', () => {
    const bytes = encodeToc(SAMPLE);
    let refused = 0;
    let accepted = 0;
    const attempt = (changed: Buffer): void => {
      try {
        const toc = decodeToc(changed);
        accepted++;
        expect(encodeToc(toc).equals(changed)).toBe(true);
        for (const entry of toc.entries) expect(entryProblem(entry)).toBeUndefined();
      } catch (error) {
        if (!(error instanceof CofaError) || (error.code !== 'integrity' && error.code !== 'unsupported'))
          throw error;
        refused++;
      }
    };
    for (let at = 0; at < bytes.length; at++) {
      if (at > 600 && at < bytes.length - 600) continue;
      for (const value of [0, 1, 2, 9, 10, 0x2e, 0x2f, 0x7f, 0x80, 0xff, (bytes[at] ?? 0) + 1]) {
        const changed = Buffer.from(bytes);
        changed[at] = value;
        attempt(changed);
      }
    }
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 5 }),
        fc.nat(bytes.length),
        fc.nat(3),
        (changes, at, drop) => {
          const changed = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + drop)]);
          for (const [where, value] of changes) if (where < changed.length) changed[where] = value;
          attempt(changed);
        },
      ),
      { numRuns: 3000 },
    );
    expect(refused).toBeGreaterThan(1000);
    expect(accepted).toBeGreaterThan(100);
  });

  test('a plain file in the guise of a sparse one, and a user xattr of a symlink, are refused', () => {
    const plain = entryOf({ size: 5, extents: extents(5) });
    const rest = entryOf({ path: Buffer.from('z'), size: 600, extents: [extent(0, 512, 512)] });
    const bytes = encodeToc({ entries: [plain, rest] });
    expect(decodeToc(bytes).entries).toHaveLength(2);
    // Both are sparse now; the first has one extent of five bytes, no patch.
    const guised = withSection(
      withSection(bytes, 0, Buffer.of(9, 9)),
      15,
      Buffer.of(1, 0, 5, 0, 1, 0, 0x80, 4, 0),
    );
    expect(thrown(() => decodeToc(guised)).message).toContain('plain file');
    const file = entryOf({ xattrs: [[Buffer.from('user.a'), Buffer.from('b')]] });
    const link = entryOf({ path: Buffer.from('z'), type: 'symlink', link: Buffer.from('t') });
    const both = encodeToc({ entries: [file, link] });
    expect(decodeToc(withSection(both, 13, Buffer.of(0, 0))).entries[1]?.xattrs).toEqual([]);
    expect(
      thrown(() =>
        decodeToc(
          withSection(withSection(both, 13, Buffer.of(0, 1)), 14, Buffer.from('\x01\x06\x01user.ab')),
        ),
      ).message,
    ).toContain('its type');
  });

  test('numbers that promise more than there is do not allocate it', () => {
    const writer = new ByteWriter();
    writer.bytes(Buffer.from('cofa-toc'));
    writer.number(1);
    writer.number(2 ** 40);
    expect(thrown(() => decodeToc(Buffer.from(writer.written()))).message).toContain('entries');
    const column = new ByteWriter();
    column.bytes(Buffer.from('cofa-toc'));
    column.number(1);
    column.number(1);
    column.number(2 ** 50);
    expect(thrown(() => decodeToc(Buffer.from(column.written()))).message).toContain('ends early');
  });

  test('paths that a few bytes blow up are bounded', () => {
    // Each entry shares 4094 bytes with the one before: ten bytes of table for four thousand of path.
    const long = `${'d/'.repeat(2047)}`;
    const paths = [`${long}a`, `${long}b`].map((text) => Buffer.from(text));
    const one = encodeToc({ entries: [entryOf({ path: paths[0] as Buffer })] });
    const more = encodeToc({
      entries: Array.from({ length: 1001 }, (_, i) => entryOf({ path: paths[i % 2] as Buffer })),
    });
    expect((more.length - one.length) / 1000).toBeLessThan(12);
    expect(decodeToc(more).entries).toHaveLength(1001);
    const many = encodeToc({
      entries: Array.from({ length: 70_000 }, (_, i) => entryOf({ path: paths[i % 2] as Buffer })),
    });
    expect(thrown(() => decodeToc(many))).toMatchObject({
      code: 'integrity',
      message: expect.stringContaining('bytes of names'),
    });
  });
});

describe('what is no entry is neither written nor read', () => {
  const user: Xattr[] = [[Buffer.from('user.a'), Buffer.alloc(0)]];

  test.each<[string, Partial<TocEntry>]>([
    ['an absolute path', { path: Buffer.from('/a') }],
    ['a path with ..', { path: Buffer.from('a/../b') }],
    ['a path with .', { path: Buffer.from('a/.') }],
    ['a path with an empty name', { path: Buffer.from('a//b') }],
    ['a path that ends in a slash', { path: Buffer.from('a/') }],
    ['a NUL in a path', { path: Buffer.from('a\0b') }],
    ['a name of 256 bytes', { path: Buffer.alloc(256, 'x') }],
    ['a whiteout name', { path: Buffer.from('a/.wh.b') }],
    ['a root that is a file', { path: Buffer.alloc(0) }],
    ['file type bits in the mode', { mode: 0o100644 }],
    ['a negative owner', { uid: -1 }],
    ['an owner of 33 bits', { gid: 2 ** 32 }],
    ['a second of more than 1e9 ns', { mtime: { sec: 0, nsec: 1e9 } }],
    ['a time far away', { mtime: { sec: 2 ** 41, nsec: 0 } }],
    ['a fraction of a second in seconds', { mtime: { sec: 0.5, nsec: 0 } }],
    ['a symlink without a target', { type: 'symlink' }],
    ['a hard link out of the root', { type: 'hardlink', link: Buffer.from('../a') }],
    ['a hard link to the root', { type: 'hardlink' }],
    ['a target of a file', { link: Buffer.from('a') }],
    ['a device number of a file', { major: 1 }],
    ['a device number that is too large', { type: 'char', major: 4096 }],
    ['a directory with a size', { type: 'dir', size: 1 }],
    ['a whiteout with a mode', { type: 'whiteout', mode: 1 }],
    ['a whiteout with an xattr', { type: 'whiteout', mode: 0, xattrs: user }],
    ['trusted xattrs', { xattrs: [[Buffer.from('trusted.overlay.opaque'), Buffer.from('y')]] }],
    ['user xattrs of a symlink', { type: 'symlink', link: Buffer.from('a'), xattrs: user }],
    ['xattrs twice', { xattrs: [...user, ...user] }],
    ['an extent beyond the end', { size: 5, extents: [extent(0, 512, 6)] }],
    ['an extent before the layer', { size: 5, extents: [extent(0, -512, 5)] }],
    ['an unaligned extent', { size: 512, extents: [extent(0, 513, 512)] }],
    ['an unaligned file offset', { size: 600, extents: [extent(88, 512, 512)] }],
    ['a short extent in the middle', { size: 600, extents: [extent(0, 512, 88)] }],
    ['an empty extent', { size: 600, extents: [extent(0, 512, 0)] }],
    ['overlapping extents', { size: 2048, extents: [extent(0, 512, 1024), extent(512, 2048, 512)] }],
    ['extents out of order', { size: 2048, extents: [extent(512, 512, 512), extent(0, 2048, 512)] }],
    ['an extent under a patch', { size: 2048, extents: [extent(0, 512, 1024)], patches: [patch(512, 512)] }],
    ['a patch under an extent', { size: 2048, extents: [extent(512, 512, 512)], patches: [patch(0, 1024)] }],
    ['a patch beyond the end', { size: 100, patches: [patch(0, 512)] }],
    ['an empty patch', { size: 100, patches: [patch(0, 0)] }],
    ['a file of petabytes', { size: 2 ** 50 }],
  ])('%s', (_, fields) => {
    expect(thrown(() => encodeToc({ entries: [entryOf(fields)] })).code).toBe('internal');
  });
});

describe('paths', () => {
  test('normalised paths are as the file system would resolve them in an empty root', () => {
    const part = fc.constantFrom('a', 'b', '.', '..', '', '...', '.a', '..b');
    fc.assert(
      fc.property(fc.array(part, { maxLength: 8 }), (parts) => {
        const name = parts.join('/');
        const expected = new URL(`file:///${name.replaceAll('//', '/').replaceAll('//', '/')}`).pathname;
        const path = normalisePath(Buffer.from(name));
        expect(pathProblem(path)).toBeUndefined();
        expect(`/${path.toString()}`).toBe(expected.replace(/\/+/g, '/').replace(/(.)\/$/, '$1'));
        expect(normalisePath(path).equals(path)).toBe(true);
      }),
    );
  });
});

describe('numbers', () => {
  test('come back as they were; longer forms and larger numbers are refused', () => {
    const number = fc.oneof(
      fc.maxSafeNat(),
      fc.nat(300),
      fc.constantFrom(0, 127, 128, 2 ** 32, 2 ** 49, 2 ** 53 - 1),
    );
    fc.assert(
      fc.property(
        fc.array(number),
        fc.array(fc.integer({ min: -(2 ** 52), max: 2 ** 52 - 1 })),
        (numbers, signed) => {
          const writer = new ByteWriter();
          for (const value of numbers) writer.number(value);
          for (const value of signed) writer.signed(value);
          const reader = new ByteReader(Buffer.from(writer.written()), fault);
          expect(numbers.map(() => reader.number())).toEqual(numbers);
          expect(signed.map(() => reader.signed())).toEqual(signed);
          reader.end();
        },
      ),
    );
    expect(() => read(0x80, 0x00)).toThrow('longer');
    expect(() => read(0x80)).toThrow('early');
    expect(() => read(...Array<number>(9).fill(0xff), 1)).toThrow('large');
    expect(() => read(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x10)).toThrow('large');
    expect(read(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f)).toBe(2 ** 53 - 1);
  });
});

test('a header block alone is an entry', () => {
  expect(tocOf(header({ name: 'file' })).entries).toEqual([entryOf({})]);
});

function extent(fileOffset: number, deviceOffset: number, length: number): Extent {
  return { fileOffset, deviceOffset, length };
}

function patch(fileOffset: number, length: number): Patch {
  return { fileOffset, bytes: Buffer.alloc(length) };
}

function fault(reason: string): Error {
  return new Error(reason);
}

function read(...bytes: number[]): number {
  return new ByteReader(Buffer.from(bytes), fault).number();
}

function extents(length: number): Extent[] {
  return [extent(0, 512, length)];
}

/** An encoded table with one of its sections replaced. */
function withSection(bytes: Buffer, index: number, section: Buffer): Buffer {
  const reader = new ByteReader(bytes.subarray(8), fault);
  const writer = new ByteWriter();
  writer.bytes(bytes.subarray(0, 8));
  writer.number(reader.number());
  writer.number(reader.number());
  for (let i = 0; reader.left > 0; i++) {
    const found = reader.bytes(reader.number());
    const written = i === index ? section : found;
    writer.number(written.length);
    writer.bytes(written);
  }
  return Buffer.from(writer.written());
}
