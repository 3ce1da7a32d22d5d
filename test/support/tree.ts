/**
 * Reads a folder as the kernel shows it and compares two such readings, byte for byte: the judge of whether a lazy
 * mount equals an unpacked image. It shares no code with the engine, and works on raw bytes throughout (names need not
 * be UTF-8). It asks the kernel for extended attributes itself (llistxattr, lgetxattr), because Node has no call for
 * them and getfattr(1) cannot tell a newline in a name from its own.
 */
import { createHash } from 'node:crypto';
import { type BigIntStats, constants } from 'node:fs';
import { lstat, open, readdir, readlink } from 'node:fs/promises';
import koffi from 'koffi';
import { joinBytes, printable } from './byte-paths.ts';

export { joinBytes, printable };

export type NodeType = 'file' | 'dir' | 'symlink' | 'char' | 'block' | 'fifo' | 'socket';

export interface TreeNode {
  /** Path below the root, raw bytes, empty for the root itself. */
  path: Buffer;
  type: NodeType;
  /** Permission bits, 07777. */
  mode: number;
  uid: number;
  gid: number;
  /** Nanoseconds since 1970. */
  mtime: bigint;
  nlink: number;
  /** Device number of char and block devices as `major:minor`, else empty. */
  rdev: string;
  /** Bytes; 0 for everything but files and symlinks, whose size the file systems agree upon. */
  size: number;
  /** Target of a symlink, else empty. */
  target: Buffer;
  /** Sorted by name. */
  xattrs: Array<readonly [name: Buffer, value: Buffer]>;
  /** Hex digest of a file's content; empty for other types and with `content: false`. */
  sha256: string;
  /** Path of the first name (in byte order) of the same inode within this tree; its own path when it has only one. */
  firstName: Buffer;
}

export interface Tree {
  root: string;
  /** In the byte order of their paths. */
  nodes: TreeNode[];
}

export interface ReadTreeOptions {
  /** Read and hash files (default); false reads metadata alone. */
  content?: boolean;
  /** How many files are read at a time, 8 by default. */
  parallel?: number;
  /** Entries to leave out with all that lies below them. */
  skip?: (path: Buffer) => boolean;
}

export interface Difference {
  path: Buffer;
  /** `missing` is in the first tree alone, `extra` in the second alone. */
  field: 'missing' | 'extra' | keyof TreeNode;
  first: string;
  second: string;
}

export interface DiffOptions {
  /** Known and explained differences: return true to leave one out. */
  ignore?: (difference: Difference, node: TreeNode) => boolean;
}

/** Walks `root` without following symlinks; mounts are not special. */
export async function readTree(root: string, options: ReadTreeOptions = {}): Promise<Tree> {
  const { content = true, parallel = 8, skip } = options;
  const base = Buffer.from(root);
  const nodes: TreeNode[] = [];
  const inodes: string[] = [];
  const files: TreeNode[] = [];
  const queue: Buffer[] = [Buffer.alloc(0)];
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    const full = joinBytes(base, path);
    const stats = await lstat(full, { bigint: true });
    const node: TreeNode = {
      path,
      type: typeOf(stats),
      mode: Number(stats.mode) & 0o7777,
      uid: Number(stats.uid),
      gid: Number(stats.gid),
      mtime: stats.mtimeNs,
      nlink: Number(stats.nlink),
      rdev: stats.isCharacterDevice() || stats.isBlockDevice() ? deviceNumber(stats.rdev) : '',
      size: stats.isFile() || stats.isSymbolicLink() ? Number(stats.size) : 0,
      target: stats.isSymbolicLink() ? await readlink(full, { encoding: 'buffer' }) : Buffer.alloc(0),
      xattrs: readXattrs(full),
      sha256: '',
      firstName: path,
    };
    nodes.push(node);
    inodes.push(`${stats.dev}:${stats.ino}`);
    if (node.type === 'file') files.push(node);
    if (node.type === 'dir') {
      for (const name of await readdir(full, { encoding: 'buffer' })) {
        const child = joinBytes(path, name);
        if (skip === undefined || !skip(child)) queue.push(child);
      }
    }
  }
  nameLinkGroups(nodes, inodes);
  nodes.sort((a, b) => a.path.compare(b.path));
  if (content) await hashFiles(base, files, parallel);
  return { root, nodes };
}

