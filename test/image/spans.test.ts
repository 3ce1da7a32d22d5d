import { gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { decodeSpans } from '../../src/image/decode-span.ts';
import { indexLayer, type LayerIndex } from '../../src/image/index-layer.ts';
import { BLOCK_SIZE, SPAN_SIZE, SpanTable } from '../../src/image/span-table.ts';
import {
  concatenated,
  dice,
  GZIP_WRITERS,
  inPieces,
  layerTar,
  piped,
  sha256,
  singleBlock,
  skippableFrame,
  ZSTD_WRITERS,
} from './layer-blobs.ts';

const MIB = 2 ** 20;

describe.each(Object.entries(GZIP_WRITERS))('gzip by %s', (_name, write) => {
  test('every span decodes on its own, from its own bytes', async () => {
    for (const [seed, size] of [
      [1, 2.6 * MIB],
      [2, 1000],
      [3, 2 * MIB - 1536],
      [4, 1.1 * MIB],
    ] as const) {
      const raw = layerTar(seed, size);
      const blob = write(raw, seed);
      const index = await checkLayer(raw, blob, seed);
      expect(index.compression).toBe('gzip');
      expect(index.spans.spanCount).toBe(Math.ceil(raw.length / SPAN_SIZE));
      await expectTight(index.spans, blob);
    }
  });
});

describe.each(Object.entries(ZSTD_WRITERS))('zstd by %s', (_name, write) => {
  test('every span decodes on its own', async () => {
    for (const [seed, size] of [
      [1, 3.3 * MIB],
      [2, 1000],
      [3, 2 * MIB - 1536],
    ] as const) {
      const raw = layerTar(seed, size);
      const index = await checkLayer(raw, write(raw, seed), seed);
      expect(index.compression).toBe('zstd');
    }
  });
});

test('a tar that is not compressed: spans are its own bytes', async () => {
  for (const size of [0, 1, 1.5 * MIB, 3 * MIB - 1536]) {
    const raw = layerTar(5, size);
    const index = await checkLayer(raw, raw, 5);
    expect(index).toMatchObject({ compression: 'none', blobDigest: index.diffId });
  }
});

test('random tars, writers and chunks: spans, blocks and digests agree with the tar', async () => {
  // zopfli takes a minute for what the others do in a second
  const { zopfli: _, ...gzip } = GZIP_WRITERS;
  const writers: typeof gzip = { ...gzip, ...ZSTD_WRITERS, plain: (raw) => raw };
  await fc.assert(
    fc.asyncProperty(
      fc.integer(),
      fc.oneof(
        fc.nat(5 * MIB),
        fc.nat(4).map((n) => n * MIB),
        fc.nat(200_000),
      ),
      fc.constantFrom(...Object.keys(writers)),
      async (seed, size, name) => {
        const raw = layerTar(seed, size);
        await checkLayer(raw, writers[name]?.(raw, seed) ?? raw, seed);
      },
    ),
    { numRuns: 40 },
  );
});

test('spans begin inside of a deflate block that is larger than several of them', async () => {
  const raw = Buffer.concat([layerTar(6, 2.5 * MIB)]);
  const single = (await checkLayer(raw, singleBlock(raw), 6)).spans;
  expect(single.spanCount).toBe(3);
  expect(single.checkpoint(1).header?.length).toBe(3);

  const zeros = Buffer.concat([layerTar(7, 100), Buffer.alloc(40 * MIB)]);
  const sparse = (await checkLayer(zeros, gzipSync(zeros, { level: 9 }), 7)).spans;
  expect(sparse.spanCount).toBe(41);
  // one byte is all that zeros refer back to
  expect(sparse.checkpoint(20).window?.length).toBeLessThanOrEqual(300);
});

test('a zstd layer of one frame is one span, of many frames a span for every MiB', async () => {
  const raw = layerTar(8, 6 * MIB);
  const one = await checkLayer(raw, zstdCompressSync(raw), 8);
  expect(one.spans.spanCount).toBe(1);
  expect(one.spans.span(0)).toMatchObject({ blockCount: one.spans.blockCount });
  const many = await checkLayer(
    raw,
    concatenated(raw, 8, (part) => zstdCompressSync(part)),
    8,
  );
  expect(many.spans.spanCount).toBe(7);
});

test('blocks of a long span come out while its bytes are still arriving', async () => {
  const raw = layerTar(9, 4 * MIB);
  const blob = zstdCompressSync(raw);
  const { spans } = await indexLayer(inPieces(blob));
  let sent = 0;
  const halfway: number[] = [];
  async function* slowly() {
    for (; sent < blob.length; sent += 5000) yield blob.subarray(sent, sent + 5000);
  }
  await decodeSpans(spans, 0, 1, slowly(), () => void halfway.push(sent));
  expect(halfway).toHaveLength(spans.blockCount);
  expect(halfway[0]).toBeLessThan(blob.length / 4);
  expect(new Set(halfway).size).toBeGreaterThan(10);
});

test('the table does not depend on how the blob was cut into chunks', async () => {
  const raw = layerTar(10, 5 * MIB);
  for (const blob of [
    gzipSync(raw, { level: 1 }),
    concatenated(raw, 3, (part) => gzipSync(part)),
    concatenated(raw, 3, (part) => zstdCompressSync(part)),
    raw,
  ]) {
    const tables = [];
    for (const longest of [100, 10_000, 262_144, 400_000, 10_000_000]) {
      tables.push((await indexLayer(inPieces(blob, longest, longest))).spans.encode());
    }
    for (const table of tables) expect(table.equals(tables[0] as Buffer)).toBe(true);
  }
});

test('gzip members that are empty, before, between and behind the data', async () => {
  const raw = layerTar(11, 1.2 * MIB);
  const empty = gzipSync(Buffer.alloc(0));
  const halves = [gzipSync(raw.subarray(0, MIB)), gzipSync(raw.subarray(MIB))] as const;
  await checkLayer(raw, Buffer.concat([empty, empty, halves[0], empty, empty, halves[1], empty]), 11);
  // hundreds of thousands of them are slow, but no danger
  await checkLayer(raw, Buffer.concat([...Array<Buffer>(20_000).fill(empty), gzipSync(raw)]), 11);
});

test('zstd frames that are empty or skippable, before, between and behind the data', async () => {
  const raw = layerTar(12, 1.2 * MIB);
  const empty = zstdCompressSync(Buffer.alloc(0));
  const halves = [zstdCompressSync(raw.subarray(0, MIB)), zstdCompressSync(raw.subarray(MIB))] as const;
  const skip = skippableFrame(200_001);
  const index = await checkLayer(
    raw,
    Buffer.concat([skip, empty, halves[0], empty, skip, halves[1], empty, skip]),
    12,
  );
  expect(index.spans.spanCount).toBe(2);
  expect(index.spans.span(0).inStart).toBe(skip.length + empty.length);
});

test('a body with bytes of another place never comes out as a block', async () => {
  const raw = layerTar(13, 3 * MIB);
  const blob = gzipSync(raw);
  const { spans } = await indexLayer(inPieces(blob));
  const one = spans.span(1);
  const two = spans.span(2);
  await expect(decode(spans, 1, 1, blob.subarray(two.inStart, two.inEnd))).rejects.toMatchObject({
    code: 'integrity',
    message: expect.stringContaining(`${spans.diffId}: block 16`),
  });
  await expect(decode(spans, 1, 1, blob.subarray(one.inStart, one.inEnd - 40))).rejects.toMatchObject({
    code: 'integrity',
    message: expect.stringContaining('compressed bytes end after'),
  });
  await expect(decode(spans, 1, 1, Buffer.alloc(0))).rejects.toMatchObject({ code: 'integrity' });
});

test('random damage to a span: each block that comes out is right, and the fault is reported', async () => {
  const raw = layerTar(14, 2.5 * MIB);
  const blobs = [gzipSync(raw), concatenated(raw, 14, (part) => zstdCompressSync(part)), raw];
  const tables = await Promise.all(blobs.map(async (blob) => (await indexLayer(inPieces(blob))).spans));
  let reported = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.nat(2),
      fc.nat(1),
      fc.nat(1_000_000),
      fc.integer({ min: 1, max: 255 }),
      async (which, spanIndex, place, flip) => {
        const table = tables[which] as SpanTable;
        const span = table.span(spanIndex);
        const body = Buffer.from((blobs[which] as Buffer).subarray(span.inStart, span.inEnd));
        const at = Math.floor((place / 1_000_001) * body.length);
        body[at] = (body[at] as number) ^ flip;
        let blocks = 0;
        try {
          await decodeSpans(table, spanIndex, 1, inPieces(body, at), (block, bytes) => {
            blocks += 1;
            const start = block * BLOCK_SIZE;
            expect(bytes.equals(raw.subarray(start, start + BLOCK_SIZE))).toBe(true);
          });
          expect(blocks).toBe(span.blockCount);
        } catch (error) {
          expect(error).toBeInstanceOf(CofaError);
          expect((error as CofaError).code).toMatch(/^(integrity|unsupported)$/);
          reported += 1;
        }
      },
    ),
    { numRuns: 150 },
  );
  expect(reported).toBeGreaterThan(100);
});

