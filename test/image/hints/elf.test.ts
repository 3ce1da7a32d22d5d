/** What an ELF file needs; and files that only look like one. */
import { execFileSync } from 'node:child_process';
import { realpathSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readElf } from '../../../src/image/hints/elf.ts';
import {
  EnoughHints,
  type FoundFile,
  HINT_LIMITS,
  HintSearch,
  type ImageFiles,
} from '../../../src/image/hints/image-files.ts';
import { Libraries } from '../../../src/image/hints/libraries.ts';
import { elf, type ElfParts } from './elf-writer.ts';
import { MemoryFiles, type MemoryTree } from './memory-files.ts';

const searchIn = (tree: MemoryTree) => new HintSearch(new MemoryFiles(tree), HINT_LIMITS, () => false);

async function parsed(bytes: Buffer) {
  const search = searchIn({ '/f': bytes });
  return await readElf(search, search.files.find('/f') as FoundFile);
}

const loaded = async (tree: MemoryTree, path: string, env: ReadonlyArray<[string, string]> = []) => {
  const search = searchIn(tree);
  const libraries = new Libraries(search, new Map(env));
  await libraries.load(search.files.find(path) as FoundFile, path);
  libraries.finish();
  return [...new Set(search.wanted.map(({ file }) => file.path))];
};

describe('an ELF file', () => {
  test.each<[string, ElfParts]>([
    ['of 64 bits', {}],
    ['of 32 bits', { isNarrow: true }],
    ['of 64 bits, big-endian', { isBig: true }],
    ['of 32 bits, big-endian', { isNarrow: true, isBig: true }],
  ])('%s names its interpreter, its libraries and their folders', async (_, kind) => {
    const parts = {
      interpreter: '/lib/ld.so',
      needed: ['liba.so.1', 'libb.so'],
      rpath: '/r',
      runpath: '$ORIGIN/x',
    };
    expect(await parsed(elf({ ...kind, ...parts }))).toMatchObject(parts);
  });

  test.each<[string, ElfParts]>([
    ['its slots', { initializers: { places: [900, 300, 900, 500], by: 'slots' } }],
    ['its slots, of 32 bits', { isNarrow: true, initializers: { places: [900, 300, 500], by: 'slots' } }],
    ['relocations', { initializers: { places: [900, 300, 900, 500], by: 'relocations' } }],
    [
      'relocations among others',
      { initializers: { places: [900, 300, 500], by: 'relocations', others: 77 } },
    ],
    [
      'big-endian ones',
      { isBig: true, initializers: { places: [900, 300, 500], by: 'relocations', others: 5 } },
    ],
  ])('names what runs when it has been loaded by %s', async (_, parts) => {
    const found = await parsed(elf({ ...parts, body: Buffer.alloc(1_000) }));
    expect(await found?.initializers()).toEqual([300, 500, 900]);
  });

  test('that is none, or has no end, needs nothing', async () => {
    expect(await parsed(Buffer.alloc(0))).toBeUndefined();
    expect(await parsed(Buffer.from('#!/bin/sh\n'.repeat(20)))).toBeUndefined();
    const whole = elf({ needed: ['liba.so'] });
    for (let length = 0; length < whole.length; length++) {
      const found = await parsed(whole.subarray(0, length));
      expect(
        ['liba.so', undefined, ''].includes(found?.needed[0]) ||
          'liba.so'.startsWith(found?.needed[0] ?? '?'),
      ).toBe(true);
    }
  });

  test('with any bytes changed never throws, and names no more than its bounds allow', async () => {
    const whole = elf({
      interpreter: '/lib/ld.so',
      needed: ['liba.so', 'libb.so'],
      runpath: '/x',
      initializers: { places: [64, 100, 200], by: 'relocations', others: 3 },
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { maxLength: 12 }),
        fc.boolean(),
        async (changes, isNoise) => {
          const bytes = Buffer.from(whole);
          if (isNoise) bytes.fill(0xff, 64);
          for (const [at, value] of changes) bytes[at] = value;
          const found = await parsed(bytes);
          expect(found?.needed.length ?? 0).toBeLessThanOrEqual(512);
          expect((await found?.initializers())?.length ?? 0).toBeLessThanOrEqual(65_536);
        },
      ),
      {
        numRuns: 500,
        // a count of relocations beyond 2^53, in one byte
        examples: [
          [
            [
              [375, 0],
              [374, 3],
            ],
            false,
          ],
        ],
      },
    );
  });
});

