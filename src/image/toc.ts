/**
 * The table of contents of one layer: what its tar holds, in archive order, and where each file's data lie in the layer
 * device (the uncompressed tar, byte for byte). It holds everything that a flat image is made of, so an image of any
 * chain of layers is built from their tables alone, without the tars.
 *
 * A table holds what the *archive* says, not what a file system would make of it: an entry may occur twice, may have a
 * parent that was never named, or a parent that is a symlink. tree.ts, which applies the entries, decides about these;
 * see `TocEntry.path`.
 */

/** File bytes that lie in the layer device as they are. */
export interface Extent {
  /** Bytes from the start of the file; a multiple of 512. */
  fileOffset: number;
  /** Bytes from the start of the layer device; a multiple of 512. */
  deviceOffset: number;
  /** Bytes, ≥ 1; a multiple of 512 unless the extent ends at the end of the file. */
  length: number;
}

/**
 * File bytes that no extent can express: sectors of a sparse file whose map is not aligned to 512 bytes.
 * Whole sectors, holes inside them written out as zeros; only the one at the end of the file may be short.
 */
export interface Patch {
  /** Bytes from the start of the file; a multiple of 512. */
  fileOffset: number;
  bytes: Buffer;
}

export type EntryType =
  | 'file'
  | 'dir'
  | 'symlink'
  | 'hardlink'
  | 'char'
  | 'block'
  | 'fifo'
  | 'whiteout'
  | 'opaque';

/** Seconds since 1970 (negative before it) and 0 ≤ nsec < 1e9 added to them: -0.25 s is {sec: -1, nsec: 750000000}. */
export interface Mtime {
  sec: number;
  nsec: number;
}

export type Xattr = readonly [name: Buffer, value: Buffer];

export interface TocEntry {
  /**
   * Raw bytes in any encoding, normalised: no leading `/` or `./`, no empty or `.` or `..` component, no trailing `/`;
   * the root is empty. A component of it may be a symlink of this or a lower layer: layer-tree.ts resolves parents
   * inside the image's root. For `whiteout` the name to remove (`.wh.` stripped), for `opaque` the directory.
   */
  path: Buffer;
  type: EntryType;
  /** Permission bits with setuid, setgid and sticky: 0 to 0o7777. */
  mode: number;
  /** 0 to 2^32 - 1. */
  uid: number;
  /** 0 to 2^32 - 1. */
  gid: number;
  mtime: Mtime;
  /** Bytes, holes counted; 0 for everything but files. */
  size: number;
  /** Of a symlink the target as the archive has it; of a hardlink the normalised path; else empty. */
  link: Buffer;
  /** Device numbers of `char` and `block`; else 0. */
  major: number;
  minor: number;
  /** Sorted by the bytes of the name; names differ. */
  xattrs: readonly Xattr[];
  /** Sorted by fileOffset; apart from each other and from the patches. Bytes that neither covers are a hole. */
  extents: readonly Extent[];
  /** Sorted by fileOffset; normally none. */
  patches: readonly Patch[];
}

export interface Toc {
  entries: TocEntry[];
}

export { TocBuilder } from './toc-builder.ts';
export { decodeToc, encodeToc } from './toc-codec.ts';
