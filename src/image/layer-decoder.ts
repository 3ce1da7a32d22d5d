import { CofaError } from '../../schemas/errors.ts';
import type { NativeBuffer } from './native.ts';
import type { Compression } from './span-table.ts';

/**
 * A decoder that can stop at any raw byte and tell where decoding could begin again. It holds native memory until
 * close().
 */
export interface LayerDecoder {
  /** Compressed bytes [start, end) to read next; they must stay as they are until `available` is 0. */
  input(source: NativeBuffer, start: number, end: number): void;
  /** Bytes of the last input that are not consumed yet. */
  readonly available: number;
  /** Compressed bytes consumed since the beginning. */
  readonly consumed: number;
  /**
   * Decodes into [start, end) of the target, start < end, and returns the bytes written. It also stops at
   * places that matter to `checkpoint`, so call it until it makes no progress: nothing written, nothing consumed.
   * Target bytes behind the written ones may have changed.
   * Throws CofaError('integrity' | 'unsupported' | 'environment').
   */
  run(target: NativeBuffer, start: number, end: number): number;
  /**
   * Whether checkpoint() knows an answer at every raw byte; otherwise only at some, and the last one before a byte
   * counts.
   */
  readonly checkpointsAnywhere: boolean;
  /** Where decoding can begin so that the next raw bytes come out; undefined: the decoder does not know it here. */
  checkpoint(): Checkpoint | undefined;
  /** Compressed bytes, counted as `consumed` is, that suffice for all that was written so far. */
  readonly needed: number;
  /** Whether the data may end here: not in the middle of a stream. */
  readonly complete: boolean;
  close(): void;
}

export interface Checkpoint {
  /** Offset of the first byte to read. */
  start: number;
  /** So many bits of that byte, the high ones, belong to the data; 0: all of them. */
  bits: number;
  /** The first raw byte that comes out lies so many bytes before the decoder's place. */
  back: number;
  /** The following data may refer to so many raw bytes before that. */
  reach: number;
  /** gzip: what precedes the data in the decoder's input, see gzip.ts. */
  header?: Header;
}

export interface Header {
  bytes: Buffer;
  /** Bits, low ones first in each byte. */
  length: number;
}

/** Bytes that `detectCompression` needs to be sure, unless the blob is shorter. */
export const MAGIC_SIZE = 512;

/**
 * What a layer is compressed with, by its first bytes; media types are often wrong.
 * Errors: CofaError('unsupported') for xz and bzip2.
 */
export function detectCompression(head: Buffer): Compression {
  if (head.length >= 2 && head[0] === 0x1f && head[1] === 0x8b) return 'gzip';
  if (head.length >= 4) {
    const magic = head.readUInt32LE(0);
    // RFC 8878 §3.1.1, and §3.1.2 for skippable frames, which some writers begin with
    if (magic === 0xfd2fb528 || (magic & 0xfffffff0) >>> 0 === 0x184d2a50) return 'zstd';
  }
  if (head.toString('latin1', 257, 262) !== 'ustar') {
    for (const [name, magic] of FOREIGN) {
      if (head.subarray(0, magic.length).equals(magic)) {
        throw new CofaError('unsupported', `compressed with ${name}`, {
          hint: 'push the image again with gzip, zstd or uncompressed layers',
        });
      }
    }
  }
  return 'none';
}

const FOREIGN: ReadonlyArray<readonly [string, Buffer]> = [
  ['bzip2', Buffer.from('BZh')],
  ['xz', Buffer.from('fd377a585a00', 'hex')],
];
