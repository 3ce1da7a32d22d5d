/**
 * The canonical bytes of a node's state: equal states have equal bytes, whichever way they came about. Snapshots hold them,
 * and two folds are compared by them.
 *
 * msgpack, with: fields in the order of their names, those that are undefined left out; `$map` for maps, whose order is
 * kept since it is a fact too (which image was resolved last); `$bits` for arrays of zeros and ones, a bit each, the
 * lowest bit first. A field whose own name begins with `$` gets a second one.
 */
import { digestOf } from '../digest/digest.ts';
import { emptyNode, type NodeState } from '../../actors/node-state.ts';
import { CofaError } from '../../schemas/errors.ts';
import { decode, encode } from '../bus/connection.ts';

export const encodeNodeState = (state: NodeState): Buffer => encode(toPlain(state));

/** `sha256:…` of the canonical bytes. */
export const digestOfNodeState = (state: NodeState): string => digestOf(encodeNodeState(state));

/** Error `integrity` when the bytes are not a state. Parts that older versions did not know are as in a new node. */
export function decodeNodeState(bytes: Uint8Array): NodeState {
  try {
    return checkedState(fromPlain(decode(bytes)));
  } catch (cause) {
    if (cause instanceof CofaError) throw cause;
    throw new CofaError('integrity', `not the state of a node: ${String(cause)}`, { cause });
  }
}

/** A state out of what `fromPlain` gave. */
export function checkedState(value: unknown): NodeState {
  if (value === null || typeof value !== 'object' || !('layers' in value))
    throw new CofaError('integrity', 'not the state of a node');
  const empty = emptyNode();
  const found = { ...empty, ...(value as Partial<NodeState>) };
  for (const [name, initial] of Object.entries(empty)) {
    const part: unknown = found[name as keyof NodeState];
    if (initial instanceof Map && !(part instanceof Map))
      throw new CofaError('integrity', `not the state of a node: its ${name} are no map`);
  }
  for (const [diffId, { blockCount, present, presentCount }] of found.layers) {
    let count = 0;
    for (const block of present) count += block;
    if (present.length !== blockCount || count !== presentCount)
      throw new CofaError('integrity', `not the state of a node: the blocks of ${diffId} do not add up`);
  }
  return found;
}

type Plain = unknown;

export function toPlain(value: unknown): Plain {
  if (value === null || typeof value !== 'object') return value;
  if (value instanceof Uint8Array) return isBits(value) ? packBits(value) : value;
  if (value instanceof Map)
    return { $map: Array.from(value, ([key, entry]) => [toPlain(key), toPlain(entry)]) };
  if (Array.isArray(value)) return value.map(toPlain);
  const plain: Record<string, Plain> = {};
  for (const name of Object.keys(value).sort()) {
    const field = (value as Record<string, unknown>)[name];
    if (field !== undefined) plain[name.startsWith('$') ? `$${name}` : name] = toPlain(field);
  }
  return plain;
}

export function fromPlain(plain: Plain): unknown {
  if (plain === null || typeof plain !== 'object' || plain instanceof Uint8Array) return plain;
  if (Array.isArray(plain)) return plain.map(fromPlain);
  const fields = plain as Record<string, Plain>;
  if (Array.isArray(fields.$map))
    return new Map(
      (fields.$map as Array<[Plain, Plain]>).map(([key, entry]) => [fromPlain(key), fromPlain(entry)]),
    );
  if (fields.$bits instanceof Uint8Array && typeof fields.length === 'number')
    return unpackBits(fields.$bits, fields.length);
  const value: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(fields))
    value[name.startsWith('$$') ? name.slice(1) : name] = fromPlain(field);
  return value;
}

function isBits(bytes: Uint8Array): boolean {
  for (const byte of bytes) if (byte > 1) return false;
  return true;
}

function packBits(bits: Uint8Array): Plain {
  const packed = Buffer.alloc(Math.ceil(bits.length / 8));
  for (let at = 0; at < bits.length; at++) if (bits[at] === 1) packed[at >> 3]! |= 1 << (at & 7);
  return { $bits: packed, length: bits.length };
}

function unpackBits(packed: Uint8Array, count: number): Uint8Array {
  if (packed.length !== Math.ceil(count / 8)) throw new RangeError(`${count} bits in ${packed.length} bytes`);
  const bits = new Uint8Array(count);
  for (let at = 0; at < count; at++) bits[at] = ((packed[at >> 3] as number) >> (at & 7)) & 1;
  return bits;
}