describe('the libraries of a program', () => {
  test('are found along its own folders, those of the loader and the default ones, and theirs after them', async () => {
    const found = await loaded(
      {
        '/opt/app/bin/tool': elf({
          interpreter: '/lib/ld.so',
          needed: ['libown.so', 'libconf.so', 'libplain.so'],
          runpath: '${ORIGIN}/../lib',
        }),
        '/lib/ld.so': 'loader',
        '/opt/app/lib/libown.so': elf({ needed: ['libdeep.so'] }),
        '/opt/app/lib/libconf.so': elf({ machine: 3 }),
        '/etc/ld.so.conf': 'include /etc/ld.so.conf.d/*.conf\n# no\n',
        '/etc/ld.so.conf.d/a.conf': '/opt/conf\n',
        '/opt/conf/libconf.so': { link: 'libconf.so.1.2' },
        '/opt/conf/libconf.so.1.2': elf({}),
        '/usr/lib/x86_64-linux-gnu/libplain.so': elf({}),
        '/usr/lib/libplain.so': elf({}),
        '/usr/lib/libdeep.so': elf({ needed: ['libown.so', 'libmissing.so'] }),
      },
      '/opt/app/bin/tool',
    );
    expect(found).toEqual([
      '/opt/app/bin/tool',
      '/lib/ld.so',
      '/opt/app/lib/libown.so',
      '/opt/conf/libconf.so.1.2',
      '/usr/lib/x86_64-linux-gnu/libplain.so',
      '/usr/lib/libdeep.so',
    ]);
  });

  test('take LD_LIBRARY_PATH before RUNPATH, and RPATH before both, inherited from who needs them', async () => {
    const tree = (own: ElfParts): MemoryTree => ({
      '/bin/tool': elf({ interpreter: '/ld', needed: ['liba.so'], ...own }),
      '/one/liba.so': elf({ needed: ['libb.so'] }),
      '/one/libb.so': elf({}),
      '/env/liba.so': elf({}),
    });
    const env: Array<[string, string]> = [['LD_LIBRARY_PATH', '/env']];
    expect(await loaded(tree({ runpath: '/one' }), '/bin/tool', env)).toContain('/env/liba.so');
    expect(await loaded(tree({ rpath: '/one' }), '/bin/tool', env)).toContain('/one/liba.so');
    expect(await loaded(tree({ rpath: '/one' }), '/bin/tool')).toContain('/one/libb.so');
    expect(await loaded(tree({ runpath: '/one' }), '/bin/tool')).not.toContain('/one/libb.so');
  });

  test('are read as far as they are mapped, but for what exceptions need; large ones that others need by their tables', async () => {
    const MIB = 1 << 20;
    const library = (mib: number) =>
      elf({ body: Buffer.alloc(mib * MIB), unwinding: MIB, needed: ['libdeep.so'] });
    const search = searchIn({
      '/bin/tool': elf({ interpreter: '/ld', needed: ['libsome.so', 'libsmall.so'] }),
      '/lib/libsome.so': Buffer.concat([library(3), Buffer.alloc(MIB)]),
      '/lib/libsmall.so': elf({ body: Buffer.alloc(MIB / 2), unwinding: MIB / 4 }),
      '/lib/libdeep.so': library(6),
    });
    const libraries = new Libraries(search, new Map());
    await libraries.load(search.files.find('/bin/tool') as FoundFile, '/bin/tool');
    libraries.finish();
    const endOf = (name: string) =>
      Math.max(...search.wanted.filter(({ file }) => file.path.endsWith(name)).map(({ to }) => to));
    const sizeOf = (name: string) => search.files.find(`/lib/${name}`)?.size ?? 0;
    expect(endOf('libsome.so')).toBe(sizeOf('libsome.so') - 2 * MIB);
    expect(endOf('libsmall.so')).toBe(sizeOf('libsmall.so'));
    expect(endOf('libdeep.so')).toBeLessThan(70 * 1024);
  });

  test('are read, large ones that others need, around what runs when they have been loaded', async () => {
    const MIB = 1 << 20;
    const KIB = 1 << 10;
    const search = searchIn({
      '/bin/tool': elf({ interpreter: '/ld', needed: ['libsome.so'] }),
      '/lib/libsome.so': elf({ needed: ['libdeep.so'] }),
      '/lib/libdeep.so': elf({
        body: Buffer.alloc(9 * MIB),
        initializers: {
          places: [7 * MIB, 5 * MIB, 5 * MIB + 100 * KIB, 3 * MIB],
          by: 'relocations',
          others: 9,
        },
      }),
    });
    const libraries = new Libraries(search, new Map());
    await libraries.load(search.files.find('/bin/tool') as FoundFile, '/bin/tool');
    libraries.finish();
    const parts = search.wanted.filter(({ file }) => file.path === '/lib/libdeep.so');
    expect(parts.filter(({ from }) => from > MIB).map(({ from, to }) => [from / KIB, to / KIB])).toEqual([
      [3 * 1024 - 64, 3 * 1024 + 64],
      [5 * 1024 - 64, 5 * 1024 + 164],
      [7 * 1024 - 64, 7 * 1024 + 64],
    ]);
  });

  test('that need each other in a circle, or by the thousand, come to an end', async () => {
    const tree: MemoryTree = { '/bin/tool': elf({ interpreter: '/ld', needed: ['lib0.so'] }) };
    for (let i = 0; i < 3_000; i++)
      tree[`/lib/lib${i}.so`] = elf({ needed: [`lib${i + 1}.so`, `lib${Math.floor(i / 2)}.so`] });
    expect((await loaded(tree, '/bin/tool')).length).toBeLessThan(1_100);
  });

  test('of a real program are those that the loader of this machine names', async () => {
    const program = realpathSync('/bin/sh');
    const named = execFileSync('ldd', [program], { encoding: 'utf8' });
    const expected = [...named.matchAll(/(?:=> |^\s+)(\/\S+)/gm)].map((match) =>
      realpathSync(match[1] as string),
    );
    expect(expected.length).toBeGreaterThan(0);
    const search = new HintSearch(hostFiles, HINT_LIMITS, () => false);
    await new Libraries(search, new Map()).load(hostFiles.find(program) as FoundFile, program);
    const found = search.wanted.map(({ file }) => file.path);
    for (const path of expected) expect(found).toContain(path);
  });
});

