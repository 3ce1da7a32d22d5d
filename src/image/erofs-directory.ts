/**
 * Directories as EROFS stores them (fs/erofs/dir.c, namei.c). Each block begins with entries of 12 bytes, whose number
 * is the offset of the first name divided by 12; the names follow without separators. All names, `.` and `..` among
 * them, are in the order of their bytes, because the kernel searches by halving: first the blocks, then one block. The
 * rest of a block is zero, which ends its last name. readdir gives this order.
 */
import { BLOCK, DIRENT, ENTRY, KINDS, NID_UNIT } from './erofs-format.ts';
import type { Directory, Inode } from './inode.ts';

export interface DirectoryPlan {
  /** Sorted, with `.` and `..`. */
  names: string[];
  /** How many names end before the end of each block; the last is the number of names. */
  ends: number[];
  /** Bytes; whole blocks and what the last one uses. */
  size: number;
}

export function planDirectory({ children }: Directory): DirectoryPlan {
  // Names are in latin1, so the order of JavaScript strings is that of their bytes.
  const names = [...children.keys(), '.', '..'].sort();
  const ends: number[] = [];
  let used = 0;
  for (const [index, name] of names.entries()) {
    const more = DIRENT + name.length;
    if (used + more > BLOCK) {
      ends.push(index);
      used = 0;
    }
    used += more;
  }
  const size = ends.length * BLOCK + used;
  ends.push(names.length);
  return { names, ends, size };
}

/**
 * Writes the directory's blocks from `from` (inclusive) to `to` at `at`. `placeOf` gives the byte where an inode lies.
 */
export function writeDirectory(
  image: Buffer,
  at: number,
  plan: DirectoryPlan,
  blocks: { from: number; to: number },
  links: { self: Inode; parent: Inode; children: Directory['children']; placeOf: (inode: Inode) => number },
): void {
  for (let block = blocks.from; block < blocks.to; block++) {
    const start = at + (block - blocks.from) * BLOCK;
    const first = block === 0 ? 0 : (plan.ends[block - 1] as number);
    const end = plan.ends[block] as number;
    let entryAt = start;
    let nameOffset = (end - first) * DIRENT;
    for (let index = first; index < end; index++) {
      const name = plan.names[index] as string;
      const inode =
        name === '.' ? links.self : name === '..' ? links.parent : (links.children.get(name) as Inode);
      const nid = links.placeOf(inode) / NID_UNIT;
      image.writeUInt32LE(nid, entryAt + ENTRY.nid);
      image.writeUInt16LE(nameOffset, entryAt + ENTRY.nameOffset);
      image[entryAt + ENTRY.type] = KINDS[inode.kind].entryType;
      image.write(name, start + nameOffset, name.length, 'latin1');
      entryAt += DIRENT;
      nameOffset += name.length;
    }
  }
}
