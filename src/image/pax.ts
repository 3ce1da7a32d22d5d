/**
 * Records of a pax extended header: `LENGTH KEY=VALUE\n`, LENGTH in decimal and counting itself (POSIX.1-2017
 * pax, "pax Header Block"). The length rules, not the newline: values may hold any byte.
 */
import type { Mtime } from './toc.ts';
import type { Fault } from './tar-header.ts';

/** What the records of one header say about the member that follows; raw values, read when they are needed. */
export interface PaxRecords {
  /** By key; the last of several wins. Only keys that `KNOWN` names. An empty value means: as in the header. */
  values: Map<string, Buffer>;
  /** From SCHILY.xattr.NAME, the key as latin1 (bytes as they are). */
  xattrs: Map<string, Buffer>;
  /** From LIBARCHIVE.xattr.NAME, decoded. */
  libarchiveXattrs: Map<string, Buffer>;
}

/** Parses the body of an 'x' or 'g' member. Values are views into `body`: copy what you keep. */
export function parsePax(body: Buffer, fault: Fault): PaxRecords {
  const records: PaxRecords = { values: new Map(), xattrs: new Map(), libarchiveXattrs: new Map() };
  // GNU sparse 0.0 repeats two keys for every fragment; they become the one list that 0.1 has.
  const map: string[] = [];
  let at = 0;
  while (at < body.length) {
    const space = body.indexOf(0x20, at);
    const length =
      space < 0 || space - at > 20 ? Number.NaN : parseInteger(body.toString('latin1', at, space));
    const end = at + length;
    if (!(length >= 5) || end > body.length || end - 1 <= space || body[end - 1] !== 0x0a) {
      throw fault('an extended header has a record of wrong length');
    }
    const equals = body.indexOf(0x3d, space + 1);
    if (equals < 0 || equals >= end - 1) throw fault('an extended header has a record without "="');
    const key = body.toString('latin1', space + 1, equals);
    const value = body.subarray(equals + 1, end - 1);
    if (key.includes('\0') || (NO_NUL.has(key) && value.includes(0))) {
      throw fault('an extended header has a NUL in a name');
    }
    keep(records, map, key, value, fault);
    at = end;
  }
  if (map.length > 0) records.values.set('GNU.sparse.map', Buffer.from(map.join(','), 'latin1'));
  return records;
}

/** Decimal with an optional sign; NaN for anything else and beyond 64 bits. Beyond 2^53 only near to it. */
export function parseInteger(digits: string): number {
  if (!/^[+-]?[0-9]{1,1000}$/.test(digits)) return Number.NaN;
  if (digits.length <= 15) return Number(digits);
  const value = BigInt(digits.startsWith('+') ? digits.slice(1) : digits);
  return BigInt.asIntN(64, value) === value ? Number(value) : Number.NaN;
}

/** `SECONDS[.FRACTION]` to the nanosecond (further digits are cut off); undefined for anything else. */
export function parseTime(value: string): Mtime | undefined {
  const dot = value.indexOf('.');
  const sec = parseInteger(dot < 0 ? value : value.slice(0, dot));
  const fraction = dot < 0 ? '' : value.slice(dot + 1);
  if (Number.isNaN(sec) || !/^[0-9]*$/.test(fraction)) return undefined;
  const nsec = Number(fraction.slice(0, 9).padEnd(9, '0'));
  if (nsec === 0 || !value.startsWith('-')) return { sec: sec + 0, nsec };
  return { sec: sec - 1, nsec: 1e9 - nsec };
}

const KNOWN = new Set([
  'path',
  'linkpath',
  'size',
  'uid',
  'gid',
  'mtime',
  'atime',
  'ctime',
  'SCHILY.devmajor',
  'SCHILY.devminor',
  'GNU.sparse.major',
  'GNU.sparse.minor',
  'GNU.sparse.name',
  'GNU.sparse.size',
  'GNU.sparse.realsize',
  'GNU.sparse.numblocks',
  'GNU.sparse.map',
]);
const NO_NUL = new Set(['path', 'linkpath', 'uname', 'gname', 'GNU.sparse.name']);
const SCHILY = 'SCHILY.xattr.';
const LIBARCHIVE = 'LIBARCHIVE.xattr.';

function keep(records: PaxRecords, map: string[], key: string, value: Buffer, fault: Fault): void {
  if (KNOWN.has(key)) {
    records.values.set(key, value);
  } else if (key.startsWith(SCHILY)) {
    records.xattrs.set(key.slice(SCHILY.length), value);
  } else if (key.startsWith(LIBARCHIVE)) {
    const name = percentDecoded(key.slice(LIBARCHIVE.length));
    const decoded = base64Decoded(value);
    // No runtime knows these records, so a damaged one is no reason to refuse the layer.
    if (name !== undefined && decoded !== undefined) records.libarchiveXattrs.set(name, decoded);
  } else if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') {
    const expected = map.length % 2 === 0 ? 'GNU.sparse.offset' : 'GNU.sparse.numbytes';
    if (key !== expected || value.includes(0x2c)) throw fault('the sparse map is out of order');
    map.push(value.toString('latin1'));
  }
}

function percentDecoded(name: string): string | undefined {
  if (/%(?![0-9a-fA-F]{2})/.test(name)) return undefined;
  const decoded = name.replace(/%(..)/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  return decoded.includes('\0') ? undefined : decoded;
}

function base64Decoded(value: Buffer): Buffer | undefined {
  const encoded = value.toString('latin1');
  return /^[A-Za-z0-9+/]*={0,2}$/.test(encoded) ? Buffer.from(encoded, 'base64') : undefined;
}
