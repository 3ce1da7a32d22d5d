/**
 * Layers for tests: tars of made-up data of every texture that matters to a compressor, and the blobs that the
 * many writers of gzip and zstd make of them.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { constants, crc32, deflateRawSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { END, header, SECTOR } from './tar-writer.ts';

/** Numbers 0 ≤ n < limit from a seed (mulberry32). */
export function dice(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * limit);
  };
}

/** A tar of one file with so many bytes in stretches of text, noise, zeros, and copies of what went before. */
export function layerTar(seed: number, bytes: number): Buffer {
  const size = Math.floor(bytes);
  const data = Buffer.alloc(Math.ceil(size / SECTOR) * SECTOR);
  const roll = dice(seed);
  const words = Array.from({ length: 400 }, () =>
    Buffer.from(
      `${roll(2 ** 31)
        .toString(36)
        .slice(roll(4))} `,
    ),
  );
  for (let at = 0; at < size; ) {
    const end = Math.min(size, at + 1 + roll(roll(2) === 0 ? 2_000 : 200_000));
    const kind = roll(6);
    if (kind === 0) for (; at < end; at++) data[at] = roll(256);
    else if (kind === 1) at = end;
    else if (kind <= 3 && at > 0) {
      // far and near copies, long and short ones
      const from = Math.max(0, at - 1 - roll(kind === 2 ? 32_768 : 300));
      for (let source = from; at < end; at++) data[at] = data[source++] as number;
    } else {
      while (at < end) at += words[roll(words.length)]?.copy(data, at, 0, end - at) ?? 1;
    }
  }
  return Buffer.concat([header({ name: 'file', size }), data, END]);
}

export function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** Yields the bytes in pieces of random size, empty ones too. */
export async function* inPieces(bytes: Uint8Array, seed = 1, longest = 100_000): AsyncGenerator<Uint8Array> {
  const roll = dice(seed);
  for (let at = 0; at < bytes.length; ) {
    const end = at + roll(roll(8) === 0 ? 20 : longest);
    yield bytes.subarray(at, end);
    at = Math.min(end, bytes.length);
  }
}

/** Compresses parts on their own; such files are several members, or frames, in a row. */
export function concatenated(raw: Buffer, seed: number, one: (part: Buffer) => Buffer): Buffer {
  const roll = dice(seed);
  const parts: Buffer[] = [];
  for (let at = 0; at < raw.length; ) {
    const end = at + roll(roll(3) === 0 ? 50 : 700_000);
    parts.push(one(raw.subarray(at, end)));
    at = end;
  }
  return Buffer.concat(parts);
}

/** A gzip member with every optional field of its header (RFC 1952 §2.3.1). */
export function decoratedMember(raw: Buffer): Buffer {
  const fields = [
    Buffer.from([0x1f, 0x8b, 8, 0b11110, 1, 2, 3, 4, 0, 3]),
    Buffer.from([5, 0, 0x1f, 0x8b, 1, 0, 7]),
    Buffer.from('a name\0and a comment\0'),
  ];
  const head = Buffer.concat(fields);
  const tail = Buffer.alloc(8);
  tail.writeUInt32LE(crc32(raw), 0);
  tail.writeUInt32LE(raw.length % 2 ** 32, 4);
  const headCrc = Buffer.alloc(2);
  headCrc.writeUInt16LE(crc32(head) & 0xffff);
  return Buffer.concat([head, headCrc, deflateRawSync(raw), tail]);
}

/** All data as literals in a single deflate block with the fixed codes (RFC 1951 §3.2.6), however long. */
export function singleBlock(raw: Buffer): Buffer {
  const out = Buffer.alloc(raw.length * 2 + 32);
  let bit = 0;
  const put = (value: number, count: number, highFirst: boolean) => {
    for (let i = 0; i < count; i++, bit++) {
      const one = (value >> (highFirst ? count - 1 - i : i)) & 1;
      out[bit >> 3] = (out[bit >> 3] as number) | (one << (bit & 7));
    }
  };
  put(1, 1, false);
  put(1, 2, false);
  for (const byte of raw) {
    if (byte < 144) put(48 + byte, 8, true);
    else put(400 + byte - 144, 9, true);
  }
  put(0, 7, true);
  const tail = Buffer.alloc(8);
  tail.writeUInt32LE(crc32(raw), 0);
  tail.writeUInt32LE(raw.length, 4);
  return Buffer.concat([
    Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]),
    out.subarray(0, (bit + 7) >> 3),
    tail,
  ]);
}

