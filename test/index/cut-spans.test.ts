import { zstdCompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { decodeSpans } from '../../src/image/decode-span.ts';
import { indexLayer } from '../../src/image/index-layer.ts';
import { BLOCK_SIZE, SpanTable } from '../../src/image/span-table.ts';
import { cutSpans, cutsOf } from '../../src/index/cut-spans.ts';
import { dice, GZIP_WRITERS, inPieces, layerTar } from '../image/layer-blobs.ts';

const MIB = 2 ** 20;
const { zopfli: _, ...WRITERS } = GZIP_WRITERS;

describe.each([...Object.entries(WRITERS), ['not compressed', (raw: Buffer) => raw] as const])(
  'a layer by %s',
  (_name, write) => {
    test('cut at random: every span decodes on its own, from its own bytes', async () => {
      for (const seed of [1, 2, 3]) {
        const raw = layerTar(seed, 3.4 * MIB);
        const blob = write(raw, seed);
        const { spans: table } = await indexLayer(inPieces(blob));
        const cut = await cutSpans(table, someBlocks(table, seed), async (start, end) =>
          blob.subarray(start, end),
        );
        expect(cut.spanCount).toBeGreaterThan(table.spanCount);
        await expectSpans(cut, raw, blob);
        const again = SpanTable.decode(Buffer.from(cut.encode()));
        expect(again.encode().equals(cut.encode())).toBe(true);
      }
    });
  },
);

test('what is wanted costs its own blocks and little besides', async () => {
  const raw = layerTar(4, 8 * MIB);
  const blob = WRITERS['gzip -6']?.(raw, 4) ?? raw;
  const { spans: table } = await indexLayer(inPieces(blob));
  const wanted = new Set([21, 22, 23, 24, 70, 71]);
  const cut = await cutSpans(table, wanted, async (start, end) => blob.subarray(start, end));
  const bytesOf = (spans: SpanTable) =>
    [...new Set([...wanted].map((block) => spans.spanOfBlock(block)))]
      .map((index) => spans.span(index))
      .reduce((sum, { inStart, inEnd }) => sum + inEnd - inStart, 0);
  expect(bytesOf(cut)).toBeLessThan(bytesOf(table) / 2);
  expect(spansOf(cut).filter(({ firstBlock }) => firstBlock >= 16 && firstBlock < 32)).toMatchObject([
    { firstBlock: 16, blockCount: 5 },
    { firstBlock: 21, blockCount: 4 },
    { firstBlock: 25, blockCount: 7 },
  ]);
  expect(cut.encode().length).toBeLessThan(table.encode().length + 5 * 34_000);
});

test('a table that is cut belongs to the same layer, block by block', async () => {
  const raw = layerTar(5, 3 * MIB);
  const blob = WRITERS['gzip -6']?.(raw, 5) ?? raw;
  const { spans: table } = await indexLayer(inPieces(blob));
  const cut = await cutSpans(table, someBlocks(table, 5), async (start, end) => blob.subarray(start, end));
  expect(cut).toMatchObject({ diffId: table.diffId, blobDigest: table.blobDigest, rawSize: table.rawSize });
  for (let block = 0; block < table.blockCount; block++) {
    const bytes = raw.subarray(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE);
    expect(cut.verify(block, bytes)).toBe(true);
  }
  // A cofa that knows regular spans alone says so, and calls nothing corrupt.
  expect([table, cut].map((spans) => spans.encode().readUInt32LE(8))).toEqual([1, 2]);
});

test('nothing wanted, or all of it, leaves the table as it is', async () => {
  const raw = layerTar(6, 3 * MIB);
  const blob = WRITERS['gzip -6']?.(raw, 6) ?? raw;
  const { spans: table } = await indexLayer(inPieces(blob));
  const never = () => Promise.reject(new Error('nothing is to be fetched'));
  expect(await cutSpans(table, new Set(), never)).toBe(table);
  const all = new Set(Array.from({ length: table.blockCount }, (_, block) => block));
  expect(await cutSpans(table, all, never)).toBe(table);
});

test('small gaps are fetched along, and what is a little more than wanted', async () => {
  const { spans: table } = await indexLayer(inPieces(layerTar(7, 3 * MIB)));
  expect(cutsOf(table, new Set([2, 5, 6, 9, 12, 13]))).toEqual(new Map());
  expect(cutsOf(table, new Set([3, 5, 8, 12]))).toEqual(new Map([[0, [3, 9, 12, 13]]]));
});

test('a zstd layer stays as it is: it has checkpoints at its frames alone', async () => {
  const { spans: table } = await indexLayer(inPieces(zstdCompressSync(layerTar(8, 3 * MIB))));
  expect(await cutSpans(table, new Set([5]), () => Promise.reject(new Error('nothing')))).toBe(table);
});

test('bytes of another blob give an error and no table', async () => {
  const raw = layerTar(9, 3 * MIB);
  const blob = WRITERS['gzip -6']?.(raw, 9) ?? raw;
  const { spans: table } = await indexLayer(inPieces(blob));
  const wanted = new Set([5, 6]);
  for (const wrong of [Buffer.alloc(300_000), Buffer.alloc(0)])
    await expect(cutSpans(table, wanted, async () => wrong)).rejects.toMatchObject({ code: 'integrity' });
});

function someBlocks(table: SpanTable, seed: number): Set<number> {
  const roll = dice(seed);
  const wanted = new Set<number>();
  for (let run = 0; run < 8; run++) {
    const first = roll(table.blockCount);
    for (let block = first; block < Math.min(table.blockCount, first + 1 + roll(4)); block++)
      wanted.add(block);
  }
  return wanted;
}

const spansOf = (table: SpanTable) =>
  Array.from({ length: table.spanCount }, (_, index) => table.span(index));

async function expectSpans(table: SpanTable, raw: Buffer, blob: Buffer): Promise<void> {
  let next = 0;
  for (const { index, firstBlock, blockCount, inStart, inEnd } of spansOf(table)) {
    expect(firstBlock).toBe(next);
    next += blockCount;
    const blocks: Buffer[] = [];
    const body = inPieces(blob.subarray(inStart, inEnd), index);
    await decodeSpans(table, index, 1, body, (_, bytes) => void blocks.push(bytes));
    const expected = raw.subarray(firstBlock * BLOCK_SIZE, next * BLOCK_SIZE);
    expect(Buffer.concat(blocks).equals(expected)).toBe(true);
    for (let block = firstBlock; block < next; block++) expect(table.spanOfBlock(block)).toBe(index);
  }
  expect(next).toBe(table.blockCount);
}
