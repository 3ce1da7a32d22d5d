/**
 * Sparse files in tar: the archive stores only the fragments that hold data, one behind the other, and a map says where
 * in the file each belongs (GNU tar manual, "Storing Sparse Files").
 *
 * The flat image refers to whole 512-byte sectors of the layer device. GNU tar and bsdtar align fragments to that, so
 * each becomes an extent. Other writers need not:
 *
 *   file      |        |  ▓▓▓▓▓▓|▓▓▓▓▓▓▓▓|▓▓      |   a fragment from 2 on, in sectors of 8
 *   stored    |..▓▓▓▓▓▓|▓▓▓▓▓▓▓▓|▓▓......|            in the device also at 2: the middle sector is an extent,
 *                                                     the torn ones at its ends become a patch
 *   stored    |.....▓▓▓|▓▓▓▓▓▓▓▓|▓▓▓▓▓...|            at 5: no sector lies right, all three become a patch
 *
 * A patch is copied out of the stream into the table of contents, so its size is bounded.
 */
import { parseInteger } from './pax.ts';
import type { Extent, Patch } from './toc.ts';
import { SECTOR } from './tar-header.ts';
import type { Fault } from './tar-header.ts';

/** A run of data in a sparse file, as the map names it; bytes outside of all fragments are holes. */
export interface Fragment {
  /** Bytes from the start of the file. */
  offset: number;
  /** Bytes. */
  length: number;
}

/** Bytes of the device that belong into a patch. */
export interface Capture {
  /** Bytes from the start of the device. */
  from: number;
  length: number;
  /** The target: `into.bytes`, from `at` on. */
  into: Buffer;
  at: number;
}

export interface SparseLayout {
  extents: Extent[];
  /** Zeros until the captures are done. */
  patches: Patch[];
  /** Sorted by `from`; apart from each other. */
  captures: Capture[];
}

/**
 * The map without empty fragments, neighbours joined. Throws `fault(…)` unless the fragments are in order, within the
 * file, and as many bytes as the archive stores.
 * @param size   the file's size, bytes
 * @param stored bytes that the archive holds of it
 */
export function checkFragments(
  fragments: readonly Fragment[],
  size: number,
  stored: number,
  fault: Fault,
): Fragment[] {
  const checked: Fragment[] = [];
  let end = 0;
  let total = 0;
  for (const { offset, length } of fragments) {
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || length < 0 || offset < end) {
      throw fault('the sparse map is out of order');
    }
    if (!Number.isSafeInteger(offset + length) || offset + length > size) {
      throw fault('the sparse map leads beyond the end of the file');
    }
    end = offset + length;
    total += length;
    if (length === 0) continue;
    const last = checked.at(-1);
    if (last !== undefined && last.offset + last.length === offset) last.length += length;
    else checked.push({ offset, length });
  }
  if (total !== stored) {
    throw fault(`the sparse map speaks of ${total} bytes, the archive stores ${stored}`);
  }
  return checked;
}

/**
 * Where the file's sectors lie in the device.
 * @param fragments from `checkFragments`
 * @param size      the file's size, bytes
 * @param offset    of the first stored byte in the device
 * @param room      makes sure that a patch of so many bytes may be held; throws if not
 */
export function layOut(
  fragments: readonly Fragment[],
  size: number,
  offset: number,
  room: (bytes: number) => void,
): SparseLayout {
  const extents: Extent[] = [];
  const torn: Array<Fragment & { from: number }> = [];
  let stored = offset;
  for (const fragment of fragments) {
    const start = fragment.offset;
    const end = start + fragment.length;
    const shift = stored - start;
    const first = shift % SECTOR === 0 ? Math.min(roundUp(start), end) : end;
    const last = end === size ? end : Math.max(roundDown(end), first);
    if (first > start) torn.push({ offset: start, length: first - start, from: stored });
    if (last > first) extents.push({ fileOffset: first, deviceOffset: first + shift, length: last - first });
    if (end > last) torn.push({ offset: last, length: end - last, from: last + shift });
    stored += fragment.length;
  }
  return { extents, ...patch(torn, size, room) };
}

/** Copies the bytes of `captures` (from index `next` on) that `chunk` holds; returns the first one that wants more. */
export function capture(captures: readonly Capture[], next: number, chunk: Buffer, chunkAt: number): number {
  const chunkEnd = chunkAt + chunk.length;
  let index = next;
  for (; index < captures.length; index++) {
    const wanted = captures[index];
    if (wanted === undefined || wanted.from >= chunkEnd) break;
    const end = wanted.from + wanted.length;
    const from = Math.max(wanted.from, chunkAt);
    chunk.copy(
      wanted.into,
      wanted.at + from - wanted.from,
      from - chunkAt,
      Math.min(end, chunkEnd) - chunkAt,
    );
    if (end > chunkEnd) break;
  }
  return index;
}

/** A map of GNU sparse 1.0 as it arrives in blocks: lines of numbers, the first says how many pairs follow. */
export class SparseMapText {
  readonly #blocks: string[] = [];
  lines = 0;
  /** The first line's number (NaN if it is none), as soon as the line is complete. */
  count: number | undefined;

  add(block: Buffer): void {
    const string = block.toString('latin1');
    this.#blocks.push(string);
    for (let at = string.indexOf('\n'); at >= 0; at = string.indexOf('\n', at + 1)) this.lines++;
    if (this.count === undefined && this.lines > 0) {
      const all = this.#blocks.join('');
      this.count = parseInteger(all.slice(0, all.indexOf('\n')));
    }
  }

  /** The lines behind the first. */
  numbers(): string[] {
    return this.#blocks.join('').split('\n').slice(1);
  }
}

/** Groups torn pieces into patches of whole sectors; pieces that share or neighbour a sector share a patch. */
function patch(
  torn: ReadonlyArray<Fragment & { from: number }>,
  size: number,
  room: (bytes: number) => void,
): { patches: Patch[]; captures: Capture[] } {
  const patches: Patch[] = [];
  const captures: Capture[] = [];
  let index = 0;
  while (index < torn.length) {
    const begin = index;
    const start = roundDown(torn[begin]?.offset ?? 0);
    let end = start;
    for (
      let piece = torn[index];
      piece !== undefined && roundDown(piece.offset) <= end;
      piece = torn[++index]
    ) {
      end = Math.min(roundUp(piece.offset + piece.length), size);
    }
    room(end - start);
    const bytes = Buffer.alloc(end - start);
    patches.push({ fileOffset: start, bytes });
    for (const { offset, length, from } of torn.slice(begin, index)) {
      captures.push({ from, length, into: bytes, at: offset - start });
    }
  }
  return { patches, captures };
}

function roundUp(bytes: number): number {
  return roundDown(bytes + SECTOR - 1);
}

function roundDown(bytes: number): number {
  return bytes - (bytes % SECTOR);
}
