/** How the start of one build of an image becomes a guess about the next build. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type FilePiece,
  filesOfStart,
  movedStart,
  pathsToFind,
  startInLayers,
} from '../../actors/start-files.ts';
import type { StartSet } from '../../actors/start-set.ts';

const BLOCK = 4096;
const SECTOR = 512;
const [BASE, OLD, NEW, OTHER] = ['base', 'old', 'new', 'other'] as const;

/** Files one after the other, each behind a header, as in a tar. */
function layer(files: ReadonlyArray<readonly [path: string, size: number]>): FilePiece[] {
  let at = 0;
  return files.map(([path, size]) => {
    const from = at + SECTOR;
    at = from + Math.ceil(size / SECTOR) * SECTOR;
    return { path, size, at: 0, from, to: from + size };
  });
}
const blocksOf = ({ devices, runs }: StartSet): string[] =>
  runs.flatMap(([device, first, count]) =>
    Array.from({ length: count }, (_, i) => `${devices[device]}${first + i}`),
  );
const of = (diffId: string, ...runs: Array<[first: number, count: number]>): StartSet => ({
  devices: [diffId],
  runs: runs.map(([first, count]) => [0, first, count]),
});
/** What the start of a build with these files says about one with those. */
function guess(
  before: FilePiece[],
  runs: Array<[first: number, count: number]>,
  after: Map<string, FilePiece[]>,
): string[] {
  const start = filesOfStart(of(OLD, ...runs), new Map([[OLD, before]]), BLOCK);
  return blocksOf(movedStart(start, new Set(after.keys()), after, BLOCK));
}

describe('the start of the build before', () => {
  test('holds for the layers that both have, without a look at their files', () => {
    const start: StartSet = {
      devices: [OLD, BASE],
      runs: [
        [1, 7, 2],
        [0, 0, 9],
        [1, 3, 1],
      ],
    };
    expect(blocksOf(startInLayers(start, new Set([BASE, NEW])))).toEqual(['base7', 'base8', 'base3']);
    const files = filesOfStart(start, new Map(), BLOCK);
    expect(blocksOf(movedStart(files, new Set([BASE, NEW]), new Map(), BLOCK))).toEqual([]);
  });

  test('follows a file to where it lies now, also into another layer, in the order of the start', () => {
    const before = layer([
      ['/a', BLOCK * 4],
      ['/b', BLOCK * 2],
      ['/c', 100],
    ]);
    const after = new Map([
      [
        NEW,
        layer([
          ['/new', BLOCK * 10],
          ['/a', BLOCK * 4],
        ]),
      ],
      [OTHER, layer([['/b', BLOCK * 2]])],
    ]);
    // /b first, then the third block of /a.
    expect(
      guess(
        before,
        [
          [5, 1],
          [2, 1],
        ],
        after,
      ),
    ).toEqual(['other0', 'other1', 'new12', 'new13']);
  });

  test('expects a file that was built anew to be read as far as the one before', () => {
    const size = BLOCK * 8;
    const before = layer([['/a', size]]);
    const grown = new Map([[NEW, layer([['/a', BLOCK * 16]])]]);
    const shrunk = new Map([[NEW, layer([['/a', BLOCK * 3]])]]);
    const whole: [number, number] = [0, 9];
    expect(guess(before, [whole], grown).length).toBe(17);
    expect(guess(before, [whole], shrunk)).toEqual(['new0', 'new1', 'new2', 'new3']);
    // Its beginning, and its end: the table of an archive.
    expect(guess(before, [[0, 1]], grown)).toEqual(['new0']);
    expect(guess(before, [[8, 1]], grown)).toEqual(['new16']);
    expect(guess(before, [[8, 1]], shrunk)).toEqual(['new3']);
    expect(guess(before, [[5, 1]], shrunk)).toEqual([]);
  });

  test('says nothing of files that are gone, or lie in a layer that the image has not', () => {
    const before = layer([
      ['/gone', BLOCK],
      ['/elsewhere', BLOCK],
    ]);
    const start = filesOfStart(of(OLD, [0, 3]), new Map([[OLD, before]]), BLOCK);
    expect(pathsToFind(start, new Set([NEW]))).toEqual(new Set(['/gone', '/elsewhere']));
    const after = new Map([[OTHER, layer([['/elsewhere', BLOCK]])]]);
    expect(movedStart(start, new Set([NEW]), after, BLOCK).runs).toEqual([]);
  });

  test('of small files that lie far apart now takes no more than twice what was read, and a handful', () => {
    const small = Array.from({ length: 2_000 }, (_, i): [string, number] => [`/small/${i}`, 1]);
    const spread = small.flatMap((file, i): Array<[string, number]> => [file, [`/between/${i}`, BLOCK]]);
    const blocks = Math.ceil((2_000 * 2 * SECTOR) / BLOCK);
    const found = guess(layer(small), [[0, blocks]], new Map([[NEW, layer(spread)]]));
    expect(found.length).toBeGreaterThan(blocks);
    expect(found.length).toBeLessThanOrEqual(blocks * 2 + 64);
  });

  test('whatever moved where: every byte of a file that was read is expected where it lies now', () => {
    const files = fc.uniqueArray(fc.tuple(fc.nat(30), fc.integer({ min: 1, max: BLOCK * 5 })), {
      selector: ([name]) => name,
      maxLength: 15,
    });
    fc.assert(
      fc.property(
        files,
        fc.array(fc.nat(40), { maxLength: 20 }),
        fc.infiniteStream(fc.nat(1_000)),
        (some, read, chance) => {
          const next = () => chance.next().value as number;
          const named = some.map(([name, size]): [string, number] => [`/${name}`, size]);
          const shuffled = named.toSorted(() => (next() % 2) - 0.5);
          const cut = next() % (named.length + 1);
          const before = layer(named);
          const after = new Map([
            [NEW, layer(shuffled.slice(0, cut))],
            [OTHER, layer(shuffled.slice(cut))],
          ]);
          const found = guess(
            before,
            [...new Set(read)].map((block) => [block, 1]),
            after,
          );
          expect(new Set(found).size).toBe(found.length);
          const expected = new Set<string>();
          for (const block of read) {
            for (const { path, from, to } of before) {
              for (
                let at = Math.max(from, block * BLOCK);
                at < Math.min(to, (block + 1) * BLOCK);
                at += SECTOR
              ) {
                for (const [diffId, pieces] of after) {
                  const now = pieces.find((piece) => piece.path === path);
                  if (now !== undefined)
                    expected.add(`${diffId}${Math.floor((now.from + at - from) / BLOCK)}`);
                }
              }
            }
          }
          expect(found.toSorted()).toEqual([...expected].toSorted());
        },
      ),
      { numRuns: 60 },
    );
  });
});
