import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { sha256Hex } from '../../src/container/digest.ts';

const known = (text: string) => createHash('sha256').update(text).digest('hex');

it('is the SHA-256 that everybody else computes, at every length of its last block', () => {
  for (let length = 0; length < 200; length++) {
    const text = 'x'.repeat(length);
    expect(sha256Hex(text)).toBe(known(text));
  }
});

it('is it of any text', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 300 }), (text) => {
      expect(sha256Hex(text)).toBe(known(text));
    }),
  );
});
