import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { buildFlat } from '../../src/image/erofs.ts';
import { checkFlat } from '../../src/image/erofs-check.ts';
import { BLOCK, imageUuid, INODE, NID_UNIT, SB, SUPERBLOCK } from '../../src/image/erofs-format.ts';
import type { TocEntry } from '../../src/image/toc.ts';
import { nastyLayers } from '../images/nasty.ts';
import { Cleanup } from '../support/temp.ts';
import { readTree } from '../support/tree.ts';
import { flatOf, mountFlat } from './flat-mount.ts';
import { dir, entry, file, hardlink, symlink, toc, xattr } from './toc-entries.ts';

const cleanup = new Cleanup();
let directory: string;

beforeAll(async () => {
  directory = await cleanup.tempDir('check');
});
afterAll(() => cleanup.run());

const DIFF_ID = `sha256:${'1'.repeat(64)}`;
const DEVICE_SIZE = 64 * 1024;

const ACL = Buffer.from(
  '0200000001000600ffffffff02000700d204000004000400ffffffff10000700ffffffff20000400ffffffff',
  'hex',
);

/** A little of everything, in one layer. */
function sample(): Buffer {
  const entries: TocEntry[] = [
    dir('', { mode: 0o711 }),
    dir('a', { xattrs: [xattr('user.a', 'alone'), xattr('user.label', 'shared by several inodes')] }),
    dir('a/b', { xattrs: [xattr('user.label', 'shared by several inodes')] }),
    file('a/b/c', 3000, {
      xattrs: [xattr('user.label', 'shared by several inodes'), xattr('system.posix_acl_access', ACL)],
    }),
    hardlink('a/linked', 'a/b/c'),
    entry('sparse', 'file', {
      size: 9000,
      extents: [{ fileOffset: 4096, deviceOffset: 512, length: 4096 }],
      patches: [{ fileOffset: 8192, bytes: Buffer.alloc(808, 'p') }],
    }),
    file('empty'),
    symlink('short', 'a/b'),
    symlink('long', 't'.repeat(1000)),
    entry('fifo', 'fifo'),
    entry('null', 'char', { major: 1, minor: 3 }),
    dir('many'),
    ...Array.from({ length: 60 }, (_, i) => file(`many/name-${i}`, 1)),
  ];
  return buildFlat([toc(...entries)], [{ diffId: DIFF_ID, size: DEVICE_SIZE }]).metadata;
}

/** The byte where the inode at a path lies; names without their types, by another reading than the checker's. */
function find(image: Buffer, path: string): number {
  let at = image.readUInt16LE(SUPERBLOCK + SB.rootNid) * NID_UNIT;
  for (const name of path.split('/').filter((part) => part !== ''))
    at = namesOf(image, at).get(name)?.inode as number;
  return at;
}

/** Where the entries of a directory lie, by name, and the inodes that they lead to. */
function namesOf(image: Buffer, at: number): Map<string, { entry: number; inode: number }> {
  const found = new Map<string, { entry: number; inode: number }>();
  const size = image.readUInt32LE(at + INODE.size);
  const isInline = image.readUInt16LE(at) >> 1 === 2;
  const xattrs = image.readUInt16LE(at + INODE.xattrCount);
  const tail = at + 64 + (xattrs === 0 ? 0 : 12 + 4 * (xattrs - 1));
  const blocks = Math.ceil(size / BLOCK);
  for (let block = 0; block < blocks; block++) {
    const start =
      isInline && block + 1 === blocks ? tail : (image.readUInt32LE(at + INODE.union) + block) * BLOCK;
    const length = block + 1 === blocks ? size - block * BLOCK : BLOCK;
    const count = image.readUInt16LE(start + 8) / 12;
    for (let index = 0; index < count; index++) {
      const entryAt = start + 12 * index;
      const from = start + image.readUInt16LE(entryAt + 8);
      const to = start + (index + 1 < count ? image.readUInt16LE(entryAt + 20) : length);
      const name = image.toString('latin1', from, to).replace(/\0+$/, '');
      found.set(name, { entry: entryAt, inode: image.readUInt32LE(entryAt) * NID_UNIT });
    }
  }
  return found;
}

function seal(image: Buffer): Buffer {
  imageUuid(image).copy(image, SUPERBLOCK + SB.uuid);
  return image;
}

/** What the checker says of an edited sample. */
function verdict(edit: (image: Buffer) => unknown): string {
  const image = sample();
  const edited = edit(image);
  return judge(seal(Buffer.isBuffer(edited) ? edited : image));
}

