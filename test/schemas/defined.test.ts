import { expect, test } from 'vitest';
import { defined } from '../../schemas/defined.ts';

test('fields that are undefined are left out, all other values stay', () => {
  const fields = { ref: 'r', limit: undefined as number | undefined, made: false, none: null, empty: '' };
  const request: { ref: string; limit?: number; made: boolean } = defined(fields);
  expect(Object.keys(request)).toEqual(['ref', 'made', 'none', 'empty']);
  expect(request).toEqual({ ref: 'r', made: false, none: null, empty: '' });
});
