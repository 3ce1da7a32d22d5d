/**
 * Looks things up by path in a flat image's metadata, as a process in the image's root would: it follows symlinks,
 * which lead no further than the root. For images that erofs-check.ts has accepted, or that were just built: on others
 * it may throw, but never loops.
 *
 * Names and paths are bytes in latin1, as they lie in the image.
 */
import { readEntries } from './erofs-check-directory.ts';
import {
  BLOCK,
  CHUNK,
  CHUNK_INDEX,
  CHUNK_INDEXES,
  DEVICE_SLOT,
  DEVICE_TABLE_SLOT,
  INODE,
  INODE_SIZE,
  KINDS,
  LAYOUT,
  NID_UNIT,
  NULL_BLOCK,
  roundUp,
  SB,
  SLOT,
  SUPERBLOCK,
  XATTR_HEADER,
} from './erofs-format.ts';
import { Words } from './erofs-words.ts';

/** What a path leads to. */
export interface FoundFile {
  /** Without symlinks. */
  path: string;
  kind: 'file' | 'dir' | 'other';
  /** bytes */
  size: number;
  isExecutable: boolean;
  nid: number;
}

/** File data that lie in one piece. */
export interface FileExtent {
  /** Where it begins in the file, bytes. */
  at: number;
  length: number;
  /** Index of the device, and the byte in it; undefined: the data lie in the metadata. */
  device: number | undefined;
  from: number;
}

/** Linux follows as many in one path. */
const MOST_LINKS = 40;
const MOST_PARTS = 4096;

export class FlatFiles {
  /** diffIDs of the layers that file data lie in. */
  readonly devices: readonly string[];
  readonly #image: Buffer;
  readonly #words: Words;
  readonly #root: number;
  readonly #folders = new Map<number, Map<string, number>>();

  constructor(image: Buffer) {
    this.#image = image;
    this.#words = new Words(image);
    this.devices = devicesOf(image);
    this.#root = rootOf(image);
  }

