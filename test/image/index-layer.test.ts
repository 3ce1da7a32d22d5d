import { gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { indexLayer, mostRaw } from '../../src/image/index-layer.ts';
import { concatenated, dice, inPieces, layerTar, sha256 } from './layer-blobs.ts';
import { header } from './tar-writer.ts';

const MIB = 2 ** 20;
const raw = layerTar(1, 1.5 * MIB);
const blobs = {
  gzip: gzipSync(raw),
  'gzip of members': concatenated(raw, 1, (part) => gzipSync(part)),
  zstd: zstdCompressSync(raw),
  'zstd frames': concatenated(raw, 1, (part) => zstdCompressSync(part)),
  none: raw,
};
const kinds = Object.keys(blobs) as Array<keyof typeof blobs>;

test('a layer cut short anywhere is refused, and the error tells where', async () => {
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...kinds), fc.nat(1_000_000), async (kind, place) => {
      const blob = blobs[kind];
      const length = Math.floor((place / 1_000_001) * blob.length);
      const error = await failure(blob.subarray(0, length), { size: blob.length, digest: sha256(blob) });
      expect(error).toMatchObject({
        code: 'integrity',
        message: `layer ${sha256(blob)}: the blob ends after ${length} of ${blob.length} bytes`,
      });
    }),
    { numRuns: 60 },
  );
});

test('compressed data cut short is refused where its length is unknown', async () => {
  for (const kind of ['gzip', 'zstd'] as const) {
    for (const missing of [1, 4, 9, 1000, blobs[kind].length - 20]) {
      const length = blobs[kind].length - missing;
      expect(await failure(blobs[kind].subarray(0, length))).toMatchObject({
        code: 'integrity',
        message: `the compressed data is cut short at byte ${length}`,
      });
    }
  }
});

test('any byte changed in a layer is found', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...kinds),
      fc.nat(1_000_000),
      fc.integer({ min: 1, max: 255 }),
      async (kind, place, flip) => {
        const blob = Buffer.from(blobs[kind]);
        const at = Math.floor((place / 1_000_001) * blob.length);
        blob[at] = (blob[at] as number) ^ flip;
        const error = await failure(blob, { size: blob.length, digest: sha256(blobs[kind]) });
        expect(error.message).toContain(`layer ${sha256(blobs[kind])}: `);
        expect(error.code).toMatch(/^(integrity|unsupported)$/);
      },
    ),
    { numRuns: 150 },
  );
});

test('corrupt data is reported with its position in the blob', async () => {
  // noise passes for deflate data until a block happens to end and the next one's header makes no sense
  const roll = dice(4);
  const noise = Buffer.from(Array.from({ length: 300_000 }, () => roll(256)));
  const blob = Buffer.concat([blobs.gzip.subarray(0, 300_000), noise]);
  const error = await failure(blob);
  expect(error.code).toBe('integrity');
  const at = Number(/corrupt gzip data \(.+\) at byte (\d+)$/.exec(error.message)?.[1]);
  expect(at).toBeGreaterThan(299_990);
  expect(at).toBeLessThan(blob.length);
});

test('a few KB of zstd that unpack to more than gzip could are refused before they are unpacked', async () => {
  // Frames of 16 MiB of zeros: 512 bytes each.
  const frame = zstdCompressSync(Buffer.alloc(16 * MIB));
  const head = header({ name: 'zeros', size: 8 * 2 ** 30 });
  const blob = Buffer.concat([zstdCompressSync(head), ...Array<Buffer>(512).fill(frame)]);
  let taken = 0;
  const indexed = indexLayer(inPieces(blob, 1), {
    expect: { size: blob.length, digest: sha256(blob) },
    onRaw: (_, bytes) => void (taken += bytes.length),
  });
  await expect(indexed).rejects.toMatchObject({ code: 'unsupported', message: /unpacks to more than/ });
  expect(taken).toBeLessThanOrEqual(mostRaw(blob.length));
});

test('a wrong checksum in a gzip trailer is an error even where no digest is known', async () => {
  const blob = Buffer.from(blobs.gzip);
  blob.writeUInt32LE(1, blob.length - 8);
  expect(await failure(blob)).toMatchObject({
    code: 'integrity',
    message: expect.stringContaining('incorrect data check'),
  });
});

test('what the manifest and the config say is compared', async () => {
  const wrong = sha256(Buffer.from('other'));
  expect(await failure(blobs.gzip, { digest: wrong })).toMatchObject({
    code: 'integrity',
    message: `layer ${wrong}: the blob's digest is ${sha256(blobs.gzip)}, expected ${wrong}`,
  });
  expect(await failure(blobs.zstd, { diffId: wrong })).toMatchObject({
    code: 'integrity',
    message: `layer ${wrong}: the tar's digest is ${sha256(raw)}; the image config says ${wrong}`,
  });
  expect(await failure(blobs.none, { size: raw.length - 1 })).toMatchObject({
    code: 'integrity',
    message: `the blob goes on after its ${raw.length - 1} bytes`,
  });
});

