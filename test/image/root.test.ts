/** Block roots: one for a layer, whatever its spans and its compression are. */
import { gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { indexLayer } from '../../src/image/index-layer.ts';
import { SpanTable } from '../../src/image/span-table.ts';
import { rootOf } from '../support/roots.ts';
import { END, header } from './tar-writer.ts';

const tarOf = (bytes: Buffer): Buffer =>
  Buffer.concat([
    header({ name: 'file', size: bytes.length }),
    bytes,
    Buffer.alloc((512 - (bytes.length % 512)) % 512),
    END,
  ]);

async function* once(bytes: Buffer) {
  yield bytes;
}

test('a layer has one block root, whichever way it is compressed and cut into spans', async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 0, max: 400_000 }), fc.nat(255), async (size, fill) => {
      const tar = tarOf(Buffer.alloc(size, fill));
      const tables = await Promise.all(
        [tar, gzipSync(tar), zstdCompressSync(tar)].map(async (blob) => (await indexLayer(once(blob))).spans),
      );
      expect(new Set(tables.map(({ root }) => root))).toEqual(new Set([rootOf(tar)]));
      const [plain] = tables as [SpanTable];
      // One span for each block.
      const spans = Array.from({ length: plain.blockCount }, (_, block) => {
        const inStart = block * plain.blockSize;
        const inEnd = inStart + plain.blockLength(block);
        return { firstBlock: block, inStart, inEnd, out: inStart, bits: 0 };
      });
      expect(plain.withSpans(spans).root).toBe(rootOf(tar));
    }),
    { numRuns: 12 },
  );
});

test('another size, or another byte, gives another root', () => {
  const tar = tarOf(Buffer.alloc(200_000, 7));
  const other = Buffer.from(tar);
  other[70_000] = 8;
  const roots = [tar, other, Buffer.concat([tar, Buffer.alloc(512)])].map(rootOf);
  expect(new Set(roots).size).toBe(3);
});
