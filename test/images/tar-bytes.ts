/**
 * Writes tars byte by byte, so that tests decide about every field: three header dialects, numbers in octal or
 * base-256, long names in any of the four ways, PAX records with raw bytes, and the four sparse formats.
 * It checks nothing; what it is told to write, it writes.
 * Formats: POSIX pax(1) "ustar Interchange Format" and "pax Interchange Format"; GNU tar manual, "Standard" and
 * "Sparse Formats" (old GNU, PAX 0.0, 0.1, 1.0); libarchive's tar(5).
 */

export interface Member {
  name: string | Buffer;
  /** Type byte, `'0'` by default; `'\0'` writes the v7 regular file. */
  type?: string;
  /** Permission bits, 0644 by default. */
  mode?: number;
  uid?: number;
  gid?: number;
  /** Seconds; fractions need a PAX record `mtime`. */
  mtime?: number;
  /** What the size field says; the length of `data` by default. */
  size?: number;
  link?: string | Buffer;
  major?: number;
  minor?: number;
  uname?: string;
  /** Header dialect; ustar by default. */
  dialect?: 'ustar' | 'gnu' | 'v7';
  /** How numbers are written that octal digits could hold as well. */
  numbers?: 'octal' | 'base256';
  /** How names beyond 100 bytes are written; `pax` by default. */
  longNames?: 'pax' | 'gnu' | 'prefix';
  /** Further PAX records, in this order. */
  pax?: Array<readonly [key: string, value: string | Buffer]>;
  data?: Buffer;
  /** Bytes that replace some of the header's, written before the checksum: what no other field can say. */
  patch?: Array<readonly [offset: number, bytes: Buffer]>;
}

export interface Fragment {
  offset: number;
  bytes: Buffer;
}

const SECTOR = 512;

export class TarBytes {
  readonly #parts: Buffer[] = [];

  /** One member with all headers it needs, its data and padding. */
  add(member: Member): this {
    const name = toBytes(member.name);
    const link = toBytes(member.link ?? '');
    const pax = [...(member.pax ?? [])];
    const longNames = member.longNames ?? 'pax';
    const data = member.data ?? Buffer.alloc(0);
    if (name.length > 100 && longNames === 'pax') pax.unshift(['path', name]);
    if (link.length > 100 && longNames === 'pax') pax.unshift(['linkpath', link]);
    if (longNames === 'gnu') {
      if (link.length > 100) this.add(gnuLongName('K', link));
      if (name.length > 100) this.add(gnuLongName('L', name));
    }
    if (pax.length > 0) {
      const records = Buffer.concat(pax.map(([key, value]) => paxRecord(key, value)));
      this.#parts.push(header({ name: 'PaxHeaders/x', type: 'x', size: records.length }), pad(records));
    }
    this.#parts.push(header({ ...member, name, link, size: member.size ?? data.length }), pad(data));
    return this;
  }

  dir(name: string | Buffer, options: Partial<Member> = {}): this {
    return this.add({ type: '5', mode: 0o755, ...options, name });
  }

  file(name: string | Buffer, data: string | Buffer, options: Partial<Member> = {}): this {
    return this.add({ ...options, name, data: toBytes(data) });
  }

  symlink(name: string | Buffer, link: string | Buffer, options: Partial<Member> = {}): this {
    return this.add({ type: '2', mode: 0o777, ...options, name, link });
  }

  hardlink(name: string | Buffer, link: string | Buffer, options: Partial<Member> = {}): this {
    return this.add({ type: '1', ...options, name, link });
  }

