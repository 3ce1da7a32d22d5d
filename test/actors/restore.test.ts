/** What becomes of the mounts of an earlier engine. */
import { describe, expect, test } from 'vitest';
import { fateOf, isTakenAway, nextTry, pauseAfterTries, returnOf } from '../../actors/restore.ts';

const erofs = { type: 'erofs', source: '/dev/loop1' };

test('what was acknowledged comes back; a request is given up, also of an image that the log has lost', () => {
  expect(fateOf({ state: 'mounted' }, true)).toBe('bring-back');
  expect(fateOf({ state: 'detached' }, true)).toBe('bring-back');
  expect(fateOf({ state: 'mounted' }, false)).toBe('leave');
  expect([fateOf({ state: 'requested' }, true), fateOf({ state: 'requested' }, false)]).toEqual([
    'give-up',
    'give-up',
  ]);
});

test('a mount goes on as it is on the loop that was taken over, and is replaced on any other', () => {
  expect(returnOf(erofs, '/dev/loop1')).toBe('kept');
  expect(returnOf(erofs, '/dev/loop2')).toBe('replaced');
  expect(returnOf(undefined, '/dev/loop1')).toBe('anew');
  // What a user has mounted there is none of ours.
  expect(returnOf({ type: 'tmpfs', source: '/dev/loop1' }, '/dev/loop1')).toBe('anew');
});

describe('what stands where a request is given up', () => {
  test('is unmounted, unless it is not ours to take', () => {
    expect(isTakenAway(erofs, '/a', [{ dir: '/a', state: 'requested' }])).toBe(true);
    expect(isTakenAway(undefined, '/a', [])).toBe(false);
    expect(isTakenAway({ type: 'ext4', source: '/dev/sda' }, '/a', [])).toBe(false);
  });

  test('stays where another mount of the same directory was acknowledged', () => {
    expect(isTakenAway(erofs, '/a', [{ dir: '/a', state: 'mounted' }])).toBe(false);
    expect(isTakenAway(erofs, '/a', [{ dir: '/b', state: 'mounted' }])).toBe(true);
  });
});

test('a mount that did not come back is tried again, more and more rarely, until it is back or unwanted', () => {
  expect([1, 2, 3, 4, 5, 6].map(pauseAfterTries)).toEqual([5_000, 10_000, 20_000, 40_000, 60_000, 60_000]);
  expect(nextTry('failed', true)).toBe('now');
  expect(nextTry('unmounting', true)).toBe('later');
  expect(nextTry('mounted', true)).toBe('over');
  expect(nextTry('failed', false)).toBe('over');
});
