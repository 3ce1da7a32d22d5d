import { expect, it } from 'vitest';
import { hexOf, isDigest } from '../../schemas/digest.ts';
import { chainIds } from '../../src/digest/chain-id.ts';
import { Digest, digestOf } from '../../src/digest/digest.ts';

// FIPS 180-4, the example of one block.
const ABC = 'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad';

it('a digest is the same in one go and in pieces, of bytes and of text', () => {
  expect(digestOf('abc')).toBe(ABC);
  expect(digestOf(Buffer.from('abc'))).toBe(ABC);
  const digest = new Digest();
  for (const letter of 'abc') digest.update(Buffer.from(letter));
  expect(digest.end()).toBe(ABC);
});

it('only sha256 and 64 lower-case hex digits are a digest', () => {
  expect(isDigest(ABC)).toBe(true);
  expect(hexOf(ABC)).toBe(ABC.slice(7));
  for (const wrong of [ABC.slice(7), `${ABC}0`, ABC.toUpperCase(), `${ABC}\n`, 'sha512:', `x${ABC}`, '']) {
    expect(isDigest(wrong)).toBe(false);
    expect(() => hexOf(wrong)).toThrow(RangeError);
  }
});

it('the lowest layer has its diffID as ChainID, each other one is hashed onto those below', () => {
  expect(chainIds([])).toEqual([]);
  const [a, b, c] = ['a', 'b', 'c'].map((text) => digestOf(text)) as [string, string, string];
  const ab = digestOf(`${a} ${b}`);
  expect(chainIds([a, b, c])).toEqual([a, ab, digestOf(`${ab} ${c}`)]);
});