  /** A global PAX header. */
  global(records: Array<readonly [string, string]>): this {
    const bytes = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)));
    this.#parts.push(header({ name: 'pax_global_header', type: 'g', size: bytes.length }), pad(bytes));
    return this;
  }

  /** A sparse file; fragments in order, `size` is what it measures with its holes. */
  sparse(
    name: string | Buffer,
    size: number,
    fragments: Fragment[],
    format: 'old' | '0.0' | '0.1' | '1.0',
    options: Partial<Member> = {},
  ): this {
    const stored = Buffer.concat(fragments.map(({ bytes }) => bytes));
    // Every map ends with an empty fragment at the file's end, as GNU tar writes it.
    const map = [
      ...fragments.map(({ offset, bytes }) => [offset, bytes.length] as const),
      [size, 0] as const,
    ];
    const base = { ...options, name, pax: [...(options.pax ?? [])] };
    if (format === 'old') return this.#oldSparse(base, size, map, stored);
    const path = toBytes(name);
    const hidden = Buffer.concat([Buffer.from('GNUSparseFile.0/'), path]);
    if (format === '0.0') {
      base.pax.push(['GNU.sparse.size', String(size)], ['GNU.sparse.numblocks', String(map.length)]);
      for (const [offset, length] of map)
        base.pax.push(['GNU.sparse.offset', String(offset)], ['GNU.sparse.numbytes', String(length)]);
      return this.add({ ...base, data: stored });
    }
    if (format === '0.1') {
      base.pax.push(
        ['GNU.sparse.size', String(size)],
        ['GNU.sparse.numblocks', String(map.length)],
        ['GNU.sparse.name', path],
        ['GNU.sparse.map', map.flat().join(',')],
      );
      return this.add({ ...base, name: hidden, data: stored });
    }
    base.pax.push(
      ['GNU.sparse.major', '1'],
      ['GNU.sparse.minor', '0'],
      ['GNU.sparse.name', path],
      ['GNU.sparse.realsize', String(size)],
    );
    const text = pad(Buffer.from([map.length, ...map.flat()].map((number) => `${number}\n`).join('')));
    return this.add({ ...base, name: hidden, data: Buffer.concat([text, stored]) });
  }

  /** Bytes as they are. */
  raw(bytes: Buffer): this {
    this.#parts.push(bytes);
    return this;
  }

  /** The archive; two zero blocks at the end unless `end` says otherwise. */
  bytes(end: Buffer = Buffer.alloc(2 * SECTOR)): Buffer {
    return Buffer.concat([...this.#parts, end]);
  }

  #oldSparse(
    member: Member,
    size: number,
    map: ReadonlyArray<readonly [number, number]>,
    stored: Buffer,
  ): this {
    const pair = ([offset, length]: readonly [number, number]) =>
      Buffer.concat([number(offset, 12, 'octal'), number(length, 12, 'octal')]);
    const patch: Array<readonly [number, Buffer]> = map
      .slice(0, 4)
      .map((entry, index) => [386 + 24 * index, pair(entry)] as const);
    patch.push([482, Buffer.from([map.length > 4 ? 1 : 0])], [483, number(size, 12, 'octal')]);
    this.add({ ...member, type: 'S', dialect: 'gnu', size: stored.length, patch });
    for (let at = 4; at < map.length; at += 21) {
      const block = Buffer.alloc(SECTOR);
      map.slice(at, at + 21).forEach((entry, index) => pair(entry).copy(block, 24 * index));
      block[504] = map.length > at + 21 ? 1 : 0;
      this.raw(block);
    }
    return this.raw(pad(stored));
  }
}

/** `LENGTH KEY=VALUE\n`, where LENGTH counts itself. */
export function paxRecord(key: string, value: string | Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), toBytes(value), Buffer.from('\n')]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function gnuLongName(type: 'K' | 'L', name: Buffer): Member {
  return { name: '././@LongLink', type, dialect: 'gnu', data: Buffer.concat([name, Buffer.alloc(1)]) };
}

function header(member: Member): Buffer {
  const block = Buffer.alloc(SECTOR);
  const numbers = member.numbers ?? 'octal';
  const name = toBytes(member.name);
  if (member.longNames === 'prefix' && name.length > 100) {
    const cut = name.lastIndexOf(0x2f, 155);
    name.copy(block, 345, 0, cut);
    name.copy(block, 0, cut + 1, cut + 101);
  } else {
    name.copy(block, 0, 0, 100);
  }
  number(member.mode ?? 0o644, 8, 'octal').copy(block, 100);
  number(member.uid ?? 0, 8, numbers).copy(block, 108);
  number(member.gid ?? 0, 8, numbers).copy(block, 116);
  number(member.size ?? 0, 12, numbers).copy(block, 124);
  number(member.mtime ?? 1_600_000_000, 12, numbers).copy(block, 136);
  block.write(member.type ?? '0', 156, 'latin1');
  toBytes(member.link ?? '').copy(block, 157, 0, 100);
  const dialect = member.dialect ?? (member.longNames === 'gnu' || numbers === 'base256' ? 'gnu' : 'ustar');
  if (dialect !== 'v7') {
    block.write(dialect === 'gnu' ? 'ustar  \0' : 'ustar\x0000', 257, 'latin1');
    block.write(member.uname ?? 'root', 265, 'latin1');
    block.write('root', 297, 'latin1');
    number(member.major ?? 0, 8, numbers).copy(block, 329);
    number(member.minor ?? 0, 8, numbers).copy(block, 337);
  }
  for (const [offset, bytes] of member.patch ?? []) bytes.copy(block, offset);
  block.fill(0x20, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

/** Octal digits where they suffice, else (or where asked for) base-256 with the top bit set, two's complement. */
function number(value: number, width: number, style: 'octal' | 'base256'): Buffer {
  const digits = value >= 0 ? value.toString(8) : '';
  if (style === 'octal' && digits !== '' && digits.length < width)
    return Buffer.from(`${digits.padStart(width - 1, '0')}\0`);
  const bytes = Buffer.alloc(width, value < 0 ? 0xff : 0);
  let rest = BigInt(value);
  for (let i = width - 1; i > 0; i--) {
    bytes[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  bytes[0] = value < 0 ? 0xff : 0x80;
  return bytes;
}

function pad(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((SECTOR - (bytes.length % SECTOR)) % SECTOR)]);
}

function toBytes(value: string | Buffer): Buffer {
  return typeof value === 'string' ? Buffer.from(value) : value;
}
