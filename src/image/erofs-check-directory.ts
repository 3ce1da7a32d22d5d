/** Strict reading of a directory's blocks, for erofs-check.ts; what erofs-directory.ts writes and nothing else. */
import type { Fault } from './erofs-claims.ts';
import { BLOCK, DIRENT, ENTRY, MAX_NAME_BYTES } from './erofs-format.ts';
import type { Words } from './erofs-words.ts';

/** `name` in latin1, `type` one of FT_*. */
export type Visit = (name: string, nid: number, type: number) => void;

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
  let before = '';
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
      const name = image.toString('latin1', start + nameAt, start + nameEnd);
      if (name.includes('/') || name.includes('\0'))
        throw fault(`${what} has the name ${JSON.stringify(name)}`);
      if (name <= before) throw fault(`${what} has the name ${JSON.stringify(name)} out of order`);
      visit(name, words.u32(entry + ENTRY.nid), type);
      before = name;
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

/** The last name of a block ends at a NUL or with the block. */
function endOfLastName(image: Buffer, start: number, nameAt: number, length: number): number {
  const end = image.subarray(start, start + length).indexOf(0, nameAt);
  return end < 0 ? length : end;
}
