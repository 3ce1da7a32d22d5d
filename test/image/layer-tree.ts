/** What a layer unpacks to, told in two ways that tests compare: from its table, and from a real folder. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import type { BigIntStats } from 'node:fs';
import { lstatSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TocBuilder } from '../../src/image/toc.ts';
import type { Toc, TocEntry } from '../../src/image/toc.ts';

/** One path, as plain values; names and targets in latin1, which shows bytes as they are. */
export interface Node {
  type: string;
  mode: number;
  uid: number;
  gid: number;
  /** `sec.nsec` */
  mtime: string;
  size: number;
  sha256: string;
  target: string;
  device: string;
  /** Other paths with the same inode, sorted. */
  links: string[];
  xattrs: Record<string, string>;
}
export type Tree = Record<string, Node>;

/** The table of an archive that is pushed in chunks of `step` bytes. */
export function tocOf(tar: Buffer, step = 65536): Toc {
  const builder = new TocBuilder();
  for (let at = 0; at < tar.length; at += step) builder.push(tar.subarray(at, at + step));
  return builder.finish();
}

/** A file's bytes, put together from the device. */
export function contentOf(entry: TocEntry, device: Buffer): Buffer {
  const bytes = Buffer.alloc(entry.size);
  for (const { fileOffset, deviceOffset, length } of entry.extents) {
    if (deviceOffset + length > device.length) throw new Error('an extent leads out of the device');
    device.copy(bytes, fileOffset, deviceOffset, deviceOffset + length);
  }
  for (const patch of entry.patches) patch.bytes.copy(bytes, patch.fileOffset);
  return bytes;
}

/** The tree that the entries of one layer make; only for layers without whiteouts and symlinked parents. */
export function treeOfToc(toc: Toc, device: Buffer): Tree {
  const inodes = new Map<string, { entry: TocEntry; paths: string[] }>();
  for (const entry of toc.entries) {
    const path = entry.path.toString('latin1');
    const inode =
      entry.type === 'hardlink' ? inodes.get(entry.link.toString('latin1')) : { entry, paths: [] };
    if (inode === undefined) throw new Error(`a hard link to nowhere: ${path}`);
    inode.paths.push(path);
    inodes.set(path, inode);
  }
  const tree: Tree = {};
  for (const [path, { entry, paths }] of inodes) {
    tree[path] = {
      type: entry.type,
      mode: entry.mode,
      uid: entry.uid,
      gid: entry.gid,
      mtime: time(entry.mtime.sec, entry.mtime.nsec),
      size: entry.size,
      sha256: entry.type === 'file' ? sha256(contentOf(entry, device)) : '',
      target: entry.type === 'symlink' ? entry.link.toString('latin1') : '',
      device: entry.type === 'char' || entry.type === 'block' ? `${entry.major}:${entry.minor}` : '',
      links: [...paths].sort(),
      xattrs: Object.fromEntries(
        entry.xattrs.map(([name, value]) => [name.toString('latin1'), value.toString('hex')]),
      ),
    };
  }
  return tree;
}

/** The tree below a folder, itself included (as ''). */
export function treeOfFolder(folder: string): Tree {
  const tree: Tree = {};
  const byInode = new Map<bigint, string[]>();
  const xattrs = xattrsBelow(folder);
  const visit = (path: Buffer): void => {
    const whole = path.length === 0 ? Buffer.from(folder) : Buffer.concat([Buffer.from(`${folder}/`), path]);
    const stat = lstatSync(whole, { bigint: true });
    const key = path.toString('latin1');
    const type = typeOf(stat);
    const links = type === 'dir' ? [] : (byInode.get(stat.ino) ?? []);
    byInode.set(stat.ino, links);
    links.push(key);
    tree[key] = {
      type,
      mode: Number(stat.mode & 0o7777n),
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      mtime: time(
        Number(floorDiv(stat.mtimeNs, 1_000_000_000n)),
        Number(((stat.mtimeNs % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n),
      ),
      size: type === 'file' ? Number(stat.size) : 0,
      sha256: type === 'file' ? sha256(readFileSync(whole)) : '',
      target: type === 'symlink' ? readlinkSync(whole, 'buffer').toString('latin1') : '',
      device: type === 'char' || type === 'block' ? deviceOf(stat.rdev) : '',
      links,
      xattrs: xattrs[key] ?? {},
    };
    if (type !== 'dir') return;
    for (const name of readdirSync(whole, { encoding: 'buffer' })) {
      visit(path.length === 0 ? name : Buffer.concat([path, Buffer.from('/'), name]));
    }
  };
  visit(Buffer.alloc(0));
  for (const node of Object.values(tree)) node.links.sort();
  return tree;
}

/** The tree with only what `keep` says, for formats that do not carry all of it. */
export function narrowed(tree: Tree, change: (node: Node, path: string) => Partial<Node>): Tree {
  return Object.fromEntries(
    Object.entries(tree).map(([path, node]) => [path, { ...node, ...change(node, path) }]),
  );
}

/** Unpacks with GNU tar as root and returns the tree. */
export function unpacked(tar: string, program: 'tar' | 'bsdtar' = 'tar'): Tree {
  const folder = mkdtempSync(join(tmpdir(), 'cofa-unpacked-'));
  try {
    const all =
      program === 'tar'
        ? [
            '--same-owner',
            '--numeric-owner',
            '--xattrs',
            '--xattrs-include=*',
            '--delay-directory-restore',
            '--warning=none',
          ]
        : ['--numeric-owner', '--xattrs'];
    execFileSync(program, ['-xpf', tar, ...all, '-C', folder], { stdio: ['ignore', 'ignore', 'pipe'] });
    return treeOfFolder(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function time(sec: number, nsec: number): string {
  return `${sec}.${String(nsec).padStart(9, '0')}`;
}

function floorDiv(a: bigint, b: bigint): bigint {
  return a % b < 0n ? a / b - 1n : a / b;
}

function deviceOf(rdev: bigint): string {
  const major = (rdev >> 8n) & 0xfffn;
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xfff00n);
  return `${major}:${minor}`;
}

function typeOf(stat: BigIntStats): string {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'dir';
  if (stat.isSymbolicLink()) return 'symlink';
  if (stat.isCharacterDevice()) return 'char';
  if (stat.isBlockDevice()) return 'block';
  return 'fifo';
}

/** Extended attributes below a folder by path; Node has no call for them. */
function xattrsBelow(folder: string): Record<string, Record<string, string>> {
  const script = `
import json, os, sys
root = os.fsencode(sys.argv[1]); found = {}
def look(path):
    whole = os.path.join(root, path) if path else root
    names = os.listxattr(whole, follow_symlinks=False)
    if names:
        found[path.decode('latin1')] = {os.fsencode(n).decode('latin1'): os.getxattr(whole, n, follow_symlinks=False).hex() for n in names}
    if os.path.isdir(whole) and not os.path.islink(whole):
        for name in os.listdir(whole):
            look(os.path.join(path, name) if path else name)
look(b'')
json.dump(found, sys.stdout)`;
  return JSON.parse(
    execFileSync('python3', ['-c', script, folder], { maxBuffer: 1 << 26 }).toString(),
  ) as Record<string, Record<string, string>>;
}
