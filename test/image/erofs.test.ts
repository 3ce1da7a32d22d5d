import { createHash, randomBytes } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildFlat } from '../../src/image/erofs.ts';
import { checkFlat } from '../../src/image/erofs-check.ts';
import { decodeToc, encodeToc } from '../../src/image/toc-codec.ts';
import type { Toc, TocEntry } from '../../src/image/toc.ts';
import { buildImage, crossLinkLayers, gnuLayer, nastyLayers } from '../images/nasty.ts';
import { Cleanup } from '../support/temp.ts';
import { assertSameTree, diffTrees, printable, readTree, type TreeNode } from '../support/tree.ts';
import { flatOf, mountFlat, mountTars, run, sparseDevice } from './flat-mount.ts';
import { dir, entry, file, hardlink, symlink, toc, xattr } from './toc-entries.ts';
import { tocOf } from './layer-tree.ts';

const cleanup = new Cleanup();
let directory: string;

beforeAll(async () => {
  directory = await cleanup.tempDir('erofs');
});
afterAll(() => cleanup.run());

const DIFF_ID = `sha256:${'1'.repeat(64)}`;
const OTHER_DIFF_ID = `sha256:${'2'.repeat(64)}`;

/** Builds, checks and mounts one layer's table whose files all lie in one device of random bytes. */
async function mountToc(name: string, table: Toc, device = randomBytes(1 << 16)) {
  const folder = join(directory, name);
  await mkdir(folder);
  await sparseDevice(join(folder, 'device'), device.length, [[0, device]]);
  const { metadata, devices } = buildFlat([table], [{ diffId: DIFF_ID, size: device.length }]);
  const checked = checkFlat(metadata);
  const { root, unmount } = await mountFlat(
    cleanup,
    folder,
    metadata,
    devices.map(() => join(folder, 'device')),
  );
  return { root, unmount, metadata, checked, device };
}

async function umoci(name: string, tars: Buffer[]): Promise<string> {
  const { directory: layout } = await buildImage(join(directory, `${name}-image`), tars, 'plain');
  const tagged = join(directory, `${name}-layout`);
  run('skopeo', 'copy', '--quiet', `oci:${layout}`, `oci:${tagged}:image`);
  run('umoci', 'raw', 'unpack', '--image', `${tagged}:image`, join(directory, `${name}-umoci`));
  return join(directory, `${name}-umoci`);
}

function byPath(nodes: readonly TreeNode[]): Map<string, TreeNode> {
  return new Map(nodes.map((node) => [node.path.toString('latin1'), node]));
}

