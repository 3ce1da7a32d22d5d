/** A device file as a transport serves it: its own descriptor, its block states, its counters. */
import { openSync, readSync } from 'node:fs';
import { explain } from '../kernel/errno.ts';
import { BLOCK_PRESENT, checkDeviceFile, type DeviceFile, type TransportCounters } from './transport.ts';

/** A plain value: posted to another thread it means the same there. */
export interface ServedFile {
  name: string;
  inode: number;
  size: number;
  /** The transport's own descriptor. */
  fd: number;
  blockSize: number;
  blocks: Uint8Array<SharedArrayBuffer>;
  /** `DeviceFile.uses` */
  uses?: Uint32Array<SharedArrayBuffer>;
  /** Rows of `TALLY_FIELDS` numbers, one for each thread that serves. */
  tally: Tally;
  firstReads?: { clock: Int32Array; ticks: Uint32Array } | undefined;
  /** Its place in folder listings; never used again. */
  sequence: number;
}

export type Tally = Float64Array<SharedArrayBuffer>;

/** Columns of a tally. Each row has one writer, so that plain numbers do. */
export const TALLY = { reads: 0, hits: 1, misses: 2, errors: 3, bytes: 4 } as const;
export const TALLY_FIELDS = 5;

/** Opens the file again, so that the caller may close its own descriptor at any time. `rows`: of the file's tally. */
export function serveFile(given: DeviceFile, rows: number, sequence: number): ServedFile {
  checkDeviceFile(given);
  const { name, inode, size, blockSize } = given;
  let fd: number;
  try {
    fd = openSync(`/proc/self/fd/${given.fd}`, 'r');
  } catch (error) {
    throw explain(error, `device file ${name}, descriptor ${given.fd}`);
  }
  return {
    name,
    inode,
    size,
    fd,
    blockSize,
    blocks: new Uint8Array(given.blocks),
    ...(given.uses === undefined ? {} : { uses: new Uint32Array(given.uses) }),
    tally: newTally(rows),
    firstReads: given.firstReads && {
      clock: new Int32Array(given.firstReads.clock),
      ticks: new Uint32Array(given.firstReads.ticks),
    },
    sequence,
  };
}

/** How many bytes a read gets: none past the end. */
export function clamp(file: ServedFile, offset: number, length: number): number {
  return Math.max(0, Math.min(length, file.size - offset));
}

/** The first block that bytes from `offset` on touch. */
const firstBlockOf = ({ blockSize }: ServedFile, offset: number): number => Math.floor(offset / blockSize);

/** The last block that the range touches, which is not empty. */
const lastBlockOf = ({ blockSize }: ServedFile, offset: number, length: number): number =>
  Math.floor((offset + length - 1) / blockSize);

/** Whether every block from `first` to `last`, both included and within the file, is present. */
function allPresent({ blocks }: ServedFile, first: number, last: number): boolean {
  for (let block = first; block <= last; block++)
    if (Atomics.load(blocks, block) !== BLOCK_PRESENT) return false;
  return true;
}

/** Whether every block that the range touches is present. The range lies within the file and is not empty. */
export const touchedArePresent = (file: ServedFile, offset: number, length: number): boolean =>
  allPresent(file, firstBlockOf(file, offset), lastBlockOf(file, offset, length));

/** Notes the blocks that a read of `first` to `last`, both included, is the first to touch. */
function noteFirstRead({ firstReads }: ServedFile, first: number, last: number): void {
  if (firstReads === undefined) return;
  const { clock, ticks } = firstReads;
  const since = clock[1] as number;
  for (let block = first; block <= last; block++) {
    // Two threads that meet here give the block two ticks in a row: either will do.
    if ((ticks[block] as number) <= since) ticks[block] = Atomics.add(clock, 0, 1) + 1;
  }
}

/**
 * The one look at presence for a read that has just come (docs/cold-read.md). Notes which blocks are read for the first time, too.
 * A read of no bytes touches no block.
 */
export function readIsPresent(file: ServedFile, offset: number, length: number): boolean {
  if (length === 0) return true;
  const first = firstBlockOf(file, offset);
  const last = lastBlockOf(file, offset, length);
  noteFirstRead(file, first, last);
  return allPresent(file, first, last);
}

/**
 * Notes that the range, of which every block is present, is being read. Plain stores: of two threads either's time will
 * do, since both are of a moment ago. A store that would change nothing is left out, so that threads do not fight over
 * a cache line.
 */
export function noteUse(file: ServedFile, offset: number, length: number): void {
  const { uses } = file;
  if (uses === undefined) return;
  const time = uses[0] as number;
  const last = 1 + lastBlockOf(file, offset, length);
  for (let word = 1 + firstBlockOf(file, offset); word <= last; word++)
    if (uses[word] !== time) uses[word] = time;
}

/**
 * Reads file bytes into `buffer` from `at` on. False when the disk fails, or the file is shorter than it claims: half
 * an answer would be taken for the end of the file.
 */
export function loadBytes(
  file: ServedFile,
  buffer: Buffer,
  at: number,
  offset: number,
  length: number,
): boolean {
  let done = 0;
  try {
    while (done < length) {
      const got = readSync(file.fd, buffer, at + done, length - done, offset + done);
      if (got === 0) break;
      done += got;
    }
  } catch {
    return false;
  }
  if (done === length) return true;
  // A tar whose length is no multiple of 512 is padded with zeros: less than one sector, at the very end.
  if (offset + length !== file.size || length - done >= 512) return false;
  buffer.fill(0, at + done, at + length);
  return true;
}

export function newTally(rows: number): Tally {
  return new Float64Array(new SharedArrayBuffer(rows * TALLY_FIELDS * 8));
}

export function emptyCounters(): TransportCounters {
  return { reads: 0, hits: 0, misses: 0, errors: 0, bytes: 0 };
}

/** Adds a tally to `into`, and returns it. */
export function addTally(tally: Tally, into: TransportCounters): TransportCounters {
  for (let row = 0; row < tally.length; row += TALLY_FIELDS) {
    into.reads += tally[row + TALLY.reads] as number;
    into.hits += tally[row + TALLY.hits] as number;
    into.misses += tally[row + TALLY.misses] as number;
    into.errors += tally[row + TALLY.errors] as number;
    into.bytes += tally[row + TALLY.bytes] as number;
  }
  return into;
}
