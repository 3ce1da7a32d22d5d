/**
 * The limits of a table of contents. The builder refuses more ('unsupported'), so that a small hostile blob cannot fill
 * the memory; the decoder refuses what the builder never makes ('integrity').
 */
import { pathProblem } from './layer-path.ts';
import type { Extent, Patch, TocEntry, Xattr } from './toc.ts';

/** Entries of one layer. The largest layers known to us have some 500,000. */
export const MAX_ENTRIES = 1 << 20;
/** Extents of one layer; ordinary files have one each. */
export const MAX_EXTENTS = 1 << 22;
/** Paths, link targets and extended attributes of one layer, bytes. */
export const MAX_TEXT_BYTES = 1 << 28;
/** Patches of one layer, bytes. */
export const MAX_PATCH_BYTES = 1 << 24;
/** Bytes; the largest file of ext4, on which a runtime would have unpacked it. */
export const MAX_FILE_SIZE = 2 ** 44;
/** Seconds before and after 1970. */
export const MAX_TIME = 2 ** 40;
/** Linux: XATTR_NAME_MAX, XATTR_SIZE_MAX. */
export const MAX_XATTR_NAME = 255;
export const MAX_XATTR_VALUE = 65536;
/** Names and values of one inode, bytes; EROFS has room for 256 KiB with its headers. */
export const MAX_XATTR_BYTES = 1 << 17;
/** Extended attributes of one inode: the shortest name has six bytes. */
export const MAX_XATTRS: number = Math.floor(MAX_XATTR_BYTES / 'user.a'.length);
/** Linux: bits of a device number (new_encode_dev). */
export const MAX_MAJOR = 0xfff;
export const MAX_MINOR = 0xfffff;
const MAX_ID = 0xffffffff;

const SECTOR = 512;

/**
 * Members of a layer of so many bytes, and pieces of their data, at most: in a tar each has a sector of its own, and a layer that is
 * one file has one.
 */
export const mostMembers = (rawSize: number): number => Math.max(1, Math.ceil(rawSize / SECTOR));

/**
 * Whether an image's extended attribute of this name (latin1) reaches a container on `type`. The kernel or containerd
 * leaves the others out: `trusted.*` would steer overlayfs, foreign name spaces do not exist on Linux, and `user.*`
 * exists only on files and directories.
 */
export function keepsXattr(name: string, type: TocEntry['type']): boolean {
  const dot = name.indexOf('.');
  if (dot < 0 || dot === name.length - 1) return false;
  switch (name.slice(0, dot)) {
    case 'security':
      return true;
    case 'user':
      return type === 'file' || type === 'dir' || type === 'hardlink';
    case 'system':
      return name === 'system.posix_acl_access' || name === 'system.posix_acl_default';
    default:
      return false;
  }
}

/** Why this is no entry of a table; undefined if it is one. */
export function entryProblem(entry: TocEntry): string | undefined {
  return pathProblem(entry.path) ?? nameProblem(entry) ?? inodeProblem(entry) ?? dataProblem(entry);
}

/**
 * Why these are not the extended attributes of an entry of this type; undefined if they are. Apart from
 * `entryProblem` because one set may stand for many entries.
 */
export function xattrsProblem(xattrs: readonly Xattr[], type: TocEntry['type']): string | undefined {
  let previous: Buffer | undefined;
  let total = 0;
  for (const [name, value] of xattrs) {
    if (name.length > MAX_XATTR_NAME || value.length > MAX_XATTR_VALUE || name.includes(0)) {
      return 'an xattr that is too long';
    }
    if (previous !== undefined && previous.compare(name) >= 0) return 'xattrs out of order';
    if (!keepsXattr(name.toString('latin1'), type)) return 'an xattr that images do not carry';
    previous = name;
    total += name.length + value.length;
  }
  return total > MAX_XATTR_BYTES ? 'too many xattrs' : undefined;
}

function nameProblem({ path, type, link }: TocEntry): string | undefined {
  if (path.length === 0 && type !== 'dir' && type !== 'opaque') return 'a root that is no directory';
  const base = path.lastIndexOf(0x2f) + 1;
  if (path[base] === 0x2e && path.toString('latin1', base, base + 4) === '.wh.')
    return 'a name kept for whiteouts';
  if (type === 'symlink') {
    if (link.length === 0 || link.length > 4095 || link.includes(0)) return 'a bad symlink target';
    return undefined;
  }
  if (type === 'hardlink') return link.length === 0 ? 'a hard link to the root' : pathProblem(link);
  return link.length === 0 ? undefined : 'a link target without a link';
}

function inodeProblem(entry: TocEntry): string | undefined {
  const { type, mode, uid, gid, mtime, major, minor, xattrs } = entry;
  if (!within(mode, 0, 0o7777)) return 'a bad mode';
  if (!within(uid, 0, MAX_ID) || !within(gid, 0, MAX_ID)) return 'a bad owner';
  if (!within(mtime.sec, -MAX_TIME, MAX_TIME) || !within(mtime.nsec, 0, 999_999_999)) return 'a bad time';
  const device = type === 'char' || type === 'block';
  if (!within(major, 0, device ? MAX_MAJOR : 0) || !within(minor, 0, device ? MAX_MINOR : 0)) {
    return 'a bad device number';
  }
  if (type === 'whiteout' || type === 'opaque') {
    const bare = mode + uid + gid + mtime.nsec + xattrs.length === 0 && mtime.sec === 0;
    if (!bare) return 'a whiteout with attributes';
  }
  return undefined;
}

function dataProblem({ type, size, extents, patches }: TocEntry): string | undefined {
  if (type !== 'file')
    return size + extents.length + patches.length === 0 ? undefined : 'data without a file';
  if (!within(size, 0, MAX_FILE_SIZE)) return 'a bad file size';
  let end = 0;
  let patch = 0;
  for (const extent of extents) {
    for (; (patches[patch]?.fileOffset ?? Number.POSITIVE_INFINITY) < extent.fileOffset; patch++) {
      const next = patches[patch];
      if (next === undefined || !fits(next.fileOffset, next.bytes.length, end, size))
        return 'a misplaced patch';
      end = next.fileOffset + next.bytes.length;
    }
    if (!fits(extent.fileOffset, extent.length, end, size) || !inDevice(extent)) return 'a misplaced extent';
    end = extent.fileOffset + extent.length;
  }
  for (const last of patches.slice(patch)) {
    if (!fits(last.fileOffset, last.bytes.length, end, size)) return 'a misplaced patch';
    end = last.fileOffset + last.bytes.length;
  }
  return undefined;
}

/** Whether a piece of a file lies behind `end`, in the file, and is made of whole sectors of it. */
function fits(offset: Patch['fileOffset'], length: number, end: number, size: number): boolean {
  if (!within(offset, end, size) || offset % SECTOR !== 0 || !within(length, 1, size - offset)) return false;
  return length % SECTOR === 0 || offset + length === size;
}

function inDevice({ deviceOffset, length }: Extent): boolean {
  return deviceOffset % SECTOR === 0 && deviceOffset >= 0 && Number.isSafeInteger(deviceOffset + length);
}

function within(value: number, low: number, high: number): boolean {
  return Number.isSafeInteger(value) && value >= low && value <= high;
}
