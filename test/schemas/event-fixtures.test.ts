import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { emptyNode, foldEvent } from '../../actors/node-state.ts';
import { type CofaEvent, EventRecord } from '../../schemas/events.ts';
import { decode } from '../../src/bus/connection.ts';

const stored = JSON.parse(
  readFileSync(new URL('../fixtures/events/v1.json', import.meta.url), 'utf8'),
) as Array<{
  hex: string;
  record: CofaEvent;
}>;

test('records that version 1 stored still decode to what they were', () => {
  for (const { hex, record } of stored) {
    const decoded = decode<CofaEvent>(Buffer.from(hex, 'hex'));
    expect(decoded).toEqual(record);
    expect(EventRecord.safeParse(decoded).success, record.type).toBe(true);
  }
});

test('there is a stored record of every type of event', () => {
  const types = (EventRecord as unknown as { options: Array<{ shape: { type: { value: string } } }> })
    .options;
  expect(stored.map(({ record }) => record.type).sort()).toEqual(
    types.map(({ shape }) => shape.type.value).sort(),
  );
});

test('the stored records fold to the state that they made', () => {
  const state = emptyNode();
  const hex = 'c'.repeat(64);
  for (const { hex: bytes, record } of stored) {
    const id = record.type.startsWith('layer.')
      ? hex
      : record.type.startsWith('image.')
        ? 'a'.repeat(64)
        : 'm';
    foldEvent(state, id, decode<CofaEvent>(Buffer.from(bytes, 'hex')));
  }
  expect(state.images.get(`sha256:${'a'.repeat(64)}`)).toMatchObject({ failure: { code: 'integrity' } });
  expect(state.layers.get(`sha256:${hex}`)).toMatchObject({
    presentCount: 0,
    complete: false,
    handedOver: false,
  });
  expect(state.mounts.size).toBe(0);
});
