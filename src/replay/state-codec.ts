/**
 * A node's state as bytes, one encoding of each state: two folds agree when their bytes do. Objects are msgpack maps with
 * their keys sorted, Maps lists of `[key, value]` sorted by key, block maps bits.
 */
import { createHash } from 'node:crypto';
import { Packr } from 'msgpackr';
import { emptyNode, type NodeState } from '../../actors/node-state.ts';
import { CofaError } from '../../schemas/errors.ts';

const packr = new Packr({
  useRecords: false,
  mapsAsObjects: true,
  variableMapSize: true,
  int64AsType: 'number',
});

export function encodeState(state: NodeState): Buffer {
  return packr.pack(canonical(state));
}

/** `sha256:…` of the canonical encoding. */
export function digestOfState(state: NodeState): string {
  return `sha256:${createHash('sha256').update(encodeState(state)).digest('hex')}`;
}

/** Error: `integrity` for bytes that `encodeState` did not write. */
export function decodeState(bytes: Uint8Array): NodeState {
  try {
    const fields = restore(packr.unpack(bytes)) as Partial<NodeState>;
    if (typeof fields !== 'object' || !(fields.layers instanceof Map)) throw new TypeError('it is no state');
    return { ...emptyNode(), ...fields };
  } catch (cause) {
    throw new CofaError('integrity', 'the state at the beginning of the event log is damaged', { cause });
  }
}

/** Keys that no field has. */
const MAP = '$map';
const BITS = '$bits';
const BYTES = '$bytes';

function canonical(value: unknown): unknown {
  if (value instanceof Uint8Array)
    return value.every((byte) => byte <= 1) ? bitsOf(value) : { [BYTES]: value };
  if (value instanceof Map) {
    const entries = [...(value as Map<string, unknown>)].sort(([a], [b]) => (a < b ? -1 : 1));
    return { [MAP]: entries.map(([key, item]) => [key, canonical(item)]) };
  }
  if (Array.isArray(value)) return value.map(canonical);
  if (typeof value !== 'object' || value === null) return value;
  const fields = value as Record<string, unknown>;
  const sorted: Record<string, unknown> = {};
  // A field that is undefined says the same as one that is not there.
  for (const key of Object.keys(fields).sort())
    if (fields[key] !== undefined) sorted[key] = canonical(fields[key]);
  return sorted;
}

function restore(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(restore);
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return value;
  const fields = value as Record<string, unknown>;
  const entries = fields[MAP];
  if (Array.isArray(entries)) {
    return new Map(
      entries.map((entry) => [(entry as unknown[])[0] as string, restore((entry as unknown[])[1])]),
    );
  }
  if (BYTES in fields) return Uint8Array.from(fields[BYTES] as Uint8Array);
  if (BITS in fields) return bytesOf(fields as { $bits: Uint8Array; length: number });
  return Object.fromEntries(Object.entries(fields).map(([key, item]) => [key, restore(item)]));
}

function bitsOf(bytes: Uint8Array): { $bits: Uint8Array; length: number } {
  const bits = Buffer.alloc((bytes.length + 7) >> 3);
  for (let index = 0; index < bytes.length; index++)
    bits[index >> 3] = (bits[index >> 3] as number) | ((bytes[index] as number) << (index & 7));
  return { [BITS]: bits, length: bytes.length };
}

function bytesOf({ $bits: bits, length }: { $bits: Uint8Array; length: number }): Uint8Array {
  if (!(length >= 0 && length <= bits.length * 8)) throw new RangeError('a block map has another length');
  const bytes = new Uint8Array(length);
  for (let index = 0; index < length; index++)
    bytes[index] = ((bits[index >> 3] as number) >> (index & 7)) & 1;
  return bytes;
}