test('in batches: the same blocks, in as much memory, and before a fault all that are right', async () => {
  const raw = layerTar(17, 2_500_000);
  const end = Math.ceil(raw.length / BLOCK_SIZE);
  for (const blob of [raw, gzipSync(raw)]) {
    const { spans } = await indexLayer(inPieces(blob));
    const { blockCount, firstBlock, inStart, inEnd } = spans.span(1);
    const stores = new Set<ArrayBufferLike>();
    const batches: Array<[block: number, bytes: Buffer]> = [];
    const take = (block: number, bytes: Buffer) => {
      stores.add(bytes.buffer);
      batches.push([block, Buffer.from(bytes)]);
    };
    const all = blob.subarray(spans.span(0).inStart);
    await decodeSpans(spans, 0, spans.spanCount, inPieces(all, 17), take, undefined, 3);
    expect(Buffer.concat(batches.map(([, bytes]) => bytes)).equals(raw)).toBe(true);
    expect(batches.map(([block]) => block)).toEqual(
      Array.from({ length: Math.ceil(end / 3) }, (_, at) => at * 3),
    );
    expect(stores.size).toBe(1);

    // The last block of the span is wrong; those before it in its batch are not.
    batches.length = 0;
    const cut = blob.subarray(inStart, inEnd - 100);
    await expect(decodeSpans(spans, 1, 1, inPieces(cut, 17), take, undefined, 4)).rejects.toThrow(CofaError);
    const came = Buffer.concat(batches.map(([, bytes]) => bytes));
    expect(came.length).toBe((blockCount - 1) * BLOCK_SIZE);
    expect(came.equals(raw.subarray(firstBlock * BLOCK_SIZE).subarray(0, came.length))).toBe(true);
  }
});

