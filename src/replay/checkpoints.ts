/**
 * Checkpoints of a fold: copies of the state after every so many events, so that a step back costs the fold of a few
 * thousand events at most. A checkpoint shares with the one before what has not changed since; block maps are kept as
 * bits. When all of them take too much memory every second one is dropped, and the distance doubles.
 *
 * Subjects say what can have changed: an event changes the image, layer, mount … that it is about. An event of the
 * engine may change anything.
 */
import { isDeepStrictEqual } from 'node:util';
import { emptyNode, type NodeState } from '../../actors/node-state.ts';

export interface CheckpointOptions {
  /** Events between two checkpoints, at first. */
  distance?: number;
  /** Bytes that all checkpoints may take, about. */
  budget?: number;
}

export class Checkpoints {
  /** Ascending by position; the first is the state at the beginning. */
  readonly #list: Array<{ position: number; frozen: Frozen }> = [];
  readonly #budget: number;
  #distance: number;
  #dirty = new Set<string>();
  #allDirty = true;
  #bytes = 0;

  constructor(options: CheckpointOptions = {}) {
    this.#distance = options.distance ?? 2_000;
    this.#budget = options.budget ?? 96 * 2 ** 20;
  }

  get count(): number {
    return this.#list.length;
  }

  /** Bytes that the checkpoints take, about. */
  get bytes(): number {
    return this.#bytes;
  }

  /** An event of this aggregate was folded. */
  touch(kind: string, id: string): void {
    if (kind === 'engine' || kind === '') {
      this.#allDirty = true;
      return;
    }
    this.#dirty.add(id);
    // Images and layers are kept by digest.
    this.#dirty.add(`sha256:${id}`);
  }

  /** Whether the state after `position` events is to be kept. */
  isDue(position: number): boolean {
    const last = this.#list.at(-1);
    return last === undefined || position - last.position >= this.#distance;
  }