describe('a mounted flat image', () => {
  test('equals the unpacked nasty image, up to what test/images/README.md says', async () => {
    const { root } = await mountTars(cleanup, join(directory, 'nasty'), nastyLayers());
    const flat = await readTree(root);
    const unpacked = await readTree(await umoci('nasty', nastyLayers()));
    const differences = diffTrees(unpacked, flat).map(
      ({ path, field }) => `${printable(path) || '.'} ${field}`,
    );
    expect(differences).toEqual([
      // The moment of unpacking, or of what came later into a folder.
      '. mtime',
      'implicit mtime',
      'implicit/parents mtime',
      // A hard link's own header counts, as with containerd.
      ...['link/odd', 'link/one', 'link/sub/four'].flatMap((path) =>
        ['mode', 'uid', 'mtime'].map((field) => `${path} ${field}`),
      ),
      'nested/opaque/within mtime',
      'usr/share mtime',
      // A set-group-id folder leaves its bit to new ones with umoci, not with containerd.
      'usr/share/implicit mode',
      'usr/share/implicit mtime',
      // trusted.* and empty ones, as with containerd.
      'xattr/dir xattrs',
      'xattr/empty xattrs',
      'xattr/symlink xattrs',
    ]);
    expect(flat.nodes.length).toBeGreaterThan(3100);
  }, 240_000);

  test('links names of a lower layer as umoci does', async () => {
    const { root } = await mountTars(cleanup, join(directory, 'cross'), crossLinkLayers());
    assertSameTree(await readTree(root), await readTree(await umoci('cross', crossLinkLayers())), {
      // The root has no entry, and umoci takes away and makes anew what is in `c`.
      ignore: ({ path, field }) => field === 'mtime' && ['', 'c'].includes(path.toString()),
    });
  }, 120_000);

  test('holds sparse files whose data is not aligned as GNU tar unpacks them', async () => {
    const { root } = await mountTars(cleanup, join(directory, 'gnu'), [gnuLayer()]);
    const folder = join(directory, 'gnu-unpacked');
    await mkdir(folder);
    await sparseDevice(join(directory, 'gnu.tar'), gnuLayer().length, [[0, gnuLayer()]]);
    run(
      'tar',
      '-xpf',
      join(directory, 'gnu.tar'),
      '-C',
      folder,
      '--same-owner',
      '--xattrs',
      '--delay-directory-restore',
    );
    assertSameTree(await readTree(root), await readTree(folder), {
      ignore: ({ path, field }) => path.length === 0 && (field === 'mtime' || field === 'mode'),
    });
  }, 120_000);

  test('equals real folders that GNU tar archived', async () => {
    const tar = join(directory, 'real.tar');
    const parts = ['etc', 'usr/share/zoneinfo', 'usr/lib/git-core'].filter(
      (part) => statSync(join('/', part), { throwIfNoEntry: false }) !== undefined,
    );
    run(
      'tar',
      '-cf',
      tar,
      '--format=pax',
      '--xattrs',
      '--xattrs-include=*',
      '--sort=name',
      '-C',
      '/',
      ...parts,
    );
    const { root } = await mountTars(cleanup, join(directory, 'real'), [readFileSync(tar)]);
    for (const part of parts) {
      assertSameTree(await readTree(join(root, part)), await readTree(join('/', part)));
    }
  }, 120_000);

  test('has names of any bytes and length, found one by one and absent where they are not', async () => {
    const names: string[] = [];
    for (let length = 1; length <= 255; length++)
      names.push('n'.repeat(length), `${'x'.repeat(length - 1)}\xff`);
    for (let i = 0; i < 20_000; i++) names.push(`${(i * 7919) % 20_000}-${i.toString(36)}`);
    // Around "." and ".." in byte order, and bytes that are no text.
    names.push(
      '!',
      '-',
      '.!',
      '.-',
      '...',
      '..a',
      './'.slice(0, 1).concat('0'),
      '\x01',
      '\x7f',
      '\x80',
      '\xfe\xff',
      '\n',
    );
    const unique = [...new Set(names)];
    const { root } = await mountToc('names', toc(dir('d'), ...unique.map((name) => file(`d/${name}`))));
    const listed = readdirSync(join(root, 'd'), { encoding: 'latin1' });
    expect(new Set(listed)).toEqual(new Set(unique));
    expect(run('ls', '-fU', join(root, 'd')).length).toBeGreaterThan(0);
    for (const name of unique) {
      const path = Buffer.concat([Buffer.from(`${root}/d/`), Buffer.from(name, 'latin1')]);
      expect(lstatSync(path, { throwIfNoEntry: false }), JSON.stringify(name)).toBeDefined();
      const absent = Buffer.concat([path.subarray(0, -1), Buffer.from([path.at(-1) === 0x2b ? 0x2c : 0x2b])]);
      if (!unique.includes(absent.subarray(root.length + 3).toString('latin1'))) {
        expect(lstatSync(absent, { throwIfNoEntry: false })).toBeUndefined();
      }
    }
  }, 240_000);

  test('lists names in the order of their bytes, with numbers that stat shows too', async () => {
    const { root } = await mountToc(
      'order',
      toc(
        dir('d'),
        file('d/b'),
        dir('d/a'),
        file('d/\xff'),
        file('d/!'),
        file('d/.a'),
        hardlink('d/c', 'd/b'),
      ),
    );
    // -f: as the kernel gives them; -i: the numbers in the directory's entries.
    const lines = run('ls', '-fia', '-1', join(root, 'd')).trim().split('\n');
    const names = lines.map((line) => line.trim().split(' ')[1]);
    expect(names.slice(0, 7)).toEqual(['!', '.', '..', '.a', 'a', 'b', 'c']);
    const numbers = lines.map((line) => Number(line.trim().split(' ')[0]));
    expect(numbers[names.indexOf('b')]).toBe(statSync(join(root, 'd/b')).ino);
    expect(numbers[names.indexOf('b')]).toBe(numbers[names.indexOf('c')]);
    expect(numbers[names.indexOf('..')]).toBe(statSync(root).ino);
    expect(new Set(numbers).size).toBe(numbers.length - 1);
  });

  test('has directories and symlinks of every size behind inodes with xattrs of every size', async () => {
    const entries: TocEntry[] = [];
    const symlinks = new Map<string, string>();
    for (let size = 0; size < 140; size++) {
      const xattrs = size % 3 === 0 ? [] : [xattr('user.x', Buffer.alloc((size * 37) % 600, size))];
      entries.push(dir(`d${size}`, { xattrs }));
      for (let i = 0; i < size % 45; i++)
        entries.push(file(`d${size}/${'n'.repeat(1 + ((size + i) % 20))}${i}`));
    }
    const lengths = [
      1, 2, 60, 383, 384, 385, 415, 416, 417, 447, 448, 449, 479, 480, 481, 511, 512, 513, 1024, 4095,
    ];
    for (const length of [...lengths, ...lengths.map((length) => (length % 509) + 1)]) {
      const target = 't'.repeat(length);
      for (const label of ['', 'l'.repeat(1), 'l'.repeat(40), 'l'.repeat(400)]) {
        const name = `s${symlinks.size}`;
        const xattrs = label === '' ? [] : [xattr('security.x', `${label}${symlinks.size}`)];
        entries.push(symlink(name, target, { xattrs }));
        symlinks.set(name, target);
      }
    }
    const { root } = await mountToc('inline', toc(...entries));
    const { nodes } = await readTree(root);
    const found = byPath(nodes);
    expect(nodes.length).toBe(entries.length + 1);
    for (const { path, type, link, xattrs } of entries) {
      const node = found.get(path.toString('latin1')) as TreeNode;
      expect(node.type).toBe(type);
      expect(node.target.equals(link)).toBe(true);
      expect(node.xattrs).toEqual(xattrs.map(([name, value]) => [name, value]));
    }
  }, 120_000);

  test('has the owners, times, modes and device numbers of all their ranges', async () => {
    const entries = [
      entry('max', 'char', { uid: 2 ** 32 - 2, gid: 2 ** 32 - 2, mode: 0o7777, major: 4095, minor: 1048575 }),
      entry('loop', 'block', { major: 7, minor: 256, mtime: { sec: -2, nsec: 999_999_999 } }),
      entry('fifo', 'fifo', { mode: 0, mtime: { sec: 2 ** 40, nsec: 1 } }),
      entry('zero', 'char', {}),
      file('suid', 0, { mode: 0o6755, mtime: { sec: -(2 ** 40), nsec: 0 } }),
      symlink('link', 'x', { mode: 0o600, uid: 5 }),
    ];
    const { root } = await mountToc('ranges', toc(...entries));
    const found = byPath((await readTree(root)).nodes);
    expect(found.get('max')).toMatchObject({
      uid: 2 ** 32 - 2,
      gid: 2 ** 32 - 2,
      mode: 0o7777,
      rdev: '4095:1048575',
    });
    expect(found.get('loop')).toMatchObject({ rdev: '7:256', mtime: -1_000_000_001n });
    expect(found.get('fifo')).toMatchObject({ mode: 0, mtime: 2n ** 40n * 1_000_000_000n + 1n });
    expect(found.get('zero')).toMatchObject({ type: 'char', rdev: '0:0' });
    expect(found.get('suid')).toMatchObject({ mode: 0o6755, mtime: -(2n ** 40n) * 1_000_000_000n });
    // Linux has no permissions of symlinks.
    expect(found.get('link')).toMatchObject({ mode: 0o777, uid: 5 });
  });

  test('has xattrs behind the inode and in the shared area, of any size and number', async () => {
    const label = xattr('security.selinux', 'system_u:object_r:container_file_t:s0\0');
    const many = Array.from({ length: 300 }, (_, i) =>
      xattr(`user.many${String(i).padStart(3, '0')}`, `${i}`),
    );
    const entries = [
      file('empty', 0, { xattrs: [xattr('user.e', '')] }),
      file('large', 0, { xattrs: [xattr('user.l', randomBytes(65535)), xattr('user.s', 'small')] }),
      file('name', 0, { xattrs: [xattr(`user.${'n'.repeat(250)}`, 'x')] }),
      file('many1', 0, { xattrs: many }),
      file('many2', 0, { xattrs: many }),
      file('crowd', 0, {
        xattrs: Array.from({ length: 60 }, (_, i) => xattr(`user.c${i + 10}`, randomBytes(1000))),
      }),
      ...Array.from({ length: 500 }, (_, i) => file(`labelled${i}`, 1, { xattrs: [label] })),
      ...Array.from({ length: 50 }, (_, i) =>
        dir(`both${i}`, { xattrs: [label, xattr('user.own', `${i}`)] }),
      ),
    ];
    const { root, metadata } = await mountToc('xattrs', toc(...entries));
    const found = byPath((await readTree(root)).nodes);
    for (const { path, xattrs } of entries) {
      const node = found.get(path.toString('latin1')) as TreeNode;
      expect(node.xattrs.length).toBe(xattrs.length);
      for (const [index, [name, value]] of xattrs.entries()) {
        expect(node.xattrs[index]?.[0].equals(name) && node.xattrs[index]?.[1].equals(value)).toBe(true);
      }
    }
    // One label for all.
    expect(metadata.toString('latin1').split('container_file_t').length).toBe(2);
  });

  test('leaves out xattrs that an unpacked image would not show, and refuses ACLs that are not sound', async () => {
    const value = (...entries: Array<[tag: number, permissions: number, id?: number]>) =>
      Buffer.concat([
        Buffer.from([2, 0, 0, 0]),
        ...entries.map(([tag, permissions, id = 0xffffffff]) => {
          const bytes = Buffer.alloc(8);
          bytes.writeUInt16LE(tag, 0);
          bytes.writeUInt16LE(permissions, 2);
          bytes.writeUInt32LE(id, 4);
          return bytes;
        }),
      ]);
    const named = value([1, 6], [2, 7, 1234], [4, 4], [0x10, 7], [0x20, 4]);
    const plain = value([1, 6], [4, 4], [0x20, 4]);
    const access = (bytes: Buffer) => ({ xattrs: [xattr('system.posix_acl_access', bytes)] });
    const { root } = await mountToc(
      'acl',
      toc(
        file('named', 0, access(named)),
        file('plain', 0, access(plain)),
        dir('default', { xattrs: [xattr('system.posix_acl_default', named)] }),
        file('no-default', 0, { xattrs: [xattr('system.posix_acl_default', named)] }),
        symlink('link', 'x', { xattrs: [xattr('user.x', 'x'), ...access(named).xattrs] }),
        file('foreign', 0, { xattrs: [xattr('trusted.overlay.redirect', '/x'), xattr('lustre.x', 'y')] }),
      ),
    );
    const found = byPath((await readTree(root)).nodes);
    const names = (path: string) => found.get(path)?.xattrs.map(([name]) => name.toString());
    expect(names('named')).toEqual(['system.posix_acl_access']);
    expect(names('default')).toEqual(['system.posix_acl_default']);
    for (const path of ['plain', 'no-default', 'link', 'foreign']) expect(names(path), path).toEqual([]);
    const malformed = [
      Buffer.from('x'),
      Buffer.from([3, 0, 0, 0]),
      value([1, 6], [4, 4]),
      value([1, 6], [2, 7, 5], [4, 4], [0x20, 4]),
      value([4, 4], [1, 6], [0x20, 4]),
      value([1, 6], [4, 8], [0x20, 4]),
      value([1, 6], [2, 7], [4, 4], [0x10, 7], [0x20, 4]),
      plain.subarray(0, -1),
    ];
    for (const bytes of malformed) {
      expect(() => buildFlat([toc(file('f', 0, access(bytes)))], [{ diffId: DIFF_ID, size: 512 }])).toThrow(
        /malformed ACL/,
      );
    }
  });

  test('has files beyond 4 GiB, in several extents and pieces, and holes of terabytes', async () => {
    const GiB = 2 ** 30;
    const [start, middle, end] = [randomBytes(8192), randomBytes(8192), randomBytes(1000)];
    const size = 6 * GiB + 1000;
    const device = join(directory, 'large-device');
    await sparseDevice(device, 7 * GiB, [
      [1024, start],
      [1024 + 5 * GiB, middle],
      [1024 + 6 * GiB, end],
    ]);
    const pieces = {
      size: 4096 * 5 + 700,
      extents: [
        { fileOffset: 0, deviceOffset: 1024, length: 4096 },
        // The next one on the device: both are one chunk's worth.
        { fileOffset: 4096, deviceOffset: 5120, length: 4096 },
        { fileOffset: 16384, deviceOffset: 1024 + 5 * GiB, length: 4096 },
      ],
      patches: [{ fileOffset: 20480, bytes: Buffer.alloc(700, 'p') }],
    };
    const table = toc(
      file('whole', size, { at: 1024 }),
      entry('pieces', 'file', pieces),
      entry('hole', 'file', { size: 2 ** 44 }),
      entry('far', 'file', {
        size: 2 ** 43 + 512,
        extents: [{ fileOffset: 2 ** 43, deviceOffset: 1024, length: 512 }],
      }),
      entry('patched', 'file', { size: 3, patches: [{ fileOffset: 0, bytes: Buffer.from('abc') }] }),
    );
    const { metadata, devices } = buildFlat([table], [{ diffId: DIFF_ID, size: 7 * GiB }]);
    // Chunks are as large as can be: a handful of indexes for all of this.
    expect(metadata.length).toBe(4096);
    expect(checkFlat(metadata).devices).toEqual([{ diffId: DIFF_ID, size: 7 * GiB }]);
    const { root, unmount } = await mountFlat(
      cleanup,
      join(directory, 'large'),
      metadata,
      devices.map(() => device),
    );
    const read = async (name: string, position: number, length: number) => {
      const handle = await open(join(root, name));
      try {
        const buffer = Buffer.alloc(length);
        const { bytesRead } = await handle.read(buffer, 0, length, position);
        return buffer.subarray(0, bytesRead);
      } finally {
        await handle.close();
      }
    };
    expect(statSync(join(root, 'whole')).size).toBe(size);
    expect((await read('whole', 0, 8192)).equals(start)).toBe(true);
    expect((await read('whole', 5 * GiB, 8192)).equals(middle)).toBe(true);
    expect((await read('whole', 6 * GiB, 8192)).equals(end)).toBe(true);
    const expected = Buffer.alloc(pieces.size);
    start.copy(expected, 0);
    middle.copy(expected, 16384, 0, 4096);
    expected.fill('p', 20480);
    expect((await read('pieces', 0, 1 << 16)).equals(expected)).toBe(true);
    expect(statSync(join(root, 'hole')).size).toBe(2 ** 44);
    expect((await read('hole', 2 ** 44 - 4096, 8192)).equals(Buffer.alloc(4096))).toBe(true);
    expect(
      (await read('far', 2 ** 43 - 512, 4096)).equals(
        Buffer.concat([Buffer.alloc(512), start.subarray(0, 512)]),
      ),
    ).toBe(true);
    expect((await read('patched', 0, 100)).toString()).toBe('abc');
    unmount();
  });

  test('takes sparse files of any shape', async () => {
    const device = randomBytes(1 << 20);
    const entries: TocEntry[] = [];
    const contents = new Map<string, Buffer>();
    let seed = 12345;
    const random = (below: number) => {
      seed = (seed * 1103515245 + 12345) % 2 ** 31;
      return seed % below;
    };
    for (let i = 0; i < 120; i++) {
      const made = entry(`f${i}`, 'file');
      const parts: Buffer[] = [];
      let at = 0;
      for (let part = random(7); part >= 0; part--) {
        // Sometimes pieces follow one another, sometimes all begin at larger borders.
        const unit = 512 * 2 ** random(4);
        const length = unit * (1 + random(5));
        const from = 512 * random(1000);
        const kind = random(3);
        if (kind === 0) parts.push(Buffer.alloc(length));
        else if (kind === 1) {
          made.extents = [...made.extents, { fileOffset: at, deviceOffset: from, length }];
          parts.push(device.subarray(from, from + length));
        } else {
          const bytes = randomBytes(length);
          made.patches = [...made.patches, { fileOffset: at, bytes }];
          parts.push(bytes);
        }
        at += length;
      }
      const cut = random(511);
      const content = Buffer.concat(parts);
      made.size = content.length - cut;
      const last = made.extents.at(-1);
      if (last !== undefined && last.fileOffset + last.length === at) last.length -= cut;
      const patch = made.patches.at(-1);
      if (patch !== undefined && patch.fileOffset + patch.bytes.length === at)
        patch.bytes = patch.bytes.subarray(0, -cut || undefined);
      contents.set(`f${i}`, content.subarray(0, made.size));
      entries.push(made);
    }
    const { root } = await mountToc('sparse', toc(...entries), device);
    for (const [name, content] of contents)
      expect(readFileSync(join(root, name)).equals(content), name).toBe(true);
  });

  test('reads patches between extents whose sector numbers lead on to them', async () => {
    // Kernels take such pieces for one request, to one device.
    const device = randomBytes(1 << 16);
    const patch = randomBytes(1024);
    for (let block = 1; block < 24; block++) {
      const offset = 512 * block;
      const around = { ahead: [offset, 40_960], behind: [40_960, offset] };
      const entries = Object.entries(around).map(([name, [first, second]]) =>
        entry(name, 'file', {
          size: 1024 * 3,
          extents: [
            { fileOffset: 0, deviceOffset: first as number, length: 1024 },
            { fileOffset: 2048, deviceOffset: second as number, length: 1024 },
          ],
          patches: [{ fileOffset: 1024, bytes: patch }],
        }),
      );
      const { root, unmount } = await mountToc(`joined${block}`, toc(...entries), device);
      for (const { path, extents } of entries) {
        const [first, second] = extents.map(({ deviceOffset: at }) => device.subarray(at, at + 1024));
        const expected = Buffer.concat([first as Buffer, patch, second as Buffer]);
        expect(readFileSync(join(root, path.toString())).equals(expected), `${path} ${block}`).toBe(true);
      }
      unmount();
    }
  });
});

