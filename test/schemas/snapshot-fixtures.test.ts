import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { SnapshotPart } from '../../schemas/snapshots.ts';
import { decode } from '../../src/bus/connection.ts';
import { decodeSnapshot } from '../../src/store/snapshots.ts';

const stored = JSON.parse(
  readFileSync(new URL('../fixtures/snapshots/v1.json', import.meta.url), 'utf8'),
) as {
  parts: string[];
  place: { seq: number; sequences: Record<string, number> };
  state: Record<string, unknown> & { layers: Array<{ diffId: string; present: number[] }> };
};

test('a snapshot that version 1 stored still decodes to what it was', () => {
  const fold = decodeSnapshot(stored.parts.map((hex) => SnapshotPart.parse(decode(Buffer.from(hex, 'hex')))));
  const { sequences, ...place } = stored.place;
  expect(fold).toMatchObject({
    ...place,
    trimmed: { seq: 10, bytes: 1_000 },
    previous: { seq: 50, bytes: 5_000 },
  });
  expect(fold.snapshot.seq).toBe(place.seq);
  expect(Object.fromEntries(fold.sequences)).toEqual(sequences);
  const { images, mounts, snapshots, running, trimmed } = fold.state;
  const layers = Array.from(fold.state.layers, ([diffId, { present, ...facts }]) => ({
    diffId,
    ...facts,
    present: [...present.keys()].filter((block) => present[block] === 1),
  }));
  const state = {
    images: Object.fromEntries(images),
    mounts: Object.fromEntries(mounts),
    snapshots: Object.fromEntries(snapshots),
    layers,
    running,
    trimmed,
  };
  // Facts that came later may be there, too.
  expect(JSON.parse(JSON.stringify(state))).toMatchObject(stored.state);
  expect(fold.state.layers.size).toBeGreaterThan(2);
  expect(fold.state.mounts.size).toBeGreaterThan(1);
});
