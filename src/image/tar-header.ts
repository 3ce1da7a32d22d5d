/**
 * One 512-byte tar header block: its five dialects and their numbers.
 *
 * Dialects are told apart by the magic at byte 257 (POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual,
 * "Basic Tar Format"; star(5)):
 *
 *   "ustar\0"             ustar and pax: device numbers, 155 bytes of prefix
 *   "ustar\0" … "tar\0"   star: 131 bytes of prefix, atime and ctime behind it
 *   "ustar  \0"           GNU: device numbers, atime, ctime, the old sparse map where the prefix would be
 *   anything else         v7: neither device numbers nor prefix
 *
 * All container runtimes read layers with Go's archive/tar. Where the standards leave room this parser follows that
 * reader, so that a layer means the same here as there.
 */
import type { CofaError } from '../../schemas/errors.ts';
import type { Fragment } from './sparse.ts';

export const SECTOR = 512;

export type TarDialect = 'v7' | 'ustar' | 'star' | 'gnu';

export interface TarHeader {
  dialect: TarDialect;
  /** The byte at 156: '0' is 0x30. */
  typeflag: number;
  /** With the prefix joined. A copy, as is `link`. */
  name: Buffer;
  link: Buffer;
  /** 0 to 0o7777. */
  mode: number;
  /** Integers; beyond 2^53 only near to what the block says, so bound before use. */
  size: number;
  uid: number;
  gid: number;
  mtime: number;
  major: number;
  minor: number;
}

/** Makes the error for a damaged header; the caller knows where it is. */
export type Fault = (reason: string) => CofaError;

/** Parses a block that is not all zeros; throws `fault(…)` where the block is no tar header. */
export function parseHeader(block: Buffer, fault: Fault): TarHeader {
  checkSum(block, fault);
  const dialect = dialectOf(block);
  const header: TarHeader = {
    dialect,
    typeflag: block[156] ?? 0,
    name: text(block, 0, 100),
    link: text(block, 157, 100),
    size: field(block, 124, 12, 'size', fault),
    mode: lowBits(block, 100, field(block, 100, 8, 'mode', fault)),
    uid: field(block, 108, 8, 'owner', fault),
    gid: field(block, 116, 8, 'group', fault),
    mtime: field(block, 136, 12, 'modification time', fault),
    major: 0,
    minor: 0,
  };
  if (dialect !== 'v7') {
    header.major = field(block, 329, 8, 'device major', fault);
    header.minor = field(block, 337, 8, 'device minor', fault);
    const prefix = prefixOf(block, dialect, fault);
    if (prefix.length > 0) header.name = Buffer.concat([prefix, SLASH, header.name]);
  }
  return header;
}

/** Whether a block is all zeros: two of them end an archive. */
export function isZeroBlock(block: Buffer): boolean {
  return block[0] === 0 && block.equals(ZEROS);
}

/**
 * The map inside the header of an old GNU sparse file (type 'S'): four fragments, the file's real size, and
 * whether extension blocks follow.
 */
export function parseOldSparse(
  block: Buffer,
  fault: Fault,
): { fragments: Fragment[]; size: number; more: boolean } {
  const fragments: Fragment[] = [];
  parseSparseArray(block, 386, 4, fragments, fault);
  return {
    fragments,
    size: field(block, 483, 12, 'real size', fault),
    more: block[482] !== 0,
  };
}

/** One extension block of an old GNU sparse map: up to 21 fragments more; returns whether another follows. */
export function parseSparseExtension(block: Buffer, fragments: Fragment[], fault: Fault): boolean {
  parseSparseArray(block, 0, 21, fragments, fault);
  return block[504] !== 0;
}

/** Bytes up to the first NUL, or all of them; a copy. */
export function text(bytes: Buffer, start: number, length: number): Buffer {
  const nul = bytes.indexOf(0, start);
  const end = nul < 0 || nul > start + length ? start + length : nul;
  return end === start ? EMPTY : Buffer.from(bytes.subarray(start, end));
}

/**
 * A number in a header field: octal digits between blanks or NULs, or base-256 two's complement (first bit
 * set; GNU, star). NaN where it is neither, or beyond 64 bits.
 */
