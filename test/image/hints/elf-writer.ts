/** Small ELF files: just what a loader looks at, and a body. */

export interface ElfParts {
  interpreter?: string;
  needed?: string[];
  rpath?: string;
  runpath?: string;
  /** 32 bits instead of 64. */
  isNarrow?: boolean;
  /** Big-endian. */
  isBig?: boolean;
  machine?: number;
  /** So many bytes at the end of the file are tables of exceptions. */
  unwinding?: number;
  /**
   * Functions that run when it has been loaded, by their places in the file: named in the slots themselves, or by relocations among `others` that
   * are for places before and behind these.
   */
  initializers?: { places: readonly number[]; by: 'slots' | 'relocations'; others?: number };
  /** Behind all that. */
  body?: Buffer;
}

/** A shared object, or with an interpreter a program; all of it is in one segment, mapped at an address of its own. */
export function elf(parts: ElfParts): Buffer {
  const { isNarrow = false, isBig = false, needed = [], interpreter, rpath, runpath } = parts;
  const word = isNarrow ? 4 : 8;
  const bytes: number[] = [];
  const put = (value: number, size: number) => {
    const all = Array.from({ length: size }, (_, i) => Math.floor(value / 2 ** (8 * i)) % 256);
    bytes.push(...(isBig ? all.toReversed() : all));
  };
  let strings = '\0';
  const string = (text: string) => {
    const at = strings.length;
    strings += `${text}\0`;
    return at;
  };
  const entries: Array<[number, number]> = needed.map((name) => [1, string(name)]);
  if (rpath !== undefined) entries.push([15, string(rpath)]);
  if (runpath !== undefined) entries.push([29, string(runpath)]);
  const headerSize = isNarrow ? 52 : 64;
  const segmentSize = isNarrow ? 32 : 56;
  const segments = 2 + Number(interpreter !== undefined) + Number(parts.unwinding !== undefined);
  const stringsAt = headerSize + segments * segmentSize;
  const path = interpreter === undefined ? '' : `${interpreter}\0`;
  const dynamicAt = stringsAt + strings.length + path.length;
  const count = entries.length + 3 + (parts.initializers === undefined ? 0 : 5);
  const dynamicSize = count * 2 * word;
  const base = 0x10000;
  const slotsAt = dynamicAt + dynamicSize;
  const { slots, relocations } = initializerTables(parts.initializers, { base, slotsAt, word });
  if (parts.initializers !== undefined) {
    entries.push([25, base + slotsAt], [27, slots.length * word]);
    entries.push([7, base + slotsAt + slots.length * word], [8, relocations.length * word]);
    entries.push([0x6ffffff9, relocations.length / 3]);
  }
  const size =
    dynamicAt + dynamicSize + (slots.length + relocations.length) * word + (parts.body?.length ?? 0);
  bytes.push(0x7f, 0x45, 0x4c, 0x46, isNarrow ? 1 : 2, isBig ? 2 : 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  put(3, 2);
  put(parts.machine ?? 62, 2);
  put(1, 4);
  put(0, word);
  put(headerSize, word);
  put(0, word);
  put(0, 4);
  put(headerSize, 2);
  put(segmentSize, 2);
  put(segments, 2);
  put(0, 6);
  const segment = (type: number, at: number, length: number) => {
    put(type, 4);
    if (!isNarrow) put(5, 4);
    put(at, word);
    put(base + at, word);
    put(base + at, word);
    put(length, word);
    put(length, word);
    if (isNarrow) put(5, 4);
    put(1, word);
  };
  segment(1, 0, size);
  segment(2, dynamicAt, dynamicSize);
  if (parts.unwinding !== undefined) segment(0x6474e550, size - parts.unwinding, parts.unwinding);
  if (interpreter !== undefined) segment(3, stringsAt + strings.length, path.length);
  bytes.push(...Buffer.from(strings + path, 'latin1'));
  for (const [tag, value] of [...entries, [5, base + stringsAt], [10, strings.length], [0, 0]] as Array<
    [number, number]
  >) {
    put(tag, word);
    put(value, word);
  }
  for (const value of [...slots, ...relocations]) put(value, word);
  return Buffer.concat([Buffer.from(bytes), parts.body ?? Buffer.alloc(0)]);
}

/** Words of DT_INIT_ARRAY, and of DT_RELA behind it. */
function initializerTables(
  given: ElfParts['initializers'],
  { base, slotsAt, word }: { base: number; slotsAt: number; word: number },
): { slots: number[]; relocations: number[] } {
  if (given === undefined) return { slots: [], relocations: [] };
  const { places, by, others = 0 } = given;
  const targets = places.map((place) => base + place);
  if (by === 'slots') return { slots: targets, relocations: [] };
  const slotAt = (index: number) => base + slotsAt + index * word;
  const relative = (at: number, target: number) => [at, 8, target];
  return {
    slots: targets.map(() => 0),
    relocations: [
      ...Array.from({ length: others }, (_, i) => relative(slotAt(i - others), base + 1)),
      ...targets.map((target, i) => relative(slotAt(i), target)),
      ...Array.from({ length: others }, (_, i) => relative(slotAt(targets.length + i), base + 2)),
    ].flat(),
  };
}
