/**
 * A hand-made image of everything that real layers may hold and most hold never. The layers of `nastyLayers`
 * mean the same to every unpacker that follows the OCI layer format; what only some can unpack stands apart in
 * `gnuLayer`, whose judge is GNU tar. All bytes are the same at each call.
 */
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32, deflateRawSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { type ImageLayout, type LayerFile, writeLayout } from '../../ops/images/layout.ts';
import { seededRandom } from '../support/readers.ts';
import { type Fragment, TarBytes } from './tar-bytes.ts';

export type Variant = 'gzip' | 'docker' | 'plain' | 'zstd' | 'members';

/**
 * Builds an image of the given tars in `directory`.
 * `gzip`: OCI, each layer by another writer; `docker`: the same blobs under Docker's schema 2; `plain`: tars as
 * they are; `zstd`: several frames; `members`: gzip of many members, one of them empty.
 */
export async function buildImage(
  directory: string,
  tars: readonly Buffer[],
  variant: Variant,
): Promise<ImageLayout> {
  await mkdir(directory, { recursive: true });
  const layers: LayerFile[] = [];
  for (const [index, tar] of tars.entries()) {
    // A blob of no bytes at all is not welcome everywhere; compressed it has some.
    if (variant === 'plain' && tar.length === 0) continue;
    const compression = variant === 'plain' ? 'none' : variant === 'zstd' ? 'zstd' : 'gzip';
    const blob = compress(tar, variant, index);
    const file = join(directory, `layer${index}`);
    await writeFile(file, blob);
    layers.push({
      file,
      compression,
      digest: digestOf(blob),
      size: blob.length,
      diffId: digestOf(tar),
      createdBy: `layer ${index}`,
    });
  }
  return writeLayout(join(directory, 'layout'), {
    kind: variant === 'docker' ? 'docker' : 'oci',
    layers,
    config: { Env: ['PATH=/bin', 'NASTY=a b'], Cmd: ['/bin/true'], WorkingDir: '/', User: '0' },
    created: '2020-01-01T00:00:00Z',
  });
}

/** Lowest first. Understood by umoci and by containerd, though not quite alike: see README.md. */
export function nastyLayers(): Buffer[] {
  return [everything(), changes(), emptyLayer(), Buffer.alloc(0), changesBack(), garbageAtTheEnd(), noEnd()];
}

/**
 * Two layers of which the upper one links to names of the lower one, and takes away and gives anew in one go.
 * umoci unpacks that, as one would by untarring layer over layer; containerd's overlayfs snapshotter refuses it.
 */
export function crossLinkLayers(): Buffer[] {
  const below = new TarBytes().dir('a/').file('a/one', prose(200_000, 91)).hardlink('a/two', 'a/one');
  below.dir('b/').file('b/goes', prose(50_000, 92)).file('b/stays', 'x').dir('c/').file('c/old', 'old');
  below.file('c/again', 'old').symlink('link', 'a/one');
  const above = new TarBytes().dir('new/').hardlink('new/three', 'a/one').hardlink('new/link', 'link');
  above.dir('b/').hardlink('b/kept', 'b/stays').file('b/.wh.goes', '');
  // A whiteout takes away what lies below, before or behind what its own layer puts there.
  above.dir('c/').file('c/again', 'new').file('c/.wh.again', '');
  above.file('.wh.c', '').file('c/new', 'new');
  return [below.bytes(), above.bytes()];
}

/** Bytes that do not compress, the same for the same seed. */
export function noise(length: number, seed: number): Buffer {
  const random = seededRandom(seed);
  const bytes = Buffer.alloc(length);
  for (let i = 0; i + 4 <= length; i += 4) bytes.writeUInt32LE(random(0x1_0000_0000), i);
  return bytes;
}

/** Bytes that compress about three to one, as programs do. */
export function prose(length: number, seed: number): Buffer {
  const random = seededRandom(seed);
  const words = Array.from({ length: 300 }, () => noise(4 + 4 * random(3), 1 + random(1 << 30)));
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; ) at += (words[random(random(300) + 1)] as Buffer).copy(bytes, at);
  return bytes;
}

const latin1 = (text: string) => Buffer.from(text, 'latin1');

/** Depth such that the whole path stays below PATH_MAX (4096) with a mount point in front of it. */
const DEEP = Array.from({ length: 30 }, (_, level) => `${String(level).padStart(3, '0')}${'d'.repeat(97)}`);

