/** `cofa install podman` on storage.conf as people and distributions have it. Needs no root. */
import { describe, expect, test } from 'vitest';
import { imageStoresOf, planPodmanUninstall, storageConf, withoutStore } from '../../src/install/podman.ts';

const STORE = '/var/lib/cofa/podman';
/** As Fedora brings it, in short. */
const FEDORA = [
  '# This file is the configuration file for all tools that use containers/storage.',
  '[storage]',
  'driver = "overlay"',
  'runroot = "/run/containers/storage"',
  'graphroot = "/var/lib/containers/storage"',
  '',
  '[storage.options]',
  '# AdditionalImageStores is used to pass paths to additional Read/Only image stores',
  'additionalimagestores = [',
  '"/usr/lib/containers/storage",',
  ']',
  '',
  '[storage.options.overlay]',
  'mountopt = "nodev,metacopy=on"',
  '',
].join('\n');

const FILES: Record<string, { text: string; others: string[] }> = {
  'a list over several lines': { text: FEDORA, others: ['/usr/lib/containers/storage'] },
  'an empty list': { text: FEDORA.replace(/\[\n"[^\n]*\n\]/, '[\n]'), others: [] },
  'a list on one line': {
    text: '[storage]\ndriver = "overlay"\n[storage.options]\nadditionalimagestores = ["/a", \'/b\'] # mine\n',
    others: ['/a', '/b'],
  },
  'no list': { text: '[storage]\ndriver = "overlay"\n[storage.options]\npull_options = {}\n', others: [] },
  'no options': { text: '[storage]\ndriver = "overlay"\n', others: [] },
};

describe.each(Object.entries(FILES))('%s', (_name, { text, others }) => {
  test('gets the store, before the others; a second time nothing changes', () => {
    const after = storageConf(text, undefined, STORE);
    expect(imageStoresOf(after)).toEqual([STORE, ...others]);
    expect(storageConf(after, undefined, STORE)).toBe(after);
  });

  test('is afterwards what it was, but for a remark on the line', () => {
    const back = withoutStore(storageConf(text, undefined, STORE), undefined) as string;
    expect(back.replace(' # mine', '')).toBe(text.replace(' # mine', ''));
  });
});

test('where there is no file the distribution’s is copied, since podman reads one of both; it is removed again', () => {
  const after = storageConf(undefined, FEDORA, STORE);
  expect(after).toContain('mountopt = "nodev,metacopy=on"');
  expect(imageStoresOf(after)[0]).toBe(STORE);
  expect(withoutStore(after, FEDORA)).toBeUndefined();
  // What the user has added stays.
  expect(withoutStore(`${after}\n[mine]\n`, FEDORA)).toContain('[mine]');
});

test('where there is none at all, podman keeps its defaults', () => {
  const after = storageConf(undefined, undefined, STORE);
  expect(after).toContain('graphroot = "/var/lib/containers/storage"');
  const read = (path: string) => (path === '/conf' ? after : undefined);
  expect(planPodmanUninstall({ path: '/conf', read })).toMatchObject([{ path: '/conf', after: undefined }]);
});

test('another storage driver is refused', () => {
  expect(() => storageConf('[storage]\ndriver = "btrfs"\n', undefined, STORE)).toThrow('by the driver btrfs');
});
