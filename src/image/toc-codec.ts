/**
 * The bytes of a table of contents, version 1.
 *
 *   "cofa-toc", version, number of entries, then the sections below, each with its length in front
 *
 * Numbers are LEB128 (bytes.ts). The sections are columns: like stands beside like, so that zstd, which the sidecar
 * applies, finds long repetitions. An entry takes each of its values from the next place of the column for its kind:
 *
 *   kinds    one byte: the type, or SPARSE for a file that is not one extent from its first byte to its last
 *   prefix   bytes that the path shares with the path before (as many as it can)
 *   suffix   length of the rest; the rest itself in `names`
 *   owner    1 + index of an earlier (mode, uid, gid), or 0: the next of `owners`
 *   time     likewise into `times`: seconds as difference to the time before in that column, nanoseconds
 *   size     files: bytes
 *   gap      for each extent: 512-byte sectors between the place where the data would be if only one header
 *            block stood in front of each entry since the extent before, and where it is
 *   target   symlink: length; hard link: bytes shared with the path, length of the rest; bytes in `targets`
 *   device   char, block: major, minor
 *   xattr    1 + index of an earlier set of extended attributes, or 0: the next of `xattrs`; a set is a count,
 *            then for each the length of its name, of its value, and both
 *   sparse   SPARSE: extents (count; for each the hole in front in sectors, its length), patches (likewise,
 *            with their bytes)
 *
 * Whiteouts and opaque markers have neither owner, time nor xattr.
 *
 * Each table has one encoding, and the decoder takes no other: `encodeToc` writes again, byte for byte, what the
 * decoder accepts. The decoder trusts nothing: sizes and counts are bounded (toc-limits.ts), it compares each count with
 * the bytes that are left before it loops, and it checks that TocBuilder can have made each entry.
 */
import { CofaError } from '../../schemas/errors.ts';
import { ByteReader, ByteWriter } from './bytes.ts';
import {
  entryProblem,
  keepsXattr,
  MAX_ENTRIES,
  MAX_EXTENTS,
  MAX_PATCH_BYTES,
  MAX_TEXT_BYTES,
  MAX_XATTRS,
  mostMembers,
  xattrsProblem,
} from './toc-limits.ts';
import type { EntryType, Extent, Mtime, Patch, Toc, TocEntry, Xattr } from './toc.ts';

const MAGIC = Buffer.from('cofa-toc');
const VERSION = 1;

/** In the order of their bytes in `kinds`; SPARSE follows. */
const TYPES: readonly EntryType[] = [
  'file',
  'dir',
  'symlink',
  'hardlink',
  'char',
  'block',
  'fifo',
  'whiteout',
  'opaque',
];
const SPARSE = TYPES.length;
const SECTOR = 512;

const SECTIONS = [
  'kinds',
  'prefix',
  'suffix',
  'names',
  'owner',
  'owners',
  'time',
  'times',
  'size',
  'gap',
  'target',
  'targets',
  'device',
  'xattr',
  'xattrs',
  'sparse',
] as const;
type Section = (typeof SECTIONS)[number];

/** The table as bytes; throws CofaError('internal') where an entry breaks a rule of TocEntry. */
export function encodeToc(toc: Toc): Buffer {
  const writer = new TocWriter();
  for (const entry of toc.entries) writer.add(entry);
  return writer.finish();
}

/** The same, entry by entry: some 20 bytes stay of each, where one of a table in memory takes 700. */
export class TocWriter {
  readonly #out = sections(() => new ByteWriter());
  readonly #encoder = new EntryWriter(this.#out);
  #count = 0;

  /** Error: CofaError('internal') where the entry breaks a rule of TocEntry. */
  add(entry: TocEntry): void {
    this.#encoder.write(entry);
    this.#count += 1;
  }