/** Every difference between two trees; empty when they are equal. Modes, times, xattrs and contents all count. */
export function diffTrees(first: Tree, second: Tree, options: DiffOptions = {}): Difference[] {
  const differences: Difference[] = [];
  const add = (node: TreeNode, field: Difference['field'], a: string, b: string) => {
    const difference = { path: node.path, field, first: a, second: b };
    if (options.ignore?.(difference, node) !== true) differences.push(difference);
  };
  let i = 0;
  let j = 0;
  for (;;) {
    const a = first.nodes[i];
    const b = second.nodes[j];
    if (a === undefined && b === undefined) break;
    const order = a === undefined ? 1 : b === undefined ? -1 : a.path.compare(b.path);
    if (order < 0) {
      if (a !== undefined) add(a, 'missing', a.type, '');
      i++;
    } else if (order > 0) {
      if (b !== undefined) add(b, 'extra', '', b.type);
      j++;
    } else {
      if (a !== undefined && b !== undefined) compareNodes(a, b, add);
      i++;
      j++;
    }
  }
  return differences;
}

/** The first differences in words, one a line, then how many more there are. */
export function formatDifferences(differences: readonly Difference[], limit = 20): string {
  const lines = differences.slice(0, limit).map(({ path, field, first, second }) => {
    const name = path.length === 0 ? '.' : printable(path);
    if (field === 'missing') return `${name}: only in the first tree (${first})`;
    if (field === 'extra') return `${name}: only in the second tree (${second})`;
    return `${name}: ${field} ${first} / ${second}`;
  });
  if (differences.length > limit) lines.push(`… and ${differences.length - limit} more`);
  return lines.join('\n');
}

/** Throws with the first differences when the trees are not equal. */
export function assertSameTree(first: Tree, second: Tree, options: DiffOptions = {}): void {
  const differences = diffTrees(first, second, options);
  if (differences.length === 0) return;
  throw new Error(
    `${differences.length} differences between ${first.root} and ${second.root}:\n${formatDifferences(differences)}`,
  );
}

type AddDifference = (node: TreeNode, field: Difference['field'], a: string, b: string) => void;

function compareNodes(a: TreeNode, b: TreeNode, add: AddDifference): void {
  const compare = (field: keyof TreeNode, first: string, second: string) => {
    if (first !== second) add(a, field, first, second);
  };
  compare('type', a.type, b.type);
  if (a.type !== b.type) return;
  compare('mode', a.mode.toString(8), b.mode.toString(8));
  compare('uid', String(a.uid), String(b.uid));
  compare('gid', String(a.gid), String(b.gid));
  compare('mtime', formatTime(a.mtime), formatTime(b.mtime));
  // A directory's link count is its file system's own affair: overlayfs says 1, btrfs 1, ext4 2 + children.
  if (a.type !== 'dir') compare('nlink', String(a.nlink), String(b.nlink));
  compare('rdev', a.rdev, b.rdev);
  compare('size', String(a.size), String(b.size));
  compare('target', printable(a.target), printable(b.target));
  compare('xattrs', formatXattrs(a), formatXattrs(b));
  compare('sha256', a.sha256, b.sha256);
  compare('firstName', printable(a.firstName), printable(b.firstName));
}

