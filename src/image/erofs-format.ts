/**
 * The part of the EROFS format that a flat image uses, shared by its writer and its checker.
 *
 * Source: fs/erofs/erofs_fs.h of Linux 6.6, 6.12 and 6.18. All numbers are little-endian. Kernels before 6.4
 * refuse 512-byte blocks. Layout of an image, in this order:
 *
 *     0        zeros
 *     1024     superblock, 128 bytes
 *     1152     device table: a slot of 128 bytes for each layer that file data lies in
 *              inodes at multiples of 32 bytes, the root first; behind each its xattrs, then the chunk indexes
 *              of a file, or the end of a directory, or a symlink's target
 *              blocks: extended attributes that several inodes share
 *              blocks: directories and symlinks that do not fit behind their inodes
 *              blocks: patches (sectors of sparse files that no layer device holds as they are)
 *              zeros up to a multiple of 4096
 */
import { createHash } from 'node:crypto';

/** Bytes; the unit of every block address here and of tar. */
export const BLOCK = 512;
export const BLOCK_BITS = 9;
/** A whole image is a multiple of this: the kernel reads the superblock as part of a whole page. */
export const IMAGE_ALIGN = 4096;
/** Bytes. A million inodes take about 100 MB. */
export const MAX_IMAGE = 256 * 1024 * 1024;
/** The root's number has 16 bits, and it lies behind the device table. */
export const MAX_DEVICES = 4095;
/** Directories can't be nested deeper than a path can name. Bytes, as PATH_MAX without its NUL. */
export const MAX_PATH_BYTES = 4095;
export const MAX_NAME_BYTES = 255;

export const SUPERBLOCK = 1024;
export const SUPERBLOCK_SIZE = 128;
export const MAGIC = 0xe0f5e1e2;

/** Byte offsets within the superblock. Fields that are not here are zero. */
export const SB = {
  magic: 0,
  /** EROFS_FEATURE_COMPAT_* */
  compat: 8,
  blockBits: 12,
  rootNid: 14,
  inodes: 16,
  blocks: 36,
  xattrBlock: 44,
  uuid: 48,
  volumeName: 64,
  /** EROFS_FEATURE_INCOMPAT_* */
  incompat: 80,
  devices: 86,
  deviceTable: 88,
} as const;

/** The times in inodes are mtimes. */
export const COMPAT = 0x2;
/** CHUNKED_FILE | DEVICE_TABLE */
export const INCOMPAT = 0x4 | 0x8;
export const VOLUME_NAME = 'cofa';

export const DEVICE_SLOT = 128;
/** In units of DEVICE_SLOT: right behind the superblock. */
export const DEVICE_TABLE_SLOT = (SUPERBLOCK + SUPERBLOCK_SIZE) / DEVICE_SLOT;
/** Byte offsets within a device slot: the tag is the 64 hex digits of the diffID. */
export const SLOT = { tag: 0, blocks: 64 } as const;

/** An inode's number (nid) is its byte offset in the image divided by this. */
export const NID_UNIT = 32;
/** The "extended" inode; the other kind has neither times nor 32-bit owners. */
export const INODE_SIZE = 64;
/** Byte offsets within an inode. Fields that are not here are zero. */
export const INODE = {
  format: 0,
  xattrCount: 2,
  mode: 4,
  size: 8,
  /** Start block, device number or chunk format, by the kind of inode. */
  union: 16,
  /** A running number, for 32-bit systems. */
  ino: 20,
  uid: 24,
  gid: 28,
  mtime: 32,
  mtimeNsec: 40,
  nlink: 44,
} as const;

/** No user and no group: chown(2) takes it for "leave as is". */
export const NO_ID = 0xffffffff;

export const LAYOUT = {
  /** All data in blocks; also for inodes without any data. */
  plain: 0,
  /** The last block's data behind the inode, within one block. */
  inline: 2,
  /** Chunk indexes behind the inode. */
  chunks: 4,
} as const;
/** Bit 0 of the format is the kind of inode (1: extended), the layout stands above it. */
export const inodeFormat = (layout: number): number => 1 | (layout << 1);

/** log2 of blocks per chunk is at most this. */
export const MAX_CHUNK_BITS = 31;
/** In a file's chunk format: index entries have 8 bytes and name their device. */
export const CHUNK_INDEXES = 0x20;
export const CHUNK_INDEX = 8;
/** Byte offsets within a chunk index; device 0 is the image itself. */
export const CHUNK = { device: 2, block: 4 } as const;
/** Block address of a hole. */
export const NULL_BLOCK = 0xffffffff;

export const DIRENT = 12;
/** Byte offsets within a directory entry. */
export const ENTRY = { nid: 0, nameOffset: 8, type: 10 } as const;

export type InodeKind = 'file' | 'dir' | 'symlink' | 'char' | 'block' | 'fifo';
/** FT_* of include/linux/fs_types.h and S_IFMT of stat.h. */
export const KINDS: Record<InodeKind, { entryType: number; mode: number }> = {
  file: { entryType: 1, mode: 0o100000 },
  dir: { entryType: 2, mode: 0o040000 },
  char: { entryType: 3, mode: 0o020000 },
  block: { entryType: 4, mode: 0o060000 },
  fifo: { entryType: 5, mode: 0o010000 },
  symlink: { entryType: 7, mode: 0o120000 },
};

/** Header before an inode's xattrs: 4 bytes name filter (unused), 1 byte count of shared ones, 7 bytes zero. */
export const XATTR_HEADER = 12;
export const XATTR_SHARED_COUNT = 4;
/** An entry: 1 byte length of the name without its prefix, 1 byte prefix, 2 bytes length of the value. */
export const XATTR_ENTRY = 4;
export const MAX_SHARED_XATTRS = 255;
export const MAX_XATTR_VALUE_BYTES = 65535;
/** Bytes of header and entries behind one inode; some kernels count them in 16 bits. */
export const MAX_INLINE_XATTRS = 32768;

export interface XattrPrefix {
  index: number;
  prefix: string;
}
/** EROFS_XATTR_INDEX_*. The whole name of an ACL is in its prefix. `trusted.` (4) is left out: see xattrs.ts. */
export const XATTR_PREFIXES: readonly XattrPrefix[] = [
  { index: 1, prefix: 'user.' },
  { index: 2, prefix: 'system.posix_acl_access' },
  { index: 3, prefix: 'system.posix_acl_default' },
  { index: 6, prefix: 'security.' },
];

/** `value` raised to a multiple of `unit`. */
export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/**
 * Where the data of an inode that lies at byte `at` would have to end if its last `tail` bytes were to follow its
 * `xattrBytes` of attributes inline: up to Linux 6.6 the kernel looks for a symlink only in the block in which the
 * inode's last byte is. Within that block, so ≤ BLOCK is good.
 */
export function inlineEnd(at: number, xattrBytes: number, tail: number): number {
  const inodeEnd = ((at + INODE_SIZE - 1) % BLOCK) + 1;
  return inodeEnd + xattrBytes + tail;
}

/** The UUID of an image: a digest of all the rest, marked as one of version 8 (RFC 9562). */
export function imageUuid(image: Buffer): Buffer {
  const uuid = SUPERBLOCK + SB.uuid;
  const digest = createHash('sha256')
    .update(image.subarray(0, uuid))
    .update(image.subarray(uuid + 16))
    .digest()
    .subarray(0, 16);
  digest[6] = 0x80 | ((digest[6] ?? 0) & 0x0f);
  digest[8] = 0x80 | ((digest[8] ?? 0) & 0x3f);
  return digest;
}
