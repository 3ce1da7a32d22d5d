import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { GzipDecoder } from '../../src/image/gzip.ts';
import { IsalInflate } from '../../src/image/libisal.ts';
import { SpanScanner } from '../../src/image/span-scan.ts';
import { SPAN_SIZE, type SpanRecord } from '../../src/image/span-table.ts';
import { GZIP_WRITERS, inPieces, layerTar, sha256 } from './layer-blobs.ts';

const MIB = 2 ** 20;

// zopfli takes a minute for what the others do in a second.
const { zopfli: _, ...WRITERS } = GZIP_WRITERS;

test('ops/install brings an ISA-L that stops before blocks', () => {
  expect(IsalInflate.create()).toBeDefined();
});

test('ISA-L between checkpoints: bytes and spans are those of zlib alone, whatever wrote the layer', async () => {
  for (const [name, write] of Object.entries(WRITERS)) {
    const blob = write(layerTar(6, 3.7 * MIB), 6);
    await expectSame(blob, name);
  }
});

test('blocks of megabytes: a mark in the middle of one has its checkpoint, too', async () => {
  // A block of zlib's holds 16,383 codes, and in the second part each of them stands for 258 bytes.
  const raw = Buffer.concat([
    layerTar(8, 0.4 * MIB),
    Buffer.alloc(6 * MIB, 'the same line again and again\n'),
  ]);
  const { spans } = await expectSame(gzipSync(raw), 'large blocks');
  expect(spans).toHaveLength(Math.ceil(raw.length / SPAN_SIZE));
});

test('a damaged layer fails as zlib alone fails', async () => {
  const blobs = ['zlib run lengths', 'gzip -6', 'several members', 'pigz'].map((name) =>
    (WRITERS[name] as (raw: Buffer, seed: number) => Buffer)(layerTar(7, 2.2 * MIB), 7),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.nat(blobs.length - 1),
      fc.nat(1_000_000),
      fc.integer({ min: 1, max: 255 }),
      async (which, place, flip) => {
        const blob = blobs[which] as Buffer;
        const damaged = Buffer.from(blob);
        const at = Math.floor((place / 1_000_001) * blob.length);
        damaged[at] = (damaged[at] as number) ^ flip;
        expect(await outcome(damaged, true)).toEqual(await outcome(damaged, false));
      },
    ),
    { numRuns: 60 },
  );
});

interface Scanned {
  digest: string;
  spans: SpanRecord[];
}

async function expectSame(blob: Buffer, name: string): Promise<Scanned> {
  const alone = await scan(blob, false);
  const fast = await scan(blob, true);
  // Where the last block is empty, zlib's end is in front of it.
  const last = fast.spans.at(-1);
  const end = alone.spans.at(-1)?.inEnd ?? 0;
  expect(last?.inEnd, name).toBeGreaterThanOrEqual(end);
  expect(last?.inEnd, name).toBeLessThanOrEqual(end + 10);
  if (last !== undefined) last.inEnd = end;
  expect(fast, name).toEqual(alone);
  return fast;
}

/** What comes out, or the error. */
const outcome = (blob: Buffer, fast: boolean): Promise<string> =>
  scan(blob, fast).then(
    ({ digest, spans }) => `${digest} ${spans.length}`,
    (error: Error) => error.message,
  );

async function scan(blob: Buffer, fast: boolean): Promise<Scanned> {
  const parts: Buffer[] = [];
  const scanner = new SpanScanner(new GzipDecoder({ track: true, ...(fast && { marks: SPAN_SIZE }) }), {
    onRaw: (bytes) => void parts.push(Buffer.from(bytes)),
    pause: async () => {},
  });
  try {
    for await (const piece of inPieces(blob, 3)) await scanner.push(piece);
    const spans = await scanner.finish();
    return { digest: sha256(Buffer.concat(parts)), spans };
  } finally {
    scanner.close();
  }
}