describe('the device table', () => {
  test('names only layers that data lies in, once each, in their order', () => {
    const layers = [
      { diffId: DIFF_ID, size: 5000 },
      { diffId: OTHER_DIFF_ID, size: 10_240 },
      { diffId: `sha256:${'3'.repeat(64)}`, size: 0 },
      { diffId: DIFF_ID, size: 5000 },
    ];
    const tocs = [
      toc(file('hidden', 10)),
      toc(file('b', 10_000, { at: 0 })),
      toc(),
      toc(file('hidden', 0), file('a', 10)),
    ];
    const { metadata, devices } = buildFlat(tocs, layers);
    expect(devices).toEqual([1, 3]);
    expect(checkFlat(metadata)).toEqual({
      devices: [
        { diffId: OTHER_DIFF_ID, size: 10_240 },
        { diffId: DIFF_ID, size: 5120 },
      ],
      inodes: 4,
    });
    const both = buildFlat(
      [toc(file('a', 1)), toc(file('b', 1))],
      [layers[0], layers[3]].map((layer) => ({ ...layer, diffId: DIFF_ID, size: 5000 })),
    );
    expect(both.devices).toEqual([0]);
    expect(buildFlat([toc(dir('d'))], [{ diffId: DIFF_ID, size: 512 }]).devices).toEqual([]);
    expect(buildFlat([], []).devices).toEqual([]);
  });

  test('an image without data mounts without devices', async () => {
    const { metadata } = buildFlat([], []);
    const { root } = await mountFlat(cleanup, join(directory, 'none'), metadata, []);
    expect(readdirSync(root)).toEqual([]);
    expect(statSync(root).mode & 0o7777).toBe(0o755);
  });
});