function judge(image: Buffer): string {
  try {
    return `sound, ${checkFlat(image).inodes} inodes`;
  } catch (error) {
    if (error instanceof CofaError && error.code === 'integrity') return error.message;
    throw error;
  }
}

describe('the checker', () => {
  test('takes what the writer writes', () => {
    expect(judge(sample())).toBe('sound, 71 inodes');
    expect(checkFlat(sample()).devices).toEqual([{ diffId: DIFF_ID, size: DEVICE_SIZE }]);
    expect(judge(flatOf(nastyLayers()).metadata)).toMatch(/^sound/);
  });

  test('does not mind another order of the same things', () => {
    // Two symlinks of the same size change places.
    const { metadata } = buildFlat(
      [toc(symlink('a', 'one'), symlink('b', 'two'))],
      [{ diffId: DIFF_ID, size: 512 }],
    );
    const names = namesOf(metadata, find(metadata, ''));
    const [a, b] = [names.get('a') as { entry: number }, names.get('b') as { entry: number }];
    const nid = metadata.readUInt32LE(a.entry);
    metadata.writeUInt32LE(metadata.readUInt32LE(b.entry), a.entry);
    metadata.writeUInt32LE(nid, b.entry);
    expect(judge(seal(metadata))).toBe('sound, 3 inodes');
  });

  test('notices a changed byte by the UUID, whatever the byte means', () => {
    const image = sample();
    image[find(image, 'empty') + INODE.mtime] = 1;
    expect(judge(image)).toMatch(/it is damaged/);
  });

  const inode = (path: string, change: (image: Buffer, at: number) => unknown) => (image: Buffer) =>
    change(image, find(image, path));
  const name =
    (folder: string, text: string, change: (image: Buffer, at: number) => unknown) => (image: Buffer) =>
      change(image, namesOf(image, find(image, folder)).get(text)?.entry as number);
  const SLOT = 1152;

  const cases: Array<[string, (image: Buffer) => unknown, RegExp]> = [
    ['nothing at all', () => Buffer.alloc(0), /its size is 0 bytes/],
    ['a cut image', (image) => image.subarray(0, image.length - 512), /its size is/],
    ['a page less', (image) => image.subarray(0, image.length - 4096), /unknown value at byte 36/],
    ['a page more', (image) => Buffer.concat([image, Buffer.alloc(4096)]), /unknown value at byte 36/],
    ['zeros', () => Buffer.alloc(4096), /no EROFS superblock/],
    ['another block size', (image) => (image[1024 + 12] = 12), /unknown value at byte 12/],
    ['compression', (image) => (image[1024 + 80] = 0x0d), /unknown value at byte 80/],
    ['48-bit addresses', (image) => (image[1024 + 80] = 0x8c), /unknown value at byte 80/],
    ['a checksum feature', (image) => (image[1024 + 8] = 3), /unknown value at byte 8/],
    ['a longer superblock', (image) => (image[1024 + 13] = 1), /unknown value at byte 13/],
    ['a packed inode', (image) => (image[1024 + 96] = 40), /unknown value at byte 96/],
    ['long xattr prefixes', (image) => (image[1024 + 91] = 1), /unknown value at byte 91/],
    ['a metadata offset', (image) => (image[1024 + 40] = 1), /unknown value at byte 40/],
    ['a boot sector', (image) => (image[0] = 1), /something at byte 0 that belongs to nothing/],
    ['more inodes than it has', (image) => image.writeUInt32LE(72, 1024 + 16), /has 71 inodes and says 72/],
    ['fewer inodes than it has', (image) => image.writeUInt32LE(70, 1024 + 16), /running number 71/],
    ['a billion inodes', (image) => image.writeUInt32LE(1e9, 1024 + 16), /cannot hold/],
    ['a root elsewhere', (image) => image.writeUInt16LE(65535, 1024 + 14), /inode 65535 lies outside/],
    [
      'a root that is a file',
      (image) => image.writeUInt16LE(find(image, 'empty') / 32, 1024 + 14),
      /root is no directory/,
    ],
    [
      'a directory as root',
      (image) => image.writeUInt16LE(find(image, 'a') / 32, 1024 + 14),
      /\.\. that leads elsewhere/,
    ],
    ['shared xattrs outside', (image) => image.writeUInt32LE(1e6, 1024 + 44), /shared xattrs lie outside/],
    ['no device', (image) => image.writeUInt16LE(0, 1024 + 86), /device 1, which is not there/],
    ['an unused device', (image) => image.writeUInt16LE(2, 1024 + 86), /device 2 is named by no diffID/],
    ['thousands of devices', (image) => image.writeUInt16LE(60_000, 1024 + 86), /60000 devices/],
    ['a device without a name', (image) => image.fill(0, SLOT, SLOT + 64), /named by no diffID/],
    ['a device in capitals', (image) => image.write('A', SLOT), /named by no diffID/],
    ['a device that is mapped', (image) => (image[SLOT + 68] = 1), /unknown way/],
    ['a device of 48 bits', (image) => (image[SLOT + 72] = 1), /unknown way/],
    ['a device without blocks', (image) => image.writeUInt32LE(0, SLOT + 64), /has 0 blocks/],
    ['a smaller device', (image) => image.writeUInt32LE(6, SLOT + 64), /beyond its device/],

    ['a compact inode', inode('empty', (image, at) => (image[at] = 0)), /unknown format/],
    ['a compressed inode', inode('a/b/c', (image, at) => (image[at] = 3)), /unknown format/],
    [
      'an inode with a further flag',
      inode('a', (image, at) => (image[at] = (image[at] as number) | 0x10)),
      /unknown format/,
    ],
    ['a socket', inode('empty', (image, at) => image.writeUInt16LE(0o140644, at + 4)), /unknown mode/],
    ['no type', inode('empty', (image, at) => image.writeUInt16LE(0o644, at + 4)), /unknown mode/],
    [
      'another type than the name',
      inode('empty', (image, at) => image.writeUInt16LE(0o10644, at + 4)),
      /wrong type/,
    ],
    [
      'a symlink with permissions',
      inode('short', (image, at) => image.writeUInt16LE(0o120644, at + 4)),
      /permissions/,
    ],
    ['48 bits of a block', inode('many', (image, at) => (image[at + 6] = 1)), /unknown way/],
    [
      'a second inode number',
      inode('empty', (image, at) => image.writeUInt32LE(1, at + 20)),
      /running number 1/,
    ],
    ['no inode number', inode('empty', (image, at) => image.writeUInt32LE(0, at + 20)), /running number 0/],
    ['a second of 1e9 ns', inode('empty', (image, at) => image.writeUInt32LE(1e9, at + 40)), /bad time/],
    ['an owner -1', inode('empty', (image, at) => image.writeInt32LE(-1, at + 24)), /has no owner/],
    ['a group -1', inode('empty', (image, at) => image.writeInt32LE(-1, at + 28)), /has no owner/],
    ['bytes behind an inode', inode('empty', (image, at) => (image[at + 63] = 1)), /unknown way/],
    [
      'a wrong link count',
      inode('a/b/c', (image, at) => image.writeUInt32LE(3, at + 44)),
      /has 2 links and says 3/,
    ],
    [
      'no link count',
      inode('empty', (image, at) => image.writeUInt32LE(0, at + 44)),
      /has 1 links and says 0/,
    ],
    [
      'a wrong count of folders',
      inode('a', (image, at) => image.writeUInt32LE(2, at + 44)),
      /has 3 links and says 2/,
    ],

    [
      'chunks of 4-byte addresses',
      inode('a/b/c', (image, at) => (image[at + 16] = 3)),
      /chunks of an unknown form/,
    ],
    [
      'chunks of 48 bits',
      inode('a/b/c', (image, at) => (image[at + 16] = 0x63)),
      /chunks of an unknown form/,
    ],
    ['smaller chunks than there are', inode('a/b/c', (image, at) => (image[at + 16] = 0x20)), /.*/],
    ['a size of 2^63', inode('a/b/c', (image, at) => image.fill(0xff, at + 8, at + 16)), /has .* bytes/],
    [
      'a size of 16 TiB',
      inode('a/b/c', (image, at) => image.writeUInt32LE(4095, at + 12)),
      /.*(reaches|unknown|overlap|belongs)/,
    ],
    ['a file without chunks', inode('a/b/c', (image, at) => (image[at] = 1)), /chunks of an unknown form/],
    [
      'an empty file with a block',
      inode('empty', (image, at) => (image[at + 16] = 9)),
      /an empty file, has contents/,
    ],
    [
      'an empty file with chunks',
      inode('empty', (image, at) => (image[at] = 9)),
      /an empty file, has contents/,
    ],
    ['a fifo with contents', inode('fifo', (image, at) => (image[at + 8] = 1)), /has contents/],
    ['a fifo with a number', inode('fifo', (image, at) => (image[at + 16] = 1)), /device number/],
    ['a device with contents', inode('null', (image, at) => (image[at] = 5)), /has contents/],
    ['an empty symlink', inode('short', (image, at) => (image[at + 8] = 0)), /has 0 bytes/],
    ['a symlink of 4096', inode('long', (image, at) => image.writeUInt32LE(4096, at + 8)), /has 4096 bytes/],
    [
      'an empty directory without dots',
      inode('a', (image, at) => image.writeUInt32LE(0, at + 8)),
      /is empty/,
    ],
    ['a huge directory', inode('many', (image, at) => (image[at + 12] = 1)), /reaches beyond its end|across/],
    [
      'a directory elsewhere',
      inode('many', (image, at) => image.writeUInt32LE(1, at + 16)),
      /unknown form|overlap/,
    ],
    [
      'a directory outside',
      inode('many', (image, at) => image.writeUInt32LE(0xfffffff0, at + 16)),
      /beyond its end/,
    ],

    [
      'a name that leads to the root',
      name('a', 'b', (image, at) => image.writeUInt32LE(find(image, '') / 32, at)),
      /has two names/,
    ],
    [
      'a loop',
      name('a/b', 'c', (image, at) => image.writeUInt32LE(find(image, 'a') / 32, at)),
      /has two names/,
    ],
    [
      'a directory of two names',
      name('', 'many', (image, at) => image.writeUInt32LE(find(image, 'a') / 32, at)),
      /has two names/,
    ],
    [
      '. elsewhere',
      name('a', '.', (image, at) => image.writeUInt32LE(find(image, '') / 32, at)),
      /\. that leads elsewhere/,
    ],
    [
      '.. elsewhere',
      name('a/b', '..', (image, at) => image.writeUInt32LE(find(image, '') / 32, at)),
      /\.\. that leads/,
    ],
    ['. as a file', name('a', '.', (image, at) => (image[at + 10] = 1)), /\. that leads elsewhere/],
    ['a nid of 64 bits', name('a', 'b', (image, at) => (image[at + 7] = 0x80)), /entry of unknown form/],
    ['a nid outside', name('a', 'b', (image, at) => image.writeUInt32LE(0x7fffffff, at)), /lies outside/],
    [
      'a nid within another inode',
      name('', 'empty', (image, at) => image.writeUInt32LE(image.readUInt32LE(at) + 1, at)),
      /./,
    ],
    ['the superblock as inode', name('', 'empty', (image, at) => image.writeUInt32LE(32, at)), /overlap/],
    ['a wrong type of a name', name('', 'empty', (image, at) => (image[at + 10] = 7)), /wrong type/],
    ['a reserved byte', name('', 'empty', (image, at) => (image[at + 11] = 1)), /entry of unknown form/],
    [
      'an odd first offset',
      name('many', '.', (image, at) => image.writeUInt16LE(13, at + 8)),
      /block of unknown form/,
    ],
    [
      'a zero first offset',
      name('many', '.', (image, at) => image.writeUInt16LE(0, at + 8)),
      /block of unknown form/,
    ],
    [
      'a large first offset',
      name('many', '.', (image, at) => image.writeUInt16LE(512, at + 8)),
      /block of unknown form/,
    ],
    [
      'names that overlap',
      name('many', '..', (image, at) => image.writeUInt16LE(0, at + 8)),
      /entry of unknown form/,
    ],
  ];
  test.each(cases)('refuses %s', (_, edit, message) => {
    expect(verdict(edit)).toMatch(message);
    expect(verdict(edit)).not.toMatch(/^sound/);
  });

  test('refuses names that are no names, twice there or out of order', () => {
    const rename = (from: string, to: string) => (image: Buffer) => {
      const at = image.indexOf(Buffer.from(from, 'latin1'), SUPERBLOCK + 128);
      image.write(to, at, 'latin1');
    };
    expect(verdict(rename('name-12', 'name/12'))).toMatch(/has the name "name\/12"/);
    expect(verdict(rename('name-12', 'name\u000012'))).toMatch(/has the name/);
    expect(verdict(rename('name-12', 'name-11'))).toMatch(/out of order/);
    expect(verdict(rename('name-12', 'name-99'))).toMatch(/out of order/);
    expect(verdict(rename('name-12', 'name-1.'))).toMatch(/out of order/);
    expect(verdict(rename('name-12', 'name-11\xff'.slice(0, 7)))).not.toMatch(/^sound/);
    // Another name in the same place is no offence.
    expect(verdict(rename('name-12', 'name-1:'))).not.toMatch(/^sound/);
    expect(verdict(rename('name-59', 'name-99'))).toMatch(/out of order/);
    expect(verdict(rename('linked', 'linkee'))).toMatch(/^sound/);
  });

  test('refuses xattrs that are not as they should be', () => {
    const at = (image: Buffer) => find(image, 'a') + 64;
    const own = (image: Buffer) => image.indexOf('aalone') - 4;
    const shared = (image: Buffer) => image.indexOf('labelshared') - 4;
    const acl = (image: Buffer) => image.indexOf(ACL) - 4;
    expect(verdict((image) => image.write('xalone', own(image) + 4))).toMatch(/^sound/);
    const edits: Array<[(image: Buffer) => unknown, RegExp]> = [
      [(image) => (image[at(image)] = 1), /unknown form/],
      [(image) => (image[at(image) + 5] = 1), /unknown form/],
      [(image) => (image[at(image) + 4] = 200), /unknown form/],
      [(image) => (image[at(image) + 4] = 0), /name space|cut short|unknown|zero|twice|behind/],
      [(image) => image.writeUInt32LE(1e9, at(image) + 12), /outside of the image/],
      [(image) => image.writeUInt16LE(1, find(image, 'a') + 2), /has 12 bytes of xattrs/],
      [(image) => image.writeUInt16LE(65535, find(image, 'a') + 2), /bytes of xattrs/],
      [(image) => (image[own(image) + 1] = 4), /name space 4/],
      [(image) => (image[own(image) + 1] = 0x81), /name space 129/],
      [(image) => (image[own(image) + 1] = 2), /xattr named/],
      [(image) => (image[own(image)] = 0), /xattr named/],
      [(image) => (image[own(image)] = 255), /cut short/],
      [(image) => image.writeUInt16LE(60_000, own(image) + 2), /cut short/],
      [(image) => image.writeUInt16LE(4, own(image) + 2), /behind an xattr/],
      [(image) => (image[own(image) + 4] = 0), /xattr named/],
      [(image) => image.writeUInt16LE(65_000, shared(image) + 2), /cut short/],
      [(image) => (image[acl(image) + 4] = 3), /malformed ACL/],
      [(image) => (image[acl(image) + 1] = 3), /a file, has the xattr "system.posix_acl_default"/],
    ];
    for (const [edit, message] of edits) expect(verdict(edit)).toMatch(message);
  });

  test('refuses parts that overlap, and bytes that belong to nothing', () => {
    const chunk = (image: Buffer, path: string) => find(image, path) + 64;
    const patch = (image: Buffer) => image.indexOf(Buffer.alloc(808, 'p'));
    // The patch of the sparse file shows the inodes.
    expect(
      verdict((image) => image.writeUInt32LE(find(image, '') >> 9, chunk(image, 'sparse') + 20)),
    ).toMatch(/overlap|behind its end|beyond|belongs/);
    expect(verdict((image) => image.writeUInt32LE(0xfffffffe, chunk(image, 'sparse') + 20))).toMatch(
      /beyond its end/,
    );
    expect(verdict((image) => (image[patch(image) + 808] = 1))).toMatch(/behind its end/);
    expect(verdict((image) => image.writeUInt16LE(1, chunk(image, 'sparse') + 2))).toMatch(
      /a hole in a device/,
    );
    expect(verdict((image) => image.writeUInt16LE(1, chunk(image, 'sparse')))).toMatch(
      /chunk of an unknown form/,
    );
    expect(verdict((image) => image.writeUInt16LE(2, chunk(image, 'sparse') + 10))).toMatch(
      /device 2, which is not there/,
    );
    // Two symlinks in one block, both as they should be but for that.
    const target = 't'.repeat(1024);
    const { metadata } = buildFlat(
      [toc(symlink('a', target), symlink('b', target))],
      [{ diffId: DIFF_ID, size: 512 }],
    );
    const from = metadata.readUInt32LE(find(metadata, 'a') + 16) * BLOCK;
    const to = metadata.readUInt32LE(find(metadata, 'b') + 16) * BLOCK;
    metadata.writeUInt32LE(from / BLOCK, find(metadata, 'b') + 16);
    expect(judge(seal(metadata))).toMatch(/overlap/);
    metadata.writeUInt32LE(to / BLOCK + 100, find(metadata, 'b') + 16);
    expect(judge(seal(metadata))).toMatch(/beyond its end/);
  });

  test('is done quickly with directories that all claim the same large block', () => {
    const folders = 3000;
    const { metadata } = buildFlat(
      [
        toc(
          dir('large'),
          ...Array.from({ length: 20_000 }, (_, i) => file(`large/${i}`)),
          ...Array.from({ length: folders }, (_, i) => dir(`d${i}`)),
        ),
      ],
      [{ diffId: DIFF_ID, size: 512 }],
    );
    const large = find(metadata, 'large');
    for (const [text, { inode }] of namesOf(metadata, find(metadata, ''))) {
      if (/^d\d/.test(text)) metadata.copy(metadata, inode + 8, large + 8, large + 20);
    }
    const started = performance.now();
    expect(judge(seal(metadata))).not.toMatch(/^sound/);
    expect(performance.now() - started).toBeLessThan(20_000);
  });
});