export function parseNumber(block: Buffer, start: number, length: number): number {
  let at = start;
  let end = start + length;
  const first = block[at] ?? 0;
  if ((first & 0x80) !== 0) return base256(block, start, length);
  while (at < end && isBlank(block[at])) at++;
  while (end > at && isBlank(block[end - 1])) end--;
  let value = 0;
  for (; at < end; at++) {
    const digit = (block[at] ?? 0) - 0x30;
    if (digit === -0x30) break;
    if (digit < 0 || digit > 7) return Number.NaN;
    value = value * 8 + digit;
  }
  return value;
}

const ZEROS = Buffer.alloc(SECTOR);
const EMPTY = Buffer.alloc(0);
const SLASH = Buffer.from('/');

function field(block: Buffer, start: number, length: number, what: string, fault: Fault): number {
  const value = parseNumber(block, start, length);
  if (Number.isNaN(value)) throw fault(`the header's ${what} is not a number`);
  return value;
}

/** The mode's twelve bits, also of a number too large to be exact: base-256 ends in them. */
function lowBits(block: Buffer, start: number, value: number): number {
  return Number.isSafeInteger(value) && value >= 0
    ? value % 0o10000
    : block.readUInt16BE(start + 6) % 0o10000;
}

function isBlank(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0;
}

function base256(block: Buffer, start: number, length: number): number {
  const first = block[start] ?? 0;
  const negative = (first & 0x40) !== 0;
  // Inverting a negative number's bytes gives -value - 1, so both signs are read as an unsigned number.
  const flip = negative ? 0xff : 0;
  let value = BigInt((first ^ flip) & 0x7f);
  for (let i = 1; i < length; i++) value = (value << 8n) | BigInt((block[start + i] ?? 0) ^ flip);
  if (value >= 1n << 63n) return Number.NaN;
  return Number(negative ? -value - 1n : value);
}

/** The sum of all bytes, the checksum's own taken as blanks; Sun's tar added the bytes as signed numbers. */
function checkSum(block: Buffer, fault: Fault): void {
  const expected = (block[148] ?? 0) & 0x80 ? Number.NaN : parseNumber(block, 148, 8);
  let sum = 8 * 0x20;
  let high = 0;
  for (let i = 0; i < SECTOR; i++) {
    if (i === 148) i = 156;
    const byte = block[i] ?? 0;
    sum += byte;
    high += byte >> 7;
  }
  if (sum !== expected && sum - 256 * high !== expected) throw fault('the header has a wrong checksum');
}

function dialectOf(block: Buffer): TarDialect {
  const magic = block.toString('latin1', 257, 265);
  if (magic === 'ustar  \0') return 'gnu';
  if (!magic.startsWith('ustar\0')) return 'v7';
  return block.toString('latin1', 508, 512) === 'tar\0' ? 'star' : 'ustar';
}

function prefixOf(block: Buffer, dialect: TarDialect, fault: Fault): Buffer {
  if (dialect === 'ustar') return text(block, 345, 155);
  if (dialect === 'star') {
    field(block, 476, 12, 'access time', fault);
    field(block, 488, 12, 'change time', fault);
    return text(block, 345, 131);
  }
  // GNU has atime and ctime here. Images from before 2017 may hold what Go's writer then put by mistake: a
  // prefix. It is one if the two times are no numbers.
  const atimeOk = block[345] === 0 || !Number.isNaN(parseNumber(block, 345, 12));
  const ctimeOk = block[357] === 0 || !Number.isNaN(parseNumber(block, 357, 12));
  if (atimeOk && ctimeOk) return EMPTY;
  const prefix = text(block, 345, 155);
  return prefix.every((byte) => byte < 0x80) ? prefix : EMPTY;
}

function parseSparseArray(
  block: Buffer,
  start: number,
  count: number,
  fragments: Fragment[],
  fault: Fault,
): void {
  for (let at = start; at < start + 24 * count; at += 24) {
    if (block[at] === 0) return;
    fragments.push({
      offset: field(block, at, 12, 'sparse map', fault),
      length: field(block, at + 12, 12, 'sparse map', fault),
    });
  }
}
