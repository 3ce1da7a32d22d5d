/** tar-split files are made of whole layers, also of one whose file could not be made before. Needs no root. */
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, expect, test } from 'vitest';
import { Layout } from '../../src/store/layout.ts';
import { StoreFiles } from '../../src/supervisor/podman/files.ts';
import { Splits } from '../../src/supervisor/podman/splits.ts';
import { eventually } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

test('one that failed is made when the image is added again', async () => {
  let tries = 0;
  const made: string[] = [];
  const order = { device: '/d', size: 1, diffId: `sha256:${'a'.repeat(64)}`, target: '/t' };
  const splits = new Splits({
    due: async () => (made.length === 0 ? [order] : []),
    made: async (diffId) => void made.push(diffId),
    split: async () => {
      if (tries++ === 0) throw new Error('the draft is not there');
    },
    log: pino({ level: 'silent' }),
  });
  splits.poke();
  await eventually('it has failed', () => tries === 1);
  splits.retry();
  await eventually('it is made', () => made.length === 1);
  await splits.close();
});

test('a sweep leaves a file that is being written', async () => {
  const layout = new Layout(await cleanup.tempDir('podman-files'));
  const splits = join(layout.podman(), 'splits');
  for (const folder of ['overlay', 'overlay-images', 'splits'])
    await mkdir(join(layout.podman(), folder), { recursive: true });
  const name = `${'b'.repeat(64)}.gz`;
  for (const file of [name, `${name}.draft`]) await writeFile(join(splits, file), '');
  await new StoreFiles(layout).sweep({ layers: new Set(), images: new Set(), diffIds: new Set() });
  expect(await readdir(splits)).toEqual([`${name}.draft`]);
});
