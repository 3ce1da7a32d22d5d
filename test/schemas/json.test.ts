import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { jsonSchemas } from '../../ops/schemas.ts';
import { EventRecord } from '../../schemas/events.ts';
import { ERROR_KINDS, CofaError, fromErrorRecord, toErrorRecord } from '../../schemas/errors.ts';
import { NODE_NAME, subjects } from '../../schemas/subjects.ts';

test('the JSON schemas in the tree are those of the code', () => {
  for (const [name, schema] of jsonSchemas()) {
    const stored = readFileSync(new URL(`../../schemas/json/${name}.json`, import.meta.url), 'utf8');
    expect(JSON.parse(stored), `${name}: run npm run schemas`).toEqual(JSON.parse(JSON.stringify(schema)));
  }
});

test('an event with an undeclared field is refused by the schema', () => {
  expect(EventRecord.safeParse({ v: 1, type: 'mount.mounted', at: 1 }).success).toBe(true);
  expect(EventRecord.safeParse({ v: 1, type: 'mount.mounted', at: 1, more: 1 }).success).toBe(false);
  expect(EventRecord.safeParse({ v: 2, type: 'mount.mounted', at: 1 }).success).toBe(false);
});

test('an error keeps its code, message and hint over a process border', () => {
  for (const code of Object.keys(ERROR_KINDS) as Array<keyof typeof ERROR_KINDS>) {
    const error = new CofaError(code, 'what', { hint: 'do' });
    expect(fromErrorRecord(JSON.parse(JSON.stringify(toErrorRecord(error))))).toMatchObject({
      code,
      message: 'what',
      hint: 'do',
    });
  }
  expect(toErrorRecord(Object.assign(new Error('full'), { code: 'ENOSPC' })).code).toBe('no-space');
});

test('a node name that would widen a subject is refused', () => {
  for (const name of ['a.b', '*', '>', '', 'a b', 'x'.repeat(65)]) {
    expect(NODE_NAME.test(name)).toBe(false);
    expect(() => subjects(name)).toThrow(RangeError);
  }
});
