/**
 * The files that an ELF file needs: its interpreter and the libraries that it was linked with. Strict about what it
 * reads, and silent about the rest: a file that is no ELF file, or is damaged, needs nothing.
 *
 * Source: elf(5), System V gABI chapter 5.
 */
import type { FoundFile, HintSearch } from './image-files.ts';

/** Bytes [from, to) of a file. */
export type Part = readonly [from: number, to: number];

export interface Elf {
  /** Class, byte order and machine: the loader ignores libraries of another kind. */
  kind: string;
  interpreter: string | undefined;
  /** Names of libraries, in order. */
  needed: string[];
  rpath: string | undefined;
  runpath: string | undefined;
  /** The parts of the file that are mapped, in order. */
  segments: Array<{ offset: number; size: number; isWritable: boolean; isCode: boolean }>;
  /** The tables that the loader reads: symbols, their names, relocations; [from, to) in bytes, in order. */
  tables: Part[];
  /** Functions that run right after loading: their places in the file, bytes, rising. Reads some more of the file. */
  initializers(): Promise<number[]>;
  /** Where the tables begin that a thrown exception reads; they end with their segment. Bytes. */
  unwinding: number | undefined;
}

const HEADER = 64;
const MOST_SEGMENTS = 128;
const MOST_DYNAMIC = 65_536;
const MOST_NEEDED = 512;
const MOST_STRING = 1_024;
const MOST_INTERPRETER = 4_096;
const MOST_INITIALIZERS = 65_536;

const PT = { load: 1, dynamic: 2, interpreter: 3, unwinding: 0x6474e550 } as const;
const FLAG = { code: 1, write: 2 } as const;
const DT = {
  null: 0,
  needed: 1,
  strings: 5,
  relocations: 7,
  relocationsBytes: 8,
  rpath: 15,
  initializers: 25,
  initializersBytes: 27,
  runpath: 29,
  relativeCount: 0x6ffffff9,
} as const;
/** Tables by the tags of their addresses and, where there are such, of their bytes. */
const TABLES: ReadonlyArray<readonly [address: number, size?: number]> = [
  [DT.strings, 10], // DT_STRSZ
  [6], // DT_SYMTAB
  [7, 8], // DT_RELA
  [17, 18], // DT_REL
  [23, 2], // DT_JMPREL
  [36, 35], // DT_RELR
  [4], // DT_HASH
  [0x6ffffef5], // DT_GNU_HASH
  [0x6ffffff0], // DT_VERSYM
  [0x6ffffffe], // DT_VERNEED
];
/** A table of unknown size ends where the next one begins, or after so many bytes. */
const MOST_UNKNOWN_TABLE = 32 << 20;
/** Tables with smaller gaps are read as one, bytes. */
const TABLE_GAP = 64 << 10;

interface Segment {
  type: number;
  flags: number;
  offset: number;
  address: number;
  size: number;
}

/** Undefined: no ELF file that could be loaded. Throws what `search.read` throws. */
export async function readElf(search: HintSearch, file: FoundFile): Promise<Elf | undefined> {
  const head = headOf(await search.read(file, 0, HEADER));
  if (head === undefined) return undefined;
  const segments = await readSegments(search, file, head);
  const loads = segments.filter((segment) => segment.type === PT.load);
  const named = segments.find((segment) => segment.type === PT.interpreter);
  const found: Elf = {
    kind: head.kind,
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
    tables: [],
    initializers: async () => [],
    unwinding: segments.find((segment) => segment.type === PT.unwinding)?.offset,
  };
  const dynamic = segments.find((segment) => segment.type === PT.dynamic);
  if (dynamic !== undefined) await readDynamic(found, { search, file, head, loads, dynamic });
  return found;
}

/** The ELF header. */
interface Head {
  /** `Elf.kind` */
  kind: string;
  isWide: boolean;
  /** The program headers: where they begin, the size of each in bytes, and their number. */
  at: number;
  size: number;
  count: number;
  /** Numbers in this file's byte order and width. */
  view: (bytes: Buffer) => Fields;
}

function headOf(header: Buffer): Head | undefined {
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
  return { kind: `${header[4]}/${header[5]}/${fields.half(18)}`, isWide, at, size, count, view };
}

async function readSegments(
  search: HintSearch,
  file: FoundFile,
  { at, size, count, isWide, view }: Head,
): Promise<Segment[]> {
  const table = view(await search.read(file, at, size * count));
  const [flags, offset, address, bytes] = isWide ? [4, 8, 16, 32] : [24, 4, 8, 16];
  const segments: Segment[] = [];
  for (let entry = 0; entry + size <= table.length; entry += size) {
    segments.push({
      type: table.full(entry),
      flags: table.full(entry + flags),
      offset: table.word(entry + offset),
      address: table.word(entry + address),
      size: table.word(entry + bytes),
    });
  }
  return segments;
}

interface DynamicSource {
  search: HintSearch;
  file: FoundFile;
  head: Head;
  loads: readonly Segment[];
  dynamic: Segment;
}

