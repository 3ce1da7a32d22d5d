/**
 * Where a file's bytes lie, in EROFS's terms: chunks of one size, a power of two, each in one piece on one device or a
 * hole (fs/erofs/data.c, erofs_map_blocks). A file in one piece has a single chunk, however large; all but sparse files
 * are in one piece. A sparse file has the largest chunks whose borders meet all of its own.
 */
import { CofaError } from '../../schemas/errors.ts';
import { BLOCK, CHUNK, CHUNK_INDEX, MAX_CHUNK_BITS, NULL_BLOCK, roundUp } from './erofs-format.ts';
import type { TocEntry } from './toc.ts';

export interface ChunkPlan {
  /** log2 of blocks per chunk. */
  bits: number;
  /** Chunks of the file. */
  count: number;
}

/**
 * Plans the chunks of a file that is not empty. `deviceBlocks` is the length of its layer's device. Errors:
 * `integrity` where an extent lies outside of the layer, or extents and patches are not in order.
 */
export function planChunks(entry: TocEntry, deviceBlocks: number): ChunkPlan {
  const { size, extents, patches } = entry;
  const only = extents.length === 1 && patches.length === 0 ? extents[0] : undefined;
  if (only !== undefined && only.fileOffset === 0 && only.length === size) {
    if (!liesIn(only.deviceOffset, size, deviceBlocks)) throw misplaced(entry);
    return single(size);
  }
  let { bits } = single(size);
  let end = 0;
  let before: Piece | undefined;
  for (const piece of piecesOf(entry)) {
    const { from, length, device } = piece;
    const whole = length % BLOCK === 0 || from + length === size;
    if (from % BLOCK !== 0 || from < end || length < 1 || from + length > size || !whole)
      throw misplaced(entry);
    if (device !== undefined && !liesIn(device, length, deviceBlocks)) throw misplaced(entry);
    if (!continues(before, piece)) {
      bits = Math.min(bits, trailingZeros(end / BLOCK), trailingZeros(from / BLOCK));
    }
    end = from + length;
    before = piece;
  }
  if (end < size) bits = Math.min(bits, trailingZeros(end / BLOCK));
  return { bits, count: Math.ceil(size / (BLOCK * 2 ** bits)) };
}

/**
 * Finds places for a file's patches from block `next` of the image on. Returns the first block of each, and the block
 * behind them all. Patches that follow one another in the file do so in the image.
 *
 * Kernels join two pieces of a file into one request where the sector numbers of one follow those of the other, without
 * comparing their devices (iomap_readpage_iter in fs/iomap/buffered-io.c, seen in 6.12 and 6.18). So a patch never lies
 * where the sector numbers would continue from, or to, a neighbouring extent in the layer's device.
 */
export function placePatches(entry: TocEntry, next: number): { blocks: number[]; end: number } {
  const blocks: number[] = [];
  if (entry.patches.length === 0) return { blocks, end: next };
  const pieces = [...piecesOf(entry)];
  let free = next;
  for (let first = 0; first < pieces.length; ) {
    let last = first;
    while (continues(pieces[last], pieces[last + 1])) last++;
    const run = pieces.slice(first, last + 1);
    if (run[0]?.device === undefined) {
      const lengths = run.map(({ length }) => roundUp(length, BLOCK) / BLOCK);
      const total = lengths.reduce((sum, length) => sum + length, 0);
      const before = pieces[first - 1];
      const from = pieces[last + 1]?.device;
      const to = before?.device === undefined ? undefined : before.device + roundUp(before.length, BLOCK);
      while (free * BLOCK === to || (free + total) * BLOCK === from) free++;
      for (const length of lengths) {
        blocks.push(free);
        free += length;
      }
    }
    first = last + 1;
  }
  return { blocks, end: free };
}

/** Writes the chunk indexes of a file at `at`. `slot`: of its layer; `patches`: the first block of each patch. */
export function writeChunks(
  image: Buffer,
  at: number,
  entry: TocEntry,
  { bits, count }: ChunkPlan,
  { slot, patches }: { slot: number; patches: readonly number[] },
): void {
  const chunk = BLOCK * 2 ** bits;
  let index = 0;
  const put = (end: number, device: number, block: (from: number) => number) => {
    for (; index < count && index * chunk < end; index++) {
      image.writeUInt16LE(device, at + index * CHUNK_INDEX + CHUNK.device);
      image.writeUInt32LE(block(index * chunk), at + index * CHUNK_INDEX + CHUNK.block);
    }
  };
  let patch = 0;
  for (const { from, length, device } of piecesOf(entry)) {
    put(from, 0, () => NULL_BLOCK);
    const first = device === undefined ? (patches[patch++] as number) : device / BLOCK;
    put(from + length, device === undefined ? 0 : slot, (offset) => first + (offset - from) / BLOCK);
  }
  put(entry.size, 0, () => NULL_BLOCK);
}

/** A run of a file's bytes: in the layer device at byte `device`, or a patch where that is undefined. */
interface Piece {
  from: number;
  length: number;
  device: number | undefined;
}

/** Extents and patches in the order of the file. */
function* piecesOf({ extents, patches }: TocEntry): Generator<Piece> {
  let next = 0;
  for (const { fileOffset, deviceOffset, length } of extents) {
    for (
      let patch = patches[next];
      patch !== undefined && patch.fileOffset < fileOffset;
      patch = patches[++next]
    ) {
      yield { from: patch.fileOffset, length: patch.bytes.length, device: undefined };
    }
    yield { from: fileOffset, length, device: deviceOffset };
  }
  for (const { fileOffset, bytes } of patches.slice(next)) {
    yield { from: fileOffset, length: bytes.length, device: undefined };
  }
}

/** Whether both can be in one chunk: no gap between them, neither in the file nor on the device. */
function continues(before: Piece | undefined, piece: Piece | undefined): boolean {
  if (before === undefined || piece === undefined || before.from + before.length !== piece.from) return false;
  // Patches: see placePatches.
  if (before.device === undefined || piece.device === undefined) return before.device === piece.device;
  return before.device + before.length === piece.device;
}

function single(size: number): { bits: number; count: number } {
  let bits = 0;
  while (bits < MAX_CHUNK_BITS && BLOCK * 2 ** bits < size) bits++;
  return { bits, count: Math.ceil(size / (BLOCK * 2 ** bits)) };
}

function liesIn(deviceOffset: number, length: number, deviceBlocks: number): boolean {
  if (!(deviceOffset >= 0) || deviceOffset % BLOCK !== 0) return false;
  return deviceOffset / BLOCK + roundUp(length, BLOCK) / BLOCK <= deviceBlocks;
}

function trailingZeros(blocks: number): number {
  const low = blocks >>> 0;
  return low === 0 ? MAX_CHUNK_BITS : 31 - Math.clz32(low & -low);
}

function misplaced({ path }: TocEntry): CofaError {
  return new CofaError(
    'integrity',
    `the contents of ${JSON.stringify(path.toString('latin1'))} do not lie within its layer`,
  );
}
