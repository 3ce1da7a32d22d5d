import { describe, expect, it } from 'vitest';
import { Pieces } from '../../src/index/pieces.ts';

const KIB = 1024;

/** Lets everything run that can. */
const turns = async () => {
  for (let n = 0; n < 50; n++) await new Promise((resolve) => setImmediate(resolve));
};

const all = async (pieces: Pieces): Promise<Buffer> => {
  const parts: Buffer[] = [];
  for (let piece = await pieces.next(); piece !== undefined; piece = await pieces.next()) {
    parts.push(Buffer.from(piece));
    pieces.giveBack(piece);
  }
  return Buffer.concat(parts);
};

describe('a stream in pieces', () => {
  it('has the same bytes, however the stream was cut, and also where the last piece is not full', async () => {
    const bytes = Buffer.alloc(5_000_001, 'some bytes that do not repeat with the size of a piece');
    for (const step of [1_000_000, 65_536, 4_097]) {
      const pieces = new Pieces(async function* () {
        for (let at = 0; at < bytes.length; at += step) yield bytes.subarray(at, at + step);
      });
      expect((await all(pieces)).equals(bytes)).toBe(true);
    }
    expect(await all(new Pieces(async function* () {}))).toHaveLength(0);
  });

  it('is read ahead before the first call for a piece, and no further than there are empty pieces', async () => {
    let read = 0;
    const pieces = new Pieces(async function* () {
      for (; read < 16_384 * KIB; read += 64 * KIB) yield new Uint8Array(64 * KIB);
    });
    await turns();
    const ahead = read;
    expect(ahead).toBeGreaterThan(256 * KIB);
    expect(ahead).toBeLessThanOrEqual(2048 * KIB);
    const piece = await pieces.next();
    await turns();
    // It was taken, but is still in use.
    expect(read).toBe(ahead);
    if (piece !== undefined) pieces.giveBack(piece);
    await turns();
    expect(read).toBe(ahead + (piece?.length ?? 0));
    pieces.close();
  });

  it('gives what came before the stream failed, then its error', async () => {
    const error = new Error('cut');
    const pieces = new Pieces(async function* () {
      yield new Uint8Array(256 * KIB);
      throw error;
    });
    await turns();
    expect(await pieces.next()).toHaveLength(256 * KIB);
    await expect(pieces.next()).rejects.toBe(error);
  });

  it('ends the stream when it is closed, also one that waits for an empty piece', async () => {
    for (const size of [64 * KIB, 8192 * KIB]) {
      let ended = false;
      const pieces = new Pieces(async function* (signal) {
        try {
          for (let sent = 0; sent < size; sent += 64 * KIB) yield new Uint8Array(64 * KIB);
          await new Promise((_, reject) => {
            signal.addEventListener('abort', () => reject(signal.reason), { once: true });
          });
        } finally {
          ended = true;
        }
      });
      await turns();
      expect(ended).toBe(false);
      pieces.close();
      await turns();
      expect(ended).toBe(true);
    }
  });
});
