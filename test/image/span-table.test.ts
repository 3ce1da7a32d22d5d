import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { decodeSpans } from '../../src/image/decode-span.ts';
import { indexLayer } from '../../src/image/index-layer.ts';
import { Sha256 } from '../../src/image/sha256.ts';
import { BLOCK_SIZE, SpanTable } from '../../src/image/span-table.ts';
import { MAX_PACKED_WINDOW, unpackWindow } from '../../src/image/window.ts';
import { concatenated, inPieces, layerTar, sha256 } from './layer-blobs.ts';

const MIB = 2 ** 20;
const raw = layerTar(1, 3.2 * MIB);
const blobs = [gzipSync(raw), concatenated(raw, 1, (part) => zstdCompressSync(part)), raw] as const;
let tables: SpanTable[];

beforeAll(async () => {
  tables = await Promise.all(blobs.map(async (blob) => (await indexLayer(inPieces(blob))).spans));
});

describe('blocks', () => {
  test('each is verified as itself, and as no other', () => {
    for (const table of tables) {
      for (let block = 0; block < table.blockCount; block++) {
        const bytes = Buffer.from(blockOf(block));
        expect(bytes.length).toBe(table.blockLength(block));
        expect(table.verify(block, bytes)).toBe(true);
        const next = (block + 1) % table.blockCount;
        expect(table.verify(next, bytes)).toBe(bytes.equals(blockOf(next)));
        expect(table.verify(block, bytes.subarray(1))).toBe(false);
        expect(table.verify(block, Buffer.concat([bytes, Buffer.alloc(1)]))).toBe(false);
        const at = (block * 7919) % bytes.length;
        bytes[at] = (bytes[at] as number) ^ 1;
        expect(table.verify(block, bytes)).toBe(false);
      }
    }
  });

  test('all together prove the diffID: a table with other states cannot accept all of them', () => {
    const table = tables[0] as SpanTable;
    const forged = Buffer.from(table.encode());
    const states = 128 + table.spanCount * 40;
    for (const at of [states, states + 32 * 20 + 5, states + 32 * (table.blockCount - 1) - 1]) {
      forged[at] = (forged[at] as number) ^ 1;
      const other = SpanTable.decode(forged);
      const verdicts = Array.from({ length: table.blockCount }, (_, block) =>
        other.verify(block, blockOf(block)),
      );
      expect(verdicts.filter((right) => !right).length).toBeGreaterThanOrEqual(1);
      forged[at] = (forged[at] as number) ^ 1;
    }
  });

  test('asking for a block or span that is not there is a mistake of the caller', () => {
    const table = tables[0] as SpanTable;
    for (const index of [-1, 0.5, NaN, table.blockCount, 2 ** 40]) {
      expect(() => table.spanOfBlock(index)).toThrow(RangeError);
      expect(() => table.blockLength(index)).toThrow(RangeError);
      expect(() => table.span(index)).toThrow(RangeError);
      expect(() => table.checkpoint(index)).toThrow(RangeError);
    }
  });
});

