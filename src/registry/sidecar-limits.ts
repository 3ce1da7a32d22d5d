/**
 * How large the parts of a sidecar may be, by what they describe. A reader compares the sizes in the sidecar's manifest
 * with these before it fetches a part, so that a few KB that unpack to half a gigabyte never do.
 *
 *     span tables    32 bytes for each 64 KiB of the tar, and a checkpoint of some KB for each MiB. One that is larger
 *                    than its layer's blob saves nothing: the blob comes sooner
 *     tables of      some 30 bytes for each file beside its name; a compressed tar has a header for each, of which a
 *     contents       compressor leaves 6 bytes at the least
 *     flat metadata  some 150 bytes for each file, counted likewise, over all layers
 *
 * Each has some megabytes besides, so that no small layer comes near its limit. And each has parts that nothing compresses
 * (states of SHA-256) or that differ from file to file: so the packed size bounds the unpacked one, too. `cofa index`
 * pushes no sidecar beyond these limits.
 */

export type PartKind = 'flat' | 'spans' | 'toc';

/** Bytes of a part. */
export interface PartSize {
  packed: number;
  unpacked: number;
}

/**
 * Largest blob of a sidecar, packed or unpacked, in bytes: as large as flat metadata can be (erofs-format.ts). Those of
 * 200,000 files take some 40 MB, and the span table of a layer of 50 GB some 200.
 */
export const MAX_BODY: number = 256 * 1024 * 1024;

interface Bounds {
  /** Bytes that any part of the kind may have. */
  always: number;
  /** Unpacked bytes for each byte of the blobs that the part describes. */
  perByte: number;
  /** Unpacked bytes for each packed one, beyond a megabyte. */
  ratio: number;
}

const MIB = 1 << 20;
const BOUNDS: Readonly<Record<PartKind, Bounds>> = {
  // 16 GiB of zeros are half a megabyte of zstd.
  spans: { always: 8 * MIB, perByte: 1, ratio: 128 },
  toc: { always: 8 * MIB, perByte: 16, ratio: 1024 },
  // A sparse file has eight bytes for each piece of its length, holes too.
  flat: { always: 32 * MIB, perByte: 64, ratio: 1024 },
};
/** Bytes that zstd adds to what it cannot compress: three for each 128 KiB, and a header. */
const PACKING = 0.001;

/**
 * Unpacked bytes that a part has at most. `described`: bytes of the blob of its layer, of flat metadata those of all
 * layers' blobs.
 */
export function partLimit(kind: PartKind, described: number): number {
  const { always, perByte } = BOUNDS[kind];
  return Math.min(MAX_BODY, always + perByte * described);
}

/** Why a part is larger than what it describes allows; undefined: it is not. */
export function sizeProblem(
  kind: PartKind,
  { packed, unpacked }: PartSize,
  described: number,
): string | undefined {
  const limit = partLimit(kind, described);
  if (unpacked > limit)
    return `unpacks to ${unpacked} bytes; for ${described} bytes of layers it has at most ${limit}`;
  if (packed > limit * (1 + PACKING) + MIB) return `has ${packed} bytes; it unpacks to at most ${limit}`;
  const { ratio } = BOUNDS[kind];
  if (unpacked > MIB + packed * ratio)
    return `unpacks to ${unpacked} of its ${packed} bytes, which none does`;
  return undefined;
}
