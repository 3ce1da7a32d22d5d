/** Startup packs as bytes: a decoder gives the encoded blocks one by one, and believes nothing else. */
import { randomBytes } from 'node:crypto';
import { constants, createZstdCompress, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodePack, encodePack, packedBytes, type PackHeader } from '../../src/pack/format.ts';

const BLOCK = 4096;
const digest = (n: number) => `sha256:${n.toString(16).padStart(64, '0')}`;

function headerOf(sizes: number[], runs: Array<[number, number, number]>): PackHeader {
  return { manifest: digest(1), blockSize: BLOCK, devices: sizes.map((_, i) => digest(i + 2)), sizes, runs };
}

async function bytesOf(header: PackHeader, devices: Buffer[]): Promise<Buffer> {
  const pieces: Buffer[] = [];
  const read = (device: number, block: number, length: number) =>
    (devices[device] as Buffer).subarray(block * BLOCK, block * BLOCK + length);
  for await (const piece of encodePack(header, read)) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function* inPieces(bytes: Buffer, size: number) {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function decoded(bytes: Buffer, size = 1000) {
  let header: PackHeader | undefined;
  const blocks: Array<[number, number, Buffer]> = [];
  await decodePack(
    inPieces(bytes, size),
    (found) => {
      header = found;
    },
    ({ device, block, bytes: data }) => {
      blocks.push([device, block, Buffer.from(data)]);
    },
  );
  return { header, blocks };
}

const sample = async () => {
  const devices = [randomBytes(5 * BLOCK + 100), Buffer.alloc(3 * BLOCK, 7)];
  const header = headerOf(
    devices.map(({ length }) => length),
    [
      [1, 2, 1],
      [0, 4, 2],
      [0, 0, 1],
    ],
  );
  return { header, devices, bytes: await bytesOf(header, devices) };
};

describe('a startup pack', () => {
  test('gives back every block in order, whatever the pieces it comes in', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 6 * BLOCK }), { minLength: 1, maxLength: 3 }),
        fc.array(fc.tuple(fc.nat(2), fc.nat(6), fc.integer({ min: 1, max: 4 })), { maxLength: 8 }),
        fc.integer({ min: 1, max: 9000 }),
        async (sizes, wanted, piece) => {
          const devices = sizes.map((size) => randomBytes(size));
          const seen = new Set<string>();
          const runs = wanted.filter(([device, first, count]) => {
            const blocks = Array.from({ length: count }, (_, i) => `${device}/${first + i}`);
            const fits = (first + count - 1) * BLOCK < (sizes[device] ?? 0);
            if (!fits || blocks.some((block) => seen.has(block))) return false;
            for (const block of blocks) seen.add(block);
            return true;
          });
          const header = headerOf(sizes, runs);
          const result = await decoded(await bytesOf(header, devices), piece);
          expect(result.header).toEqual(header);
          const expected = runs.flatMap(([device, first, count]) =>
            Array.from({ length: count }, (_, i): [number, number, Buffer] => [
              device,
              first + i,
              (devices[device] as Buffer).subarray((first + i) * BLOCK, (first + i + 1) * BLOCK),
            ]),
          );
          expect(result.blocks.length).toBe(expected.length);
          for (const [i, [device, block, bytes]] of expected.entries()) {
            expect(result.blocks[i]?.slice(0, 2)).toEqual([device, block]);
            expect(result.blocks[i]?.[2].equals(bytes)).toBe(true);
          }
          expect(expected.reduce((sum, [, , bytes]) => sum + bytes.length, 0)).toBe(packedBytes(header));
        },
      ),
      { numRuns: 40 },
    );
  });

  test('names its blocks before the first of them has come', async () => {
    const { header, bytes } = await sample();
    const seen: string[] = [];
    let release: () => void = () => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    async function* slowly() {
      // The flushed header is in the first bytes; the rest waits until it has been seen.
      yield bytes.subarray(0, 400);
      await gate;
      yield bytes.subarray(400);
    }
    await decodePack(
      slowly(),
      (found) => {
        expect(found.runs).toEqual(header.runs);
        seen.push('header');
        release();
      },
      () => void seen.push('block'),
    );
    expect(seen).toEqual(['header', 'block', 'block', 'block', 'block']);
  });

  test('that is cut, spoilt or followed by something is refused', async () => {
    const { bytes } = await sample();
    for (const length of [0, 3, 20, 200, bytes.length - 1])
      await expect(decoded(bytes.subarray(0, length))).rejects.toMatchObject({ code: 'integrity' });
    const raw = zstdDecompressSync(bytes);
    await expect(decoded(zstdCompressSync(Buffer.concat([raw, Buffer.alloc(1)])))).rejects.toMatchObject({
      code: 'integrity',
    });
    await expect(decoded(randomBytes(5000))).rejects.toMatchObject({ code: 'integrity' });
    const otherVersion = Buffer.from(raw);
    otherVersion.writeUInt32LE(2, 8);
    await expect(decoded(zstdCompressSync(otherVersion))).rejects.toMatchObject({ code: 'integrity' });
  });

  test('with blocks outside of its layers, or more than a pack may have, is refused before a block is read', async () => {
    const refuses = async (header: PackHeader) => {
      const pieces: Buffer[] = [];
      for await (const piece of encodePack(header, (_, __, length) => Buffer.alloc(Math.max(length, 0))))
        pieces.push(piece);
      await expect(decoded(Buffer.concat(pieces), 1 << 16)).rejects.toMatchObject({ code: 'integrity' });
    };
    await refuses(headerOf([BLOCK], [[0, 1, 1]]));
    await refuses(headerOf([BLOCK], [[1, 0, 1]]));
    await refuses({ ...headerOf([BLOCK], []), manifest: 'latest' });
    await refuses(
      headerOf(
        [2 * BLOCK],
        [
          [0, 0, 2],
          [0, 0, 1],
        ],
      ),
    );
    await refuses({ ...headerOf([BLOCK, BLOCK], [[0, 0, 1]]), devices: [digest(2), digest(2)] });
    const huge = headerOf(
      [2 ** 40],
      Array.from({ length: 3 }, () => [0, 0, 200_000] as [number, number, number]),
    );
    // Only the header of such a pack is ever made here.
    let made = Buffer.alloc(0);
    for await (const piece of encodePack(huge, () => {
      throw new Error('enough');
    })) {
      made = Buffer.concat([made, piece]);
      break;
    }
    await expect(decoded(made)).rejects.toMatchObject({ code: 'integrity', message: /more than/ });
  });

  test('that asks its decoder for a window of 128 MiB is refused', async () => {
    const { bytes } = await sample();
    const zstd = createZstdCompress({ params: { [constants.ZSTD_c_windowLog]: 27 } });
    // In two parts: for one alone the encoder would name a window of its size.
    const raw = zstdDecompressSync(bytes);
    zstd.write(raw.subarray(0, 100), () => zstd.end(raw.subarray(100)));
    const wide = Buffer.concat(await zstd.toArray());
    await expect(decoded(wide)).rejects.toMatchObject({ code: 'integrity', message: /zstd/ });
  });

  test('hands on the error of a body that breaks off, and of a callback', async () => {
    const { bytes } = await sample();
    async function* cut() {
      yield bytes.subarray(0, 300);
      throw new Error('the line is dead');
    }
    await expect(
      decodePack(
        cut(),
        () => {},
        () => {},
      ),
    ).rejects.toThrow('the line is dead');
    await expect(
      decodePack(
        inPieces(bytes, 100),
        () => {
          throw new Error('not for this image');
        },
        () => {},
      ),
    ).rejects.toThrow('not for this image');
  });
});
