import { execFileSync } from 'node:child_process';
import { chmodSync, linkSync, mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { readInParallel } from './readers.ts';
import { Cleanup } from './temp.ts';
import { diffTrees, formatDifferences, readTree, type Tree } from './tree.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

/** A folder with one of everything, and its exact copy. */
async function twins(): Promise<{ one: string; two: string }> {
  const directory = await cleanup.tempDir('tree');
  const one = join(directory, 'one');
  mkdirSync(join(one, 'sub/deep'), { recursive: true });
  writeFileSync(join(one, 'sub/file'), Buffer.alloc(300_000, 'abc'));
  writeFileSync(Buffer.from(`${one}/sub/bad\xff\n`, 'latin1'), 'x');
  writeFileSync(join(one, 'empty'), '');
  linkSync(join(one, 'sub/file'), join(one, 'sub/deep/again'));
  symlinkSync('../nowhere', join(one, 'link'));
  execFileSync('mknod', [join(one, 'device'), 'b', '300', '70000']);
  execFileSync('mkfifo', [join(one, 'pipe')]);
  chmodSync(join(one, 'empty'), 0o4755);
  execFileSync('setfattr', ['-n', 'trusted.bin', '-v', '0x00ff0a00', join(one, 'empty')]);
  execFileSync('setfattr', ['-n', 'trusted.note', '-v', 'x', join(one, 'sub')]);
  const two = join(directory, 'two');
  execFileSync('cp', ['-a', one, two]);
  return { one, two };
}

async function difference(one: string, two: string): Promise<string> {
  return formatDifferences(diffTrees(await readTree(one), await readTree(two)));
}

describe('a tree and its copy', () => {
  test('are equal', async () => {
    const { one, two } = await twins();
    const tree = await readTree(one);
    const types = tree.nodes.map((node) => node.type).toSorted();
    expect(types.join(' ')).toBe('block dir dir dir fifo file file file file symlink');
    expect(tree.nodes.find((node) => node.type === 'block')?.rdev).toBe('300:70000');
    expect(diffTrees(tree, await readTree(two))).toEqual([]);
  });

  const changes: Array<[name: string, change: (root: string) => void, expected: RegExp]> = [
    ['one byte of a file', (root) => writeAt(root, 'sub/file', 299_999), /sub\/deep\/again: sha256/],
    ['a mode', (root) => chmodSync(join(root, 'empty'), 0o755), /^empty: mode 4755 \/ 755$/],
    ['an owner', (root) => run('chown', '12:0', join(root, 'pipe')), /^pipe: uid 0 \/ 12$/],
    ['a group', (root) => run('chgrp', '-h', '13', join(root, 'link')), /^link: gid 0 \/ 13$/],
    ['a nanosecond', (root) => run('touch', '-d', '@5.000000001', join(root, 'empty')), /^empty: mtime/],
    [
      'a time before 1970',
      (root) => run('touch', '-d', '@-1', join(root, 'sub')),
      /^sub: mtime .* \/ -1\.000000000$/,
    ],
    [
      'an xattr value',
      (root) => run('setfattr', '-n', 'trusted.bin', '-v', '0x00ff0b00', join(root, 'empty')),
      /^empty: xattrs \{trusted.bin=0x00ff0a00\} \/ \{trusted.bin=0x00ff0b00\}$/,
    ],
    ['an xattr gone', (root) => run('setfattr', '-x', 'trusted.note', join(root, 'sub')), /^sub: xattrs/],
    ['a length', (root) => truncateSync(join(root, 'empty'), 1), /^empty: size 0 \/ 1$/m],
    [
      'a device number',
      (root) => replace(root, 'device', () => run('mknod', join(root, 'device'), 'b', '300', '70001')),
      /^device: rdev 300:70000 \/ 300:70001$/m,
    ],
    [
      'a device kind',
      (root) => replace(root, 'device', () => run('mknod', join(root, 'device'), 'c', '300', '70000')),
      /^device: type block \/ char$/m,
    ],
    [
      'a target',
      (root) => replace(root, 'link', () => symlinkSync('../nowherE', join(root, 'link'))),
      /^link: target/m,
    ],
    [
      'a hardlink made a copy',
      (root) =>
        replace(root, 'sub/deep/again', () =>
          run('cp', '-a', join(root, 'sub/file'), join(root, 'sub/deep/again')),
        ),
      /^sub\/file: nlink 2 \/ 1$/m,
    ],
    ['a file gone', (root) => rmSync(join(root, 'empty')), /^empty: only in the first tree \(file\)$/m],
    [
      'a file more',
      (root) => writeFileSync(join(root, 'new'), ''),
      /^new: only in the second tree \(file\)$/m,
    ],
    [
      'a name in invalid UTF-8',
      (root) => run('sh', '-c', 'mv "$1"/bad* "$1/bad$(printf "\\376")"', 'sh', join(root, 'sub')),
      /^sub\/bad\\xff\\x0a: only in the first/m,
    ],
  ];
  test.each(changes)('differ by %s', async (_name, change, expected) => {
    const { one, two } = await twins();
    change(two);
    expect(await difference(one, two)).toMatch(expected);
  });

  test('differ in names of one inode even where the counts agree', async () => {
    const directory = await cleanup.tempDir('links');
    for (const [side, pairs] of [
      ['one', 'ab cd'],
      ['two', 'ac bd'],
    ] as const) {
      mkdirSync(join(directory, side));
      for (const [first, second] of pairs.split(' ') as string[]) {
        writeFileSync(join(directory, side, first as string), 'same');
        linkSync(join(directory, side, first as string), join(directory, side, second as string));
      }
      run('sh', '-c', 'touch -d @7 "$1"/* "$1"', 'sh', join(directory, side));
    }
    expect(await difference(join(directory, 'one'), join(directory, 'two'))).toBe(
      'b: firstName a / b\nc: firstName c / a\nd: firstName c / b',
    );
  });
});

describe('parallel readers', () => {
  test('find nothing in an equal copy and read every byte', async () => {
    const { one, two } = await twins();
    const expected = await readTree(one, { content: false });
    const result = await readInParallel({ root: two, expected, readers: 8, copies: 3, pieceSize: 4096 });
    expect(result.failures).toEqual([]);
    expect(result.bytes).toBe(3 * fileBytes(expected));
  });

  test('find one wrong byte, one short file and one that is gone', async () => {
    const { one, two } = await twins();
    writeAt(two, 'sub/file', 200_000);
    truncateSync(Buffer.from(`${two}/sub/bad\xff\n`, 'latin1'), 0);
    rmSync(join(two, 'sub/deep/again'));
    const result = await readInParallel({
      root: two,
      expected: await readTree(one, { content: false }),
      readers: 8,
      copies: 1,
      maxFailures: 100,
    });
    expect(result.failures).toContain('sub/file@131072: wrong bytes');
    expect(result.failures).toContain('sub/bad\\xff\\x0a@0: 0 bytes instead of 1');
    expect(result.failures.filter((line) => line.includes('ENOENT'))).toHaveLength(3);
    expect(result.failures).toHaveLength(5);
  });
});

function fileBytes(tree: Tree): number {
  return tree.nodes.reduce((sum, node) => sum + (node.type === 'file' ? node.size : 0), 0);
}

function run(command: string, ...args: string[]): void {
  execFileSync(command, args);
}

/** Replaces the file of a name; the folder keeps its time. */
function replace(root: string, name: string, make: () => void): void {
  rmSync(join(root, name));
  make();
}

function writeAt(root: string, name: string, offset: number): void {
  run(
    'sh',
    '-c',
    'printf Z | dd of="$1" bs=1 seek="$2" conv=notrunc status=none',
    'sh',
    join(root, name),
    String(offset),
  );
}
