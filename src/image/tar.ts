/**
 * A streaming tar reader: bytes in at any chunk borders, members out, file bodies skipped where they lie.
 *
 * Container runtimes read layers with Go's archive/tar and apply them as containerd does (pkg/archive). This reader
 * refuses a layer that they would refuse; one that they accept means the same here. Where that differs from GNU tar or
 * from POSIX:
 *
 * - records of a global pax header ('g') are checked but not applied to the members that follow; pax and GNU records in
 *   front of it are forgotten;
 * - of several 'x' headers in a row the last replaces the others; a GNU long name beats a pax path;
 * - links, devices, fifos and directories have no body, whatever their size field says. (A POSIX pax hard link may have
 *   one; neither Go nor GNU tar reads it. libarchive guesses by what follows);
 * - only type NUL with a name that ends in "/" is a directory of old; '0' with such a name is a file;
 * - one block of zeros followed by anything but the end or another one is damage.
 *
 * It reads more than they do in four things, which such a runtime refuses or leaves out: old GNU sparse files (type
 * 'S'), contiguous files ('7'), SCHILY.devmajor/devminor and LIBARCHIVE.xattr.* records.
 */
import { CofaError } from '../../schemas/errors.ts';
import { parseInteger, parsePax, parseTime } from './pax.ts';
import type { PaxRecords } from './pax.ts';
import { capture, checkFragments, SparseMapText } from './sparse.ts';
import type { Capture, Fragment } from './sparse.ts';
import {
  isZeroBlock,
  parseHeader,
  parseOldSparse,
  parseSparseExtension,
  SECTOR,
  text,
} from './tar-header.ts';
import type { TarHeader } from './tar-header.ts';
import type { Mtime } from './toc.ts';

export type MemberType = 'file' | 'dir' | 'symlink' | 'hardlink' | 'char' | 'block' | 'fifo' | 'other';

/** One member as the archive has it: names not normalised, numbers not bounded. */
export interface TarMember {
  type: MemberType;
  /** The type byte; says what `other` is. */
  typeflag: number;
  name: Buffer;
  link: Buffer;
  /** 0 to 0o7777. */
  mode: number;
  uid: number;
  gid: number;
  mtime: Mtime;
  major: number;
  minor: number;
  /** Name (latin1: bytes as they are) to value; views, so copy what you keep. */
  xattrs: Map<string, Buffer>;
  /** Bytes of the file, holes counted; 0 for all that is not `file` or `other`. */
  size: number;
  /** Bytes from the start of the archive to the first stored byte of data. */
  dataOffset: number;
  /** Sparse files: where the stored bytes belong. Others: undefined, all bytes are stored. */
  fragments: Fragment[] | undefined;
}

/**
 * Receives each member when its header is complete, before its body. May return stretches of the body to copy while it
 * passes by, sorted and within the body.
 */
export type OnMember = (member: TarMember) => readonly Capture[];

/** Longest body of a pax header, GNU long name or sparse map; Go's archive/tar has the same limit. */
export const MAX_META_BYTES = 1 << 20;

type State = 'header' | 'meta' | 'sparse-extension' | 'sparse-map' | 'body' | 'ended';

export class TarReader {
  readonly #onMember: OnMember;
  #state: State = 'header';
  /** Bytes taken so far, all chunks before this one. */
  #before = 0;
  /** Where the header block of the current member lies. */
  #memberAt = 0;
  /** Of the current member as soon as it is known, and of the one before. */
  #name: Buffer | undefined;
  #previous: Buffer | undefined;
  /** A body size in the previous member's header, although members of its type have no body. */
  #claimed = 0;
  #failed: unknown;

  /** A block that came in pieces. */
  readonly #block = Buffer.allocUnsafe(SECTOR);
  #blockFill = 0;
  #sawZeroBlock = false;

  /** Body bytes of a member still to come; behind them so many bytes of padding, which may be missing at the end. */
  #bodyLeft = 0;
  #paddingLeft = 0;
  #captures: readonly Capture[] = [];
  #nextCapture = 0;

  /** What the headers in front of a member say about the member. */
  #metaType = 0;
  #meta = EMPTY;
  #pax: PaxRecords | undefined;
  #longName = EMPTY;
  #longLink = EMPTY;

