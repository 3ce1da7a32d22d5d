/** The ids by which podman knows images and layers; those expected here podman 4.3.1 has given. Needs no root. */
import { expect, test } from 'vitest';
import { fileOf, layerIds, layersJson, linkOf, manifestKey } from '../../src/supervisor/podman/documents.ts';

const DIFF_IDS = [
  'sha256:a929f45899c917b9642312ccac24a098d1616b005ed23538964d7a54434ecf57',
  'sha256:e7089f9b0e489a15debf469bd4b47a784296bcd256d3762fb9e58f1ec24a0fa2',
  'sha256:1cb948c23545666f077c2b080506194f6ea6e01e1444db4e6d3e1b083eba25f7',
];

test('a layer’s id is made of those below it and its diffID', () => {
  expect(layerIds(DIFF_IDS)).toEqual([
    'a929f45899c917b9642312ccac24a098d1616b005ed23538964d7a54434ecf57',
    '0b14a7f3d873fe587b30465e4f6d730b2f5481724a5e857a7e03bd94fb186f7f',
    '3d87e712dcfbd3b2b3e6a952204635e4c74b170f410cf16aead86a1a078a2c16',
  ]);
});

test('files of big data bear the names that podman looks for', () => {
  expect(fileOf('manifest')).toBe('manifest');
  const digest = 'sha256:c738151b289a700da2ba1468caa5d3a21911ab27840a5d5589a0d1e7db2a4c6e';
  expect(fileOf(manifestKey(digest))).toBe(
    '=bWFuaWZlc3Qtc2hhMjU2OmM3MzgxNTFiMjg5YTcwMGRhMmJhMTQ2OGNhYTVkM2EyMTkxMWFiMjc4NDBhNWQ1NTg5YTBkMWU3ZGIyYTRjNmU=',
  );
});

test('a layer has the same short name in each life of the engine, in the letters that podman uses', () => {
  const [id = ''] = layerIds(DIFF_IDS);
  expect(linkOf(id)).toMatch(/^[A-Z2-7]{26}$/);
  expect(linkOf(id)).toBe(linkOf(id));
});

test('a layer that two images have is listed once, and others stay', () => {
  const layer = {
    diffId: DIFF_IDS[0] as string,
    blob: DIFF_IDS[1] as string,
    blobSize: 1,
    mediaType: 'x.tar+gzip',
    size: 2,
  };
  const image = { layers: [layer], added: new Date(0) };
  const layers = JSON.parse(layersJson([image, image], [{ id: 'other' }])) as Array<{
    id: string;
    compression?: number;
  }>;
  expect(layers.map(({ id }) => id)).toEqual([layerIds(DIFF_IDS)[0], 'other']);
  expect(layers[0]?.compression).toBe(2);
});
