import { expect, test } from 'vitest';
import { choosePlatform, formatPlatform, parsePlatform, type Platform } from '../../src/registry/platform.ts';

const offer = (...names: string[]) =>
  names.map((name) => {
    const [os = '', architecture = '', variant] = name.split('/');
    const platform: Platform = variant === undefined ? { os, architecture } : { os, architecture, variant };
    return { name, platform };
  });

test.each([
  ['linux/amd64', ['linux/arm64', 'linux/amd64', 'linux/386'], 'linux/amd64'],
  ['linux/amd64', ['linux/386', 'linux/arm/v7'], 'linux/386'],
  ['linux/x86_64', ['linux/amd64'], 'linux/amd64'],
  ['amd64', ['linux/amd64'], 'linux/amd64'],
  ['linux/amd64/v3', ['linux/amd64', 'linux/amd64/v2', 'linux/amd64/v4'], 'linux/amd64/v2'],
  ['linux/amd64', ['linux/amd64/v3'], undefined],
  ['linux/amd64', ['linux/amd64/v1'], 'linux/amd64/v1'],
  ['linux/arm64', ['linux/arm/v7', 'linux/arm64/v8'], 'linux/arm64/v8'],
  ['linux/arm64/v8', ['linux/arm64'], 'linux/arm64'],
  ['linux/arm64/v9', ['linux/arm64'], 'linux/arm64'],
  ['linux/aarch64', ['linux/arm/v6', 'linux/arm/v7'], 'linux/arm/v7'],
  ['linux/arm', ['linux/arm/v5', 'linux/arm/v6'], 'linux/arm/v6'],
  ['linux/arm/v6', ['linux/arm/v7', 'linux/arm/v5'], 'linux/arm/v5'],
  ['linux/arm/v5', ['linux/arm/v7', 'linux/arm/v6'], undefined],
  ['linux/armhf', ['linux/arm'], 'linux/arm'],
  ['linux/riscv64', ['linux/amd64'], undefined],
  ['linux/amd64', ['windows/amd64', 'unknown/unknown'], undefined],
  ['linux/amd64', ['Linux/AMD64'], 'Linux/AMD64'],
])('%s of %j → %s', (wanted, offered, expected) => {
  expect(choosePlatform(parsePlatform(wanted), offer(...offered))?.name).toBe(expected);
});

test('of two of the same platform the first is taken', () => {
  const [first, second] = offer('linux/amd64', 'linux/amd64');
  expect(choosePlatform(parsePlatform('linux/amd64'), [first!, second!])).toBe(first);
});

test.each(['', '/', 'linux/', 'linux//v7', 'a/b/c/d', 'linux/am d64', 'linux/\n'])('refused: %j', (text) => {
  expect(() => parsePlatform(text)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
});

test('a platform prints as it is written', () => {
  expect(formatPlatform(parsePlatform('linux/arm/v7'))).toBe('linux/arm/v7');
  expect(formatPlatform(parsePlatform('linux/arm64/v8'))).toBe('linux/arm64');
});