/** Layer 1: one of everything. Names `./`-less, with `./` and absolute in turns. */
function everything(): Buffer {
  const tar = new TarBytes();
  tar.dir('./', { pax: [['mtime', '1234567890.123456789']] });
  tar.dir('bin/').dir('/etc/').dir('./usr').dir('/usr/share/', { mode: 0o2775, gid: 50 });
  tar.file('/bin/true', prose(3000, 1), { mode: 0o755 });
  tar.file('/etc/absolute', 'an absolute path\n').file('./etc/dotted', 'a path with a dot\n');
  tar.file('etc//double', 'a path with two slashes\n').file('etc/./within', 'a dot within\n');

  // Sizes at the borders of sectors, blocks and spans.
  tar.dir('size/');
  for (const size of [0, 1, 2, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 131073])
    tar.file(`size/${size}`, noise(size, size + 1));
  tar.file('size/3m', prose(3 * 1024 * 1024 + 1, 7)).file('size/5m', noise(5 * 1024 * 1024 - 1, 8));
  tar.file('size/zeros', Buffer.alloc(2_000_000));

  // Modes, owners, times.
  tar.dir('mode/').dir('mode/sticky', { mode: 0o1777 }).dir('mode/none', { mode: 0 });
  for (const mode of [0o4755, 0o2755, 0o6711, 0, 0o7777]) tar.file(`mode/${mode.toString(8)}`, 'x', { mode });
  tar.dir('owner/');
  tar.file('owner/base256', 'o', { uid: 3_000_000, gid: 4_000_000, numbers: 'base256', dialect: 'gnu' });
  tar.file('owner/pax', 'o', {
    pax: [
      ['uid', '2147483646'],
      ['gid', '70000'],
    ],
  });
  tar.file('owner/names', 'o', { uid: 33, gid: 34, uname: 'nobody-has-this-name' });
  tar.dir('time/');
  tar.file('time/nanoseconds', 't', { pax: [['mtime', '1500000000.000000001']] });
  tar.file('time/short-fraction', 't', { pax: [['mtime', '1500000000.5']] });
  tar.file('time/epoch', 't', { mtime: 0 });
  tar.file('time/before-1970', 't', { pax: [['mtime', '-1.25']] });
  tar.file('time/2106', 't', { mtime: 4_294_967_295 });
  tar.symlink('time/link', 'nowhere', { pax: [['mtime', '1400000000.25']] });
  tar.dir('time/dir', { pax: [['mtime', '1300000000.75']] });

  // Types.
  tar.dir('type/').file('type/v7', 'type byte NUL', { type: '\0', dialect: 'v7' });
  tar.add({ name: 'type/v7-dir/', type: '\0', dialect: 'v7', mode: 0o750 });
  tar.add({ name: 'type/fifo', type: '6', mode: 0o600 });
  tar.add({ name: 'type/null', type: '3', mode: 0o666, major: 1, minor: 3 });
  tar.add({ name: 'type/loop', type: '4', mode: 0o660, major: 7, minor: 200 });
  tar.add({ name: 'type/big-device', type: '3', major: 300, minor: 70_000 });
  tar.symlink('type/dangling', 'no/such/file').symlink('type/absolute', '/bin/true');
  tar.symlink('type/long', `${'../'.repeat(40)}${'t'.repeat(200)}`);
  tar.symlink('type/long-gnu', 'g'.repeat(300), { longNames: 'gnu' });
  tar.symlink('type/raw', latin1('\xff\xfe\n'));
  tar.symlink('type/loop-to-itself', 'loop-to-itself');

  names(tar);
  hardlinks(tar);
  xattrs(tar);
  sparseFiles(tar);

  // The same name again: the last one counts.
  tar.dir('again/').file('again/file', 'first').file('again/file', 'second, longer', { mode: 0o600 });
  tar.file('again/kept-by-link', 'the first bytes').hardlink('again/link', 'again/kept-by-link');
  tar.file('again/kept-by-link', 'the second bytes');
  tar
    .dir('again/dir', { mode: 0o700 })
    .file('again/dir/within', 'stays')
    .dir('again/dir', { mode: 0o711, uid: 5 });
  tar.file('again/file-then-dir', 'gone').dir('again/file-then-dir').file('again/file-then-dir/x', 'x');
  tar.symlink('again/link-then-file', '/etc/absolute').file('again/link-then-file', 'a file of its own');

  // What the next layers change.
  tar
    .dir('gone/')
    .file('gone/file', 'x')
    .dir('gone/dir/')
    .dir('gone/dir/sub/')
    .file('gone/dir/sub/deep', 'x');
  tar.file('gone/stays', 'x').file('gone/returns', 'old');
  tar.dir('opaque/', { mode: 0o700 }).file('opaque/old', 'x').dir('opaque/sub/').file('opaque/sub/old', 'x');
  tar.file('opaque/same', 'below');
  tar.dir('late/').file('late/old', 'x');
  tar.dir('nested/').dir('nested/opaque/').dir('nested/opaque/within/').file('nested/opaque/within/old', 'x');
  tar.dir('swap/').file('swap/file-to-dir', 'x').dir('swap/dir-to-file/').file('swap/dir-to-file/x', 'x');
  tar.dir('swap/dir-to-link/').file('swap/dir-to-link/x', 'x').symlink('swap/link-to-dir', '/etc');
  tar.file('swap/fifo', 'x').dir('meta/', { mode: 0o700, pax: [['SCHILY.xattr.user.old', 'old']] });
  tar.file('meta/file', 'the same bytes', { mode: 0o600 }).file('meta/untouched', 'x');
  return tar.bytes();
}

