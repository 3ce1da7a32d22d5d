/**
 * The tar reader against real tools: what a layer's table says of their archives is what unpacking gives.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Toc } from '../../src/image/toc.ts';
import { narrowed, tocOf, treeOfFolder, treeOfToc, unpacked } from './layer-tree.ts';
import type { Node } from './layer-tree.ts';

const hasBsdtar = spawnSync('bsdtar', ['--version']).status === 0;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'cofa-tar-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A folder of everything that a file system may hold; without `odd` what every old format can carry. */
function makeTree(name: string, odd: boolean, fractions = true): string {
  const root = join(folder, name);
  mkdirSync(root);
  const script = `
import os, sys, stat
os.chdir(sys.argv[1]); odd = sys.argv[2] == 'true'
def write(name, pieces, size=None):
    with open(name, 'wb') as f:
        for offset, data in pieces:
            f.seek(offset); f.write(data)
        if size is not None: f.truncate(size)
for d in ('dir', 'dir/sub', 'empty-dir', 'sticky'): os.mkdir(d)
os.chmod('sticky', 0o1777); os.chmod('empty-dir', 0o2750)
write('empty', []); write('one', [(0, b'1')]); write('sector', [(0, b's' * 512)]); write('more', [(0, os.urandom(70001))])
write('dir/sub/file', [(0, b'content')]); os.chmod('dir/sub/file', 0o6755); os.chown('dir/sub/file', 1000, 65534)
os.link('more', 'dir/linked'); os.link('more', 'dir/sub/linked again')
os.symlink('../one', 'dir/link'); os.symlink('/etc/passwd', 'absolute'); os.symlink('no/such/target', 'dangling')
os.link('absolute', 'dir/same symlink', follow_symlinks=False)
os.mknod('null', 0o20666, os.makedev(1, 3)); os.mknod('disk', 0o60660, os.makedev(259, 300)); os.mkfifo('fifo', 0o600)
write('holes', [(0, b'a' * 4096), (1 << 20, b'b' * 5000), (3 << 20, b'c' * 8192)], 4 << 20)
write('many', [(i * 16384, bytes([i + 1]) * 4096) for i in range(70)])
write('only-a-hole', [], 300000); write('hole-at-the-start', [(200000, b'end')]); write('hole-at-the-end', [(0, b'start')], 123457)
if odd:
    write('l' * 150, [(0, b'long name')]); os.mkdir('p' * 120); write('p' * 120 + '/' + 'q' * 200, [(0, b'long path')])
    os.symlink('t' * 300, 'long target'); os.link('l' * 150, 'link to a long name')
    write(b'not\\xffutf8\\xfe', [(0, b'x')]); write('new\\nline', [(0, b'y')]); write('ünïcode', [(0, b'z')]); write(' lead and trail ', [(0, b'')])
    os.symlink(b'\\xff\\n', 'odd target'); write('back\\\\slash\\t"quote"', [(0, b'')])
    os.chown('one', 3000000, 4294967290); os.chown('fifo', 2097152, 2097151)
    for name in ('one', 'dir', 'empty'):
        os.setxattr(name, b'user.binary', b'a\\0=\\n12 b=c\\n\\xff\\x80'); os.setxattr(name, b'user.empty', b'')
    os.setxattr('sector', b'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))
    os.setxattr('more', b'user.' + b'n' * 200, b'v' * 3000)
times = [0, 1, 1500000000, 2147483648, 8589934591] + ([-1, -86400, 8589934592] if odd else [])
fractions = [0, 1, 999999999, 123456789, 500000000]
def when(i): return times[i % len(times)] * 10**9 + (fractions[i // 2 % len(fractions)] if sys.argv[3] == 'true' else 0)
i = 0
for base, dirs, files in os.walk(b'.', topdown=False):
    for name in files + dirs:
        os.utime(os.path.join(base, name), ns=(0, when(i)), follow_symlinks=False); i += 1
os.utime('.', ns=(0, 1600000000 * 10**9))`;
  execFileSync('python3', ['-c', script, root, String(odd), String(fractions)]);
  return root;
}

