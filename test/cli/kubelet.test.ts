import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { findKubelet, imageEndpointOf } from '../../src/cli/kubelet.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

async function machine(commandLines: string[][], config?: string) {
  const folder = await cleanup.tempDir('kubelet');
  for (const [at, words] of commandLines.entries()) {
    mkdirSync(join(folder, `proc/${at + 1}`), { recursive: true });
    writeFileSync(join(folder, `proc/${at + 1}/cmdline`), words.map((word) => `${word}\0`).join(''));
  }
  const file = join(folder, 'config.yaml');
  if (config !== undefined) writeFileSync(file, config);
  return { file, find: (defaultConfig = file) => findKubelet(join(folder, 'proc'), defaultConfig) };
}

test('a machine without a kubelet has none', async () => {
  const { find } = await machine([['/usr/bin/containerd'], ['sh', '-c', 'kubelet']]);
  expect(await find()).toBeUndefined();
});

test('one that does not run is known by its configuration', async () => {
  const { find } = await machine([], 'kind: KubeletConfiguration\nimageServiceEndpoint: unix:///a.sock\n');
  expect(await imageEndpointOf((await find()) ?? { args: [], config: undefined })).toBe('/a.sock');
});

test('one that runs has the configuration that it was started with', async () => {
  const { file, find } = await machine([], 'imageServiceEndpoint: "unix:///b.sock"\n');
  const { find: findRunning } = await machine([['/usr/bin/kubelet', '--v=2', '--config', file]]);
  expect(await imageEndpointOf((await findRunning('/none')) ?? { args: [], config: undefined })).toBe(
    '/b.sock',
  );
  expect(await find('/none')).toBeUndefined();
});

describe('where it has its images from', () => {
  test.each<[string, string[], string | undefined, string]>([
    ['nothing said', ['kubelet'], 'kind: KubeletConfiguration\n', ''],
    [
      'an option',
      ['kubelet', '--image-service-endpoint=unix:///o.sock'],
      'imageServiceEndpoint: /c',
      '/o.sock',
    ],
    ['an option and its word', ['kubelet', '--image-service-endpoint', '/o.sock'], undefined, '/o.sock'],
    ['YAML with an anchor', ['kubelet'], 'a: &x unix:///c.sock\nimageServiceEndpoint: *x\n', '/c.sock'],
    [
      'YAML that is broken elsewhere',
      ['kubelet'],
      'a: "b\nimageServiceEndpoint: unix:///c.sock # x\n',
      '/c.sock',
    ],
    ['JSON', ['kubelet'], '{"imageServiceEndpoint":"unix:///c.sock"}', '/c.sock'],
  ])('%s', async (_, args, config, wanted) => {
    expect(await imageEndpointOf({ args, config })).toBe(wanted);
  });
});
