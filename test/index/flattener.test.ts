/** The process that builds the flat image of a chain of layers, as the supervisor asks it. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { digestOf } from '../../src/digest/digest.ts';
import { buildFlat } from '../../src/image/erofs.ts';
import { encodeToc } from '../../src/image/toc.ts';
import { indexLayer } from '../../src/image/index-layer.ts';
import { FLATTENING, type ToFlattener } from '../../src/index/orders.ts';
import { runForked } from '../../src/process/forked.ts';
import { TarBytes } from '../images/tar-bytes.ts';
import { whole } from '../support/attacker/layer.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const flatten = (order: ToFlattener) =>
  runForked(FLATTENING, order, {
    program: new URL('../../src/indexer/flattener.ts', import.meta.url),
    what: 'the flattener',
    heapMiB: 256,
    silenceMs: 30_000,
  });

test('two tables of contents become the flat image that they give; a damaged one is its own error', async () => {
  const folder = await cleanup.tempDir('flattener');
  const tars = ['a', 'b'].map((name) => new TarBytes().file(name, Buffer.alloc(700, name)).bytes());
  const tocs = await Promise.all(tars.map(async (tar) => (await indexLayer(whole(tar))).toc));
  const layers = tars.map((tar, at) => ({
    diffId: digestOf(tar),
    size: tar.length,
    toc: join(folder, `toc-${at}`),
  }));
  for (const [at, { toc }] of layers.entries())
    await writeFile(toc, encodeToc(tocs[at] as (typeof tocs)[number]));
  const target = join(folder, 'flat');
  const { metadata, devices } = buildFlat(tocs, layers);
  expect(await flatten({ target, layers })).toEqual({ flat: digestOf(metadata), devices });
  expect(await readFile(target)).toEqual(metadata);

  await writeFile(
    (layers[1] as (typeof layers)[number]).toc,
    encodeToc(tocs[1] as (typeof tocs)[number]).subarray(0, 30),
  );
  await expect(flatten({ target, layers })).rejects.toMatchObject({ code: 'integrity' });
});