describe('what does not fit', () => {
  const build =
    (made: TocEntry, size = 4096) =>
    () =>
      buildFlat([toc(made)], [{ diffId: DIFF_ID, size }]);
  const extent = (fileOffset: number, deviceOffset: number, length: number) => ({
    fileOffset,
    deviceOffset,
    length,
  });

  test('data outside of its layer, out of order or out of place is refused', () => {
    const bad: Array<[TocEntry, string]> = [
      [file('f', 4096, { at: 512 }), 'beyond the end'],
      [file('f', 100, { at: 100 }), 'unaligned on the device'],
      [file('f', 100, { at: -512 }), 'before the start'],
      [entry('f', 'file', { size: 2000, extents: [extent(100, 512, 100)] }), 'unaligned in the file'],
      [entry('f', 'file', { size: 2000, extents: [extent(0, 512, 100)] }), 'a short piece before the end'],
      [
        entry('f', 'file', { size: 2000, extents: [extent(512, 512, 512), extent(0, 512, 512)] }),
        'out of order',
      ],
      [
        entry('f', 'file', { size: 2000, extents: [extent(0, 512, 1024), extent(512, 512, 512)] }),
        'overlapping',
      ],
      [entry('f', 'file', { size: 512, extents: [extent(0, 512, 1024)] }), 'longer than the file'],
      [entry('f', 'file', { size: 512, extents: [extent(0, 512, 0)] }), 'nothing'],
      [entry('f', 'file', { size: 512, extents: [extent(0, Number.NaN, 512)] }), 'nowhere'],
      [
        entry('f', 'file', {
          size: 1024,
          extents: [extent(0, 512, 1024)],
          patches: [{ fileOffset: 512, bytes: Buffer.alloc(512) }],
        }),
        'patch in an extent',
      ],
    ];
    for (const [made, what] of bad) expect(build(made), what).toThrow(/do not lie within its layer/);
    // The last block may end in the padding of the device.
    expect(build(file('f', 1000, { at: 512 }), 1513)).not.toThrow();
  });

  test('layers of 2 TiB, foreign digests and uneven lists are refused', () => {
    expect(() => buildFlat([toc()], [{ diffId: DIFF_ID, size: 2 ** 41 }])).toThrow(/2 TiB/);
    expect(() => buildFlat([toc()], [{ diffId: 'sha512:x', size: 512 }])).toThrow(/diffID/);
    expect(() => buildFlat([toc()], [])).toThrow(/1 tables of contents for 0 layers/);
    expect(() => buildFlat([toc()], [{ diffId: DIFF_ID, size: 1.5 }])).toThrow(/cannot have 1.5 bytes/);
  });

  test('a sparse file of too many pieces is refused, before memory is spent on it', () => {
    const made = entry('f', 'file', { size: 2 ** 44, extents: [extent(512, 512, 512)] });
    expect(build(made)).toThrow(/metadata would have more than/);
  });

  test('xattrs that EROFS has no room for are refused', () => {
    expect(build(file('f', 0, { xattrs: [xattr('user.x', Buffer.alloc(65536))] }))).toThrow(/65536 bytes/);
    const crowd = Array.from({ length: 6000 }, (_, i) =>
      xattr(`user.${String(i).padStart(5, '0')}`, 'x'.repeat(10)),
    );
    expect(build(file('f', 0, { xattrs: crowd }))).toThrow(/EROFS has no room/);
  });
});

