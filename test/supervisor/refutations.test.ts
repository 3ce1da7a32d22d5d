/** A refutation counts from the moment it is found. */
import { expect, test } from 'vitest';
import { Refutations } from '../../src/supervisor/images/refutations.ts';

const refuted = { flat: 'f', sidecar: 's', message: 'they differ' };

test('a refutation that the log has not taken yet counts, and afterwards the log’s does', () => {
  const refutations = new Refutations();
  expect(refutations.of('m', { refuted: undefined })).toBeUndefined();
  refutations.found('m', refuted);
  expect(refutations.of('m', { refuted: undefined })).toBe(refuted);
  refutations.told('m', refuted);
  const facts = { refuted: { ...refuted } };
  expect(refutations.of('m', facts)).toBe(facts.refuted);
  expect(refutations.of('n', { refuted: undefined })).toBeUndefined();
});

test('a flat image that older mounts have stays refuted when the registry has been put right, until the image is removed', () => {
  const refutations = new Refutations();
  refutations.found('m', refuted);
  refutations.told('m', refuted);
  const right = { refuted: undefined };
  expect(refutations.of('m', right)).toBeUndefined();
  expect(refutations.against('m', 'f', right)?.flat).toBe('f');
  expect(refutations.against('m', 'g', right)).toBeUndefined();
  refutations.forget('m');
  expect(refutations.against('m', 'f', right)).toBeUndefined();
});