test('decoding stops reading the body when its blocks are out, and stops where the receiver fails or aborts', async () => {
  const raw = layerTar(15, 3 * MIB);
  const blob = gzipSync(raw);
  const { spans } = await indexLayer(inPieces(blob));
  let closed = 0;
  async function* endless(from: number) {
    try {
      for (let at = from; ; at += 1000)
        yield at < blob.length ? blob.subarray(at, at + 1000) : Buffer.alloc(1000);
    } finally {
      closed += 1;
    }
  }
  const start = spans.span(1).inStart;
  await decodeSpans(spans, 1, 1, endless(start), () => {});
  expect(closed).toBe(1);

  const full = new Error('disk full');
  await expect(decodeSpans(spans, 1, 1, endless(start), () => Promise.reject(full))).rejects.toBe(full);
  expect(closed).toBe(2);

  const stop = new AbortController();
  let blocks = 0;
  await expect(
    decodeSpans(
      spans,
      1,
      1,
      endless(start),
      () => {
        blocks += 1;
        if (blocks === 3) stop.abort(new Error('enough'));
      },
      stop.signal,
    ),
  ).rejects.toThrow('enough');
  expect([blocks, closed]).toEqual([3, 3]);
  expect(() => spans.span(3 + 1)).toThrow(RangeError);
  await expect(decode(spans, 3, 2, blob)).rejects.toBeInstanceOf(RangeError);
  await expect(decode(spans, 1, 0, blob)).rejects.toBeInstanceOf(RangeError);
});

