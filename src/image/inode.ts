/** An inode in memory, while layers are applied and merged. */
import type { InodeKind } from './erofs-format.ts';
import type { Mtime, TocEntry, Xattr } from './toc.ts';

export type Children = Map<string, Inode>;

/** One inode; several names may lead to it, in several directories and layers. */
export class Inode {
  readonly kind: InodeKind;
  /** Which layer made it: an index into the chain, lowest first. Its data lies in that layer's device. */
  readonly layer: number;
  /** The tar's entry with its data, target or device number; undefined for a directory that no entry names. */
  readonly entry: TocEntry | undefined;
  mode: number;
  uid: number;
  gid: number;
  mtime: Mtime;
  /** Sorted by name; never changed in place, entries share them. */
  xattrs: readonly Xattr[];
  /** Names that lead to it, for a directory 2 and one for each directory in it. Counted by `mergeLayers`. */
  nlink = 0;
  /** Of a directory, by name in latin1, whose order is that of the bytes. */
  readonly children: Children | undefined;
  /** Names that this directory's layer removes from the layers below; undefined if none. */
  whiteouts: Set<string> | undefined;
  /** The layer shows nothing of this directory in the layers below. */
  opaque = false;
  /** No entry has named this directory yet; other entries lie below it. */
  implicit = false;

  constructor(kind: InodeKind, layer: number, attributes: Attributes, entry?: TocEntry) {
    this.kind = kind;
    this.layer = layer;
    this.entry = entry;
    this.mode = attributes.mode;
    this.uid = attributes.uid;
    this.gid = attributes.gid;
    this.mtime = attributes.mtime;
    this.xattrs = attributes.xattrs;
    this.children = kind === 'dir' ? new Map() : undefined;
  }

  /** Takes another's mode, owner, time and xattrs. */
  take(attributes: Attributes): void {
    this.mode = attributes.mode;
    this.uid = attributes.uid;
    this.gid = attributes.gid;
    this.mtime = attributes.mtime;
    this.xattrs = attributes.xattrs;
  }
}

export interface Directory extends Inode {
  readonly kind: 'dir';
  readonly children: Children;
}

export interface Attributes {
  mode: number;
  uid: number;
  gid: number;
  mtime: Mtime;
  xattrs: readonly Xattr[];
}

/** What a directory gets that no entry describes. */
export const DEFAULT_ATTRIBUTES: Attributes = {
  mode: 0o755,
  uid: 0,
  gid: 0,
  mtime: { sec: 0, nsec: 0 },
  xattrs: [],
};

export function isDirectory(inode: Inode): inode is Directory {
  return inode.children !== undefined;
}

export function newDirectory(layer: number, attributes: Attributes = DEFAULT_ATTRIBUTES): Directory {
  return new Inode('dir', layer, attributes) as Directory;
}