/** The table of a tar file, compared with what `tar -x` makes of it. */
function expectUnpackedAlike(
  tar: string,
  change: (node: Node, path: string) => Partial<Node> = () => ({}),
): Toc {
  const bytes = readFileSync(tar);
  const toc = tocOf(bytes);
  expect(narrowed(treeOfToc(toc, bytes), change)).toEqual(narrowed(unpacked(tar), change));
  return toc;
}

/** A symlink's mode is 0777 on Linux, whatever an archive says. */
const linkMode = (node: Node): Partial<Node> => (node.type === 'symlink' ? { mode: 0o777 } : {});

describe('archives of GNU tar unpack to what their table says', () => {
  let tree: string;
  let plain: string;
  beforeAll(() => {
    tree = makeTree('gnu-tree', true);
    plain = makeTree('plain-tree', false);
  });

  test.each([
    ['v7', false],
    ['ustar', false],
    ['oldgnu', true],
    ['gnu', true],
    ['posix', true],
  ])('format %s', (format, odd) => {
    const tar = join(folder, `${format}.tar`);
    const keep = odd ? [] : ['--exclude=null', '--exclude=disk', '--exclude=fifo'];
    execFileSync(
      'tar',
      ['-cf', tar, `--format=${format}`, '--numeric-owner', ...keep, '-C', odd ? tree : plain, '.'],
      {
        stdio: ['ignore', 'ignore', 'ignore'],
      },
    );
    const toc = expectUnpackedAlike(tar, linkMode);
    expect(toc.entries.length).toBeGreaterThan(18);
  });

  test.each(['0.0', '0.1', '1.0'])(
    'sparse files of version %s, extended attributes, times to the nanosecond',
    (version) => {
      const tar = join(folder, `sparse-${version}.tar`);
      execFileSync('tar', [
        '-cf',
        tar,
        '--format=posix',
        '--sparse',
        `--sparse-version=${version}`,
        '--xattrs',
        '--xattrs-include=*',
        '--numeric-owner',
        '-C',
        tree,
        '.',
      ]);
      const toc = expectUnpackedAlike(tar, linkMode);
      expect(narrowed(treeOfToc(toc, readFileSync(tar)), linkMode)).toEqual(treeOfFolder(tree));
      const many = toc.entries.find((entry) => entry.path.toString() === 'many');
      expect(many?.extents.length).toBe(70);
      expect(toc.entries.flatMap((entry) => entry.patches)).toEqual([]);
    },
  );

  test('sparse files of the old GNU format, with extension headers', () => {
    const tar = join(folder, 'sparse-gnu.tar');
    execFileSync('tar', ['-cf', tar, '--format=gnu', '--sparse', '--numeric-owner', '-C', tree, '.']);
    const toc = expectUnpackedAlike(tar, linkMode);
    expect(toc.entries.find((entry) => entry.path.toString() === 'many')?.extents.length).toBe(70);
    expect(toc.entries.find((entry) => entry.path.toString() === 'holes')?.size).toBe(4 << 20);
  });

  test('absolute names, a prefix, files added to an archive, the same name twice', () => {
    const tar = join(folder, 'absolute.tar');
    execFileSync('tar', [
      '-cPf',
      tar,
      '--numeric-owner',
      `--transform=s,^${plain},/deep//./er,`,
      `${plain}/dir`,
      `${plain}/more`,
    ]);
    execFileSync('tar', ['-rf', tar, '--numeric-owner', '-C', plain, 'one', 'sector']);
    execFileSync('tar', ['-rf', tar, '--numeric-owner', '-C', plain, 'one'], {
      stdio: ['ignore', 'ignore', 'ignore'],
    });
    const names = tocOf(readFileSync(tar)).entries.map((entry) => entry.path.toString());
    expect(names).toEqual(expect.arrayContaining(['deep/er/dir', 'deep/er/dir/sub/file', 'one', 'sector']));
    expect(names.filter((name) => name === 'one')).toHaveLength(2);
  });
});

