/** Strict reading of a directory's blocks, for erofs-check.ts; what erofs-directory.ts writes and nothing else. */
import type { Fault } from './erofs-claims.ts';
import { BLOCK, DIRENT, ENTRY, MAX_NAME_BYTES } from './erofs-format.ts';
import type { Words } from './erofs-words.ts';

/** The name is the image's bytes [nameAt, nameEnd), `type` one of FT_*. */
export type Visit = (nameAt: number, nameEnd: number, nid: number, type: number) => void;

/** Where a directory's contents lie; all of it has been claimed. */
export interface Contents {
  /** Bytes, at least 1. */
  size: number;
  /** Byte of the first block. */
  at: number;
  /** Byte of the last block's contents, where they lie behind the inode; -1: they lie in its block. */
  tailAt: number;
}

/** Visits all entries, `.` and `..` too, in strictly rising order of their bytes. */
export function readEntries(
  words: Words,
  { size, at, tailAt }: Contents,
  what: string,
  fault: Fault,
  visit: Visit,
): void {
  const { image } = words;
  const blocks = Math.ceil(size / BLOCK);
  let beforeAt = 0;
  let beforeEnd = 0;
  for (let block = 0; block < blocks; block++) {
    const isLast = block + 1 === blocks;
    const start = isLast && tailAt >= 0 ? tailAt : at + block * BLOCK;
    const length = isLast ? size - block * BLOCK : BLOCK;
    const head = length < DIRENT ? 0 : words.u16(start + ENTRY.nameOffset);
    if (head === 0 || head % DIRENT !== 0 || head >= length)
      throw fault(`${what} has a block of unknown form`);
    let nameAt = head;
    for (let entryAt = 0; entryAt < head; entryAt += DIRENT) {
      const entry = start + entryAt;
      const nameEnd =
        entryAt + DIRENT < head
          ? words.u16(entry + DIRENT + ENTRY.nameOffset)
          : endOfLastName(image, start, nameAt, length);
      const type = image[entry + ENTRY.type] as number;
      const isGood =
        words.u16(entry + ENTRY.nameOffset) === nameAt &&
        nameEnd > nameAt &&
        nameEnd <= length &&
        nameEnd - nameAt <= MAX_NAME_BYTES &&
        words.u32(entry + ENTRY.nid + 4) === 0 &&
        image[entry + ENTRY.type + 1] === 0;
      if (!isGood) throw fault(`${what} has an entry of unknown form`);
      const from = start + nameAt;
      const to = start + nameEnd;
      if (!isName(image, from, to)) throw fault(`${what} has the name ${shown(image, from, to)}`);
      if (!rises(image, beforeAt, beforeEnd, from, to))
        throw fault(`${what} has the name ${shown(image, from, to)} out of order`);
      visit(from, to, words.u32(entry + ENTRY.nid), type);
      beforeAt = from;
      beforeEnd = to;
      nameAt = nameEnd;
    }
    // The size of a directory says where its last name ends.
    if (isLast ? nameAt !== length : !words.isZero(start + nameAt, start + BLOCK)) {
      throw fault(`${what} has something behind its names`);
    }
    if (isLast && tailAt < 0 && !words.isZero(start + length, start + BLOCK)) {
      throw fault(`${what} has something behind its end`);
    }
  }
}

/** A name as messages show it. */
export const shown = (image: Buffer, from: number, to: number): string =>
  JSON.stringify(image.toString('latin1', from, to));

function isName(image: Buffer, from: number, to: number): boolean {
  for (let at = from; at < to; at++) if (image[at] === SLASH || image[at] === 0) return false;
  return true;
}

/** Whether the bytes [from, to) come after [beforeAt, beforeEnd), which may be none. */
function rises(image: Buffer, beforeAt: number, beforeEnd: number, from: number, to: number): boolean {
  const shorter = Math.min(beforeEnd - beforeAt, to - from);
  for (let at = 0; at < shorter; at++) {
    const difference = (image[from + at] as number) - (image[beforeAt + at] as number);
    if (difference !== 0) return difference > 0;
  }
  return to - from > beforeEnd - beforeAt;
}

const SLASH = 0x2f;

/** The last name of a block ends at a NUL or with the block. */
function endOfLastName(image: Buffer, start: number, nameAt: number, length: number): number {
  const end = image.subarray(start, start + length).indexOf(0, nameAt);
  return end < 0 ? length : end;
}