describe('the same input', () => {
  test('gives the same bytes, from tables that were stored in between too', () => {
    const tars = nastyLayers();
    const tocs = tars.map((tar) => tocOf(tar));
    const layers = tars.map((tar) => ({
      diffId: `sha256:${createHash('sha256').update(tar).digest('hex')}`,
      size: tar.length,
    }));
    const first = buildFlat(tocs, layers).metadata;
    expect(buildFlat(tocs, layers).metadata.equals(first)).toBe(true);
    expect(
      buildFlat(
        tocs.map((table) => decodeToc(encodeToc(table))),
        layers,
      ).metadata.equals(first),
    ).toBe(true);
    expect(flatOf(tars).metadata.equals(first)).toBe(true);
  });

  test('gives the bytes it has always given', () => {
    // A change of these makes images of older versions differ from a node's own: only with a new sidecar version.
    const table = toc(
      dir('', { mtime: { sec: 1, nsec: 2 } }),
      dir('d', { mode: 0o750, xattrs: [xattr('user.a', 'b')] }),
      file('d/f', 1000, { xattrs: [xattr('security.capability', 'c')] }),
      hardlink('d/g', 'd/f', { xattrs: [] }),
      entry('d/s', 'file', { size: 5000, extents: [{ fileOffset: 1024, deviceOffset: 0, length: 512 }] }),
      entry('d/p', 'file', { size: 600, patches: [{ fileOffset: 512, bytes: Buffer.alloc(88, 'p') }] }),
      symlink('l', 'd/f'),
      entry('n', 'char', { major: 1, minor: 3 }),
      ...Array.from({ length: 100 }, (_, i) => file(`d/many${i}`)),
    );
    const { metadata } = buildFlat([table], [{ diffId: DIFF_ID, size: 4096 }]);
    expect(createHash('sha256').update(metadata).digest('hex')).toBe(
      'fc7af2c2935ea5f7c5e24a5f12294c4b7806a0d3c59ef8d2286a21e998f9891b',
    );
  });
});

