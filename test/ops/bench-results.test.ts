/** How results of the benchmark are kept, tabled and drawn. */
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { expect, onTestFinished, test } from 'vitest';
import { captionOf, plotStarts } from '../../ops/bench/plot.ts';
import { merged, noResults, type Results } from '../../ops/bench/results.ts';
import type { Starts } from '../../ops/bench/starts.ts';
import { markdown, tablesOf } from '../../ops/bench/tables.ts';
import { blobPath, layoutLayers } from '../../ops/images/layout.ts';
import { syntheticImage } from '../../ops/images/synthetic.ts';

const MACHINE = { kernel: '6.9', cores: 2 };
const LINK = { rate: '1G', rttMs: 5 };
const starts = (image: string, coldMs: number, name = 'cofa, pack'): Starts => {
  const one = (totalMs: number) => ({ firstOutputMs: totalMs, totalMs, bytes: 1e6 });
  return {
    image,
    imageBytes: 1e8,
    sidecarBytes: 1e6,
    packBytes: 1e7,
    startBytes: 0,
    ways: [
      { name: 'containerd', cold: [one(5_200), one(6_200)], warm: [one(200)] },
      { name, cold: [one(coldMs)], warm: [one(300)] },
    ],
  };
};
const results = (...all: Starts[]): Results => ({ ...noResults(MACHINE, LINK), starts: all });

test('a later run takes the place of the same images, and leaves the others', () => {
  const both = merged(results(starts('demo', 900), starts('java', 800)), results(starts('demo', 500)));
  expect(both.starts.map(({ image, ways }) => [image, ways[1]?.cold[0]?.totalMs])).toEqual([
    ['demo', 500],
    ['java', 800],
  ]);
});

test('a later run of some ways leaves the others of the image, each in its place', () => {
  const earlier = starts('demo', 900);
  const later = { ...starts('demo', 500), ways: starts('demo', 500).ways.slice(1) };
  const other = { ...later, ways: later.ways.map((way) => ({ ...way, name: 'SOCI, lazy' })) };
  for (const both of [
    merged(results(earlier), results({ ...later, ways: [...other.ways, ...later.ways] })).starts,
    merged(
      { ...results(), strangers: [{ ...earlier, heldOut: true }] },
      { ...results(), strangers: [{ ...later, ways: [...other.ways, ...later.ways], heldOut: true }] },
    ).strangers,
  ])
    expect(both?.[0]?.ways.map(({ name, cold }) => [name, cold[0]?.totalMs])).toEqual([
      ['containerd', 5_200],
      ['cofa, pack', 500],
      ['SOCI, lazy', 500],
    ]);
});

test('results of another link or machine are not put into one table', () => {
  const other = noResults(MACHINE, { rate: '24M', rttMs: 5 });
  expect(() => merged(results(), other)).toThrow(/another link: .*1G.*, not .*24M/);
  expect(() => merged(results(), noResults({ kernel: '6.12', cores: 2 }, LINK))).toThrow(/another machine/);
});

test('tables have a row for each way, and the goals come last', () => {
  const tables = tablesOf(results(starts('demo', 450)));
  expect(tables.map(({ title }) => title)).toEqual(['Start of demo (100.0 MB), link 1Gbit/s, 5 ms', 'Goals']);
  expect(tables[0]?.rows[2]).toEqual(['cofa, pack', '0.45', '0.45–0.45', '0.25', '22.0x', '1.0']);
  expect(markdown(tables)).toContain(
    '| P1 | demo | added delay with pack: containerd / cofa | ≥ 20x | 22.0x | met |',
  );
});

test('the picture has a mark for each way, further right what takes longer, and names are escaped', () => {
  const all = [starts('demo', 450), starts('java', 1_200, '<other> & co')];
  const svg = plotStarts(all, captionOf(results(...all)));
  const marks = [...svg.matchAll(/<circle cx="([\d.]+)"/g)].map((match) => Number(match[1]));
  expect(marks).toHaveLength(4);
  const [containerd, pack, , slower] = marks as [number, number, number, number];
  expect(pack).toBeLessThan(slower);
  expect(slower).toBeLessThan(containerd);
  expect(svg).toContain('&lt;other&gt; &amp; co');
  expect(svg).toContain('2 rounds');
});

test('a start that was no slower than a warm one is drawn at the left end of the scale', () => {
  const svg = plotStarts([starts('demo', 150)], '');
  const marks = [...svg.matchAll(/<circle cx="([\d.]+)"/g)].map((match) => Number(match[1]));
  expect(marks.every(Number.isFinite)).toBe(true);
  expect(svg).not.toContain('NaN');
});

test('a synthetic image is the same each time, and has the layers and files that were asked for', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'cofa-synthetic-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  const size = { layers: 3, filesPerLayer: 5, fileBytes: 65_536 };
  const make = async (name: string) => {
    await mkdir(join(folder, name));
    return await syntheticImage(join(folder, name), size, () => {});
  };
  const [one, two] = [await make('one'), await make('two')];
  expect(one.manifest.digest).toBe(two.manifest.digest);
  const layers = await layoutLayers(one);
  expect(layers).toHaveLength(3);
  const last = gunzipSync(await readFile(blobPath(one.directory, layers[2]?.digest ?? '')));
  // A header of 512 bytes for each of the files and their two folders, and two blocks at the end.
  expect(last.length).toBe(5 * (512 + 65_536) + 2 * 512 + 1024);
  expect(layers[2]?.size).toBeLessThan(0.6 * last.length);
});