  /** Undefined: nothing is there, or a loop of symlinks. `path`: absolute. */
  find(path: string): FoundFile | undefined {
    let links = 0;
    let parts = path.split('/').toReversed();
    const names: string[] = [];
    const nids = [this.#root];
    for (let steps = 0; steps < MOST_PARTS; steps++) {
      const part = parts.pop();
      if (part === undefined) return this.#found(names, nids.at(-1) as number);
      if (part === '' || part === '.') continue;
      if (part === '..') {
        names.pop();
        if (nids.length > 1) nids.pop();
        continue;
      }
      const nid = this.#folder(nids.at(-1) as number)?.get(part);
      if (nid === undefined) return undefined;
      const inode = inodeAt(this.#image, nid);
      if (inode.kind !== KINDS.symlink.mode) {
        names.push(part);
        nids.push(nid);
        continue;
      }
      if (++links > MOST_LINKS) return undefined;
      const target = this.#target(inode);
      if (target.startsWith('/')) {
        names.length = 0;
        nids.length = 1;
      }
      parts = [...parts, ...target.split('/').toReversed()];
    }
    return undefined;
  }

  /** Names in a folder, in rising order of their bytes; none where it is no folder. */
  list(path: string): string[] {
    const found = this.find(path);
    if (found?.kind !== 'dir') return [];
    return [...(this.#folder(found.nid)?.keys() ?? [])];
  }

  /** Of everything that is no folder, a folder's own before those below it; symlinks are not followed. */
  *paths(): IterableIterator<string> {
    const seen = new Set<number>();
    const pending = [{ nid: this.#root, path: '' }];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      if (seen.has(next.nid)) continue;
      seen.add(next.nid);
      for (const [name, nid] of this.#folder(next.nid) ?? []) {
        const path = `${next.path}/${name}`;
        if (inodeAt(this.#image, nid).kind === KINDS.dir.mode) pending.push({ nid, path });
        else yield path;
      }
    }
  }

  /** Where the file's data lie, in order; holes are left out. */
  *extents(file: FoundFile): IterableIterator<FileExtent> {
    if (file.kind === 'file') yield* extentsAt(this.#image, inodeAt(this.#image, file.nid));
  }

  #found(names: readonly string[], nid: number): FoundFile {
    const { kind, size, mode } = inodeAt(this.#image, nid);
    return {
      path: `/${names.join('/')}`,
      kind: kind === KINDS.file.mode ? 'file' : kind === KINDS.dir.mode ? 'dir' : 'other',
      size,
      isExecutable: (mode & 0o111) !== 0,
      nid,
    };
  }

  #folder(nid: number): Map<string, number> | undefined {
    const known = this.#folders.get(nid);
    if (known !== undefined) return known;
    const inode = inodeAt(this.#image, nid);
    if (inode.kind !== KINDS.dir.mode) return undefined;
    const entries = new Map<string, number>();
    visitEntries(this.#words, inode, (name, child) => entries.set(name, child));
    this.#folders.set(nid, entries);
    return entries;
  }

  #target({ size, union, isInline, dataAt }: FlatInode): string {
    const at = isInline ? dataAt : union * BLOCK;
    return this.#image.toString('latin1', at, at + size);
  }
}

export interface FlatInode {
  isInline: boolean;
  layout: number;
  mode: number;
  /** The part of the mode that says what it is. */
  kind: number;
  size: number;
  union: number;
  /** Behind the inode and its attributes. */
  dataAt: number;
}

export function inodeAt(image: Buffer, nid: number): FlatInode {
  const at = nid * NID_UNIT;
  const layout = image.readUInt16LE(at + INODE.format) >> 1;
  const xattrs = image.readUInt16LE(at + INODE.xattrCount);
  const mode = image.readUInt16LE(at + INODE.mode);
  return {
    layout,
    isInline: layout === LAYOUT.inline,
    mode,
    kind: mode & 0o170000,
    size: image.readUInt32LE(at + INODE.size + 4) * 2 ** 32 + image.readUInt32LE(at + INODE.size),
    union: image.readUInt32LE(at + INODE.union),
    dataAt: at + INODE_SIZE + (xattrs === 0 ? 0 : XATTR_HEADER + (xattrs - 1) * 4),
  };
}

/** diffIDs of the devices. */
export function devicesOf(image: Buffer): string[] {
  const devices: string[] = [];
  for (let index = 0; index < image.readUInt16LE(SUPERBLOCK + SB.devices); index++) {
    const at = (DEVICE_TABLE_SLOT + index) * DEVICE_SLOT + SLOT.tag;
    devices.push(`sha256:${image.toString('latin1', at, at + 64)}`);
  }
  return devices;
}

export const rootOf = (image: Buffer): number => image.readUInt16LE(SUPERBLOCK + SB.rootNid);

/** Visits the entries of a folder, without `.` and `..`. */
export function visitEntries(
  words: Words,
  { size, union, isInline, dataAt }: FlatInode,
  visit: (name: string, nid: number) => void,
): void {
  const contents = { size, at: union * BLOCK, tailAt: isInline ? dataAt : -1 };
  readEntries(
    words,
    contents,
    'a directory',
    (what) => new Error(what) as never,
    (nameAt, nameEnd, nid) => {
      const name = words.image.toString('latin1', nameAt, nameEnd);
      if (name !== '.' && name !== '..') visit(name, nid);
    },
  );
}

/** Where the data of a regular file lie; holes are left out. */
export function* extentsAt(image: Buffer, inode: FlatInode): IterableIterator<FileExtent> {
  if (inode.layout !== LAYOUT.chunks || inode.size === 0) return;
  const chunk = BLOCK * 2 ** (inode.union - CHUNK_INDEXES);
  const indexes = roundUp(inode.dataAt, CHUNK_INDEX);
  for (let index = 0; index * chunk < inode.size; index++) {
    const device = image.readUInt16LE(indexes + index * CHUNK_INDEX + CHUNK.device);
    const block = image.readUInt32LE(indexes + index * CHUNK_INDEX + CHUNK.block);
    if (block === NULL_BLOCK) continue;
    const at = index * chunk;
    const length = Math.min(chunk, inode.size - at);
    yield { at, length, device: device === 0 ? undefined : device - 1, from: block * BLOCK };
  }
}