  /** Keeps a copy. Positions rise. */
  add(position: number, state: NodeState): void {
    const before = this.#list.at(-1)?.frozen;
    const { frozen, bytes } = freeze(state, before, (key) => this.#allDirty || this.#dirty.has(key));
    this.#list.push({ position, frozen });
    this.#bytes += bytes;
    this.#dirty = new Set();
    this.#allDirty = false;
    if (this.#bytes > this.#budget && this.#list.length > 8) this.#thin();
  }

  /** A fresh copy of the last state kept at or before `position`. */
  nearest(position: number): { position: number; state: NodeState } {
    const found = this.#list[this.#indexOf(position)];
    if (found === undefined) throw new RangeError(`there is no checkpoint before ${position}`);
    return { position: found.position, state: thaw(found.frozen) };
  }

  /** The position of that state, without copying it. */
  nearestPosition(position: number): number {
    return this.#list[this.#indexOf(position)]?.position ?? 0;
  }

  #indexOf(position: number): number {
    let low = 0;
    let high = this.#list.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((this.#list[middle] as { position: number }).position <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #thin(): void {
    const kept = this.#list.filter((_, index) => index % 2 === 0);
    this.#list.splice(0, this.#list.length, ...kept);
    this.#distance *= 2;
    // Entries that only a dropped checkpoint had are freed now: count again.
    const seen = new Set<unknown>();
    this.#bytes = 0;
    for (const { frozen } of this.#list) {
      for (const map of frozen.maps.values()) {
        if (seen.has(map)) continue;
        seen.add(map);
        this.#bytes += map.size * MAP_ENTRY;
        for (const entry of map.values()) {
          if (!seen.has(entry)) this.#bytes += entry.size;
          seen.add(entry);
        }
      }
    }
  }
}

/** A copy of a state on its own: a change of one does not show in the other. */
export function copyState(state: NodeState): NodeState {
  return thaw(freeze(state, undefined, () => true).frozen);
}

interface Frozen {
  /** Fields of the state that are maps, entry by entry. */
  maps: Map<string, Map<string, Entry>>;
  /** The other fields. */
  rest: Record<string, unknown>;
}

interface Entry {
  /** Bytes, about. */
  size: number;
  value: unknown;
  /** Byte arrays of the value, by field. */
  arrays: Array<{ field: string; bits: boolean; length: number; bytes: Uint8Array }>;
}

/** Bytes of an entry of a Map beside its value, about. */
const MAP_ENTRY = 64;

function freeze(
  state: NodeState,
  before: Frozen | undefined,
  isDirty: (key: string) => boolean,
): { frozen: Frozen; bytes: number } {
  const frozen: Frozen = { maps: new Map(), rest: {} };
  let bytes = 256;
  for (const [field, value] of Object.entries(state) as Array<[string, unknown]>) {
    if (!(value instanceof Map)) {
      frozen.rest[field] = structuredClone(value);
      continue;
    }
    const old = before?.maps.get(field);
    let same = old !== undefined && old.size === value.size;
    const entries = new Map<string, Entry>();
    for (const [key, item] of value as Map<string, object>) {
      const known = old?.get(key);
      let kept = isDirty(key) ? undefined : known;
      let entry = kept;
      if (entry === undefined) {
        entry = freezeEntry(item);
        // An event of the engine may change every entry, and changes few.
        if (known !== undefined && isSame(entry, known)) entry = kept = known;
      }
      entries.set(key, entry);
      if (kept === undefined) {
        same = false;
        bytes += entry.size;
      }
    }
    frozen.maps.set(field, same && old !== undefined ? old : entries);
    if (!same) bytes += entries.size * MAP_ENTRY;
  }
  return { frozen, bytes };
}

function thaw(frozen: Frozen): NodeState {
  const state = { ...emptyNode(), ...structuredClone(frozen.rest) } as NodeState & Record<string, unknown>;
  for (const [field, entries] of frozen.maps) {
    const map = new Map<string, unknown>();
    for (const [key, entry] of entries) map.set(key, thawEntry(entry));
    state[field] = map;
  }
  return state;
}

function freezeEntry(item: object): Entry {
  const arrays: Entry['arrays'] = [];
  const plain: Record<string, unknown> = {};
  let size = 512;
  for (const [field, value] of Object.entries(item) as Array<[string, unknown]>) {
    if (!(value instanceof Uint8Array)) {
      plain[field] = value;
      continue;
    }
    const packed = toBits(value);
    arrays.push({ field, bits: packed !== undefined, length: value.length, bytes: packed ?? value.slice() });
    size += (packed ?? value).length;
  }
  return { size, value: structuredClone(plain), arrays };
}

function thawEntry({ value, arrays }: Entry): object {
  const item = structuredClone(value) as Record<string, unknown>;
  for (const { field, bits, length, bytes } of arrays)
    item[field] = bits ? fromBits(bytes, length) : bytes.slice();
  return item;
}

function isSame(a: Entry, b: Entry): boolean {
  return (
    a.arrays.length === b.arrays.length &&
    a.arrays.every((array, index) => {
      const other = b.arrays[index] as Entry['arrays'][number];
      const same = array.field === other.field && array.length === other.length && array.bits === other.bits;
      return same && Buffer.compare(array.bytes, other.bytes) === 0;
    }) &&
    isDeepStrictEqual(a.value, b.value)
  );
}

/** One bit a byte; undefined where a byte is neither 0 nor 1. */
function toBits(bytes: Uint8Array): Uint8Array | undefined {
  const bits = new Uint8Array((bytes.length + 7) >> 3);
  for (let index = 0; index < bytes.length; index++) {
    const byte = bytes[index] as number;
    if (byte > 1) return undefined;
    bits[index >> 3] = (bits[index >> 3] as number) | (byte << (index & 7));
  }
  return bits;
}

function fromBits(bits: Uint8Array, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let index = 0; index < length; index++)
    bytes[index] = ((bits[index >> 3] as number) >> (index & 7)) & 1;
  return bytes;
}
