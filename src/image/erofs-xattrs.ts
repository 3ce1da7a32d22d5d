/**
 * Extended attributes of a flat image (fs/erofs/xattr.c). Each inode carries its own behind it, and refers to a shared
 * area for those that other inodes have too. With a label on every file, as on SELinux hosts, that saves most of them.
 *
 * The image leaves out what an unpacked image would not show either: `trusted.*`, which containerd does not set, and of
 * which `trusted.overlay.*` would steer the container's overlay (an image must not redirect or hide names in it);
 * `user.*` on anything but files and directories, ACLs on symlinks, default ACLs on files, and name spaces that Linux
 * does not have.
 */
import { CofaError } from '../../schemas/errors.ts';
import {
  type InodeKind,
  MAX_INLINE_XATTRS,
  MAX_NAME_BYTES,
  MAX_SHARED_XATTRS,
  MAX_XATTR_VALUE_BYTES,
  roundUp,
  XATTR_ENTRY,
  XATTR_HEADER,
  XATTR_PREFIXES,
  XATTR_SHARED_COUNT,
} from './erofs-format.ts';
import type { Inode } from './inode.ts';
import { isPlainAcl, isSoundAcl } from './posix-acl.ts';
import type { Xattr } from './toc.ts';

/** The xattrs of all inodes; first `add` each inode, then `settle`, then `write` and `shared` give the bytes. */
export class XattrTable {
  readonly #entries = new Map<string, Entry>();
  /** Sets are shared by many inodes: one per array and kind. */
  readonly #sets = new Map<readonly Xattr[], Map<InodeKind, XattrSet>>();
  #sharedBytes = 0;

  add({ kind, xattrs }: Inode): XattrSet | undefined {
    if (xattrs.length === 0) return undefined;
    let byKind = this.#sets.get(xattrs);
    if (byKind === undefined) {
      byKind = new Map();
      this.#sets.set(xattrs, byKind);
    }
    let set = byKind.get(kind);
    if (set === undefined) {
      const kept = xattrs.filter((xattr) => reaches(kind, xattr));
      set = { entries: kept.map((xattr) => this.#entry(xattr)), shared: [], inline: [], size: 0 };
      byKind.set(kind, set);
    }
    if (set.entries.length === 0) return undefined;
    for (const entry of set.entries) entry.uses++;
    return set;
  }

  /** Decides which attributes are shared, and with it the size of each inode's part. */
  settle(): void {
    for (const entry of this.#entries.values()) {
      const size = entry.bytes.length;
      entry.shared = entry.uses * size > size + entry.uses * SHARED_ID || size > MAX_INLINE_ENTRY;
    }
    const sets = [...this.#sets.values()].flatMap((byKind) => [...byKind.values()]);
    for (const set of sets) spill(set);
    for (const set of sets) {
      const shared = set.entries.filter((entry) => entry.shared);
      // The largest are worth most in the shared area; sort is stable, so equal ones keep their order.
      if (shared.length > MAX_SHARED_XATTRS) shared.sort((a, b) => b.bytes.length - a.bytes.length);
      set.shared = shared.slice(0, MAX_SHARED_XATTRS);
      const apart = new Set(set.shared);
      set.inline = set.entries.filter((entry) => !apart.has(entry));
      set.size = XATTR_HEADER + SHARED_ID * set.shared.length + bytesOf(set.inline);
      if (set.entries.length > 0 && set.size > MAX_INLINE_XATTRS) {
        throw new CofaError(
          'unsupported',
          `a file with ${set.entries.length} extended attributes; EROFS has no room`,
        );
      }
      for (const entry of set.shared) {
        if (entry.offset >= 0) continue;
        entry.offset = this.#sharedBytes;
        this.#sharedBytes += entry.bytes.length;
      }
    }
  }

  /** Bytes of the shared area. */
  get sharedSize(): number {
    return this.#sharedBytes;
  }

  writeShared(image: Buffer, at: number): void {
    for (const { bytes, offset } of this.#entries.values()) if (offset >= 0) bytes.copy(image, at + offset);
  }

  #entry([name, value]: Xattr): Entry {
    const key = `${name.toString('latin1')}\0${value.toString('latin1')}`;
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = { bytes: encode(name, value), uses: 0, shared: false, offset: -1 };
      this.#entries.set(key, entry);
    }
    return entry;
  }
}

/** Writes an inode's own part at `at`. */
export function writeXattrs(set: XattrSet, image: Buffer, at: number): void {
  image[at + XATTR_SHARED_COUNT] = set.shared.length;
  let end = at + XATTR_HEADER;
  for (const { offset } of set.shared) end = image.writeUInt32LE(offset / XATTR_ENTRY, end);
  for (const { bytes } of set.inline) end += bytes.copy(image, end);
}

/** What all inodes with the same xattrs have in common. */
export interface XattrSet {
  entries: Entry[];
  shared: Entry[];
  inline: Entry[];
  /** Bytes behind the inode, a multiple of 4. */
  size: number;
}

interface Entry {
  /** Padded to a multiple of 4. */
  bytes: Buffer;
  uses: number;
  shared: boolean;
  /** In the shared area; -1: not there. */
  offset: number;
}

/** A reference to the shared area, bytes. */
const SHARED_ID = 4;
/**
 * Larger entries move into the shared area even if no other inode has them: a read of an inode reads what is behind it.
 */
const MAX_INLINE_ENTRY = 1024;

/** Moves a crowded inode's largest entries into the shared area. */
function spill(set: XattrSet): void {
  const inline = set.entries.filter((entry) => !entry.shared).sort((a, b) => b.bytes.length - a.bytes.length);
  let size = bytesOf(inline) + XATTR_HEADER + SHARED_ID * set.entries.length;
  for (const entry of inline) {
    if (size <= MAX_INLINE_XATTRS) return;
    entry.shared = true;
    size -= entry.bytes.length;
  }
}

function bytesOf(entries: readonly Entry[]): number {
  return entries.reduce((sum, { bytes }) => sum + bytes.length, 0);
}

function reaches(kind: InodeKind, [name, value]: Xattr): boolean {
  const text = name.toString('latin1');
  switch (text) {
    case 'system.posix_acl_access':
    case 'system.posix_acl_default': {
      if (kind === 'symlink') return false;
      if (!isSoundAcl(value)) throw new CofaError('integrity', `a malformed ACL (${text}) on a ${kind}`);
      if (value.length === 0) return false;
      return text === 'system.posix_acl_access' ? !isPlainAcl(value) : kind === 'dir';
    }
    default:
      if (text.startsWith('user.')) return kind === 'file' || kind === 'dir';
      return text.startsWith('security.');
  }
}

function encode(name: Buffer, value: Buffer): Buffer {
  const text = name.toString('latin1');
  const found = XATTR_PREFIXES.find(({ prefix }) => text.startsWith(prefix));
  if (found === undefined) throw new CofaError('internal', `no EROFS name space for ${text}`);
  const suffix = name.subarray(found.prefix.length);
  if (name.length > MAX_NAME_BYTES || value.length > MAX_XATTR_VALUE_BYTES || name.includes(0)) {
    throw new CofaError('unsupported', `an extended attribute of ${name.length} + ${value.length} bytes`);
  }
  const bytes = Buffer.alloc(roundUp(XATTR_ENTRY + suffix.length + value.length, 4));
  bytes[0] = suffix.length;
  bytes[1] = found.index;
  bytes.writeUInt16LE(value.length, 2);
  suffix.copy(bytes, XATTR_ENTRY);
  value.copy(bytes, XATTR_ENTRY + suffix.length);
  return bytes;
}