function formatTime(ns: bigint): string {
  const nsec = ((ns % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n;
  return `${(ns - nsec) / 1_000_000_000n}.${String(nsec).padStart(9, '0')}`;
}

function formatXattrs(node: TreeNode): string {
  return `{${node.xattrs.map(([name, value]) => `${printable(name)}=0x${value.toString('hex')}`).join(' ')}}`;
}

function typeOf(stats: BigIntStats): NodeType {
  if (stats.isFile()) return 'file';
  if (stats.isDirectory()) return 'dir';
  if (stats.isSymbolicLink()) return 'symlink';
  if (stats.isCharacterDevice()) return 'char';
  if (stats.isBlockDevice()) return 'block';
  if (stats.isFIFO()) return 'fifo';
  return 'socket';
}

/**
 * Linux packs 12 bits of major and 20 of minor into the low word, the rest above (include/linux/kdev_t.h, glibc's
 * gnu_dev_major).
 */
function deviceNumber(rdev: bigint): string {
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & ~0xffn);
  return `${major}:${minor}`;
}

function nameLinkGroups(nodes: TreeNode[], inodes: string[]): void {
  const first = new Map<string, Buffer>();
  nodes.forEach((node, index) => {
    if (node.type === 'dir') return;
    const inode = inodes[index] as string;
    const known = first.get(inode);
    if (known === undefined || node.path.compare(known) < 0) first.set(inode, node.path);
  });
  nodes.forEach((node, index) => {
    if (node.type !== 'dir') node.firstName = first.get(inodes[index] as string) ?? node.path;
  });
}

async function hashFiles(base: Buffer, files: TreeNode[], parallel: number): Promise<void> {
  let next = 0;
  const worker = async () => {
    const buffer = Buffer.allocUnsafe(1 << 20);
    for (let node = files[next++]; node !== undefined; node = files[next++]) {
      const file = await open(joinBytes(base, node.path), constants.O_RDONLY | constants.O_NOFOLLOW);
      try {
        const hash = createHash('sha256');
        for (;;) {
          const { bytesRead } = await file.read(buffer, 0, buffer.length);
          if (bytesRead === 0) break;
          hash.update(buffer.subarray(0, bytesRead));
        }
        node.sha256 = hash.digest('hex');
      } finally {
        await file.close();
      }
    }
  };
  await Promise.all(Array.from({ length: parallel }, worker));
}

const libc = koffi.load('libc.so.6');
const llistxattr = libc.func('int64_t llistxattr(const uint8_t *path, _Out_ uint8_t *list, size_t size)');
const lgetxattr = libc.func(
  'int64_t lgetxattr(const uint8_t *path, const uint8_t *name, _Out_ uint8_t *value, size_t size)',
);
/** No list and no value is longer than this (XATTR_LIST_MAX, XATTR_SIZE_MAX in include/uapi/linux/limits.h). */
const xattrBuffer = Buffer.alloc(65536);
const ENOTSUP = 95;

/** Extended attributes of one path, without following symlinks; none where the file system does not know them. */
export function readXattrs(path: Buffer): Array<readonly [Buffer, Buffer]> {
  const name0 = Buffer.concat([path, Buffer.alloc(1)]);
  const length = Number(llistxattr(name0, xattrBuffer, xattrBuffer.length));
  if (length < 0) {
    if (koffi.errno() === ENOTSUP) return [];
    throw new Error(`llistxattr ${printable(path)}: errno ${koffi.errno()}`);
  }
  const names: Buffer[] = [];
  for (let start = 0; start < length; ) {
    const end = xattrBuffer.indexOf(0, start);
    names.push(Buffer.from(xattrBuffer.subarray(start, end)));
    start = end + 1;
  }
  names.sort((a, b) => a.compare(b));
  return names.map((name) => {
    const size = Number(
      lgetxattr(name0, Buffer.concat([name, Buffer.alloc(1)]), xattrBuffer, xattrBuffer.length),
    );
    if (size < 0) throw new Error(`lgetxattr ${printable(path)} ${printable(name)}: errno ${koffi.errno()}`);
    return [name, Buffer.from(xattrBuffer.subarray(0, size))] as const;
  });
}