describe('mutated images', () => {
  const base = sample();
  const large = flatOf(nastyLayers().slice(0, 2)).metadata;

  /** Any change of a few bytes, many of them to what an attacker would write. */
  const change = fc.record({
    at: fc.nat(),
    width: fc.constantFrom(1, 2, 4),
    value: fc.oneof(
      fc.nat(255),
      fc.nat(0xffffffff),
      fc.constantFrom(
        0,
        1,
        0x7f,
        0x80,
        0xff,
        511,
        512,
        513,
        0x7fff,
        0xffff,
        0x7fffffff,
        0xfffffffe,
        0xffffffff,
      ),
    ),
    copyFrom: fc.option(fc.nat(), { nil: undefined, freq: 4 }),
    length: fc.nat(600),
  });

  function mutate(
    image: Buffer,
    changes: ReadonlyArray<{
      at: number;
      width: number;
      value: number;
      copyFrom: number | undefined;
      length: number;
    }>,
  ): Buffer {
    const mutated = Buffer.from(image);
    for (const { at, width, value, copyFrom, length } of changes) {
      // Most of what matters lies in front.
      const where = SUPERBLOCK + (at % (image.length - SUPERBLOCK - 4));
      const aligned = where - (where % width);
      if (copyFrom !== undefined)
        mutated.copy(mutated, aligned, copyFrom % image.length, (copyFrom % image.length) + length);
      else mutated.writeUIntLE(value % 256 ** width, aligned, width);
    }
    return seal(mutated);
  }

  test('are refused or sound, and never anything else', () => {
    let sound = 0;
    let refused = 0;
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), fc.boolean(), (changes, small) => {
        if (judge(mutate(small ? base : large, changes)).startsWith('sound')) sound++;
        else refused++;
      }),
      { numRuns: 3000, interruptAfterTimeLimit: 100_000 },
    );
    console.log(`mutated images: ${refused} refused, ${sound} sound`);
    expect(refused).toBeGreaterThan(sound);
  }, 120_000);

  test('of one byte that pass can be mounted and walked', async () => {
    await mkdir(directory, { recursive: true });
    const device = join(directory, 'device');
    await writeFile(device, Buffer.alloc(DEVICE_SIZE, 'd'));
    let mounted = 0;
    for (let seed = 1; mounted < 40 && seed < 4000; seed++) {
      // One in a few passes: owners, times, permissions, device numbers, contents of patches.
      const mutated = mutate(base, [
        {
          at: (seed * 2654435761) % 2 ** 31,
          width: 1,
          value: (seed * 31) % 256,
          copyFrom: undefined,
          length: 0,
        },
      ]);
      if (mutated.equals(base) || !judge(mutated).startsWith('sound')) continue;
      const folder = join(directory, `m${seed}`);
      await mkdir(folder);
      const { root, unmount } = await mountFlat(cleanup, folder, mutated, [device]);
      const { nodes } = await readTree(root);
      expect(nodes.length).toBe(72);
      unmount();
      mounted++;
    }
    expect(mounted).toBe(40);
  }, 120_000);

  test('cut anywhere are refused', () => {
    for (let length = 0; length < large.length; length += 4096) {
      expect(judge(large.subarray(0, length))).not.toMatch(/^sound/);
    }
    for (let length = 0; length < base.length; length += 37)
      expect(judge(base.subarray(0, length))).toMatch(/its size/);
  });
});