function names(tar: TarBytes): void {
  tar.dir('name/');
  tar.file('name/new\nline', 'n').file(latin1('name/\xff\xfe invalid UTF-8'), 'i').file('name/ü€😀', 'u');
  tar.file('name/ leading and trailing ', 'b').file('name/back\\slash', 'b').file('name/-dash', 'd');
  tar.file('name/tab\tquote"star*', 'q').file('name/..dots', 'd').file('name/...', 'd');
  tar.file('name/wh.not-a-whiteout', 'w').file(latin1('name/\x01\x7f'), 'c');
  tar.file(`name/${'n'.repeat(255)}`, 'as long as a name can be');
  tar.dir(`name/${'p'.repeat(60)}`).dir(`name/${'p'.repeat(60)}/${'q'.repeat(60)}`);
  tar.file(`name/${'p'.repeat(60)}/${'q'.repeat(60)}/prefix`, 'p', { longNames: 'prefix' });
  tar.file(`name/${'p'.repeat(60)}/${'q'.repeat(60)}/gnu`, 'g', { longNames: 'gnu' });
  tar.hardlink(
    `name/${'p'.repeat(60)}/${'q'.repeat(60)}/gnu-link`,
    `name/${'p'.repeat(60)}/${'q'.repeat(60)}/gnu`,
    {
      longNames: 'gnu',
    },
  );
  tar.dir('deep/');
  for (let level = 1; level <= DEEP.length; level++) tar.dir(`deep/${DEEP.slice(0, level).join('/')}`);
  tar.file(`deep/${DEEP.join('/')}/bottom`, 'far down');
  tar.dir('many/', { pax: [['mtime', '1111111111.5']] });
  for (let i = 0; i < 3000; i++)
    tar.file(`many/${i.toString(36)}-${(i * 7919) % 3000}`, i % 10 === 0 ? `file ${i}` : '');
}

function hardlinks(tar: TarBytes): void {
  tar
    .dir('link/')
    .file('link/one', prose(100_000, 21))
    .hardlink('link/two', 'link/one')
    .hardlink('/link/three', './link/one');
  tar.dir('link/sub/').hardlink('link/sub/four', 'link/two');
  tar.symlink('link/symlink', 'one').hardlink('link/symlink-again', 'link/symlink');
  tar.add({ name: 'link/fifo', type: '6' }).hardlink('link/fifo-again', 'link/fifo');
  tar.file('link/empty', '').hardlink('link/empty-again', 'link/empty');
  // A link's own header says nothing that counts.
  tar.hardlink('link/odd', 'link/one', { mode: 0o4777, uid: 99, mtime: 5 });
}

function xattrs(tar: TarBytes): void {
  const all = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  tar.dir('xattr/');
  tar.file('xattr/binary', 'x', {
    pax: [
      ['SCHILY.xattr.user.all', all],
      ['SCHILY.xattr.user.newline', 'a\nb=c\n'],
    ],
  });
  tar.file('xattr/empty', 'x', { pax: [['SCHILY.xattr.user.empty', '']] });
  tar.file('xattr/long', 'x', { pax: [['SCHILY.xattr.user.long', noise(2000, 31)]] });
  tar.file('xattr/many', 'x', {
    pax: Array.from({ length: 20 }, (_, i) => [`SCHILY.xattr.user.n${(i * 7) % 20}`, `value ${i}`] as const),
  });
  // Version 2 capability set, cap_net_raw permitted and effective (include/uapi/linux/capability.h).
  const capability = Buffer.from('0100000200200000000000000000000000000000', 'hex');
  tar.file('xattr/capability', prose(5000, 33), {
    mode: 0o755,
    pax: [['SCHILY.xattr.security.capability', capability]],
  });
  tar.dir('xattr/dir', {
    pax: [
      ['SCHILY.xattr.user.dir', 'on a dir'],
      ['SCHILY.xattr.trusted.dir', all],
    ],
  });
  tar.symlink('xattr/symlink', 'x', { pax: [['SCHILY.xattr.trusted.link', 'on a link']] });
  tar.file('xattr/same-1', 'x', { pax: [['SCHILY.xattr.user.same', 'the same value']] });
  tar.file('xattr/same-2', 'x', { pax: [['SCHILY.xattr.user.same', 'the same value']] });
}

