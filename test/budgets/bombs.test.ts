/**
 * Bombs: a few bytes from outside that ask for much memory or time. Each is refused before it takes them; the bounds
 * come from what the bytes describe.
 */
import { describe, expect, test } from 'vitest';
import { costOf } from '../support/cost.ts';

const MIB = 1 << 20;

describe('a table of contents', () => {
  const bombs = new URL('toc-bombs.ts', import.meta.url);

  test.each([
    ['entries', 'it has 1048576 entries, and its layer at most 20480'],
    ['extents', 'it counts 8388608 where fewer fit'],
    ['patches', 'it counts 8388608 where fewer fit'],
    ['xattrs', 'it counts 4194304 where fewer fit'],
  ])('with more %s than there can be is refused before it takes memory', (name, why) => {
    const { outcome, grown } = costOf(bombs, name);
    expect(outcome).toBe(`integrity: table of contents: ${why}`);
    expect(grown).toBeLessThan(16 * MIB);
  });
});

describe('a layer of zstd that a node indexes', () => {
  const bombs = new URL('layer-bombs.ts', import.meta.url);

  test.each([
    ['zeros', 'unsupported', 'it unpacks to more than 541575928 bytes, from 264671', 24],
    ['members', 'unsupported', 'more than 92832 members', 128],
    ['window', 'unsupported', 'zstd data with a window of more than 128 MiB', 24],
  ])('that is a bomb of %s is given up, in memory and time of a real layer', (name, code, why, mib) => {
    const { outcome, grown, ms } = costOf(bombs, name);
    expect(outcome).toContain(`${code}: layer sha256:`);
    expect(outcome).toContain(why);
    expect(grown).toBeLessThan(mib * MIB);
    // Processor time: half a GiB of zeros are hashed in 0.6 s.
    expect(ms).toBeLessThan(5_000);
  });
});

describe('msgpack of millions of values', () => {
  const bombs = new URL('message-bombs.ts', import.meta.url);

  test.each([
    ['message', 'undefined', 8],
    ['header', 'integrity: the startup pack is not usable: its header is malformed', 48],
    ['recordings', 'integrity: recordings of the startup packs are malformed', 8],
    ['files', 'integrity: notes of the startup packs are malformed', 48],
  ])('that come as a %s are not made', (name, expected, mib) => {
    const { outcome, grown, ms } = costOf(bombs, name);
    expect(outcome).toBe(expected);
    expect(grown).toBeLessThan(mib * MIB);
    expect(ms).toBeLessThan(2_000);
  });
});

describe('a manifest', () => {
  const bombs = new URL('manifest-bombs.ts', import.meta.url);

  test.each([
    ['deep', 'it nests deeper than 64 levels'],
    ['wide', 'it has more than 400000 values'],
  ])('that is too %s is refused before it is parsed', (name, why) => {
    const { outcome, grown } = costOf(bombs, name);
    expect(outcome).toBe(`integrity: x: ${why}`);
    expect(grown).toBeLessThan(16 * MIB);
  });
});

describe('a frame of an exported log', () => {
  const bombs = new URL('frame-bombs.ts', import.meta.url);

  test.each(['records', 'subjects'])(
    'with more %s than a frame has is refused before it takes memory',
    (name) => {
      const { outcome, grown } = costOf(bombs, name);
      expect(outcome).toBe(
        'integrity: a frame of the event log is damaged: it counts more than a frame holds',
      );
      expect(grown).toBeLessThan(16 * MIB);
    },
  );
});