export function skippableFrame(size: number): Buffer {
  const frame = Buffer.alloc(8 + size, 0xa5);
  frame.writeUInt32LE(0x184d2a50 + (size % 16), 0);
  frame.writeUInt32LE(size, 4);
  return frame;
}

/** A program that reads stdin and writes stdout. */
export function piped(command: string, ...args: string[]): (raw: Buffer) => Buffer {
  return (raw) =>
    execFileSync(command, args, { input: raw, maxBuffer: 2 ** 30, stdio: ['pipe', 'pipe', 'ignore'] });
}

const level = (n: number) => ({ params: { [constants.ZSTD_c_compressionLevel]: n } });

export const GZIP_WRITERS: Record<string, (raw: Buffer, seed: number) => Buffer> = {
  'gzip -1': piped('gzip', '-n1'),
  'gzip -6': piped('gzip', '-n6'),
  'gzip -9': piped('gzip', '-n9'),
  'gzip --rsyncable': piped('gzip', '-n', '--rsyncable'),
  pigz: piped('pigz', '-n', '-p2'),
  'pigz, independent blocks': piped('pigz', '-n', '-p2', '-i', '-b', '128'),
  'zlib stored': (raw) => gzipSync(raw, { level: 0 }),
  'zlib fixed codes': (raw) => gzipSync(raw, { strategy: constants.Z_FIXED }),
  'zlib Huffman only': (raw) => gzipSync(raw, { strategy: constants.Z_HUFFMAN_ONLY }),
  'zlib run lengths': (raw) => gzipSync(raw, { strategy: constants.Z_RLE }),
  'zlib small memory': (raw) => gzipSync(raw, { memLevel: 1, windowBits: 9 }),
  'zlib large memory': (raw) => gzipSync(raw, { memLevel: 9, level: 9 }),
  'several members': (raw, seed) => concatenated(raw, seed, (part) => gzipSync(part)),
  'several members with long headers': (raw, seed) => concatenated(raw, seed, decoratedMember),
  'one fixed block': singleBlock,
  'trailing zeros': (raw) => Buffer.concat([gzipSync(raw), Buffer.alloc(700)]),
  'trailing garbage': (raw) => Buffer.concat([gzipSync(raw), Buffer.from('\x1fsigned by me')]),
  'trailing half of a magic': (raw) => Buffer.concat([gzipSync(raw), Buffer.from([0x1f])]),
};

// Not every machine has these; where they are, they are worth trying.
for (const [name, command, ...args] of [
  ['libdeflate', 'libdeflate-gzip', '-9', '-c'],
  ['ISA-L', 'igzip', '-1', '-c'],
  ['7-Zip', '7z', 'a', '-tgzip', '-mx5', '-si', '-so', 'x'],
  ['bgzip', 'bgzip', '-c'],
] as const) {
  if (existsSync(`/usr/bin/${command}`)) GZIP_WRITERS[name] = piped(command, ...args);
}

// zopfli reads files only; its blocks are large
if (existsSync('/usr/bin/zopfli')) {
  GZIP_WRITERS.zopfli = (raw) => {
    const folder = mkdtempSync(join(tmpdir(), 'cofa-zopfli-'));
    try {
      writeFileSync(join(folder, 'raw'), raw);
      return piped('zopfli', '-c', '--i1', join(folder, 'raw'))(Buffer.alloc(0));
    } finally {
      rmSync(folder, { recursive: true });
    }
  };
}

export const ZSTD_WRITERS: Record<string, (raw: Buffer, seed: number) => Buffer> = {
  'zstd -1': piped('zstd', '-q', '-1', '--no-check'),
  'zstd -3': piped('zstd', '-q'),
  'zstd -19 --long': piped('zstd', '-q', '-12', '--long=27'),
  'zstd --fast': piped('zstd', '-q', '--fast=5'),
  'several frames': (raw, seed) => concatenated(raw, seed, (part) => zstdCompressSync(part, level(3))),
  'frames between skippable ones': (raw, seed) =>
    concatenated(raw, seed, (part) =>
      Buffer.concat([skippableFrame(part.length % 70_000), zstdCompressSync(part)]),
    ),
};
