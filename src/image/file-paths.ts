/**
 * Which files a block of a layer belongs to, according to the flat images of a node. A block has 64 KiB and may hold
 * many small files: this names the first few. It reads images that passed the check before they were mounted. An image
 * that cannot be read gives no names, since a debugger without names is better than none.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type FilePiece, piecesIn } from '../../actors/start-files.ts';
import { KINDS } from './erofs-format.ts';
import { Words } from './erofs-words.ts';
import { devicesOf, extentsAt, inodeAt, rootOf, visitEntries } from './flat-files.ts';

/** Paths of the files that lie in a block of a layer; empty where no image names any. */
export type PathsOf = (diffId: string, block: number) => readonly string[];

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
        // A layer shows the same files in every image, but for those that upper layers hide: one image is enough.
        if ((byLayer.get(diffId)?.length ?? 0) < extents.length) byLayer.set(diffId, extents);
      }
    } catch {
      // No names from this one.
    }
  }
  return byLayer;
}

/**
 * The file data of a flat image by layer, in rising order; with `paths` the data of these files alone. May throw on a
 * damaged image.
 */
export function extentsOf(image: Buffer, paths?: Iterable<string>): Map<string, FilePiece[]> {
  const wanted = paths && withParents(paths);
  const devices = devicesOf(image);
  const words = new Words(image);
  const byLayer = new Map<string, FilePiece[]>(devices.map((diffId) => [diffId, []]));
  const seen = new Set<number>();
  const pending = [{ nid: rootOf(image), path: '' }];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { nid, path } = next;
    if (seen.has(nid)) continue;
    seen.add(nid);
    const inode = inodeAt(image, nid);
    if (inode.kind === KINDS.dir.mode) {
      visitEntries(words, inode, (name, child) => {
        // Names are bytes in latin1; shown, they are UTF-8 where they can be.
        const below = `${path}/${Buffer.from(name, 'latin1').toString('utf8')}`;
        if (wanted?.has(below) !== false) pending.push({ nid: child, path: below });
      });
    } else if (inode.kind === KINDS.file.mode) {
      for (const { at, length, device, from } of extentsAt(image, inode)) {
        if (device === undefined) continue;
        byLayer.get(devices[device] ?? '')?.push({ path, size: inode.size, at, from, to: from + length });
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

/** Blocks of layers are 64 KiB. */
const BLOCK_SIZE = 65_536;

/** The files of every image below a cofa root; none where there is no root. */
export function pathsOfRoot(root: string): PathsOf {
  return pathsInFlatImages(function* () {
    const images = join(root, 'images');
    let names: string[] = [];
    try {
      names = readdirSync(images);
    } catch {
      // The folder is no root, or we may not read it.
    }
    for (const name of names) yield join(images, name, 'flat.erofs');
  }, BLOCK_SIZE);
}