describe('the stored form', () => {
  test('takes less than 2 % of a gzip layer in the sidecar, where it is compressed', async () => {
    // program text compresses best, so its windows and digests weigh most
    const text = execFileSync('tar', ['-c', 'node_modules/undici', 'node_modules/zod'], {
      maxBuffer: 2 ** 30,
    });
    const blob = gzipSync(text);
    const { spans } = await indexLayer(inPieces(blob));
    expect(zstdCompressSync(spans.encode()).length / blob.length).toBeLessThan(0.02);
  });

  test('decode refuses every change of a field that contradicts another one', () => {
    const bytes = (tables[0] as SpanTable).encode();
    const { spanCount, blockCount } = tables[0] as SpanTable;
    const second = 128 + 40;
    const change = (what: string, edit: (copy: Buffer) => Buffer | number | boolean | string) => {
      const copy = Buffer.from(bytes);
      const edited = edit(copy);
      expect(() => SpanTable.decode(edited instanceof Buffer ? edited : copy), what).toThrow(CofaError);
    };
    change('nothing', () => Buffer.alloc(0));
    change('cut', (copy) => copy.subarray(0, -1));
    change('longer', (copy) => Buffer.concat([copy, Buffer.alloc(1)]));
    change('magic', (copy) => copy.write('X'));
    change('version', (copy) => copy.writeUInt32LE(2, 8));
    change('compression', (copy) => copy.writeUInt8(3, 12));
    change('block size', (copy) => copy.writeUInt8(12, 13));
    change('reserved', (copy) => copy.writeUInt8(1, 127));
    change('blob size', (copy) => copy.writeBigUInt64LE(1000n, 16));
    change('raw size', (copy) => copy.writeBigUInt64LE(BigInt(blockCount * BLOCK_SIZE + 1), 24));
    change('huge raw size', (copy) => copy.writeBigUInt64LE(2n ** 63n, 24));
    change('block count', (copy) => copy.writeUInt32LE(blockCount + 1, 96));
    change('span count', (copy) => copy.writeUInt32LE(spanCount + 1, 100));
    change('checkpoint bytes', (copy) => copy.writeUInt32LE(1, 104));
    change('no bytes', (copy) => copy.writeBigUInt64LE(copy.readBigUInt64LE(second + 8), second));
    change('behind the blob', (copy) => copy.writeBigUInt64LE(2n ** 40n, 128 + 40 * (spanCount - 1) + 8));
    change('backwards', (copy) => copy.writeBigUInt64LE(0n, second));
    change('out of order', (copy) => copy.writeBigUInt64LE(0n, second + 16));
    change('starts late', (copy) => copy.writeBigUInt64LE(BigInt(MIB + 1), second + 16));
    change('not regular', (copy) => copy.writeUInt32LE(17, second + 24));
    change('overlapping blocks', (copy) => copy.writeUInt32LE(0, second + 24));
    change('blocks behind the end', (copy) => copy.writeUInt32LE(1600, 128 + 40 * (spanCount - 1) + 24));
    change('window elsewhere', (copy) => copy.writeUInt32LE(1, second + 28));
    change('longer window', (copy) => copy.writeUInt16LE(copy.readUInt16LE(second + 32) + 1, second + 32));
    change('long header', (copy) => copy.writeUInt16LE(0xffff, second + 34));
    change('bits', (copy) => copy.writeUInt8(8, second + 36));
    change('reserved', (copy) => copy.writeUInt8(1, second + 39));
    change('claims to be plain', (copy) => copy.writeUInt8(0, 12));
    change('claims to be zstd', (copy) => copy.writeUInt8(2, 12));
  });

  test('whatever is changed in a table, reading with it gives right blocks or an integrity error', async () => {
    let accepted = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.nat(2),
        fc.array(fc.tuple(fc.nat(1_000_000), fc.nat(255)), {
          minLength: 1,
          maxLength: 4,
        }),
        fc.boolean(),
        async (which, edits, recordsOnly) => {
          const bytes = Buffer.from((tables[which] as SpanTable).encode());
          const limit = recordsOnly ? 128 + (tables[which] as SpanTable).spanCount * 40 : bytes.length;
          for (const [place, value] of edits) bytes[Math.floor((place / 1_000_001) * limit)] = value;
          await attempt(async () => {
            const table = SpanTable.decode(bytes);
            accepted += 1;
            for (let span = 0; span < table.spanCount; span++) {
              const { inStart, inEnd } = table.span(span);
              const body = (blobs[which] as Buffer).subarray(inStart, inEnd);
              await attempt(() =>
                decodeSpans(table, span, 1, inPieces(body, span), (block, content) => {
                  expect(table.verify(block, content)).toBe(true);
                }),
              );
            }
          });
        },
      ),
      { numRuns: 300 },
    );
    expect(accepted).toBeGreaterThan(50);
  });

  test('decode never fails but with an integrity error, whatever it is given', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.boolean(), (noise, withMagic) => {
        const bytes = Buffer.from(noise);
        if (withMagic) {
          bytes.write('COFASPAN');
          if (bytes.length >= 16) bytes.writeBigUInt64LE(0x0000100100000001n, 8);
        }
        try {
          SpanTable.decode(bytes);
        } catch (error) {
          expect((error as CofaError).code).toMatch(/^(integrity|unsupported)$/);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

test('packed windows: noise is unpacked or refused, and never grows beyond 32 KiB', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 0, maxLength: 600 }), (noise) => {
      try {
        expect(unpackWindow(Buffer.from(noise)).length).toBeLessThanOrEqual(32_768);
      } catch (error) {
        expect((error as CofaError).code).toBe('integrity');
      }
    }),
    { numRuns: 3000 },
  );
  expect(MAX_PACKED_WINDOW).toBeLessThan(65_536);
});

describe('SHA-256 with a state', () => {
  test('agrees with node:crypto however the bytes are cut, and goes on from any state', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 3000 }), fc.nat(3000), fc.nat(46), (bytes, cut, blocks) => {
        const hash = new Sha256();
        hash.update(bytes.subarray(0, cut));
        hash.update(bytes.subarray(cut));
        expect(hash.digest().equals(createHash('sha256').update(bytes).digest())).toBe(true);

        const middle = Math.min(blocks * 64, bytes.length - (bytes.length % 64));
        hash.reset();
        hash.update(bytes.subarray(0, middle));
        const state = hash.state();
        const other = new Sha256();
        other.reset(state, middle);
        expect(other.stateIs(state, 0)).toBe(true);
        other.update(bytes.subarray(middle));
        expect(`sha256:${other.digest().toString('hex')}`).toBe(sha256(bytes));
      }),
    );
  });

  test('lengths above 4 GiB are counted right', () => {
    // the length field is all that differs; FIPS 180-4 §5.1.1 pads with it
    const length = 2 ** 33 + 64;
    const hash = new Sha256();
    hash.reset(undefined, length);
    hash.update(Buffer.from('end'));
    const last = Buffer.alloc(64);
    last.write('end\x80', 'latin1');
    last.writeBigUInt64BE(BigInt(length + 3) * 8n, 56);
    const byHand = new Sha256();
    byHand.update(last);
    expect(hash.digest().equals(byHand.state())).toBe(true);
  });
});

function blockOf(block: number): Buffer {
  return raw.subarray(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE);
}

async function attempt(action: () => Promise<void>): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof CofaError)) throw error;
    expect(error.code).toMatch(/^(integrity|unsupported)$/);
  }
}