/** Fragments whose data lies at the same place within a sector as in the archive, and such where it doesn't. */
const SPARSE: Array<[name: string, size: number, fragments: Fragment[]]> = [
  [
    'aligned',
    1_000_000,
    [
      { offset: 0, bytes: noise(512, 41) },
      { offset: 524_288, bytes: noise(65_536, 42) },
    ],
  ],
  [
    'unaligned',
    300_001,
    [
      { offset: 3, bytes: noise(1000, 43) },
      { offset: 100_007, bytes: noise(50_000, 44) },
      { offset: 299_990, bytes: noise(11, 45) },
    ],
  ],
  ['hole-at-end', 5_000_000, [{ offset: 4096, bytes: prose(9000, 46) }]],
  ['only-hole', 700_000, []],
  [
    'many',
    40 * 8192,
    Array.from({ length: 40 }, (_, i) => ({ offset: i * 8192 + 4096, bytes: noise(512, 50 + i) })),
  ],
];

function sparseFiles(tar: TarBytes): void {
  tar.dir('sparse/');
  for (const format of ['0.0', '0.1', '1.0'] as const)
    for (const [name, size, fragments] of SPARSE)
      tar.sparse(`sparse/${name}-${format}`, size, fragments, format);
}

/** Layer 2: takes away, hides, replaces, links across. Parents `implicit/…` have no entries of their own. */
function changes(): Buffer {
  const tar = new TarBytes();
  tar.dir('gone/').file('gone/.wh.file', '').file('gone/.wh.dir', '').file('gone/.wh.never-was-there', '');
  tar.file('gone/.wh.returns', '').file('gone/returns', 'new');
  tar
    .dir('opaque/', { mode: 0o755, mtime: 1_700_000_000 })
    .file('opaque/.wh..wh..opq', '')
    .file('opaque/new', 'x');
  tar.file('opaque/same', 'above');
  // The mark may stand behind what it does not hide.
  tar.dir('late/').file('late/new', 'x').file('late/.wh..wh..opq', '');
  tar
    .dir('nested/')
    .dir('nested/opaque/')
    .dir('nested/opaque/within/')
    .file('nested/opaque/.wh..wh..opq', '');
  tar.file('nested/opaque/within/new', 'x');
  tar.dir('swap/').dir('swap/file-to-dir/').file('swap/file-to-dir/y', 'y').file('swap/dir-to-file', 'y');
  tar.symlink('swap/dir-to-link', 'file-to-dir').dir('swap/link-to-dir/').file('swap/link-to-dir/y', 'y');
  tar.add({ name: 'swap/fifo', type: '6', mode: 0o611 });
  tar.dir('meta/', { mode: 0o750, uid: 7, pax: [['SCHILY.xattr.user.new', 'new']] });
  tar.file('meta/file', 'the same bytes', { mode: 0o666, pax: [['mtime', '1699999999.987654321']] });
  tar.file('implicit/parents/file', 'x').file('usr/share/implicit/file', 'y');
  tar.dir('link/').file('link/.wh.two', '').file('link/three', 'no longer a link');
  tar.dir('sparse/').sparse('sparse/aligned-1.0', 4096, [{ offset: 1024, bytes: noise(100, 61) }], '1.0');
  tar.dir('copied/').file('copied/from', prose(70_000, 62)).hardlink('copied/to', 'copied/from');
  return tar.bytes();
}

function emptyLayer(): Buffer {
  return new TarBytes().bytes();
}

/** Layer 5: back to what layer 1 had, and gone for good. */
function changesBack(): Buffer {
  const tar = new TarBytes();
  tar
    .dir('swap/')
    .file('swap/file-to-dir', 'a file again')
    .dir('swap/dir-to-file/')
    .file('swap/dir-to-file/z', 'z');
  tar.dir('swap/dir-to-link/').file('swap/dir-to-link/z', 'z').symlink('swap/link-to-dir', '/etc');
  tar.dir('gone/').file('gone/.wh.returns', '').dir('gone/dir/').file('gone/dir/again', 'x');
  tar.dir('opaque/').file('opaque/old', 'another old');
  tar.file('.wh.late', '').dir('many/').file('many/.wh.0-0', '').file('many/.wh.1-1919', '');
  tar.dir('copied/').file('copied/.wh.from', '');
  return tar.bytes();
}

