/** Whether a record is what its type says: the fast answer is the schema's. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { flawOf, flawOfStored } from '../../schemas/check-event.ts';
import { type CofaEvent, EVENT_SCHEMAS } from '../../schemas/events.ts';
import { predicateOf } from '../../schemas/predicate.ts';

const fixtures = new URL('../fixtures/events/v1.json', import.meta.url);
const stored = (JSON.parse(readFileSync(fixtures, 'utf8')) as Array<{ record: CofaEvent }>).map(
  ({ record }) => record,
);

/** Whether the schema takes it, later fields aside. */
function isTaken(record: CofaEvent): boolean {
  const { error } = EVENT_SCHEMAS[record.type].safeParse(record);
  return error === undefined || error.issues.every(({ code }) => code === 'unrecognized_keys');
}

type Path = Array<string | number>;
function pathsOf(value: unknown, path: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [path];
  return [path, ...Object.entries(value).flatMap(([key, entry]) => pathsOf(entry, [...path, key]))];
}

function changed(record: CofaEvent, path: Path, to: unknown): CofaEvent {
  const copy = structuredClone(record) as unknown as Record<string, unknown>;
  let parent = copy;
  for (const key of path.slice(0, -1)) parent = parent[key] as Record<string, unknown>;
  const last = path.at(-1) as string;
  if (to === undefined) delete parent[last];
  else parent[last] = to;
  return copy as unknown as CofaEvent;
}

const junk = fc.oneof(
  fc.constantFrom(
    undefined,
    null,
    '',
    'x',
    0,
    -1,
    1.5,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    2 ** 53,
    2 ** 40,
    true,
    [],
    {},
    [[1, 2]],
    [[1, 2, 3]],
    [[-1, 2]],
    `sha256:${'0'.repeat(64)}`,
    'x'.repeat((1 << 20) + 1),
    new Uint8Array(3),
  ),
  fc.jsonValue(),
);

test('a record with any field changed is refused where the schema refuses it, and nowhere else', () => {
  const place = fc.constantFrom(
    ...stored.flatMap((record) => pathsOf(record).map((path) => ({ record, path }))),
  );
  let refused = 0;
  fc.assert(
    fc.property(place, junk, ({ record, path }, to) => {
      if (path.length === 0 || ['v', 'type'].includes(String(path[0]))) return;
      const other = changed(record, path, to);
      const flaw = flawOf(other);
      expect(flaw === undefined).toBe(isTaken(other));
      if (flaw !== undefined) refused += 1;
    }),
    { numRuns: 3_000 },
  );
  expect(refused).toBeGreaterThan(500);
});

describe('a flaw', () => {
  const event = { v: 1, at: 1 };

  test('names the field', () => {
    const ranges = [
      [0, 1],
      [4, -2],
    ];
    expect(flawOf({ ...event, type: 'layer.blocks', ranges })).toMatchObject({
      type: 'layer.blocks',
      field: 'ranges.1.1',
    });
    const opened = { type: 'layer.opened', size: 1, blockSize: 65_536, blob: `sha256:${'a'.repeat(64)}` };
    expect(flawOf({ ...event, ...opened, blockCount: 2 ** 40 })?.field).toBe('blockCount');
    expect(flawOf({ ...event, ...opened, blockCount: 1 })).toBeUndefined();
  });

  test('is that there is no record at all', () => {
    for (const value of [undefined, null, 7, 'text', [], {}, { type: 4 }])
      expect(flawOf(value), JSON.stringify(value)).toMatchObject({ type: undefined });
  });

  test('is not what a later cofa has added', () => {
    expect(flawOf({ ...event, type: 'mount.mounted', more: 1 })).toBeUndefined();
    expect(flawOf({ ...event, type: 'mount.teleported' })).toBeUndefined();
    expect(flawOf({ v: 2, at: 1, type: 'layer.blocks', ranges: 'elsewhere' })).toBeUndefined();
  });

  test('of what reads waited for matters when it is written, not in the log', () => {
    const trace = { ...event, type: 'layer.trace', reads: 'none' };
    expect([flawOf(trace)?.field, flawOfStored(trace)]).toEqual(['reads', undefined]);
  });
});

test('a kind of schema that the predicate does not know is refused rather than let through', () => {
  expect(() => predicateOf(z.object({ when: z.date() }))).toThrow(TypeError);
  expect(() => predicateOf(z.string().startsWith('x').trim())).toThrow(TypeError);
});

test('there is a predicate for every type of event', () => {
  for (const record of stored) expect(flawOf(record), record.type).toBeUndefined();
});