describe('size', () => {
  test('200,000 files in 4,000 directories merge, are written, checked and mounted', async () => {
    const entries: TocEntry[] = [];
    for (let d = 0; d < 4000; d++) {
      const folder = `usr/lib/${d % 40}/package-${d}`;
      entries.push(dir(folder));
      for (let f = 0; f < 50; f++)
        entries.push(file(`${folder}/some_module_${f}.py`, 3000, { at: 512 * (1 + (f % 50)) }));
    }
    const upper = Array.from({ length: 1000 }, (_, i) => file(`usr/lib/${i % 40}/package-${i}/new`, 100));
    const layers = [
      { diffId: DIFF_ID, size: 1 << 20 },
      { diffId: OTHER_DIFF_ID, size: 1 << 20 },
    ];
    const before = process.memoryUsage();
    const started = performance.now();
    const { metadata, devices } = buildFlat([{ entries }, { entries: upper }], layers);
    const built = performance.now();
    const checked = checkFlat(metadata);
    const done = performance.now();
    const after = process.memoryUsage();
    const used = (after.rss - before.rss) / 2 ** 20;
    console.log(
      `${checked.inodes} inodes: built in ${(built - started).toFixed()} ms, checked in ${(done - built).toFixed()} ms, ` +
        `${(metadata.length / 2 ** 20).toFixed(1)} MiB of metadata, ${used.toFixed()} MiB more resident memory`,
    );
    expect(checked.inodes).toBe(1 + 2 + 40 + 4000 + 200_000 + 1000);
    const device = join(directory, 'many-device');
    await sparseDevice(device, 1 << 20, [[0, randomBytes(1 << 20)]]);
    const { root } = await mountFlat(
      cleanup,
      join(directory, 'many'),
      metadata,
      devices.map(() => device),
    );
    expect(run('sh', '-c', `find ${root} | wc -l`).trim()).toBe(String(checked.inodes));
  }, 240_000);
});