test('native memory is given back, also after failures', async () => {
  const raw = layerTar(16, 300_000);
  const blobs = [gzipSync(raw), zstdCompressSync(raw)];
  const tables = await Promise.all(blobs.map(async (blob) => (await indexLayer(inPieces(blob))).spans));
  const round = async () => {
    for (const [which, table] of tables.entries()) {
      const body = blobs[which] as Buffer;
      const { inStart, inEnd } = table.span(0);
      await decode(table, 0, 1, body.subarray(inStart, inEnd));
      await decodeSpans(table, 0, 1, inPieces(body.subarray(inStart)), () => {
        throw new Error('no');
      }).catch(() => {});
      await indexLayer(inPieces(body.subarray(0, body.length - 20))).catch(() => {});
    }
  };
  for (let i = 0; i < 60; i++) await round();
  const before = process.memoryUsage().rss;
  for (let i = 0; i < 400; i++) await round();
  // a forgotten inflate state holds 40 KiB, a zstd context more: six of them a round
  expect(process.memoryUsage().rss - before).toBeLessThan(60 * MIB);
});

test('zstd windows above 128 MiB are refused with a sentence that helps', async () => {
  const raw = layerTar(17, 3 * MIB);
  const blob = piped('zstd', '-q', '-3', '--long=30')(raw);
  await expect(indexLayer(inPieces(blob))).rejects.toMatchObject({
    code: 'unsupported',
    hint: expect.stringContaining('--long=27'),
  });
});

/** Indexes the blob, compares everything with the tar, and decodes every span alone and random runs of spans. */
async function checkLayer(raw: Buffer, blob: Buffer, seed: number): Promise<LayerIndex> {
  const seen: Buffer[] = [];
  let offset = 0;
  const index = await indexLayer(inPieces(blob, seed), {
    expect: { digest: sha256(blob), size: blob.length, diffId: sha256(raw) },
    onRaw: (at, bytes) => {
      expect(at).toBe(offset);
      offset += bytes.length;
      seen.push(Buffer.from(bytes));
    },
  });
  expect(Buffer.concat(seen).equals(raw)).toBe(true);
  expect(index).toMatchObject({
    rawSize: raw.length,
    blobSize: blob.length,
    diffId: sha256(raw),
    blobDigest: sha256(blob),
  });
  expect(index.toc.entries).toHaveLength(1);
  const table = SpanTable.decode(Buffer.from(index.spans.encode()));
  expect(table.encode().equals(index.spans.encode())).toBe(true);
  expect(table.blockCount).toBe(Math.ceil(raw.length / BLOCK_SIZE));

  let next = 0;
  for (let span = 0; span < table.spanCount; span++) {
    const { firstBlock, blockCount, inStart, inEnd } = table.span(span);
    expect(firstBlock).toBe(next);
    next += blockCount;
    for (let block = firstBlock; block < next; block++) expect(table.spanOfBlock(block)).toBe(span);
    const bytes = await decode(table, span, 1, blob.subarray(inStart, inEnd), seed + span);
    expect(bytes.equals(raw.subarray(firstBlock * BLOCK_SIZE, next * BLOCK_SIZE))).toBe(true);
  }
  expect(next).toBe(table.blockCount);

  const roll = dice(seed);
  for (let run = 0; run < 3; run++) {
    const first = roll(table.spanCount);
    const count = 1 + roll(table.spanCount - first);
    const from = table.span(first);
    const to = table.span(first + count - 1);
    const bytes = await decode(table, first, count, blob.subarray(from.inStart, to.inEnd), seed + run);
    const end = (to.firstBlock + to.blockCount) * BLOCK_SIZE;
    expect(bytes.equals(raw.subarray(from.firstBlock * BLOCK_SIZE, end))).toBe(true);
  }
  return index;
}

/**
 * Neighbouring gzip spans share less than a code's bytes, and hold no more than they need, but for the end of
 * a block and a member's trailer where these follow at once.
 */
async function expectTight(table: SpanTable, blob: Buffer): Promise<void> {
  for (let index = 0; index + 1 < table.spanCount; index++) {
    const { inStart, inEnd } = table.span(index);
    expect(inEnd - table.span(index + 1).inStart).toBeLessThanOrEqual(7);
    const outcome = await decode(table, index, 1, blob.subarray(inStart, inEnd - 12)).then(
      () => 'decoded',
      (error: CofaError) => error.code,
    );
    expect(outcome).toBe('integrity');
  }
}

async function decode(
  table: SpanTable,
  first: number,
  count: number,
  body: Buffer,
  seed = 1,
): Promise<Buffer> {
  const blocks: Buffer[] = [];
  let next = table.span(first).firstBlock;
  await decodeSpans(table, first, count, inPieces(body, seed), (block, bytes) => {
    expect(block).toBe(next++);
    blocks.push(bytes);
  });
  return Buffer.concat(blocks);
}
