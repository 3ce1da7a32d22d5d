/**
 * Which files a block of a layer belongs to, as the flat image of a node says it. A block has 64 KiB, so there are many
 * small files in one: the first few are named. Read from images that were checked before they were mounted; one that
 * cannot be read all the same gives no names, since a debugger without them is better than none.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type FilePiece, piecesIn } from '../../actors/start-files.ts';
import { readEntries } from '../image/erofs-check-directory.ts';
import { Words } from '../image/erofs-words.ts';
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
} from '../image/erofs-format.ts';
import type { PathsOf } from './replay-log.ts';

/** Files of one block that are named. */
const MOST = 4;

/**
 * Looks blocks up in the flat images at `flats`, each read when it is first needed. `blockSize`: of the layer's blocks.
 */
export function pathsInFlatImages(flats: () => Iterable<string>, blockSize: number): PathsOf {
  let byLayer: Map<string, FilePiece[]> | undefined;
  return (diffId, block) => {
    byLayer ??= readAll(flats());
    const extents = byLayer.get(diffId) ?? [];
    const [from, to] = [block * blockSize, (block + 1) * blockSize];
    const found = new Set<string>();
    for (const { path } of piecesIn(extents, from, to)) {
      found.add(path);
      if (found.size === MOST) break;
    }
    return [...found];
  };
}

function readAll(flats: Iterable<string>): Map<string, FilePiece[]> {
  const byLayer = new Map<string, FilePiece[]>();
  for (const flat of flats) {
    try {
      for (const [diffId, extents] of extentsOf(readFileSync(flat))) {
        // The same layer has the same files in every image, but for those that are hidden: one image is enough.
        if ((byLayer.get(diffId)?.length ?? 0) < extents.length) byLayer.set(diffId, extents);
      }
    } catch {
      // No names from this one.
    }
  }
  return byLayer;
}

/**
 * The file data of a flat image by layer, in rising order; with `paths` those of these files alone. Throws what a damaged
 * image makes it meet.
 */
export function extentsOf(image: Buffer, paths?: Iterable<string>): Map<string, FilePiece[]> {
  const wanted = paths && withParents(paths);
  const devices: string[] = [];
  for (let index = 0; index < image.readUInt16LE(SUPERBLOCK + SB.devices); index++) {
    const at = (DEVICE_TABLE_SLOT + index) * DEVICE_SLOT + SLOT.tag;
    devices.push(`sha256:${image.toString('latin1', at, at + 64)}`);
  }
  const words = new Words(image);
  const byLayer = new Map<string, FilePiece[]>(devices.map((diffId) => [diffId, []]));
  const seen = new Set<number>();
  const pending = [{ nid: image.readUInt16LE(SUPERBLOCK + SB.rootNid), path: '' }];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { nid, path } = next;
    if (seen.has(nid)) continue;
    seen.add(nid);
    const inode = inodeAt(image, nid);
    if (inode.kind === KINDS.dir.mode) {
      const contents = {
        size: inode.size,
        at: inode.union * BLOCK,
        tailAt: inode.isInline ? inode.dataAt : -1,
      };
      readEntries(
        words,
        contents,
        'a directory',
        (what) => new Error(what) as never,
        (name, child) => {
          if (name === '.' || name === '..') return;
          // Names are bytes in latin1; shown, they are UTF-8 where they can be.
          const below = `${path}/${Buffer.from(name, 'latin1').toString('utf8')}`;
          if (wanted?.has(below) !== false) pending.push({ nid: child, path: below });
        },
      );
    } else if (inode.kind === KINDS.file.mode && inode.layout === LAYOUT.chunks && inode.size > 0) {
      const chunk = BLOCK * 2 ** (inode.union - CHUNK_INDEXES);
      const indexes = roundUp(inode.dataAt, CHUNK_INDEX);
      for (let index = 0; index * chunk < inode.size; index++) {
        const device = image.readUInt16LE(indexes + index * CHUNK_INDEX + CHUNK.device);
        const block = image.readUInt32LE(indexes + index * CHUNK_INDEX + CHUNK.block);
        if (block === NULL_BLOCK || device === 0) continue;
        const from = block * BLOCK;
        const to = from + Math.min(chunk, inode.size - index * chunk);
        const at = index * chunk;
        byLayer.get(devices[device - 1] ?? '')?.push({ path, size: inode.size, at, from, to });
      }
    }
  }
  for (const extents of byLayer.values()) extents.sort((a, b) => a.from - b.from);
  return byLayer;
}

/** The paths, and the folders that lead to them. */
function withParents(paths: Iterable<string>): Set<string> {
  const all = new Set<string>();
  for (const path of paths) {
    for (let part = path; part !== '' && !all.has(part); part = part.slice(0, part.lastIndexOf('/')))
      all.add(part);
  }
  return all;
}

function inodeAt(image: Buffer, nid: number) {
  const at = nid * NID_UNIT;
  const layout = image.readUInt16LE(at + INODE.format) >> 1;
  const xattrs = image.readUInt16LE(at + INODE.xattrCount);
  return {
    layout,
    isInline: layout === LAYOUT.inline,
    kind: image.readUInt16LE(at + INODE.mode) & 0o170000,
    size: image.readUInt32LE(at + INODE.size + 4) * 2 ** 32 + image.readUInt32LE(at + INODE.size),
    union: image.readUInt32LE(at + INODE.union),
    /** Behind the inode and its attributes. */
    dataAt: at + INODE_SIZE + (xattrs === 0 ? 0 : XATTR_HEADER + (xattrs - 1) * 4),
  };
}

/** Blocks of layers are 64 KiB. */
const BLOCK_SIZE = 65_536;

/** The files of every image that lies below a cofa root; nothing where there is none. */
export function pathsOfRoot(root: string): PathsOf {
  return pathsInFlatImages(function* () {
    const images = join(root, 'images');
    let names: string[] = [];
    try {
      names = readdirSync(images);
    } catch {
      // Not a root, or not ours to read.
    }
    for (const name of names) yield join(images, name, 'flat.erofs');
  }, BLOCK_SIZE);
}