test('a search ends at its limits, and what it has found counts', async () => {
  const search = new HintSearch(
    new MemoryFiles({ '/a': Buffer.alloc(100), '/b': Buffer.alloc(100) }),
    { ...HINT_LIMITS, bytes: 150, reads: 1 },
    () => false,
  );
  search.wantPath('/a');
  search.wantPath('/a');
  expect(() => search.wantPath('/b')).toThrow(EnoughHints);
  await search.read(search.files.find('/a') as FoundFile, 0, 1);
  await expect(search.read(search.files.find('/a') as FoundFile, 0, 1)).rejects.toThrow(EnoughHints);
  expect(search.wanted.map(({ file }) => file.path)).toEqual(['/a']);
});

/** The files of this machine. */
const hostFiles: ImageFiles = {
  paths: () => [],
  find: (path) => {
    try {
      const real = realpathSync(path);
      const { size, mode } = statSync(real);
      const kind = (mode & 0o170000) === 0o100000 ? 'file' : (mode & 0o170000) === 0o040000 ? 'dir' : 'other';
      return { path: real, kind, size, isExecutable: (mode & 0o111) !== 0, nid: 0 };
    } catch {
      return undefined;
    }
  },
  list: (path) => {
    try {
      return execFileSync('ls', ['-A', path], { encoding: 'latin1' })
        .split('\n')
        .filter((name) => name !== '');
    } catch {
      return [];
    }
  },
  read: async (file, at, length) => {
    const handle = await open(file.path, 'r');
    try {
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, at);
      return buffer.subarray(0, bytesRead);
    } finally {
      await handle.close();
    }
  },
};
