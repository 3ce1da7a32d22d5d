/** An image of a registry that the benchmark is told to measure. */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { blobPath, layoutLayers, openLayout, pushLayout } from '../../ops/images/layout.ts';
import { pulledImage } from '../../ops/images/pulled.ts';
import { syntheticImage } from '../../ops/images/synthetic.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

test('a pulled image has the manifest and the layers of its registry, byte for byte, and can be pushed again', async () => {
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const folder = await cleanup.tempDir('pulled');
  const [from, to] = [join(folder, 'from'), join(folder, 'to')];
  await mkdir(from);
  await mkdir(to);
  const source = await syntheticImage(from, { layers: 2, filesPerLayer: 3, fileBytes: 4096 }, () => {});
  await pushLayout(source, registry.host, 'app', '1');
  const pulled = await pulledImage(`${registry.host}/app:1`, to, () => {});
  expect(pulled.manifest).toEqual(source.manifest);
  expect(await openLayout(to)).toEqual(pulled);
  for (const { digest } of await layoutLayers(source))
    expect(await readFile(blobPath(to, digest))).toEqual(await readFile(blobPath(source.directory, digest)));
  expect(await pushLayout(pulled, registry.host, 'again', '1')).toBe(source.manifest.digest);
});