  finish(): Buffer {
    const whole = new ByteWriter();
    whole.bytes(MAGIC);
    whole.number(VERSION);
    whole.number(this.#count);
    for (const section of SECTIONS) {
      whole.number(this.#out[section].length);
      whole.bytes(this.#out[section].written());
    }
    return Buffer.from(whole.written());
  }
}

/**
 * The table that `encodeToc` wrote. Throws CofaError('integrity') for any other bytes, and for a table of a longer tar
 * than `rawSize`; CofaError('unsupported') for a table of a later version. Entries with equal extended attributes, or
 * times, share them; none of it may be changed.
 *
 * `rawSize`: bytes of the layer's tar. A caller with a table from elsewhere names it: a few hundred compressed bytes hold a
 * million entries, but a tar has 512 bytes for each.
 */
export function decodeToc(bytes: Buffer, rawSize = Number.MAX_SAFE_INTEGER): Toc {
  const whole = new ByteReader(bytes, fault);
  if (bytes.length < MAGIC.length || !whole.bytes(MAGIC.length).equals(MAGIC))
    throw fault('it has another magic');
  const version = whole.number();
  if (version !== VERSION) {
    throw new CofaError(
      'unsupported',
      `table of contents: version ${version} is unknown; this cofa reads ${VERSION}`,
    );
  }
  const count = whole.number();
  const most = Math.min(MAX_ENTRIES, mostMembers(rawSize));
  if (count > most) throw fault(`it has ${count} entries, and its layer at most ${most}`);
  const columns = sections(() => new ByteReader(whole.bytes(whole.number()), fault));
  whole.end();
  if (columns.kinds.left !== count) throw fault('its number of entries is wrong');
  const decoder = new EntryReader(columns, rawSize);
  const entries: TocEntry[] = [];
  for (let i = 0; i < count; i++) entries.push(decoder.read());
  for (const section of SECTIONS) columns[section].end();
  return { entries };
}

class EntryWriter {
  readonly #out: Record<Section, ByteWriter>;
  readonly #owners = new Map<string, number>();
  readonly #times = new Map<string, number>();
  readonly #xattrs = new Map<string, number>();
  #path = EMPTY;
  #sec = 0;
  #cursor = 0;

  constructor(out: Record<Section, ByteWriter>) {
    this.#out = out;
  }

  write(entry: TocEntry): void {
    const out = this.#out;
    const problem = entryProblem(entry) ?? xattrsProblem(entry.xattrs, entry.type);
    if (problem !== undefined) throw new CofaError('internal', `table of contents: ${problem}`);
    const kind = isSimple(entry) ? TYPES.indexOf(entry.type) : SPARSE;
    out.kinds.bytes(Uint8Array.of(kind));
    const shared = sharedPrefix(this.#path, entry.path);
    out.prefix.number(shared);
    out.suffix.number(entry.path.length - shared);
    out.names.bytes(entry.path.subarray(shared));
    this.#path = entry.path;
    this.#cursor += SECTOR;
    if (entry.type !== 'whiteout' && entry.type !== 'opaque') this.#attributes(entry);
    this.#specific(entry, kind);
  }

  #attributes({ mode, uid, gid, mtime, xattrs }: TocEntry): void {
    const { owner, owners, time, times, xattr } = this.#out;
    if (isNew(owner, this.#owners, ownerKey(mode, uid, gid))) {
      owners.number(mode);
      owners.number(uid);
      owners.number(gid);
    }
    if (isNew(time, this.#times, timeKey(mtime))) {
      times.signed(mtime.sec - this.#sec);
      times.number(mtime.nsec);
      this.#sec = mtime.sec;
    }
    if (isNew(xattr, this.#xattrs, xattrsKey(xattrs))) {
      const { xattrs: out } = this.#out;
      out.number(xattrs.length);
      for (const [name, value] of xattrs) {
        out.number(name.length);
        out.number(value.length);
        out.bytes(name);
        out.bytes(value);
      }
    }
  }

  #specific(entry: TocEntry, kind: number): void {
    const out = this.#out;
    switch (entry.type) {
      case 'file':
        out.size.number(entry.size);
        if (kind === SPARSE) this.#sparse(entry);
        for (const { deviceOffset, length } of entry.extents) {
          out.gap.signed((deviceOffset - this.#cursor) / SECTOR);
          this.#cursor = sectorEnd(deviceOffset + length);
        }
        break;
      case 'symlink':
        out.target.number(entry.link.length);
        out.targets.bytes(entry.link);
        break;
      case 'hardlink': {
        const shared = sharedPrefix(entry.path, entry.link);
        out.target.number(shared);
        out.target.number(entry.link.length - shared);
        out.targets.bytes(entry.link.subarray(shared));
        break;
      }
      case 'char':
      case 'block':
        out.device.number(entry.major);
        out.device.number(entry.minor);
        break;
      default:
    }
  }

  #sparse({ extents, patches }: TocEntry): void {
    const { sparse } = this.#out;
    let end = 0;
    sparse.number(extents.length);
    for (const { fileOffset, length } of extents) {
      sparse.number((fileOffset - end) / SECTOR);
      sparse.number(length);
      end = fileOffset + length;
    }
    end = 0;
    sparse.number(patches.length);
    for (const { fileOffset, bytes } of patches) {
      sparse.number((fileOffset - end) / SECTOR);
      sparse.number(bytes.length);
      sparse.bytes(bytes);
      end = fileOffset + bytes.length;
    }
  }
}

class EntryReader {
  readonly #in: Record<Section, ByteReader>;
  readonly #rawSize: number;
  readonly #mostExtents: number;
  readonly #owners = new Known<{ mode: number; uid: number; gid: number }>();
  readonly #times = new Known<Mtime>();
  /** A set, and whether only files and directories may have it: checked once, however many refer to it. */
  readonly #xattrs = new Known<{ set: Xattr[]; user: boolean }>();
  #path = EMPTY;
  #sec = 0;
  #cursor = 0;
  #textBytes = 0;
  #extents = 0;
  #patchBytes = 0;

  constructor(columns: Record<Section, ByteReader>, rawSize: number) {
    this.#in = columns;
    this.#rawSize = rawSize;
    this.#mostExtents = Math.min(MAX_EXTENTS, mostMembers(rawSize));
  }

  read(): TocEntry {
    const kind = this.#in.kinds.byte();
    const type = kind === SPARSE ? 'file' : TYPES[kind];
    if (type === undefined) throw fault(`it has an entry of kind ${kind}`);
    this.#path = this.#join(this.#path, this.#in.prefix, this.#in.suffix, this.#in.names);
    this.#cursor += SECTOR;
    const marker = type === 'whiteout' || type === 'opaque';
    const owner = marker ? NO_OWNER : this.#owners.read(this.#in.owner, this.#newOwner);
    const entry: TocEntry = {
      path: this.#path,
      type,
      mode: owner.mode,
      uid: owner.uid,
      gid: owner.gid,
      mtime: marker ? NO_TIME : this.#times.read(this.#in.time, this.#newTime),
      size: 0,
      link: EMPTY,
      major: 0,
      minor: 0,
      xattrs: marker ? NONE : this.#xattrsOf(type),
      extents: NONE,
      patches: NONE,
    };
    this.#specific(entry, kind);
    const problem = entryProblem(entry);
    if (problem !== undefined) throw fault(`an entry has ${problem}`);
    if (kind === SPARSE && isSimple(entry)) throw fault('a plain file is written as a sparse one');
    return entry;
  }

  readonly #newOwner = (): [string, { mode: number; uid: number; gid: number }] => {
    const { owners } = this.#in;
    const owner = { mode: owners.number(), uid: owners.number(), gid: owners.number() };
    return [ownerKey(owner.mode, owner.uid, owner.gid), owner];
  };

  readonly #newTime = (): [string, Mtime] => {
    const { times } = this.#in;
    this.#sec += times.signed();
    if (!Number.isSafeInteger(this.#sec)) throw fault('a time is out of range');
    const time = { sec: this.#sec, nsec: times.number() };
    return [timeKey(time), time];
  };

  #xattrsOf(type: EntryType): Xattr[] {
    const { set, user } = this.#xattrs.read(this.#in.xattr, this.#newXattrs);
    if (user && !keepsXattr('user.any', type)) throw fault('an entry has an xattr that its type cannot have');
    return set;
  }

  readonly #newXattrs = (): [string, { set: Xattr[]; user: boolean }] => {
    const { xattrs: from } = this.#in;
    const set: Xattr[] = [];
    const count = counted(from, XATTR_MIN, MAX_XATTRS);
    for (let i = 0; i < count; i++) {
      const nameLength = from.number();
      const valueLength = from.number();
      this.#countText(nameLength + valueLength);
      set.push([Buffer.from(from.bytes(nameLength)), Buffer.from(from.bytes(valueLength))]);
    }
    const problem = xattrsProblem(set, 'file');
    if (problem !== undefined) throw fault(`it has ${problem}`);
    return [xattrsKey(set), { set, user: set.some(([name]) => name.toString('latin1').startsWith('user.')) }];
  };

  #specific(entry: TocEntry, kind: number): void {
    const columns = this.#in;
    switch (entry.type) {
      case 'file':
        entry.size = columns.size.number();
        if (kind === SPARSE) this.#sparse(entry);
        else if (entry.size > 0) entry.extents = [{ fileOffset: 0, deviceOffset: 0, length: entry.size }];
        this.#extents += entry.extents.length;
        if (this.#extents > this.#mostExtents) throw fault(`it has more than ${this.#mostExtents} extents`);
        for (const extent of entry.extents) {
          extent.deviceOffset = this.#cursor + SECTOR * columns.gap.signed();
          const end = extent.deviceOffset + extent.length;
          if (!(end <= this.#rawSize)) throw fault('an extent lies behind the end of its layer');
          this.#cursor = sectorEnd(end);
        }
        break;
      case 'symlink': {
        const length = columns.target.number();
        this.#countText(length);
        entry.link = Buffer.from(columns.targets.bytes(length));
        break;
      }
      case 'hardlink':
        entry.link = this.#join(entry.path, columns.target, columns.target, columns.targets);
        break;
      case 'char':
      case 'block':
        entry.major = columns.device.number();
        entry.minor = columns.device.number();
        break;
      default:
    }
  }

  #sparse(entry: TocEntry): void {
    const { sparse } = this.#in;
    entry.extents = this.#pieces(
      entry.size,
      this.#mostExtents,
      (fileOffset, length): Extent => ({ fileOffset, deviceOffset: 0, length }),
    );
    entry.patches = this.#pieces(entry.size, MAX_PATCH_BYTES, (fileOffset, length): Patch => {
      this.#patchBytes += length;
      if (this.#patchBytes > MAX_PATCH_BYTES)
        throw fault(`it has more than ${MAX_PATCH_BYTES} bytes of patches`);
      return { fileOffset, bytes: Buffer.from(sparse.bytes(length)) };
    });
  }

  #pieces<T>(size: number, most: number, make: (fileOffset: number, length: number) => T): T[] {
    const { sparse } = this.#in;
    // Each is a sector at least, but for the last one of the file.
    const count = counted(sparse, PIECE_MIN, Math.min(most, Math.ceil(size / SECTOR)));
    const pieces: T[] = [];
    let end = 0;
    for (let i = 0; i < count; i++) {
      const fileOffset = end + SECTOR * sparse.number();
      const length = sparse.number();
      if (length === 0) throw fault('a piece of a file is empty');
      end = fileOffset + length;
      if (end > size) throw fault('a piece of a file lies behind its end');
      pieces.push(make(fileOffset, length));
    }
    return pieces;
  }

  /** The string that shares a prefix with `before`. */
  #join(before: Buffer, prefix: ByteReader, suffix: ByteReader, text: ByteReader): Buffer {
    const shared = prefix.number();
    const rest = text.bytes(suffix.number());
    if (shared > before.length || (rest.length > 0 && rest[0] === before[shared])) {
      throw fault('a shared prefix has a wrong length');
    }
    const length = shared + rest.length;
    this.#countText(length);
    if (length === 0) return EMPTY;
    const whole = Buffer.allocUnsafe(length);
    before.copy(whole, 0, 0, shared);
    rest.copy(whole, shared);
    return whole;
  }

  #countText(bytes: number): void {
    this.#textBytes += bytes;
    if (this.#textBytes > MAX_TEXT_BYTES) throw fault(`it has more than ${MAX_TEXT_BYTES} bytes of names`);
  }
}

/** The next number, how many things follow of which each takes `least` bytes of the column or more; at most `most`. */
function counted(column: ByteReader, least: number, most: number): number {
  const count = column.number();
  if (count > most || count * least > column.left) throw fault(`it counts ${count} where fewer fit`);
  return count;
}

/** Bytes of a piece of a sparse file: its hole and its length. */
const PIECE_MIN = 2;
/** Bytes of an extended attribute: two lengths, and the shortest name. */
const XATTR_MIN = 2 + 'user.a'.length;

/** The values of a column so far; each is written out once. */
class Known<T> {
  readonly #values: T[] = [];
  readonly #keys = new Set<string>();

  read(column: ByteReader, next: () => [key: string, value: T]): T {
    const code = column.number();
    if (code > 0) {
      const value = this.#values[code - 1];
      if (value === undefined) throw fault('a reference leads nowhere');
      return value;
    }
    const [key, value] = next();
    if (this.#keys.has(key)) throw fault('a value is written twice');
    this.#keys.add(key);
    this.#values.push(value);
    return value;
  }
}

function isNew(column: ByteWriter, known: Map<string, number>, key: string): boolean {
  const code = known.get(key);
  column.number(code ?? 0);
  if (code !== undefined) return false;
  known.set(key, known.size + 1);
  return true;
}

/** Whether an entry is no file, or its bytes lie in the device in one piece. */
function isSimple({ type, size, extents, patches }: TocEntry): boolean {
  if (type !== 'file') return true;
  if (patches.length > 0) return false;
  return size === 0 ? extents.length === 0 : extents.length === 1 && extents[0]?.length === size;
}

function ownerKey(mode: number, uid: number, gid: number): string {
  return `${mode} ${uid} ${gid}`;
}

function timeKey({ sec, nsec }: Mtime): string {
  return `${sec} ${nsec}`;
}

function xattrsKey(xattrs: readonly Xattr[]): string {
  let key = '';
  for (const [name, value] of xattrs) {
    key += `${name.length} ${value.length} ${name.toString('latin1')}${value.toString('latin1')}`;
  }
  return key;
}

function sharedPrefix(a: Buffer, b: Buffer): number {
  const end = Math.min(a.length, b.length);
  let at = 0;
  while (at < end && a[at] === b[at]) at++;
  return at;
}

function sectorEnd(offset: number): number {
  const over = offset % SECTOR;
  return over === 0 ? offset : offset + SECTOR - over;
}

function sections<T>(make: (section: Section) => T): Record<Section, T> {
  const all: Partial<Record<Section, T>> = {};
  for (const section of SECTIONS) all[section] = make(section);
  return all as Record<Section, T>;
}

function fault(reason: string): CofaError {
  return new CofaError('integrity', `table of contents: ${reason}`, {
    hint: 'index the image again: cofa index',
  });
}

const EMPTY: Buffer = Buffer.alloc(0);
/** What most entries lack, once for all: a table of 50,000 would hold 100,000 empty arrays. */
const NONE: readonly never[] = Object.freeze([]);
const NO_TIME: Mtime = Object.freeze({ sec: 0, nsec: 0 });
const NO_OWNER = { mode: 0, uid: 0, gid: 0 };