/** Layer 6: after the archive's end come bytes that are no part of it, and not a whole sector of them. */
function garbageAtTheEnd(): Buffer {
  const tar = new TarBytes();
  tar.file('garbage-layer', prose(200_000, 71));
  return tar.bytes(Buffer.concat([Buffer.alloc(1024), noise(3000, 72), Buffer.alloc(1)]));
}

/** Layer 7: the archive ends with its last member. */
function noEnd(): Buffer {
  return new TarBytes().file('no-end-layer', noise(1000, 73)).bytes(Buffer.alloc(0));
}

/**
 * One layer of what GNU tar unpacks and others don't: old GNU sparse files and contiguous files (Go's archive/tar
 * reads them, containerd and umoci refuse the type), a global header (umoci refuses it).
 */
export function gnuLayer(): Buffer {
  const tar = new TarBytes();
  tar.global([['comment', 'a global header that says nothing about any file']]);
  tar.dir('./').dir('sparse/');
  for (const [name, size, fragments] of SPARSE) {
    // GNU tar reads whole sectors for each fragment, Go's programs just its bytes: so only whole ones here.
    const whole = fragments.map(({ offset, bytes }, index) => ({
      offset,
      bytes: index === fragments.length - 1 ? bytes : bytes.subarray(0, bytes.length & ~511),
    }));
    tar.sparse(`sparse/${name}`, size, whole, 'old');
  }
  tar.file('contiguous', prose(10_000, 81), { type: '7' });
  return tar.bytes();
}

function compress(tar: Buffer, variant: Variant, index: number): Buffer {
  switch (variant) {
    case 'plain':
      return tar;
    case 'zstd':
      return zstdFrames(tar);
    case 'members':
      return gzipMembers(tar);
    default:
      return GZIP_WRITERS[index % GZIP_WRITERS.length]?.(tar) ?? gzipSync(tar);
  }
}

const GZIP_WRITERS: Array<(tar: Buffer) => Buffer> = [
  (tar) => gzipSync(tar, { level: 6 }),
  (tar) => gzipWithFields(tar),
  (tar) => gzipSync(tar, { level: 0 }),
  (tar) => gzipSync(tar, { level: 9, memLevel: 9 }),
  (tar) => gzipSync(tar, { level: 1 }),
  (tar) => gzipMembers(tar),
];

/** A gzip header with every optional field (RFC 1952, 2.3): extra field, name, comment, header checksum. */
function gzipWithFields(tar: Buffer): Buffer {
  const head = Buffer.concat([
    Buffer.from([0x1f, 0x8b, 8, 0x1f, 1, 2, 3, 4, 0, 3]),
    Buffer.from([6, 0, 0x41, 0x42, 2, 0, 7, 7]),
    latin1('name of the f\xfcle\0'),
    latin1('a comment\0'),
  ]);
  const check = Buffer.alloc(2);
  check.writeUInt16LE(crc32(head) & 0xffff);
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(crc32(tar));
  trailer.writeUInt32LE(tar.length % 2 ** 32, 4);
  return Buffer.concat([head, check, deflateRawSync(tar, { level: 6 }), trailer]);
}

/** Members of uneven length, an empty one among them. */
function gzipMembers(tar: Buffer): Buffer {
  const members: Buffer[] = [];
  for (let at = 0, size = 100; at < tar.length; at += size, size = Math.min(size * 3, 900_000)) {
    members.push(gzipSync(tar.subarray(at, at + size)));
    if (members.length === 2) members.push(gzipSync(Buffer.alloc(0)));
  }
  return members.length === 0 ? gzipSync(tar) : Buffer.concat(members);
}

/** Frames of uneven length with a skippable one between (RFC 8878, 3.1.2). */
function zstdFrames(tar: Buffer): Buffer {
  const skippable = Buffer.concat([Buffer.from('532a4d1803000000', 'hex'), Buffer.from('abc')]);
  const frames: Buffer[] = [];
  for (let at = 0, size = 1000; at < tar.length; at += size, size = Math.min(size * 5, 2_000_000)) {
    frames.push(zstdCompressSync(tar.subarray(at, at + size)));
    if (frames.length === 2) frames.push(skippable);
  }
  return frames.length === 0 ? zstdCompressSync(tar) : Buffer.concat(frames);
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
