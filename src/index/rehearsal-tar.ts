/**
 * The tars that an indexer rehearses with (src/indexer/rehearse.ts): small, and with every kind of member that layers
 * commonly hold. V8 compiles for the kinds that it has met and compiles again when a new one comes; for a kind that is
 * missing here that happens while an image streams.
 */
import { randomBytes } from 'node:crypto';

/** Enough for a few spans, and for the loops over windows and headers. */
const FILES = 800;
const FILE_BYTES = 4_096;
const FOLDERS = 20;
const SECTOR = 512;
const TIME = 1_700_000_000;
/** Names that are nearly special, by file. */
const DOTS: Readonly<Record<number, string>> = { 7: '.', 15: '..', 23: '.wh' };

/** Two layers, the lower one first; the upper one replaces and removes some files. */
export function rehearsalTars(): [lower: Buffer, upper: Buffer] {
  return [tarOf('lower'), tarOf('upper')];
}

/** A tar (POSIX.1-2017 pax and GNU) whose files are half noise and half text. */
function tarOf(layer: 'lower' | 'upper'): Buffer {
  const members: Buffer[] = [...withTimes({ name: './', type: '5', mode: 0o755 })];
  for (let folder = 0; folder < FOLDERS; folder++)
    members.push(...withTimes({ name: `./folder-${folder}/`, type: '5', mode: 0o755 }));
  const text = Buffer.alloc(FILE_BYTES / 2, 'a line of text, again and again, with a number or two: ');
  for (let file = 0; file < FILES; file++) {
    // Half of the files are in both layers.
    const folder = `folder-${file % FOLDERS}`;
    const path = `./${folder}/${DOTS[file % 32] ?? ''}${file % 2 === 0 ? layer : 'both'}-${file}.txt`;
    // Most files end within a sector.
    const half = randomBytes(FILE_BYTES / 2 - ((file * 37) % 1_500));
    const data = file % 16 === 1 ? Buffer.alloc(0) : Buffer.concat([half, text]);
    members.push(...fileAt(path, file, data));
    if (file % 8 === 3)
      members.push(...withTimes({ name: `./${folder}/link-${file}`, type: '2', link: path }));
    if (file % 8 === 5) members.push(member({ name: `./${folder}/hard-${file}`, type: '1', link: path }));
    if (layer === 'upper' && file % 16 === 6) members.push(member({ name: `./${folder}/.wh.lower-${file}` }));
  }
  if (layer === 'upper') members.push(member({ name: './folder-0/.wh..wh..opq' }));
  return Buffer.concat([...members, Buffer.alloc(2 * SECTOR)]);
}

/** The ways in which writers of layers express what a header has no room for. */
function fileAt(path: string, file: number, data: Buffer): Buffer[] {
  switch (file % 8) {
    case 0:
      return withTimes({ name: path, data, mode: 0o755 });
    case 2:
      return pax({ name: path, data }, { 'SCHILY.xattr.user.note': 'a value', mtime: `${timeOf(file)}` });
    case 4: {
      const name = `./${'long/'.repeat(20)}${path.slice(2)}`;
      return pax({ name: name.slice(0, 99), data }, { path: name });
    }
    case 6: {
      const name = `./${'longer/'.repeat(20)}${path.slice(2)}`;
      return [
        member({ name: '././@LongLink', type: 'L', data: Buffer.from(`${name}\0`), gnu: true }),
        member({ name: name.slice(0, 99), data, gnu: true }),
      ];
    }
    default:
      return [member({ name: path, data, gnu: file % 3 === 0, owner: file % 5, time: timeOf(file) })];
  }
}

interface Member {
  name: string;
  /** File by default. */
  type?: string;
  mode?: number;
  link?: string;
  data?: Buffer;
  gnu?: boolean;
  owner?: number;
  /** s since 1970 */
  time?: number;
}

/** Now later, now earlier than that of the file before. */
const timeOf = (file: number) => TIME + ((file * 7_919) % 4_001);

function withTimes(of: Member): Buffer[] {
  const time = `${TIME}.123456789`;
  return pax(of, { mtime: time, atime: time, ctime: time });
}

function pax(of: Member, records: Record<string, string>): Buffer[] {
  const data = Buffer.concat(Object.entries(records).map(([key, value]) => record(` ${key}=${value}\n`)));
  return [member({ name: `./PaxHeaders/${of.name.slice(2, 80)}`, type: 'x', data }), member(of)];
}

/** A pax record: its own length, including the digits, stands in front. */
function record(rest: string): Buffer {
  let length = rest.length + 1;
  while (`${length}${rest}`.length !== length) length += 1;
  return Buffer.from(`${length}${rest}`);
}

function member(of: Member): Buffer {
  const { name, type = '0', mode = 0o644, link = '', data, gnu, owner = 0, time = TIME } = of;
  const size = data?.length ?? 0;
  const bytes = Buffer.alloc(SECTOR * (1 + Math.ceil(size / SECTOR)));
  bytes.write(name, 0, 100);
  bytes.write([mode, owner, owner].map((value) => octal(value, 7)).join(''), 100);
  bytes.write(`${octal(size, 11)}${octal(time, 11)}        ${type}`, 124);
  bytes.write(link, 157, 100);
  bytes.write(gnu === true ? 'ustar  \0' : 'ustar\x0000', 257);
  const sum = bytes.subarray(0, SECTOR).reduce((all, byte) => all + byte, 0);
  bytes.write(`${octal(sum, 6)} `, 148);
  data?.copy(bytes, SECTOR);
  return bytes;
}

const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, '0')}\0`;
