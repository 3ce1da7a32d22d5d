/**
 * What an ELF file says of the files that it needs: its interpreter and the libraries that it was linked with. Strict about
 * what it reads, and silent about the rest: a file that is none, or is damaged, needs nothing.
 *
 * Source: elf(5), System V gABI chapter 5.
 */
import type { FoundFile, HintSearch } from './image-files.ts';

export interface Elf {
  /** Class, byte order and machine: libraries of another kind are passed over by the loader. */
  kind: string;
  interpreter: string | undefined;
  /** Names of libraries, in order. */
  needed: string[];
  rpath: string | undefined;
  runpath: string | undefined;
  /** What of the file is mapped, in order. */
  segments: Array<{ offset: number; size: number; isWritable: boolean; isCode: boolean }>;
}

const HEADER = 64;
const MOST_SEGMENTS = 128;
const MOST_DYNAMIC = 65_536;
const MOST_NEEDED = 512;
const MOST_STRING = 1_024;
const MOST_INTERPRETER = 4_096;

const PT = { load: 1, dynamic: 2, interpreter: 3 } as const;
const FLAG = { code: 1, write: 2 } as const;
const DT = { null: 0, needed: 1, strings: 5, rpath: 15, runpath: 29 } as const;

interface Segment {
  type: number;
  flags: number;
  offset: number;
  address: number;
  size: number;
}

/** Undefined: it is no ELF file that could be loaded. Throws what `search.read` throws. */
export async function readElf(search: HintSearch, file: FoundFile): Promise<Elf | undefined> {
  const header = await search.read(file, 0, HEADER);
  if (header.length < 52 || header.readUInt32BE(0) !== 0x7f454c46) return undefined;
  const isWide = header[4] === 2;
  const isLittle = header[5] === 1;
  if ((header[4] !== 1 && !isWide) || (header[5] !== 2 && !isLittle)) return undefined;
  if (isWide && header.length < HEADER) return undefined;
  const view = (bytes: Buffer) => new Fields(bytes, isLittle, isWide);
  const fields = view(header);
  const type = fields.half(16);
  if (type !== 2 && type !== 3) return undefined;
  const at = fields.word(isWide ? 32 : 28);
  const size = fields.half(isWide ? 54 : 42);
  const count = fields.half(isWide ? 56 : 44);
  if (size < (isWide ? 56 : 32) || size > 256 || count === 0 || count > MOST_SEGMENTS) return undefined;
  const table = view(await search.read(file, at, size * count));
  const segments: Segment[] = [];
  for (let entry = 0; entry + size <= table.length; entry += size) {
    const [flags, offset, address, bytes] = isWide ? [4, 8, 16, 32] : [24, 4, 8, 16];
    segments.push({
      type: table.full(entry),
      flags: table.full(entry + flags),
      offset: table.word(entry + offset),
      address: table.word(entry + address),
      size: table.word(entry + bytes),
    });
  }
  const loads = segments.filter((segment) => segment.type === PT.load);
  const named = segments.find((segment) => segment.type === PT.interpreter);
  const found: Elf = {
    kind: `${header[4]}/${header[5]}/${fields.half(18)}`,
    interpreter:
      named === undefined
        ? undefined
        : endAtNul(await search.read(file, named.offset, Math.min(named.size, MOST_INTERPRETER))),
    needed: [],
    rpath: undefined,
    runpath: undefined,
    segments: loads.map(({ offset, size: length, flags }) => ({
      offset,
      size: length,
      isWritable: (flags & FLAG.write) !== 0,
      isCode: (flags & FLAG.code) !== 0,
    })),
  };
  const dynamic = segments.find((segment) => segment.type === PT.dynamic);
  if (dynamic === undefined) return found;
  const entries = view(await search.read(file, dynamic.offset, Math.min(dynamic.size, MOST_DYNAMIC)));
  const step = isWide ? 16 : 8;
  const needed: number[] = [];
  const strings = new Map<number, number>();
  for (let entry = 0; entry + step <= entries.length; entry += step) {
    const tag = entries.word(entry);
    const value = entries.word(entry + step / 2);
    if (tag === DT.null) break;
    if (tag === DT.needed && needed.length < MOST_NEEDED) needed.push(value);
    else strings.set(tag, value);
  }
  const base = strings.get(DT.strings);
  const home = loads.find(
    ({ address, size: length }) => base !== undefined && base >= address && base < address + length,
  );
  if (base === undefined || home === undefined) return found;
  const stringAt = async (offset: number) =>
    endAtNul(await search.read(file, home.offset + base - home.address + offset, MOST_STRING));
  for (const offset of needed) {
    const name = await stringAt(offset);
    if (name !== '') found.needed.push(name);
  }
  const [rpath, runpath] = [strings.get(DT.rpath), strings.get(DT.runpath)];
  if (rpath !== undefined) found.rpath = await stringAt(rpath);
  if (runpath !== undefined) found.runpath = await stringAt(runpath);
  return found;
}

/** Text up to the first NUL. */
function endAtNul(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString('latin1', 0, end < 0 ? bytes.length : end);
}

/** Numbers of a file's byte order and width. What lies behind the end is 0. */
class Fields {
  readonly #bytes: Buffer;
  readonly #isLittle: boolean;
  readonly #isWide: boolean;

  constructor(bytes: Buffer, isLittle: boolean, isWide: boolean) {
    this.#bytes = bytes;
    this.#isLittle = isLittle;
    this.#isWide = isWide;
  }

  get length(): number {
    return this.#bytes.length;
  }

  half(at: number): number {
    if (at + 2 > this.length) return 0;
    return this.#isLittle ? this.#bytes.readUInt16LE(at) : this.#bytes.readUInt16BE(at);
  }

  full(at: number): number {
    if (at + 4 > this.length) return 0;
    return this.#isLittle ? this.#bytes.readUInt32LE(at) : this.#bytes.readUInt32BE(at);
  }

  /** As wide as an address. Beyond 2^53 it is not exact, and leads nowhere. */
  word(at: number): number {
    if (!this.#isWide) return this.full(at);
    const [low, high] = this.#isLittle ? [at, at + 4] : [at + 4, at];
    return this.full(high) * 2 ** 32 + this.full(low);
  }
}
