import { spawnSync } from 'node:child_process';
import { lstatSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { type Inode, isDirectory } from '../../src/image/inode.ts';
import type { Toc, TocEntry } from '../../src/image/toc.ts';
import { mergeLayers } from '../../src/image/tree.ts';
import { type Member, TarBytes } from '../images/tar-bytes.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { assertSameTree, joinBytes, readTree } from '../support/tree.ts';
import { mountTars, run } from './flat-mount.ts';
import { dir, entry, file, hardlink, opaque, symlink, toc, whiteout, xattr } from './toc-entries.ts';

const OVERLAY_MODEL = join(import.meta.dirname, 'overlay-model.py');

/** The merged tree by path; the root is ''. */
function merged(...tocs: Toc[]): Map<string, Inode> {
  const found = new Map<string, Inode>();
  const visit = (path: string, inode: Inode) => {
    found.set(path, inode);
    if (!isDirectory(inode)) return;
    for (const [name, child] of inode.children) visit(path === '' ? name : `${path}/${name}`, child);
  };
  visit('', mergeLayers(tocs).root);
  return found;
}

/** Paths as `find` shows them, a directory with a slash, a symlink with its target. */
function listing(...tocs: Toc[]): string[] {
  return [...merged(...tocs)]
    .filter(([path]) => path !== '')
    .map(([path, inode]) => {
      if (inode.kind === 'dir') return `${path}/`;
      return inode.kind === 'symlink' ? `${path} -> ${inode.entry?.link.toString('latin1')}` : path;
    })
    .sort();
}

function refusal(...tocs: Toc[]): string {
  try {
    mergeLayers(tocs);
  } catch (error) {
    if (error instanceof CofaError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'none';
}

describe('whiteouts and opaque directories', () => {
  test('a whiteout takes away a file, and a directory with all it holds', () => {
    const lower = toc(file('f'), dir('d'), file('d/x'), dir('d/e'), file('d/e/y'), file('stays'));
    expect(listing(lower, toc(whiteout('f'), whiteout('d')))).toEqual(['stays']);
  });

  test('a whiteout concerns lower layers alone, wherever in its own layer it stands', () => {
    const lower = toc(dir('d'), file('d/old'), file('f'));
    const upper = [dir('d'), file('d/new'), file('f', 5)];
    const marks = [whiteout('d'), whiteout('f')];
    const expected = ['d/', 'd/new', 'f'];
    expect(listing(lower, toc(...marks, ...upper))).toEqual(expected);
    expect(listing(lower, toc(...upper, ...marks))).toEqual(expected);
    expect(merged(lower, toc(...upper, ...marks)).get('f')?.entry?.size).toBe(5);
  });

  test('an opaque directory shows nothing of the layers below, wherever the mark stands', () => {
    const lower = toc(dir('d'), file('d/old'), dir('d/e'), file('d/e/old'));
    const expected = ['d/', 'd/e/', 'd/e/new', 'd/new'];
    const upper = [dir('d'), file('d/new'), file('d/e/new')];
    expect(listing(lower, toc(opaque('d'), ...upper))).toEqual(expected);
    expect(listing(lower, toc(...upper, opaque('d')))).toEqual(expected);
    expect(listing(lower, toc(opaque('')))).toEqual([]);
  });

  test('what is whited out can come back in a later layer', () => {
    const layers = [toc(dir('d'), file('d/a')), toc(whiteout('d')), toc(dir('d'), file('d/b'))];
    expect(listing(...layers)).toEqual(['d/', 'd/b']);
  });

  test('a whiteout of a name that was never there does no harm, but its directory comes to be', () => {
    expect(listing(toc(file('f')), toc(whiteout('g'), whiteout('new/h')))).toEqual(['f', 'new/']);
  });

  test('a whiteout of a symlink does not follow it', () => {
    expect(listing(toc(dir('d'), file('d/x'), symlink('s', 'd')), toc(whiteout('s')))).toEqual(['d/', 'd/x']);
  });

  test("overlayfs's own mark, a character device 0:0, stays and hides what is below its name", () => {
    const tree = merged(toc(dir('d'), file('d/x')), toc(entry('d', 'char')), toc());
    expect([...tree.keys()]).toEqual(['', 'd']);
    expect(tree.get('d')?.kind).toBe('char');
  });
});

describe('names that meet', () => {
  test('a file takes the place of a directory, and a directory that of a file, across layers and back', () => {
    const layers = [
      toc(file('a'), dir('b'), file('b/x')),
      toc(dir('a'), file('a/y'), file('b')),
      toc(file('a'), dir('b')),
    ];
    expect(listing(...layers.slice(0, 2))).toEqual(['a/', 'a/y', 'b']);
    expect(listing(...layers)).toEqual(['a', 'b/']);
  });

  test('the same within one layer: the last entry counts', () => {
    expect(listing(toc(dir('a'), file('a/x'), file('a'), file('b'), dir('b'), file('b/y')))).toEqual([
      'a',
      'b/',
      'b/y',
    ]);
    expect(merged(toc(file('f', 1), file('f', 2))).get('f')?.entry?.size).toBe(2);
  });

  test('a directory over a directory keeps the content and takes the new attributes', () => {
    const lower = toc(dir('d', { mode: 0o700, uid: 1, xattrs: [xattr('user.old', 'x')] }), file('d/x'));
    const d = merged(lower, toc(dir('d', { mode: 0o1777, uid: 2, mtime: { sec: 5, nsec: 6 } }))).get('d');
    expect(d).toMatchObject({ mode: 0o1777, uid: 2, mtime: { sec: 5, nsec: 6 }, xattrs: [] });
    expect(listing(lower, toc(dir('d')))).toEqual(['d/', 'd/x']);
  });

  test('within one layer the xattrs of both entries of a directory come together', () => {
    const tree = merged(
      toc(
        dir('d', { xattrs: [xattr('user.a', '1'), xattr('user.b', '1')] }),
        dir('d', { xattrs: [xattr('user.b', '2')] }),
      ),
    );
    expect(tree.get('d')?.xattrs.map(([name, value]) => `${name}=${value}`)).toEqual([
      'user.a=1',
      'user.b=2',
    ]);
  });

  test('the root takes the attributes of its entry, and keeps those of lower layers without one', () => {
    expect(merged(toc(file('f'))).get('')).toMatchObject({ mode: 0o755, uid: 0, mtime: { sec: 0, nsec: 0 } });
    const lower = toc(dir('', { mode: 0o711, uid: 7 }));
    expect(merged(lower, toc(file('f'))).get('')).toMatchObject({
      mode: 0o711,
      uid: 7,
      mtime: { sec: 1000 },
    });
    expect(merged(lower, toc(dir('', { mode: 0o555 }))).get('')).toMatchObject({ mode: 0o555, uid: 0 });
  });
});

describe('directories that no entry names', () => {
  test('have the attributes of the lower layers, else 0755, root and 1970', () => {
    const lower = toc(dir('a', { mode: 0o770, uid: 3, gid: 4, mtime: { sec: 77, nsec: 8 } }));
    const tree = merged(lower, toc(file('a/b/c')));
    expect(tree.get('a')).toMatchObject({ mode: 0o770, uid: 3, gid: 4, mtime: { sec: 77, nsec: 8 } });
    expect(tree.get('a/b')).toMatchObject({ mode: 0o755, uid: 0, gid: 0, mtime: { sec: 0, nsec: 0 } });
  });

  test('inside a set-group-id directory have its group, but not the bit', () => {
    const layer = toc(dir('a', { mode: 0o2775, gid: 50 }), file('a/b/c/d'));
    expect(merged(layer).get('a/b')).toMatchObject({ mode: 0o755, gid: 50 });
    expect(merged(layer).get('a/b/c')).toMatchObject({ mode: 0o755, gid: 0 });
    expect(merged(layer, toc(file('a/e/f'))).get('a/e')).toMatchObject({ mode: 0o755, gid: 50 });
  });

  test('keep the lower attributes when they are opaque, and lose them when they are whited out', () => {
    const lower = toc(dir('a', { mode: 0o700 }), dir('a/b', { mode: 0o711 }));
    const modes = (...entries: TocEntry[]) => {
      const tree = merged(lower, toc(...entries));
      return [tree.get('a')?.mode, tree.get('a/b')?.mode];
    };
    expect(modes(opaque('a'), file('a/b/c'))).toEqual([0o700, 0o711]);
    expect(modes(whiteout('a'), file('a/b/c'))).toEqual([0o755, 0o755]);
    expect(modes(file('a/b/c'), whiteout('a'))).toEqual([0o755, 0o755]);
    expect(modes(file('a/b/c'), whiteout('a/b'))).toEqual([0o700, 0o755]);
  });

  test('in place of a lower symlink have the attributes of what it led to', () => {
    const lower = toc(dir('usr'), dir('usr/lib', { mode: 0o751 }), symlink('lib', 'usr/lib'));
    const tree = merged(lower, toc(file('lib/x')));
    expect(tree.get('lib')).toMatchObject({ kind: 'dir', mode: 0o751 });
    expect([...tree.keys()].sort()).toEqual(['', 'lib', 'lib/x', 'usr', 'usr/lib']);
  });
});

describe('symlinks on the way', () => {
  test('of the same layer are followed within the root', () => {
    const layer = toc(
      dir('real'),
      symlink('rel', 'real'),
      symlink('abs', '/real'),
      symlink('out', '../../../real'),
      dir('deep'),
      symlink('deep/up', '../../real/.'),
      file('rel/a'),
      file('abs/b'),
      file('out/c'),
      file('deep/up/d'),
    );
    expect(listing(layer).filter((path) => path.startsWith('real'))).toEqual([
      'real/',
      'real/a',
      'real/b',
      'real/c',
      'real/d',
    ]);
  });

  test('that dangle make what they lead to', () => {
    expect(listing(toc(symlink('s', 'not/there'), file('s/f')))).toEqual([
      'not/',
      'not/there/',
      'not/there/f',
      's -> not/there',
    ]);
  });

  test('as the last part of a name are replaced, not followed', () => {
    expect(listing(toc(dir('d'), symlink('s', 'd'), dir('s'), file('s/x')))).toEqual(['d/', 's/', 's/x']);
  });

  test('in a loop are an error that says so', () => {
    expect(refusal(toc(symlink('a', 'b'), symlink('b', 'a'), file('a/x')))).toBe(
      'integrity: layer 1 cannot be unpacked: a/x: too many symlinks on the way: a loop?',
    );
    expect(refusal(toc(symlink('a', 'a/a'), file('a/x')))).toMatch(/^integrity: .*loop/);
  });

  test('a name below a file is an error that says so', () => {
    expect(refusal(toc(), toc(file('f'), file('f/x')))).toBe(
      'integrity: layer 2 cannot be unpacked: f/x: it lies below f, which is no directory',
    );
    expect(refusal(toc(file('f'), symlink('s', 'f'), dir('s/x')))).toMatch(
      /^integrity: .*s\/x: it lies below f/,
    );
    // Also where the entry before it lay in a directory of that name.
    expect(refusal(toc(file('d/x'), file('d'), file('d/y')))).toMatch(/^integrity: .*d\/y: it lies below d/);
    expect(refusal(toc(file('f'), file('d/x'), hardlink('d', 'f'), file('d/y')))).toMatch(
      /d\/y: it lies below d/,
    );
    expect(listing(toc(file('d/x'), symlink('d', 'e'), file('d/y')))).toEqual(['d -> e', 'e/', 'e/y']);
    // In a lower layer it hides nothing.
    expect(listing(toc(file('f')), toc(file('f/x')))).toEqual(['f/', 'f/x']);
  });
});

describe('hard links', () => {
  test('share an inode and count the names', () => {
    const tree = merged(toc(file('a', 9), hardlink('b', 'a'), dir('d'), hardlink('d/c', 'b')));
    expect(tree.get('a')).toBe(tree.get('b'));
    expect(tree.get('a')).toBe(tree.get('d/c'));
    expect(tree.get('a')?.nlink).toBe(3);
  });

  test('lead to the inode of the moment: replacing one name later leaves the other alone', () => {
    const tree = merged(toc(file('a', 1), hardlink('b', 'a'), file('a', 2)));
    expect([tree.get('a')?.entry?.size, tree.get('b')?.entry?.size]).toEqual([2, 1]);
    expect([tree.get('a')?.nlink, tree.get('b')?.nlink]).toEqual([1, 1]);
    const across = merged(toc(file('a', 1), hardlink('b', 'a')), toc(file('a', 2)));
    expect([across.get('a')?.nlink, across.get('b')?.nlink]).toEqual([1, 1]);
  });

  test('to a lower layer link to its inode and leave its attributes as they are', () => {
    const tree = merged(
      toc(dir('d'), file('d/a', 1), hardlink('d/b', 'd/a')),
      toc(hardlink('c', 'd/a', { mode: 0o777, uid: 9 })),
    );
    expect(tree.get('c')).toBe(tree.get('d/b'));
    expect(tree.get('c')).toMatchObject({ nlink: 3, mode: 0o644, uid: 0 });
  });

  test('keep what their own layer whites out, before or behind them', () => {
    const lower = toc(file('a', 1));
    expect(listing(lower, toc(hardlink('b', 'a'), whiteout('a')))).toEqual(['b']);
    expect(listing(lower, toc(whiteout('a'), hardlink('b', 'a')))).toEqual(['b']);
    expect(merged(lower, toc(whiteout('a'), hardlink('b', 'a'))).get('b')?.nlink).toBe(1);
  });

  test('within a layer give the inode the attributes of their own header', () => {
    const tree = merged(
      toc(file('a', 1), hardlink('b', 'a', { mode: 0o4755, uid: 9, mtime: { sec: 5, nsec: 0 } })),
    );
    expect(tree.get('a')).toMatchObject({ mode: 0o4755, uid: 9, mtime: { sec: 5, nsec: 0 } });
  });

  test('may lead to symlinks and devices, which are not followed', () => {
    const tree = merged(
      toc(symlink('s', 'nowhere'), hardlink('t', 's'), entry('n', 'fifo'), hardlink('m', 'n')),
    );
    expect(tree.get('t')).toBe(tree.get('s'));
    expect(tree.get('m')?.kind).toBe('fifo');
  });

  test('find their target through symlinks of both layers', () => {
    const lower = toc(dir('d'), file('d/a'), symlink('low', '/d'));
    const upper = toc(symlink('up', 'low'), hardlink('b', 'up/a'));
    const tree = merged(lower, upper);
    expect(tree.get('b')).toBe(tree.get('d/a'));
    expect(tree.get('b')?.nlink).toBe(2);
  });

  test.each([
    ['nothing', toc(hardlink('b', 'a')), "b: the hard link's target a is not there"],
    ['what comes later', toc(hardlink('b', 'a'), file('a')), "b: the hard link's target a is not there"],
    ['a directory', toc(dir('d'), hardlink('b', 'd')), "b: the hard link's target d is a directory"],
    [
      'what goes when they come',
      toc(file('d/a'), hardlink('d', 'd/a')),
      "d: the hard link's target d/a is not there",
    ],
    ['itself', toc(file('a'), hardlink('a', 'a')), "a: the hard link's target a is not there"],
    [
      'what lies below a file',
      toc(file('a'), hardlink('b', 'a/c')),
      "b: the hard link's target a/c is not there",
    ],
  ])('to %s are an error', (_, layer, message) => {
    expect(refusal(layer)).toBe(`integrity: layer 1 cannot be unpacked: ${message}`);
  });
});

describe('hostile tables', () => {
  test('names that are no names are refused', () => {
    for (const path of ['a/../b', '..', 'a//b', './a', 'a\0b', `${'n'.repeat(256)}`, 'a/']) {
      expect(refusal(toc(file(path)))).toMatch(/^integrity/);
      expect(refusal(toc(file('t'), hardlink('b', path)))).toMatch(/^integrity/);
    }
    expect(refusal(toc(file('')))).toMatch(/^integrity/);
  });

  test('symlinks cannot build paths that no system call could name', () => {
    const step = Array.from({ length: 15 }, () => 'x'.repeat(255)).join('/');
    expect(refusal(toc(symlink('a', step), symlink('a/b', step), file('a/b/c')))).toMatch(
      /^unsupported: .*too long/,
    );
    expect(refusal(toc(symlink('a', 'y'.repeat(256)), file('a/c')))).toMatch(/^unsupported: .*too long/);
  });

  test('a few entries cannot make much work', () => {
    // Each name costs 250 symlinks of 2000 parts.
    const entries = [dir('d')];
    const circle = `${'d/../'.repeat(800)}`;
    for (let i = 0; i < 250; i++) entries.push(symlink(`s${i}`, `${circle}s${i + 1}`));
    entries.push(symlink('s250', 'd'));
    for (let i = 0; i < 100_000; i++) entries.push(file(`s0/${i}`), file(`d/${i}`));
    const started = performance.now();
    expect(refusal({ entries })).toMatch(/^unsupported: .*too many symlinks/);
    expect(performance.now() - started).toBeLessThan(60_000);
  });
});

// ---- Against overlayfs ----

/** Small names in a small space, so that entries meet. */
const NAMES = ['a', 'b', 'c', 'é'];
const path = fc
  .array(fc.constantFrom(...NAMES), { minLength: 1, maxLength: 3 })
  .map((parts) => parts.join('/'));
const target = fc.oneof(
  path,
  path.map((text) => `/${text}`),
  path.map((text) => `../${text}`),
  fc.constantFrom('..', '.', 'missing/below', '/'),
);
const attributes = fc.record({
  mode: fc.constantFrom(0o755, 0o700, 0o4711, 0o1777, 0o644),
  uid: fc.integer({ min: 0, max: 3 }),
  mtime: fc.integer({ min: 1, max: 1_000_000 }),
});

interface Step {
  kind: string;
  path: string;
  target: string;
  attributes: { mode: number; uid: number; mtime: number };
  size: number;
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(
    'dir',
    'dir',
    'file',
    'file',
    'symlink',
    'hardlink',
    'fifo',
    'device',
    'whiteout',
    'opaque',
    'root',
  ),
  path,
  target,
  attributes,
  size: fc.integer({ min: 0, max: 4 }),
});
const chain = fc.array(fc.array(step, { maxLength: 14 }), { minLength: 1, maxLength: 4 });

function tarOf(steps: readonly Step[], layer: number): Buffer {
  const tar = new TarBytes();
  const names: string[] = [];
  for (const [index, { kind, path: name, target: link, attributes: given, size }] of steps.entries()) {
    const options: Partial<Member> = {
      ...given,
      pax: [
        ['mtime', `${given.mtime}.${String(index).padStart(9, '1')}`],
        ...(size > 1 || kind === 'symlink' || kind === 'fifo' || kind === 'device'
          ? []
          : [[`SCHILY.xattr.user.n${size}`, `value ${index}`] as const]),
      ],
    };
    const slash = name.lastIndexOf('/') + 1;
    switch (kind) {
      case 'dir':
        tar.dir(name, options);
        break;
      case 'root':
        if (size === 0) tar.dir('./', options);
        break;
      case 'file':
        tar.file(name, `layer ${layer}, entry ${index}`.repeat(1 + 100 * size), options);
        names.push(name);
        break;
      case 'symlink':
        tar.symlink(name, link, options);
        names.push(name);
        break;
      case 'hardlink':
        if (names.length > 0) tar.hardlink(name, names[index % names.length] as string, options);
        break;
      case 'fifo':
        tar.add({ ...options, name, type: '6' });
        break;
      case 'device':
        tar.add({ ...options, name, type: '4', major: 7, minor: 300 + index });
        break;
      case 'whiteout':
        tar.file(`${name.slice(0, slash)}.wh.${name.slice(slash)}`, '');
        break;
      default:
        // Overlayfs looks for no mark on the root of a layer.
        tar.file(`${name}/.wh..wh..opq`, '');
    }
  }
  return tar.bytes();
}

describe('random chains of layers', () => {
  let cleanup = new Cleanup();
  afterEach(async () => {
    await cleanup.run();
    cleanup = new Cleanup();
  });

  test('mean what overlayfs makes of them, or are refused where a folder refuses them', async () => {
    const outcomes = { same: 0, refused: 0, across: 0 };
    await fc.assert(
      fc.asyncProperty(chain, async (layers) => {
        const local = new Cleanup();
        try {
          outcomes[await compare(local, layers.map(tarOf))]++;
        } finally {
          await local.run();
        }
      }),
      { numRuns: 60, interruptAfterTimeLimit: 200_000 },
    );
    expect(outcomes.same).toBeGreaterThan(10);
    console.log(`random chains: ${JSON.stringify(outcomes)}`);
  }, 240_000);
});

async function compare(cleanup: Cleanup, tars: Buffer[]): Promise<'same' | 'refused' | 'across'> {
  const directory = await cleanup.tempDir('chain');
  const work = join(directory, 'model');
  await mkdir(work);
  const files: string[] = [];
  for (const [index, tar] of tars.entries()) {
    files.push(join(directory, `tar${index}`));
    await writeFile(files[index] as string, tar);
  }
  cleanup.defer(() => {
    for (const point of mountsBelow(work).toReversed()) run('umount', point);
  });
  const model = spawnSync('python3', [OVERLAY_MODEL, work, ...files], { encoding: 'utf8', timeout: 60_000 });
  if (model.status === 3) return 'across';
  if (model.status === 2) {
    await expect(mountTars(cleanup, directory, tars)).rejects.toMatchObject({ code: 'integrity' });
    return 'refused';
  }
  if (model.status !== 0) throw new Error(`the model failed: ${model.stderr}`);
  const { root } = await mountTars(cleanup, directory, tars);
  const flat = await readTree(root);
  // In a directory of one layer alone overlayfs lists the names of whiteouts.
  const shown = join(work, 'merged');
  const skip = (name: Buffer) =>
    lstatSync(joinBytes(Buffer.from(shown), name), { throwIfNoEntry: false }) === undefined;
  const overlay = await readTree(shown, { skip });
  // Overlayfs counts the links of the folders below, hidden ones too.
  assertSameTree(flat, overlay, { ignore: ({ field }) => field === 'nlink' });
  for (const node of flat.nodes) {
    if (node.type === 'dir') continue;
    const names = flat.nodes.filter(({ firstName }) => firstName.equals(node.firstName)).length;
    expect(node.nlink).toBe(names);
  }
  return 'same';
}