describe.skipIf(!hasBsdtar)('archives of bsdtar unpack to what their table says', () => {
  let tree: string;
  beforeAll(() => {
    tree = makeTree('bsd-tree', false);
  });

  test.each(['v7', 'ustar', 'gnutar', 'pax', 'paxr'])('format %s', (format) => {
    const tar = join(folder, `bsd-${format}.tar`);
    const keep = format === 'v7' ? ['--exclude=null', '--exclude=disk', '--exclude=fifo'] : [];
    execFileSync('bsdtar', ['-cf', tar, '--format', format, '--numeric-owner', ...keep, '-C', tree, '.'], {
      stdio: 'ignore',
    });
    expectUnpackedAlike(tar, linkMode);
  });

  test.each(['SCHILY', 'LIBARCHIVE', 'ALL'])('extended attributes as %s records', (kind) => {
    const tar = join(folder, `bsd-xattr-${kind}.tar`);
    const odd = makeTree(`bsd-odd-${kind}`, true);
    execFileSync(
      'bsdtar',
      [
        '-cf',
        tar,
        '--format',
        'pax',
        '--options',
        `pax:xattrheader=${kind}`,
        '--xattrs',
        '--numeric-owner',
        '-C',
        odd,
        'one',
        'dir',
        'empty',
        'sector',
        'more',
      ],
      { stdio: 'ignore' },
    );
    const toc = tocOf(readFileSync(tar));
    const found = treeOfToc(toc, readFileSync(tar));
    const expected = treeOfFolder(odd);
    for (const name of ['one', 'dir', 'sector', 'more']) {
      expect([name, found[name]?.xattrs]).toEqual([name, expected[name]?.xattrs]);
    }
    expect(Object.keys(found['one']?.xattrs ?? {})).toContain('user.binary');
  });
});

describe('archives of other writers', () => {
  test.each(['USTAR_FORMAT', 'GNU_FORMAT', 'PAX_FORMAT'])('tarfile of Python, %s', (format) => {
    // Its times are floats: near to 1970 it writes 1e-9, which no container runtime reads.
    const tree = makeTree(`python-${format}`, format !== 'USTAR_FORMAT', false);
    const tar = join(folder, `python-${format}.tar`);
    const script = `import sys, tarfile\nwith tarfile.open(sys.argv[2], 'w', format=tarfile.${format}) as t: t.add(sys.argv[1], '.')`;
    const odd = format === 'USTAR_FORMAT' ? ['disk'] : [];
    for (const name of odd) rmSync(join(tree, name));
    execFileSync('python3', ['-c', script, tree, tar]);
    expectUnpackedAlike(tar, linkMode);
  });

  test('tar-stream', async () => {
    const archive = pack();
    archive.entry({ name: 'dir/', type: 'directory', mode: 0o750, mtime: new Date(1.5e12) });
    archive.entry({ name: `dir/${'n'.repeat(120)}`, uid: 3_000_000, mtime: new Date(1.5e12) }, 'text');
    archive.entry({ name: 'dir/link', type: 'symlink', linkname: '../x', mtime: new Date(1.5e12) });
    archive.entry({
      name: 'hard',
      type: 'link',
      linkname: `dir/${'n'.repeat(120)}`,
      mtime: new Date(1.5e12),
    });
    archive.finalize();
    const chunks: Buffer[] = [];
    for await (const chunk of archive) chunks.push(chunk as Buffer);
    const tar = join(folder, 'tar-stream.tar');
    writeFileSync(tar, Buffer.concat(chunks));
    // The archive has no entry for its root.
    const bytes = readFileSync(tar);
    const { '': _, ...expected } = narrowed(unpacked(tar), linkMode);
    expect(narrowed(treeOfToc(tocOf(bytes), bytes), linkMode)).toEqual(expected);
  });
});
