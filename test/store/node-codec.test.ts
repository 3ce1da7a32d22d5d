import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { emptyNode, foldEvent, idOf, type NodeState } from '../../actors/node-state.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import { decode, encode } from '../../src/bus/connection.ts';
import {
  decodeNodeState,
  digestOfNodeState,
  encodeNodeState,
  fromPlain,
  toPlain,
} from '../../src/store/node-codec.ts';
import { nodeHistory, take } from '../support/node-history.ts';

const fold = (seed: number, count: number): NodeState => {
  const state = emptyNode();
  for (const { subject, event } of take(nodeHistory({ seed, node: 'n', blocks: 500 }), count))
    foldEvent(state, idOf(subject), { v: 1, at: 0, ...event } as CofaEvent);
  return state;
};

describe('canonical bytes of a node', () => {
  test('a state is what it was after encoding and decoding, and its bytes are the same', () => {
    const state = fold(1, 3_000);
    const decoded = decodeNodeState(encodeNodeState(state));
    expect(decoded).toEqual(state);
    expect(encodeNodeState(decoded)).toEqual(encodeNodeState(state));
  });

  test('one block more or less is another digest', () => {
    const [one, other] = [fold(2, 2_000), fold(2, 2_000)];
    expect(digestOfNodeState(one)).toBe(digestOfNodeState(other));
    const layer = [...other.layers.values()][3];
    if (layer === undefined) throw new Error('layers');
    layer.present[7] = 1 - (layer.present[7] ?? 0);
    expect(digestOfNodeState(one)).not.toBe(digestOfNodeState(other));
  });

  test('any value of maps, lists, bits, bytes and names with $ comes back', () => {
    const value = fc.letrec((tie) => ({
      any: fc.oneof(
        { depthSize: 'small' },
        fc.string(),
        fc.integer(),
        fc.boolean(),
        fc.constant(null),
        fc.uint8Array({ maxLength: 20 }),
        fc.uint8Array({ max: 1, maxLength: 40 }),
        fc.array(tie('any'), { maxLength: 4 }),
        fc.array(fc.tuple(fc.string(), tie('any')), { maxLength: 4 }).map((entries) => new Map(entries)),
        fc.dictionary(fc.constantFrom('a', '$map', '$bits', '$$', 'length', 'b'), tie('any'), {
          noNullPrototype: true,
        }),
      ),
    })).any;
    fc.assert(
      fc.property(value, (one) => {
        const back = fromPlain(decode(encode(toPlain(one))));
        expect(plainBuffers(back)).toEqual(plainBuffers(one));
      }),
    );
  });

  test('bytes that are no state, or whose blocks do not add up, are refused', () => {
    const state = fold(3, 500);
    const layer = [...state.layers.values()][0];
    if (layer === undefined) throw new Error('layers');
    layer.presentCount += 1;
    for (const bytes of [
      encodeNodeState(state),
      encode({ layers: 7 }),
      Buffer.from('c1', 'hex'),
      Buffer.alloc(0),
    ])
      expect(() => decodeNodeState(bytes)).toThrow(expect.objectContaining({ code: 'integrity' }));
  });

  test('a state that was stored before there were mounts has none', () => {
    const { mounts: _, ...old } = emptyNode();
    expect(decodeNodeState(encode(toPlain(old)))).toEqual(emptyNode());
  });
});

/** msgpack gives Buffers where there were other byte arrays. */
function plainBuffers(value: unknown): unknown {
  if (value instanceof Uint8Array) return [...value];
  if (value instanceof Map) return new Map([...value].map(([key, entry]) => [key, plainBuffers(entry)]));
  if (Array.isArray(value)) return value.map(plainBuffers);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, plainBuffers(entry)]));
}
