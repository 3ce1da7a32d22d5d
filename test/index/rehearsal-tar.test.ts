import { expect, test } from 'vitest';
import { buildFlat } from '../../src/image/erofs.ts';
import { indexLayer } from '../../src/image/index-layer.ts';
import type { LayerIndex } from '../../src/image/index-layer.ts';
import { rehearsalTars } from '../../src/index/rehearsal-tar.ts';

test('an indexer rehearses with what layers commonly hold: each kind of member, long names, xattrs, whiteouts', async () => {
  const [lower, upper] = (await Promise.all(rehearsalTars().map(indexed))) as [LayerIndex, LayerIndex];
  const entries = [...lower.toc.entries, ...upper.toc.entries];
  expect(new Set(entries.map(({ type }) => type))).toEqual(
    new Set(['file', 'dir', 'symlink', 'hardlink', 'whiteout', 'opaque']),
  );
  const paths = entries.map(({ path }) => path.toString());
  expect(paths.some((path) => path.startsWith('long/') && path.length > 100)).toBe(true);
  expect(paths.some((path) => path.startsWith('longer/') && path.length > 100)).toBe(true);
  expect(entries.some(({ xattrs }) => xattrs.length > 0)).toBe(true);
  expect(entries.some(({ mtime }) => mtime.nsec > 0)).toBe(true);
  const files = entries.filter(({ type }) => type === 'file');
  expect(files.some(({ size }) => size === 0)).toBe(true);
  expect(files.some(({ size }) => size % 512 !== 0)).toBe(true);
});

test('the layers of a rehearsal make an image, the upper one over the lower one', async () => {
  const layers = await Promise.all(rehearsalTars().map(indexed));
  const flat = (of: LayerIndex[]) =>
    buildFlat(
      of.map(({ toc }) => toc),
      of.map(({ diffId, rawSize }) => ({ diffId, size: rawSize })),
    );
  expect(flat(layers).devices).toEqual([0, 1]);
  const alone = layers.map((layer) => flat([layer]).metadata.length);
  expect(flat(layers).metadata.length).toBeGreaterThan(Math.max(...alone));
  // Much of the lower one is replaced or removed.
  expect(flat(layers).metadata.length).toBeLessThan((alone[0] as number) + (alone[1] as number));
});

async function indexed(tar: Buffer): Promise<LayerIndex> {
  async function* whole() {
    yield tar;
  }
  return await indexLayer(whole());
}
