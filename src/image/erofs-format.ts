/** Numbers of the EROFS format that the writer and the checker share. Source: fs/erofs/erofs_fs.h of Linux 6.12. */
import type { InodeType } from './tree.ts';

export const BLOCK = 512;
export const BLOCK_BITS = 9;
export const SUPER_OFFSET = 1024;
export const SUPER_MAGIC = 0xe0f5e1e2;
/** CHUNKED_FILE | DEVICE_TABLE */
export const INCOMPAT = 0x4 | 0x8;
export const DEVICES_OFFSET = 1152;
export const DEVICE_SLOT = 128;
export const NID_UNIT = 32;
/** Bytes of an extended inode. */
export const INODE = 64;
export const EXTENDED = 1;
export const LAYOUT = { flatPlain: 0, flatInline: 2, chunkBased: 4 } as const;
export const CHUNK_INDEX = 8;
export const CHUNK_INDEXES = 0x20;
/** log2 of bytes. */
export const MAX_CHUNK_BITS = BLOCK_BITS + 31;
export const MAX_CHUNKS = 1 << 22;
export const HOLE = 0xffffffff;
export const DIRENT = 12;
export const XATTR_HEADER = 12;
export const MAX_METADATA = 512 * 1024 * 1024;

export const MODE_TYPE: Record<InodeType, number> = {
  file: 0o100000,
  dir: 0o040000,
  symlink: 0o120000,
  char: 0o020000,
  block: 0o060000,
  fifo: 0o010000,
};
export const DIRENT_TYPE: Record<InodeType, number> = {
  file: 1,
  dir: 2,
  char: 3,
  block: 4,
  fifo: 5,
  symlink: 7,
};

export const XATTR_PREFIXES: ReadonlyArray<readonly [prefix: string, index: number]> = [
  ['user.', 1],
  ['system.posix_acl_access', 2],
  ['system.posix_acl_default', 3],
  ['trusted.', 4],
  ['security.', 6],
];

export function align(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** new_encode_dev of include/linux/kdev_t.h. */
export function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

export function decodeDevice(device: number): { major: number; minor: number } {
  return { major: (device >>> 8) & 0xfff, minor: (device & 0xff) | ((device >>> 12) & 0xfff00) };
}