  /** A sparse member whose map the reader still reads. */
  #header: TarHeader | undefined;
  #sparse: { fragments: Fragment[]; size: number; mapBytes: number; map: SparseMapText | undefined } =
    noSparse();

  constructor(onMember: OnMember) {
    this.#onMember = onMember;
  }

  /** Takes the next bytes of the archive. Throws CofaError('integrity') where they are damaged. */
  push(chunk: Buffer): void {
    if (this.#failed !== undefined) throw this.#failed;
    try {
      let at = 0;
      while (at < chunk.length && this.#state !== 'ended') {
        if (this.#state === 'body') at = this.#takeBody(chunk, at);
        else if (this.#state === 'meta') at = this.#takeMeta(chunk, at);
        else at = this.#takeBlock(chunk, at);
      }
      this.#before += chunk.length;
    } catch (error) {
      this.#failed = error;
      throw error;
    }
  }

  /**
   * Call after the last byte. The archive may end with two blocks of zeros, with one, or with none, as long as
   * it does not end inside a member.
   */
  finish(): void {
    if (this.#failed !== undefined) throw this.#failed;
    const inside =
      this.#blockFill > 0 ||
      this.#state === 'sparse-extension' ||
      this.#state === 'sparse-map' ||
      ((this.#state === 'body' || this.#state === 'meta') && this.#bodyLeft > 0);
    if (this.#state !== 'ended' && inside) {
      this.#failed = this.fault(`it is cut short: ${this.#before} bytes are all there is`);
      throw this.#failed;
    }
    this.#state = 'ended';
  }

  /** An error about the current member that says where it is. */
  fault(reason: string, code: 'integrity' | 'unsupported' = 'integrity'): CofaError {
    let where = '';
    if (this.#name !== undefined) where = ` (${quoted(this.#name)})`;
    else if (this.#previous !== undefined) where = ` (after ${quoted(this.#previous)})`;
    return new CofaError(code, `layer tar at byte ${this.#memberAt}${where}: ${reason}`);
  }

  readonly #integrity = (reason: string): CofaError => this.fault(reason);

  #takeBody(chunk: Buffer, at: number): number {
    const body = Math.min(this.#bodyLeft, chunk.length - at);
    if (body > 0 && this.#nextCapture < this.#captures.length) {
      const passing = chunk.subarray(at, at + body);
      this.#nextCapture = capture(this.#captures, this.#nextCapture, passing, this.#before + at);
    }
    this.#bodyLeft -= body;
    return this.#takePadding(chunk, at + body);
  }

  #takePadding(chunk: Buffer, at: number): number {
    if (this.#bodyLeft > 0) return at;
    const padding = Math.min(this.#paddingLeft, chunk.length - at);
    this.#paddingLeft -= padding;
    if (this.#paddingLeft === 0) this.#state = 'header';
    return at + padding;
  }

  #takeMeta(chunk: Buffer, at: number): number {
    if (this.#bodyLeft === 0) return this.#takePadding(chunk, at);
    const bytes = chunk.subarray(at, at + this.#bodyLeft);
    bytes.copy(this.#meta, this.#meta.length - this.#bodyLeft);
    this.#bodyLeft -= bytes.length;
    if (this.#bodyLeft === 0) {
      this.#onMeta();
      return this.#takePadding(chunk, at + bytes.length);
    }
    return at + bytes.length;
  }

  #takeBlock(chunk: Buffer, at: number): number {
    if (this.#blockFill === 0 && this.#state === 'header') this.#memberAt = this.#before + at;
    if (this.#blockFill === 0 && chunk.length - at >= SECTOR) {
      this.#onBlock(chunk.subarray(at, at + SECTOR), this.#before + at + SECTOR);
      return at + SECTOR;
    }
    const piece = chunk.subarray(at, at + SECTOR - this.#blockFill);
    piece.copy(this.#block, this.#blockFill);
    this.#blockFill += piece.length;
    if (this.#blockFill === SECTOR) {
      this.#blockFill = 0;
      this.#onBlock(this.#block, this.#before + at + piece.length);
    }
    return at + piece.length;
  }

  #onBlock(block: Buffer, end: number): void {
    if (this.#state === 'sparse-extension') this.#onSparseExtension(block, end);
    else if (this.#state === 'sparse-map') this.#onSparseMap(block, end);
    else this.#onHeader(block, end);
  }

  #onHeader(block: Buffer, end: number): void {
    if (this.#pax === undefined && this.#longName.length === 0 && this.#longLink.length === 0) {
      this.#previous = this.#name ?? this.#previous;
      this.#name = undefined;
    }
    if (isZeroBlock(block)) {
      if (this.#sawZeroBlock) this.#state = 'ended';
      this.#sawZeroBlock = true;
      return;
    }
    if (this.#sawZeroBlock) throw this.fault('data follows a lone block of zeros');
    const header = parseHeader(block, (reason) => this.fault(this.#withClaim(reason)));
    switch (header.typeflag) {
      case X_HEADER:
      case GLOBAL_HEADER:
      case LONG_NAME:
      case LONG_LINK:
        this.#startMeta(header);
        return;
      default:
    }
    this.#applyRecords(header);
    this.#claimed = BODILESS.has(header.typeflag) ? header.size : 0;
    this.#header = header;
    this.#sparse = noSparse();
    if (header.typeflag === GNU_SPARSE) {
      this.#startOldSparse(block, header, end);
    } else {
      this.#startMember(header, end);
    }
  }

  #withClaim(reason: string): string {
    if (this.#claimed <= 0) return reason;
    return `${reason} (the member before is a link, a device or a directory and has no data, yet claims ${this.#claimed} bytes)`;
  }

  #startMeta(header: TarHeader): void {
    if (header.size < 0) throw this.fault('an extended header has a negative size');
    if (header.size > MAX_META_BYTES) {
      throw this.fault(`an extended header of ${header.size} bytes; the limit is ${MAX_META_BYTES}`);
    }
    this.#metaType = header.typeflag;
    this.#meta = Buffer.allocUnsafe(header.size);
    this.#expectBody(header.size);
    this.#state = 'meta';
    if (header.size === 0) {
      this.#onMeta();
      this.#state = 'header';
    }
  }

  #onMeta(): void {
    const body = this.#meta;
    this.#meta = EMPTY;
    switch (this.#metaType) {
      case X_HEADER:
        this.#pax = parsePax(body, this.#integrity);
        this.#name = this.#pax.values.get('path');
        return;
      case LONG_NAME:
        this.#longName = text(body, 0, body.length);
        this.#name = this.#longName;
        return;
      case LONG_LINK:
        this.#longLink = text(body, 0, body.length);
        return;
      default:
        parsePax(body, this.#integrity);
        this.#forgetRecords();
    }
  }

  /** Writes what the headers in front of a member say into its own header. */
  #applyRecords(header: TarHeader): void {
    this.#name ??= header.name;
    header.name = this.#text('path') ?? header.name;
    header.link = this.#text('linkpath') ?? header.link;
    for (const [key, field] of NUMBERS) {
      const value = this.#record(key);
      if (value !== undefined) header[field] = this.#integer(key, value);
    }
    if (this.#longName.length > 0) header.name = this.#longName;
    if (this.#longLink.length > 0) header.link = this.#longLink;
    if (header.typeflag === 0) header.typeflag = header.name.at(-1) === SLASH ? DIRECTORY : REGULAR;
    this.#name = header.name;
  }

  /** A pax record that is there and not empty. */
  #record(key: string): Buffer | undefined {
    const value = this.#pax?.values.get(key);
    return value === undefined || value.length === 0 ? undefined : value;
  }

  /** A copy, so that a short name does not keep a long header in memory. */
  #text(key: string): Buffer | undefined {
    const value = this.#record(key);
    return value === undefined ? undefined : Buffer.from(value);
  }

  #integer(key: string, value: Buffer): number {
    const number = parseInteger(value.toString('latin1'));
    if (Number.isNaN(number)) throw this.fault(`the extended header's ${key} is not a number`);
    return number;
  }

  #forgetRecords(): void {
    this.#pax = undefined;
    this.#longName = EMPTY;
    this.#longLink = EMPTY;
  }

  /** Bytes that follow the header block(s) in the archive. */
  #storedSize(header: TarHeader): number {
    if (BODILESS.has(header.typeflag)) return 0;
    if (header.size < 0) throw this.fault('its size is negative');
    if (!Number.isSafeInteger(header.size)) throw this.fault(`a size of ${header.size} bytes`, 'unsupported');
    return header.size;
  }

  /** The extension blocks of an old GNU sparse map lie between header and body and belong to no size. */
  #startOldSparse(block: Buffer, header: TarHeader, end: number): void {
    if (header.dialect !== 'gnu') throw this.fault('a sparse file of an unknown kind', 'unsupported');
    const { fragments, size, more } = parseOldSparse(block, this.#integrity);
    this.#sparse = { fragments, size, mapBytes: SECTOR, map: undefined };
    if (more) this.#state = 'sparse-extension';
    else this.#emit(header, end, this.#storedSize(header));
  }

  #onSparseExtension(block: Buffer, end: number): void {
    const header = this.#header;
    if (header === undefined) throw new CofaError('internal', 'sparse extension without a header');
    this.#countMap();
    const more = parseSparseExtension(block, this.#sparse.fragments, this.#integrity);
    if (!more) this.#emit(header, end, this.#storedSize(header));
  }

  #countMap(): void {
    this.#sparse.mapBytes += SECTOR;
    if (this.#sparse.mapBytes > MAX_META_BYTES) {
      throw this.fault(`a sparse map of more than ${MAX_META_BYTES} bytes`);
    }
  }

  #startMember(header: TarHeader, end: number): void {
    const stored = this.#storedSize(header);
    const version = this.#sparseVersion();
    if (version === undefined) {
      this.#emit(header, end, stored);
      return;
    }
    if (BODILESS.has(header.typeflag)) throw this.fault('a sparse member that is no file');
    header.name = this.#text('GNU.sparse.name') ?? header.name;
    this.#name = header.name;
    const sizeKey = this.#record('GNU.sparse.size') === undefined ? 'GNU.sparse.realsize' : 'GNU.sparse.size';
    const size = this.#record(sizeKey);
    this.#sparse.size = size === undefined ? stored : this.#integer(sizeKey, size);
    if (version === '1.0') {
      this.#sparse.map = new SparseMapText();
      this.#state = 'sparse-map';
      this.#expectBody(stored);
      return;
    }
    this.#sparse.fragments = this.#listedFragments();
    this.#emit(header, end, stored);
  }

  /**
   * GNU sparse 0.0 and 0.1 come without a version from older writers: then the list tells. An unknown version makes an
   * ordinary file of the stored bytes.
   */
  #sparseVersion(): '0.x' | '1.0' | undefined {
    const major = this.#record('GNU.sparse.major')?.toString('latin1') ?? '';
    const minor = this.#record('GNU.sparse.minor')?.toString('latin1') ?? '';
    if (major === '0' && (minor === '0' || minor === '1')) return '0.x';
    if (major === '1' && minor === '0') return '1.0';
    if (major !== '' || minor !== '') return undefined;
    return this.#record('GNU.sparse.map') === undefined ? undefined : '0.x';
  }

  /** The map of 0.0 and 0.1: `offset,length,…` in one record, its length in another. */
  #listedFragments(): Fragment[] {
    const count = this.#integer(
      'GNU.sparse.numblocks',
      this.#pax?.values.get('GNU.sparse.numblocks') ?? EMPTY,
    );
    const list = this.#record('GNU.sparse.map')?.toString('latin1');
    const numbers = list === undefined ? [] : list.split(',');
    if (count < 0 || numbers.length !== 2 * count) throw this.fault('the sparse map has a wrong length');
    const fragments: Fragment[] = [];
    for (let i = 0; i < numbers.length; i += 2) {
      fragments.push(this.#fragment(numbers[i] ?? '', numbers[i + 1] ?? ''));
    }
    return fragments;
  }

  #fragment(offset: string, length: string): Fragment {
    const fragment = { offset: parseInteger(offset), length: parseInteger(length) };
    if (Number.isNaN(fragment.offset) || Number.isNaN(fragment.length)) {
      throw this.fault('the sparse map holds something that is not a number');
    }
    return fragment;
  }

  /** The map of 1.0 stands before the data, padded to whole blocks: a count, then offsets and lengths. */
  #onSparseMap(block: Buffer, end: number): void {
    const { map } = this.#sparse;
    const header = this.#header;
    if (map === undefined || header === undefined) throw new CofaError('internal', 'no sparse map expected');
    this.#countMap();
    if (this.#bodyLeft < SECTOR) throw this.fault('the sparse map leads beyond the end of its member');
    this.#bodyLeft -= SECTOR;
    map.add(block);
    const count = map.count;
    if (count === undefined) return;
    if (!(count >= 0 && count <= MAX_META_BYTES)) throw this.fault('the sparse map has a wrong length');
    if (map.lines < 1 + 2 * count) return;
    const numbers = map.numbers();
    for (let i = 0; i < 2 * count; i += 2) {
      this.#sparse.fragments.push(this.#fragment(numbers[i] ?? '', numbers[i + 1] ?? ''));
    }
    this.#emit(header, end, this.#bodyLeft);
  }

  #emit(header: TarHeader, dataOffset: number, stored: number): void {
    const sparse = header.typeflag === GNU_SPARSE || this.#sparseVersion() !== undefined;
    const size = sparse ? this.#sparse.size : stored;
    const fragments = sparse
      ? checkFragments(this.#sparse.fragments, size, stored, this.#integrity)
      : undefined;
    const member: TarMember = {
      type: TYPES.get(header.typeflag) ?? 'other',
      typeflag: header.typeflag,
      name: header.name,
      link: header.link,
      mode: header.mode,
      uid: header.uid,
      gid: header.gid,
      mtime: this.#mtime(header),
      major: header.major,
      minor: header.minor,
      xattrs: this.#xattrs(),
      size,
      dataOffset,
      fragments,
    };
    this.#forgetRecords();
    this.#header = undefined;
    this.#sparse = noSparse();
    this.#expectBody(stored);
    this.#state = stored > 0 ? 'body' : 'header';
    this.#captures = this.#onMember(member);
    this.#nextCapture = 0;
  }

  #mtime(header: TarHeader): Mtime {
    // Read only to be checked, as Go's reader does.
    this.#time('atime');
    this.#time('ctime');
    return this.#time('mtime') ?? { sec: header.mtime, nsec: 0 };
  }

  #time(key: string): Mtime | undefined {
    const record = this.#record(key);
    if (record === undefined) return undefined;
    const time = parseTime(record.toString('latin1'));
    if (time === undefined) throw this.fault(`the extended header's ${key} is not a time`);
    return time;
  }

  #xattrs(): Map<string, Buffer> {
    if (this.#pax === undefined) return NO_XATTRS;
    const { xattrs, libarchiveXattrs } = this.#pax;
    if (libarchiveXattrs.size === 0) return xattrs;
    return new Map([...libarchiveXattrs, ...xattrs]);
  }

  #expectBody(bytes: number): void {
    this.#bodyLeft = bytes;
    this.#paddingLeft = (SECTOR - (bytes % SECTOR)) % SECTOR;
  }
}

/** A name as an error shows it: readable, bounded, on one line. */
export function quoted(name: Buffer | string): string {
  const shown = typeof name === 'string' ? name : name.toString('utf8', 0, 200);
  return JSON.stringify(shown.length > 120 ? `${shown.slice(0, 120)}…` : shown);
}

function noSparse(): {
  fragments: Fragment[];
  size: number;
  mapBytes: number;
  map: SparseMapText | undefined;
} {
  return { fragments: [], size: 0, mapBytes: 0, map: undefined };
}

const EMPTY: Buffer = Buffer.alloc(0);
const NO_XATTRS = new Map<string, Buffer>();

const REGULAR = 0x30;
const DIRECTORY = 0x35;
const CONTIGUOUS = 0x37;
const GNU_SPARSE = 0x53;
const X_HEADER = 0x78;
const GLOBAL_HEADER = 0x67;
const LONG_NAME = 0x4c;
const LONG_LINK = 0x4b;
const SLASH = 0x2f;

const TYPES = new Map<number, MemberType>([
  [REGULAR, 'file'],
  [CONTIGUOUS, 'file'],
  [GNU_SPARSE, 'file'],
  [0x31, 'hardlink'],
  [0x32, 'symlink'],
  [0x33, 'char'],
  [0x34, 'block'],
  [DIRECTORY, 'dir'],
  [0x36, 'fifo'],
]);
const BODILESS = new Set([0x31, 0x32, 0x33, 0x34, 0x35, 0x36]);

/** Pax records that replace a number of the header. */
const NUMBERS = [
  ['size', 'size'],
  ['uid', 'uid'],
  ['gid', 'gid'],
  ['SCHILY.devmajor', 'major'],
  ['SCHILY.devminor', 'minor'],
] as const;
