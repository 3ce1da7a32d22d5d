/** Work for many-files.test.ts: the two steps of indexing that grow with an image's files. */
import { buildFlat } from '../../src/image/erofs.ts';
import { decodeToc, TocWriter } from '../../src/image/toc-codec.ts';
import { TocBuilder } from '../../src/image/toc-builder.ts';
import { giveIndexingRoom } from '../../src/process/heap.ts';
import type { Work } from '../support/cost.ts';
import { header } from '../image/tar-writer.ts';

const FILES = 60_000;
const nameOf = (n: number): string => `usr/lib/package-${Math.floor(n / 100)}/module-${n}.py`;

function table(files: number): Buffer {
  const writer = new TocWriter();
  const builder = new TocBuilder(undefined, (entry) => writer.add(entry));
  for (let n = 0; n < files; n++) {
    builder.push(header({ name: nameOf(n), size: 512, mtime: n }));
    builder.push(Buffer.alloc(512));
  }
  builder.finish();
  return writer.finish();
}

/** A layer's table of contents, as its thread makes it. */
export const layer: Work = () => {
  table(1_000);
  return () => table(FILES).length > 0;
};

/** The flat image of such a layer, in a process through which an image streams. */
export const flatImage: Work = () => {
  const toc = table(FILES);
  const device = { diffId: `sha256:${'d'.repeat(64)}`, size: FILES * 1024 };
  return () => {
    giveIndexingRoom();
    return buildFlat([decodeToc(toc)], [device]).devices.length;
  };
};