test('compressions that cofa does not read are named', async () => {
  expect(await failure(Buffer.from('fd377a585a000004e6d6b446', 'hex'))).toMatchObject({
    code: 'unsupported',
    message: 'compressed with xz',
  });
  expect(await failure(Buffer.from('BZh91AY&SY'))).toMatchObject({
    code: 'unsupported',
    message: 'compressed with bzip2',
  });
});

test('bytes that are no layer at all end in one error, never in a crash', async () => {
  const heads = ['1f8b08', '1f8b', '28b52ffd', '28b52ffd04', '502a4d18ffffffff', '28b52ffdfd', ''];
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...heads), fc.integer(), fc.nat(100_000), async (head, seed, size) => {
      const roll = dice(seed);
      const noise = Buffer.from(Array.from({ length: size }, () => roll(256)));
      const error = await failure(Buffer.concat([Buffer.from(head, 'hex'), noise])).catch(() => undefined);
      // noise may be taken for an empty tar, but for nothing else
      if (error !== undefined) expect(error).toBeInstanceOf(CofaError);
    }),
    { numRuns: 80 },
  );
});

test('onRaw holds up the stream, and its failure ends the scan', async () => {
  let read = 0;
  async function* counted() {
    for await (const piece of inPieces(blobs.gzip, 1, 3000)) {
      read += piece.length;
      yield piece;
    }
  }
  const seen: Buffer[] = [];
  await indexLayer(counted(), {
    onRaw: async (_offset, bytes) => {
      const before = read;
      await new Promise((resolve) => setTimeout(resolve, 2));
      expect(read).toBe(before);
      seen.push(Buffer.from(bytes));
    },
  });
  expect(Buffer.concat(seen).equals(raw)).toBe(true);

  const full = new Error('disk full');
  read = 0;
  await expect(indexLayer(counted(), { onRaw: () => Promise.reject(full) })).rejects.toBe(full);
  expect(read).toBeLessThan(blobs.gzip.length);
});

test('an abort ends the scan between chunks, and within one that unfolds to much', async () => {
  const stop = new AbortController();
  let read = 0;
  const scan = indexLayer(inPieces(blobs.gzip, 1, 2000), {
    signal: stop.signal,
    onProgress: (bytes) => {
      read = bytes;
      if (bytes > 100_000) stop.abort(new Error('enough'));
    },
  });
  await expect(scan).rejects.toThrow('enough');
  expect(read).toBeLessThan(110_000);

  const bomb = gzipSync(Buffer.concat([layerTar(2, 0), Buffer.alloc(200 * MIB)]));
  const inside = new AbortController();
  let unfolded = 0;
  setTimeout(() => inside.abort(new Error('enough of it')), 5);
  await expect(
    indexLayer(inPieces(bomb, 1, 10 * MIB), {
      signal: inside.signal,
      onRaw: (offset, bytes) => {
        unfolded = offset + bytes.length;
      },
    }),
  ).rejects.toThrow('enough of it');
  expect(unfolded).toBeLessThan(200 * MIB);
});

test('others get their turn while a chunk unfolds to much', async () => {
  const bomb = gzipSync(Buffer.concat([layerTar(3, 0), Buffer.alloc(100 * MIB)]));
  let turns = 0;
  let done = false;
  const tick = () => {
    turns += 1;
    if (!done) setImmediate(tick);
  };
  setImmediate(tick);
  await indexLayer(inPieces(bomb, 1, 10 * MIB));
  done = true;
  expect(turns).toBeGreaterThan(15);
});

test('an empty gzip layer has no spans', async () => {
  const empty = gzipSync(Buffer.alloc(1024));
  const { spans, toc } = await indexLayer(inPieces(empty));
  expect(spans).toMatchObject({ blockCount: 1, spanCount: 1, rawSize: 1024 });
  expect(toc.entries).toEqual([]);
  const nothing = await indexLayer(inPieces(gzipSync(Buffer.alloc(0))));
  expect(nothing.spans).toMatchObject({ blockCount: 0, spanCount: 0, rawSize: 0 });
});

async function failure(
  blob: Buffer,
  expected?: { digest?: string; size?: number; diffId?: string },
): Promise<CofaError> {
  try {
    await indexLayer(inPieces(blob, blob.length), expected === undefined ? {} : { expect: expected });
  } catch (error) {
    if (error instanceof CofaError) return error;
    throw error;
  }
  throw new Error('indexed without an error');
}
