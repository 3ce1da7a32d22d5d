import { describe, expect, test } from 'vitest';
import { checkMaps, MAP_LABELS } from '../../actors/id-maps.ts';

const labels = (uid: string, gid = uid) => ({ [MAP_LABELS.uid]: uid, [MAP_LABELS.gid]: gid });
const check = (given: Record<string, string>, parent: string) => {
  try {
    checkMaps(given, parent);
    return 'taken';
  } catch (error) {
    return (error as { code: string }).code;
  }
};

test.each([
  ['no labels', {}, 'sha256:abc', 'taken'],
  [
    'a copy that containerd has made for these ids',
    labels('0:100000:65536'),
    'sha256:abc-100000-100000',
    'taken',
  ],
  ['a copy for a user and another group', labels('0:1000:1,1:5000:9', '0:7:1'), 'sha256:abc-1000-7', 'taken'],
  ['layers as they are', labels('0:100000:65536'), 'sha256:abc', 'failed-precondition'],
  ['a copy for other ids', labels('0:100000:65536'), 'sha256:abc-100000-100001', 'failed-precondition'],
])('%s: %j on %s', (_, given, parent, outcome) => {
  expect(check(given, parent)).toBe(outcome);
});

describe('what is no map is refused', () => {
  test.each([
    ['one of the two missing', { [MAP_LABELS.uid]: '0:1:1' }],
    ['words', labels('root')],
    ['a part too many', labels('0:1:1:1')],
    ['options of mount(8)', labels('0:1:1,upperdir=/etc')],
    ['no place for a root', labels('1:100000:65536')],
  ])('%s', (_, given) => {
    expect(check(given, 'parent')).toBe('invalid-argument');
  });
});
