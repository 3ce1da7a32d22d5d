/**
 * The file system tree of an image: its layers' tables of contents applied one after the other, as a container runtime
 * applies layers (OCI image-spec, layer.md; containerd archive/tar.go for what the spec leaves open).
 *
 * - A whiteout or an opaque marker hides what *lower* layers have; entries of its own layer stay, whatever the order in
 *   the archive (image-spec: "whiteout files MUST only apply to resources in lower/parent layers").
 * - Of several entries with one name the last wins. A directory over a directory keeps the children and takes the new
 *   metadata; anything else replaces what was there.
 * - Parents that no entry names are made with mode 0755, root and the time 0. containerd would take the present time
 *   there, which no two builds could agree on.
 * - A parent that is a symlink is followed inside the image's root, as fs.RootPath does: `..` above the root stays at the
 *   root, an absolute target starts there, and more than 255 links are an error.
 * - A hardlink shares the inode of its target as it is at that moment; replacing one name later leaves the others alone.
 */
import { CofaError } from '../../schemas/errors.ts';
import type { Extent, Mtime, Patch, Toc, TocEntry, Xattr } from './toc.ts';

export type InodeType = 'file' | 'dir' | 'symlink' | 'char' | 'block' | 'fifo';

export interface FlatInode {
  type: InodeType;
  /** 0 to 0o7777. */
  mode: number;
  uid: number;
  gid: number;
  mtime: Mtime;
  xattrs: readonly Xattr[];
  /** Bytes of a file. */
  size: number;
  /** Index of the layer that the extents lie in. */
  layer: number;
  extents: readonly Extent[];
  patches: readonly Patch[];
  /** Target of a symlink. */
  link: Buffer;
  major: number;
  minor: number;
  /** Of a directory: by name, one latin1 character a byte. Undefined for everything else. */
  children: Map<string, FlatInode> | undefined;
}

const MAX_LINKS = 255;
const NONE = Buffer.alloc(0);

/** The root directory of the image. Errors: `integrity` for a hardlink without a target or a parent that loops. */
export function mergeLayers(tocs: readonly Toc[]): FlatInode {
  const root = newDirectory();
  for (const [layer, toc] of tocs.entries()) {
    for (const entry of toc.entries) {
      if (entry.type === 'whiteout' || entry.type === 'opaque') hide(root, entry);
    }
    for (const entry of toc.entries) {
      if (entry.type !== 'whiteout' && entry.type !== 'opaque') apply(root, entry, layer);
    }
  }
  return root;
}

export function newDirectory(): FlatInode {
  return {
    type: 'dir',
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: { sec: 0, nsec: 0 },
    xattrs: [],
    size: 0,
    layer: 0,
    extents: [],
    patches: [],
    link: NONE,
    major: 0,
    minor: 0,
    children: new Map(),
  };
}

function hide(root: FlatInode, entry: TocEntry): void {
  const names = splitPath(entry.path);
  if (entry.type === 'opaque') {
    resolve(root, names, false, entry)?.children?.clear();
    return;
  }
  const name = names.pop();
  if (name !== undefined) resolve(root, names, false, entry)?.children?.delete(name);
}

function apply(root: FlatInode, entry: TocEntry, layer: number): void {
  const names = splitPath(entry.path);
  const name = names.pop();
  if (name === undefined) {
    // The root itself; anything but a directory there means nothing.
    if (entry.type === 'dir') takeMetadata(root, entry);
    return;
  }
  const parent = resolve(root, names, true, entry);
  const siblings = parent?.children;
  if (siblings === undefined) return;
  if (entry.type === 'hardlink') {
    const target = findTarget(root, entry);
    if (siblings.get(name) !== target) siblings.set(name, target);
    return;
  }
  if (entry.type === 'dir') {
    const known = siblings.get(name);
    const directory = known?.type === 'dir' ? known : newDirectory();
    takeMetadata(directory, entry);
    siblings.set(name, directory);
    return;
  }
  const { type, mode, uid, gid, mtime, xattrs, size, extents, patches, link, major, minor } = entry;
  siblings.set(name, {
    type: type as InodeType,
    // Linux shows every symlink so, whatever the archive says.
    mode: type === 'symlink' ? 0o777 : mode,
    uid,
    gid,
    mtime,
    xattrs,
    size,
    layer,
    extents,
    patches,
    link,
    major,
    minor,
    children: undefined,
  });
}

function takeMetadata(directory: FlatInode, { mode, uid, gid, mtime, xattrs }: TocEntry): void {
  Object.assign(directory, { mode, uid, gid, mtime, xattrs });
}

function findTarget(root: FlatInode, entry: TocEntry): FlatInode {
  const names = splitPath(entry.link);
  const name = names.pop();
  const target = name === undefined ? undefined : resolve(root, names, false, entry)?.children?.get(name);
  if (target === undefined) {
    throw new CofaError(
      'integrity',
      `${printable(entry.path)} is a hardlink to ${printable(entry.link)}, which is not there`,
    );
  }
  if (target.type === 'dir') {
    throw new CofaError(
      'integrity',
      `${printable(entry.path)} is a hardlink to the directory ${printable(entry.link)}`,
    );
  }
  return target;
}

/**
 * The directory at `names`, symlinks followed inside the root. With `make` what is missing is made, and what is no
 * directory is replaced by one (as in an upper layer of its own); without, undefined then.
 */
function resolve(root: FlatInode, names: string[], make: boolean, entry: TocEntry): FlatInode | undefined {
  const stack = [root];
  const left = names.reverse();
  let links = 0;
  for (let name = left.pop(); name !== undefined; name = left.pop()) {
    if (name === '' || name === '.') continue;
    if (name === '..') {
      if (stack.length > 1) stack.pop();
      continue;
    }
    const siblings = (stack.at(-1) as FlatInode).children as Map<string, FlatInode>;
    let next = siblings.get(name);
    if (next?.type === 'symlink') {
      links += 1;
      if (links > MAX_LINKS) {
        throw new CofaError('integrity', `${printable(entry.path)}: too many symlinks on the way to it`);
      }
      const target = next.link.toString('latin1');
      if (target.startsWith('/')) stack.length = 1;
      left.push(...target.split('/').reverse());
      continue;
    }
    if (next?.type !== 'dir') {
      if (!make) return undefined;
      next = newDirectory();
      siblings.set(name, next);
    }
    stack.push(next);
  }
  return stack.at(-1);
}

const splitPath = (path: Buffer): string[] => (path.length === 0 ? [] : path.toString('latin1').split('/'));

const printable = (path: Buffer): string => JSON.stringify(path.toString('utf8'));