/** Adds what the dynamic section says: tables, initializers, libraries and where to look for them. */
async function readDynamic(found: Elf, source: DynamicSource): Promise<void> {
  const { search, file, head, loads } = source;
  const { needed, values } = await dynamicEntries(source);
  found.tables = tablesOf(loads, values, file.size);
  found.initializers = async () => {
    const read = async (at: number, bytes: number) => head.view(await search.read(file, at, bytes));
    const places = await initializersOf(loads, values, { word: head.isWide ? 8 : 4, size: file.size }, read);
    return [...new Set(places)].toSorted((a, b) => a - b);
  };
  const base = offsetIn(loads, values.get(DT.strings));
  if (base === undefined) return;
  const stringAt = async (offset: number) => endAtNul(await search.read(file, base + offset, MOST_STRING));
  for (const offset of needed) {
    const name = await stringAt(offset);
    if (name !== '') found.needed.push(name);
  }
  const [rpath, runpath] = [values.get(DT.rpath), values.get(DT.runpath)];
  if (rpath !== undefined) found.rpath = await stringAt(rpath);
  if (runpath !== undefined) found.runpath = await stringAt(runpath);
}

/** `needed`: offsets of the libraries' names among the strings; `values`: all other entries, by their tags. */
async function dynamicEntries({
  search,
  file,
  head,
  dynamic,
}: DynamicSource): Promise<{ needed: number[]; values: Map<number, number> }> {
  const entries = head.view(await search.read(file, dynamic.offset, Math.min(dynamic.size, MOST_DYNAMIC)));
  const step = head.isWide ? 16 : 8;
  const needed: number[] = [];
  const values = new Map<number, number>();
  for (let entry = 0; entry + step <= entries.length; entry += step) {
    const tag = entries.word(entry);
    const value = entries.word(entry + step / 2);
    if (tag === DT.null) break;
    if (tag === DT.needed && needed.length < MOST_NEEDED) needed.push(value);
    else values.set(tag, value);
  }
  return { needed, values };
}

/** By the entries of the dynamic section; neighbouring tables are one. */
function tablesOf(loads: readonly Segment[], values: ReadonlyMap<number, number>, fileSize: number): Part[] {
  const found = TABLES.flatMap(([address, bytes]) => {
    const begin = offsetIn(loads, values.get(address));
    return begin === undefined ? [] : [{ begin, bytes: bytes === undefined ? undefined : values.get(bytes) }];
  }).toSorted((a, b) => a.begin - b.begin);
  const parts = found.map(({ begin, bytes }, at): Part => {
    const next = found[at + 1]?.begin ?? begin;
    return [begin, Math.min(begin + (bytes ?? Math.min(next - begin, MOST_UNKNOWN_TABLE)), fileSize)];
  });
  return joined(parts, TABLE_GAP);
}

/** Parts of a file in the order of their beginnings; joins those that overlap or are at most `gap` bytes apart. */
export function joined(parts: readonly Part[], gap = 0): Part[] {
  const found: Part[] = [];
  for (const [from, to] of parts) {
    const last = found.at(-1);
    if (last !== undefined && from <= last[1] + gap)
      found[found.length - 1] = [last[0], Math.max(last[1], to)];
    else found.push([from, to]);
  }
  return found;
}

/**
 * Offsets of the functions in DT_INIT_ARRAY. Their addresses are in its slots, or are the addends of relocations: of
 * DT_RELA's relative ones, which come first (DT_RELACOUNT) in the order of their places. An address has `word` bytes,
 * the file `size`.
 */
async function initializersOf(
  loads: readonly Segment[],
  values: ReadonlyMap<number, number>,
  { word, size }: { readonly word: number; readonly size: number },
  read: (at: number, bytes: number) => Promise<Fields>,
): Promise<number[]> {
  const address = values.get(DT.initializers);
  const slots = offsetIn(loads, address);
  const count = Math.min(Math.floor((values.get(DT.initializersBytes) ?? 0) / word), MOST_INITIALIZERS);
  if (address === undefined || slots === undefined || count === 0) return [];
  const code = loads.filter(({ flags }) => (flags & FLAG.code) !== 0);
  const inCode = (table: Fields, first: number, step: number) => {
    const places: number[] = [];
    for (let at = first; at + word <= table.length && places.length < count; at += step) {
      const place = offsetIn(code, table.word(at));
      if (place !== undefined) places.push(place);
    }
    return places;
  };
  const direct = inCode(await read(slots, count * word), 0, word);
  const base = offsetIn(loads, values.get(DT.relocations));
  if (direct.length > 0 || base === undefined) return direct;
  // r_offset, r_info, r_addend
  const entry = 3 * word;
  // no more than the file holds: with numbers too large to be exact the search would not end
  const held = Math.min(values.get(DT.relocationsBytes) ?? 0, Math.max(0, size - base));
  const total = Math.floor(held / entry);
  const place = async (index: number) => (await read(base + index * entry, word)).word(0);
  let low = 0;
  for (let high = Math.min(values.get(DT.relativeCount) ?? total, total); low < high; ) {
    const middle = Math.floor((low + high) / 2);
    if ((await place(middle)) < address) low = middle + 1;
    else high = middle;
  }
  return inCode(await read(base + low * entry, Math.min(count, total - low) * entry), 2 * word, entry);
}

/** Where an address lies in the file. */
function offsetIn(loads: readonly Segment[], place: number | undefined): number | undefined {
  if (place === undefined) return undefined;
  const home = loads.find(({ address, size }) => place >= address && place < address + size);
  return home && home.offset + place - home.address;
}

/** Text up to the first NUL. */
function endAtNul(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString('latin1', 0, end < 0 ? bytes.length : end);
}

/** Numbers of a file's byte order and width. Bytes behind the end count as 0. */
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
