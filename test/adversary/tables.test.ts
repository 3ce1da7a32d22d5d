/** The attacker of the other tests is as strong as he is meant to be: what he forges passes where it is meant to pass. */
import { beforeAll, describe, expect, it } from 'vitest';
import { decodeSpans } from '../../src/image/decode-span.ts';
import { BLOCK_SIZE, type Compression, SpanTable } from '../../src/image/span-table.ts';
import { layerTar } from '../image/layer-blobs.ts';
import { type GenuineLayer, genuineLayer, rewritten, whole } from '../support/attacker/layer.ts';
import {
  FORGERIES,
  FORGERY_KINDS,
  type Forgery,
  type ForgeryKind,
  overOtherBytes,
  throughWindow,
} from '../support/attacker/tables.ts';
import { Random } from '../support/random.ts';

const COMPRESSIONS: Compression[] = ['gzip', 'zstd', 'none'];
/** 44 blocks: three spans. */
const SIZE = 2_850_000;
const layers = new Map<Compression, GenuineLayer>();
beforeAll(async () => {
  for (const compression of COMPRESSIONS)
    layers.set(compression, await genuineLayer(layerTar(7, SIZE), compression));
});
const layerOf = (compression: Compression) => layers.get(compression) as GenuineLayer;

/** Fetches each span of a table from its blob: the blocks that pass, and how many of them have other bytes than the layer. */
async function served({ table, blob }: Forgery, tar: Buffer): Promise<{ passed: number[]; wrong: number[] }> {
  const passed: number[] = [];
  const wrong: number[] = [];
  for (let index = 0; index < table.spanCount; index++) {
    const { inStart, inEnd } = table.span(index);
    const take = (block: number, bytes: Buffer) => {
      passed.push(block);
      const at = block * BLOCK_SIZE;
      if (!bytes.equals(tar.subarray(at, at + bytes.length))) wrong.push(block);
    };
    await decodeSpans(table, index, 1, whole(blob.subarray(inStart, inEnd)), take).catch(() => {});
  }
  return { passed, wrong };
}

describe.each(COMPRESSIONS)('a layer, %s', (compression) => {
  it('other bytes under its digest: every block but the last passes, as the attacker wrote it', async () => {
    const layer = layerOf(compression);
    const random = new Random(1);
    let made: Forgery | undefined;
    while (made === undefined) made = await overOtherBytes(layer, rewritten(layer, random));
    expect([made.table.diffId, made.table.blobDigest]).toEqual([layer.diffId, layer.blobDigest]);
    expect([made.table.rawSize, made.blob.length]).toEqual([layer.rawSize, layer.blobSize]);
    const { passed, wrong } = await served(made, made.content);
    expect(passed).toEqual(Array.from({ length: layer.spans.blockCount - 1 }, (_, block) => block));
    expect(wrong).toEqual([]);
  });

  it('every way to forge its table: the strict decoder takes it, and it is another one', async () => {
    const layer = layerOf(compression);
    const fitting: ForgeryKind[] = [];
    for (const kind of FORGERY_KINDS) {
      let made: Forgery | undefined;
      for (let seed = 1; made === undefined && seed <= 60; seed++)
        made = await FORGERIES[kind](layer, new Random(seed));
      if (made === undefined) continue;
      fitting.push(kind);
      expect(SpanTable.decode(made.table.encode()).encode().equals(layer.spans.encode())).toBe(false);
    }
    const without: ForgeryKind[] =
      compression === 'gzip'
        ? []
        : compression === 'zstd'
          ? ['window']
          : ['window', 'own layer', 'own blob', 'spans'];
    expect(fitting).toEqual(FORGERY_KINDS.filter((kind) => !without.includes(kind)));
  });
});

it('a window, over the genuine blob: what passes is forged in more than one block', async () => {
  const layer = layerOf('gzip');
  const made = throughWindow(layer, new Random(3));
  expect(made).toBeDefined();
  if (made === undefined) return;
  expect(made.blob.equals(layer.blob)).toBe(true);
  const { passed, wrong } = await served(made, layer.tar);
  expect(wrong.length).toBeGreaterThan(0);
  expect(passed.length).toBe(layer.spans.blockCount - 1);
});
