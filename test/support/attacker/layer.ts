/** A layer as an image commits to it: what the attacker starts from, and what readers have to get. */
import { constants, gzipSync, zstdCompressSync } from 'node:zlib';
import { indexLayer, type LayerIndex } from '../../../src/image/index-layer.ts';
import type { Compression } from '../../../src/image/span-table.ts';
import type { Toc } from '../../../src/image/toc.ts';
import type { Random } from '../random.ts';

export interface GenuineLayer extends LayerIndex {
  /** The uncompressed tar. */
  tar: Buffer;
  /** As it lies in the registry. */
  blob: Buffer;
}

/** A zstd blob has a frame for each of these bytes of the tar: several spans. */
const FRAME = 1 << 20;

/** Compresses and indexes a tar. */
export async function genuineLayer(tar: Buffer, compression: Compression): Promise<GenuineLayer> {
  const blob = compress(tar, compression);
  return { ...(await indexLayer(whole(blob))), tar, blob };
}

/** The blob of a tar. */
export function compress(tar: Buffer, compression: Compression): Buffer {
  if (compression === 'none') return tar;
  if (compression === 'gzip') return gzipSync(tar);
  const frames: Buffer[] = [];
  for (let at = 0; at < tar.length; at += FRAME)
    frames.push(
      zstdCompressSync(tar.subarray(at, at + FRAME), {
        params: { [constants.ZSTD_c_compressionLevel]: 3 },
      }),
    );
  return Buffer.concat(frames);
}

/** A blob in one piece, as the indexer takes it. */
export async function* whole(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** Where file data lie in the tar: there another content leaves the tar well-formed. */
export function* fileData({ entries }: Toc): Generator<{ at: number; length: number }> {
  for (const { extents } of entries)
    for (const { deviceOffset, length } of extents) yield { at: deviceOffset, length };
}

/** The tar with other bytes in some of its files, as well-formed and as long. At least one byte differs. */
export function rewritten({ tar, toc }: GenuineLayer, random: Random): Buffer {
  const content = Buffer.from(tar);
  const places = [...fileData(toc)];
  do {
    const { at, length } = random.pick(places);
    const from = at + random.int(0, length - 1);
    const end = from + random.int(1, at + length - from);
    content.fill(EVIL.subarray(random.int(0, EVIL.length - 1)), from, end);
  } while (content.equals(tar) || random.chance(0.5));
  return content;
}

const EVIL = Buffer.from('#!/bin/sh\necho as the attacker wrote it\n');
