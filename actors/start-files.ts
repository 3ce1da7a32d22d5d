/**
 * What the start of one image says about the start of another one of its repository: a new build has most of its files from
 * the build before it, but in other places of other layers. So the start set is carried over by files: blocks of a layer
 * become parts of the files that lie in them, and these become blocks of the layers of the new image.
 *
 *     layers that both images have       the same blocks
 *     a file of the same path and size   the same bytes of it
 *     a file of the same path            was built anew, and is read again: as far as it was read before
 *
 * It is a guess, and only decides what is fetched first: a wrong one costs bytes that no program reads. So nothing here needs
 * to know whether two files are equal; each block is checked against its own layer.
 */
import type { StartSet } from './start-set.ts';

/** Bytes of a file that lie in a layer device in one piece. */
export interface FilePiece {
  path: string;
  /** Of the whole file, bytes. */
  size: number;
  /** Where the piece begins in the file, bytes. */
  at: number;
  /** Where it lies in the device, bytes. */
  from: number;
  to: number;
}

/** By diffID, in rising order of `from`. Pieces of one layer do not overlap. */
export type FilesOfLayers = ReadonlyMap<string, readonly FilePiece[]>;

/** A start set, and the files that lie in its blocks. */
export interface StartFiles extends StartSet {
  /** For each of the devices, what of it the start touches; in rising order of `from`. */
  pieces: ReadonlyArray<readonly FilePiece[]>;
}

/** Blocks that files may have in the new layers, for each that they had: small ones may lie further apart there. */
const MOST_SPREAD = 2;
/** Blocks beyond that: a handful of files may be spread by chance. */
const SPREAD_ALLOWED = 64;

/** Notes with a start set which files it touches. Blocks without file data, tar headers say, have none. */
export function filesOfStart(set: StartSet, files: FilesOfLayers, blockSize: number): StartFiles {
  const pieces = set.devices.map((diffId, device) => {
    const found = new Set<FilePiece>();
    for (const [of, first, count] of set.runs) {
      if (of !== device) continue;
      for (const piece of piecesIn(files.get(diffId) ?? [], first * blockSize, (first + count) * blockSize))
        found.add(piece);
    }
    return [...found].sort((a, b) => a.from - b.from);
  });
  return { devices: set.devices, runs: set.runs, pieces };
}

/** What of the start lies in these layers, which the new image has too: the same blocks. */
export function startInLayers(start: StartSet, layers: ReadonlySet<string>): StartSet {
  return {
    devices: start.devices,
    runs: start.runs.filter(([device]) => layers.has(start.devices[device] ?? '')),
  };
}

/** The files that have to be found in the new image: those in layers that it has not. */
export function pathsToFind(start: StartFiles, layers: ReadonlySet<string>): Set<string> {
  const paths = new Set<string>();
  for (const [device, diffId] of start.devices.entries()) {
    if (layers.has(diffId)) continue;
    for (const { path } of start.pieces[device] ?? []) paths.add(path);
  }
  return paths;
}

/**
 * What of the start lies in layers that the new image, of these layers and files, has not: the blocks that the files have
 * there, in the order in which the start read them, no block twice. Of `files` those at `pathsToFind` are looked at.
 */
export function movedStart(
  start: StartFiles,
  layers: ReadonlySet<string>,
  files: FilesOfLayers,
  blockSize: number,
): StartSet {
  const moved = new BlockList();
  let left = SPREAD_ALLOWED;
  const byPath = piecesByPath(pathsToFind(start, layers), layers, files);
  for (const [device, first, count] of start.runs) {
    if (layers.has(start.devices[device] ?? '')) continue;
    left += count * MOST_SPREAD;
    const [from, to] = [first * blockSize, (first + count) * blockSize];
    for (const piece of piecesIn(start.pieces[device] ?? [], from, to)) {
      const targets = byPath.get(piece.path) ?? [];
      const begin = piece.at + Math.max(0, from - piece.from);
      const end = piece.at + Math.min(piece.to, to) - piece.from;
      const [wantedFrom, wantedTo] = inNewFile(begin, end, piece.size, targets[0]?.piece.size ?? 0);
      for (const { diffId, piece: part } of targets) {
        const partFrom = Math.max(wantedFrom, part.at);
        const partTo = Math.min(wantedTo, part.at + part.to - part.from);
        if (partFrom >= partTo) continue;
        const shift = part.from - part.at;
        const last = Math.floor((partTo - 1 + shift) / blockSize);
        for (let block = Math.floor((partFrom + shift) / blockSize); block <= last && left > 0; block++)
          if (moved.add(diffId, block)) left -= 1;
      }
    }
  }
  return moved.set();
}

/**
 * Bytes [from, to) of a file that has another size now. What reached the end of the file still does, and what lay there alone,
 * as the table of a zip archive, is counted from there.
 */
function inNewFile(from: number, to: number, before: number, now: number): [from: number, to: number] {
  if (now === before) return [from, to];
  if (to < before) return [Math.min(from, now), Math.min(to, now)];
  return from === 0 ? [0, now] : [Math.max(0, now - (before - from)), now];
}

function piecesByPath(
  paths: ReadonlySet<string>,
  layers: ReadonlySet<string>,
  files: FilesOfLayers,
): Map<string, Array<{ diffId: string; piece: FilePiece }>> {
  const byPath = new Map<string, Array<{ diffId: string; piece: FilePiece }>>();
  for (const [diffId, pieces] of files) {
    if (!layers.has(diffId)) continue;
    for (const piece of pieces) {
      if (!paths.has(piece.path)) continue;
      const known = byPath.get(piece.path);
      if (known === undefined) byPath.set(piece.path, [{ diffId, piece }]);
      else known.push({ diffId, piece });
    }
  }
  return byPath;
}

/** Those of one layer that overlap [from, to), bytes; they do not overlap each other, so their ends rise too. */
export function* piecesIn(
  pieces: readonly FilePiece[],
  from: number,
  to: number,
): IterableIterator<FilePiece> {
  let low = 0;
  let high = pieces.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((pieces[middle] as FilePiece).to <= from) low = middle + 1;
    else high = middle;
  }
  for (let index = low; index < pieces.length; index++) {
    const piece = pieces[index] as FilePiece;
    if (piece.from >= to) return;
    yield piece;
  }
}

/** Blocks in the order in which they were added, each once. */
class BlockList {
  readonly #devices: string[] = [];
  readonly #indexOf = new Map<string, number>();
  readonly #known: Array<Set<number>> = [];
  readonly #runs: Array<[number, number, number]> = [];

  /** Whether it was not there before. */
  add(diffId: string, block: number): boolean {
    let device = this.#indexOf.get(diffId);
    if (device === undefined) {
      device = this.#devices.push(diffId) - 1;
      this.#indexOf.set(diffId, device);
      this.#known.push(new Set());
    }
    const known = this.#known[device] as Set<number>;
    if (known.has(block)) return false;
    known.add(block);
    const last = this.#runs.at(-1);
    if (last !== undefined && last[0] === device && last[1] + last[2] === block) last[2] += 1;
    else this.#runs.push([device, block, 1]);
    return true;
  }

  set(): StartSet {
    return { devices: this.#devices, runs: this.#runs };
  }
}
