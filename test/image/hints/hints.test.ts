/** Hints as they lie in a sidecar: what was found as blocks, and what a start takes of them. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { buildFlat } from '../../../src/image/erofs.ts';
import { FlatFiles } from '../../../src/image/flat-files.ts';
import {
  decodeHints,
  encodeHints,
  type Hints,
  hintsOf,
  MAX_HINT_BLOCKS,
  startOf,
} from '../../../src/image/hints/hints.ts';
import { dir, file, symlink, toc } from '../toc-entries.ts';

const id = (digit: string) => `sha256:${digit.repeat(64)}`;

const sample: Hints = {
  devices: [id('a'), id('b')],
  sections: [
    { program: '/bin/entry', isAlways: true, runs: [[0, 0, 1]] },
    {
      program: Buffer.from('pyé').toString('latin1'),
      isAlways: false,
      runs: [
        [1, 7, 20],
        [0, 2, 1],
      ],
    },
    { program: '', isAlways: false, runs: [[1, 1, 2]] },
  ],
};

test('hints come back as they were written, and what is written twice is the same', () => {
  const run = fc.tuple(fc.nat(2), fc.nat(1e6), fc.integer({ min: 1, max: 50 }));
  const section = fc.record({
    program: fc.string({ maxLength: 20 }).map((text) => Buffer.from(text, 'utf8').toString('latin1')),
    isAlways: fc.boolean(),
    runs: fc.array(run, { maxLength: 8 }),
  });
  fc.assert(
    fc.property(fc.array(section, { maxLength: 5 }), (sections) => {
      const hints = { devices: [id('1'), id('2'), id('3')], sections };
      expect(decodeHints(encodeHints(hints))).toEqual(hints);
      expect(encodeHints(decodeHints(encodeHints(hints))).equals(encodeHints(hints))).toBe(true);
    }),
  );
});

describe('hints from elsewhere', () => {
  const refused = expect.objectContaining({ code: 'integrity' });

  test('are refused when they are cut, longer, or none', () => {
    const bytes = encodeHints(sample);
    for (let length = 0; length < bytes.length; length++)
      expect(() => decodeHints(bytes.subarray(0, length))).toThrow(refused);
    expect(() => decodeHints(Buffer.concat([bytes, Buffer.alloc(1)]))).toThrow(refused);
    expect(() => decodeHints(Buffer.alloc((1 << 20) + 1))).toThrow(refused);
  });

  test('are refused when they ask for more than a start may fetch, or for a layer that they do not name', () => {
    const ask = (runs: Array<[number, number, number]>) =>
      encodeHints({ devices: [id('a')], sections: [{ program: '', isAlways: false, runs }] });
    expect(decodeHints(ask([[0, 0, MAX_HINT_BLOCKS]])).sections).toHaveLength(1);
    expect(() =>
      decodeHints(
        ask([
          [0, 0, MAX_HINT_BLOCKS],
          [0, 5_000, 1],
        ]),
      ),
    ).toThrow(refused);
    expect(() => decodeHints(ask([[0, 0, 0]]))).toThrow(refused);
    expect(() => decodeHints(ask([[1, 0, 1]]))).toThrow(refused);
  });

  test('with any bytes changed are refused, or within the bounds', () => {
    const bytes = encodeHints(sample);
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { maxLength: 6 }), (changes) => {
        const changed = Buffer.from(bytes);
        for (const [at, value] of changes) changed[at] = value;
        let hints: Hints;
        try {
          hints = decodeHints(changed);
        } catch (error) {
          expect(error).toEqual(refused);
          return;
        }
        const blocks = hints.sections.flatMap(({ runs }) => runs.map(([, , count]) => count));
        expect(blocks.reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(MAX_HINT_BLOCKS);
      }),
    );
  });
});

test('the image’s own command takes all, another one what it has in common with it, each only in layers of the image', () => {
  const both = new Set([id('a'), id('b')]);
  expect(startOf(sample, 'default', both).runs).toEqual([
    [0, 0, 1],
    [1, 7, 20],
    [0, 2, 1],
    [1, 1, 2],
  ]);
  expect(startOf(sample, { program: 'pyé' }, both).runs).toEqual([
    [0, 0, 1],
    [1, 7, 20],
    [0, 2, 1],
  ]);
  expect(startOf(sample, { program: 'sh' }, both).runs).toEqual([[0, 0, 1]]);
  expect(startOf(sample, { program: '' }, both).runs).toEqual([[0, 0, 1]]);
  expect(startOf(sample, 'default', new Set([id('a')])).runs).toEqual([
    [0, 0, 1],
    [0, 2, 1],
  ]);
});

test('what was found becomes blocks of the layers, each once, by whose files they are', () => {
  const KIB = 1024;
  const { metadata } = buildFlat(
    [
      toc(
        dir('bin'),
        file('bin/a', 100 * KIB, { extents: [{ fileOffset: 0, deviceOffset: 60 * KIB, length: 100 * KIB }] }),
      ),
      toc(
        file('b', 70 * KIB, { extents: [{ fileOffset: 0, deviceOffset: 512, length: 70 * KIB }] }),
        symlink('c', 'bin/a'),
      ),
    ],
    [
      { diffId: id('a'), size: 200 * KIB },
      { diffId: id('b'), size: 100 * KIB },
    ],
  );
  const flat = new FlatFiles(metadata);
  const [a, b] = [flat.find('/c'), flat.find('/b')];
  if (a === undefined || b === undefined) throw new Error('not found');
  const hints = hintsOf(
    [
      { file: a, from: 0, to: 1, program: 'x' },
      { file: b, from: 65 * KIB, to: 66 * KIB, program: 'y' },
      { file: b, from: 0, to: b.size, program: '' },
      { file: a, from: 0, to: a.size, program: '' },
    ],
    flat,
    ['x'],
  );
  const at = (diffId: string) => hints.devices.indexOf(diffId);
  expect(hints.sections).toEqual([
    { program: 'x', isAlways: true, runs: [[at(id('a')), 0, 1]] },
    { program: 'y', isAlways: false, runs: [[at(id('b')), 1, 1]] },
    {
      program: '',
      isAlways: false,
      runs: [
        [at(id('b')), 0, 1],
        [at(id('a')), 1, 2],
      ],
    },
  ]);
  expect(decodeHints(encodeHints(hints))).toEqual(hints);
});
