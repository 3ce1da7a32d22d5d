import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { copyNames, hostIds, type IdMaps, idMapsOf, isCopyFor, MAP_LABELS } from '../../actors/id-maps.ts';
import { type SnapshotFacts, SnapshotError, TARGET_LABEL } from '../../actors/snapshots.ts';

const labels = (uid: string, gid = uid) => ({ [MAP_LABELS.uid]: uid, [MAP_LABELS.gid]: gid });
const maps = (uid: string, gid = uid) => idMapsOf(labels(uid, gid)) as IdMaps;
const digest = (text: string) => `sha256:${createHash('sha256').update(text).digest('hex')}`;
const facts = (name: string, own: Record<string, string> = {}) =>
  ({ name, parent: '', labels: own }) as unknown as SnapshotFacts;

test('labels become maps; without them there are none', () => {
  expect(idMapsOf({ other: 'x' })).toBeUndefined();
  expect(maps('0:100000:65536', '0:5:1,1:7:2')).toEqual({
    uid: [{ container: 0, host: 100_000, size: 65_536 }],
    gid: [
      { container: 0, host: 5, size: 1 },
      { container: 1, host: 7, size: 2 },
    ],
  });
});

test('ids go through the ranges', () => {
  const some = maps('0:1000:1,1:100000:999,1000:5:10', '0:7:1');
  expect(hostIds(some, { uid: 0, gid: 0 })).toEqual({ uid: 1000, gid: 7 });
  expect(hostIds(some, { uid: 999, gid: 0 })).toEqual({ uid: 100_998, gid: 7 });
  expect(hostIds(some, { uid: 1009, gid: 0 })).toEqual({ uid: 14, gid: 7 });
  expect(hostIds(some, { uid: 1010, gid: 0 })).toBeUndefined();
  expect(hostIds(some, { uid: 0, gid: 1 })).toBeUndefined();
});

describe('the copy that containerd makes for ids is known by its name', () => {
  const image = facts('k8s.io/7/sha256:abc');
  const pair = maps('0:100000:65536', '0:200000:65536');

  test('until 2.0: the image and the ids of root', () => {
    expect(isCopyFor(pair, copyNames(facts('k8s.io/9/sha256:abc-100000-200000'), image), digest)).toBe(true);
    expect(isCopyFor(pair, copyNames(facts('k8s.io/9/sha256:abc-100000-200001'), image), digest)).toBe(false);
    expect(isCopyFor(pair, copyNames(image, undefined), digest)).toBe(false);
  });

  test('since then: a digest of both, whatever the snapshot below is called here', () => {
    // What `remappedSnapshot.ID` of containerd 2.1 makes of it.
    const json =
      '{"Parent":"sha256:abc","IDMap":{"UidMap":[{"containerID":0,"hostID":100000,"size":65536}],"GidMap":[{"containerID":0,"hostID":200000,"size":65536}]}}';
    const copy = facts(`k8s.io/9/${digest(json)}`);
    expect(isCopyFor(pair, copyNames(copy, image), digest)).toBe(true);
    const adopted = facts('sha256:abc 0123', { [TARGET_LABEL]: 'sha256:abc' });
    expect(isCopyFor(pair, copyNames(copy, adopted), digest)).toBe(true);
    expect(isCopyFor(pair, copyNames(copy, facts('k8s.io/7/sha256:abd')), digest)).toBe(false);
    expect(isCopyFor(maps('0:100000:65536'), copyNames(copy, image), digest)).toBe(false);
  });
});

describe('what is no map is refused', () => {
  test.each([
    ['one of the two missing', { [MAP_LABELS.uid]: '0:1:1' }],
    ['words', labels('root')],
    ['a part too many', labels('0:1:1:1')],
    ['options of mount(8)', labels('0:1:1,upperdir=/etc')],
    ['a negative id', labels('-1:1:5')],
    ['an empty range', labels('0:1:0')],
    ['ids beyond 32 bits', labels('0:4294967294:2')],
    ['ranges of the container that overlap', labels('0:1:2,1:5:1')],
    ['ranges of the node that overlap', labels('0:5:2,7:6:1')],
    ['no place for a root', labels('1:100000:65536')],
    [
      'more ranges than the kernel takes',
      labels(Array.from({ length: 341 }, (_, at) => `${at}:${at}:1`).join()),
    ],
  ])('%s', (_, given) => {
    expect(() => idMapsOf(given)).toThrow(SnapshotError);
  });
});
