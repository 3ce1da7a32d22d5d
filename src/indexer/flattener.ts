/** The process that builds one flat image from tables of contents; started by chain-image.ts, ends when it has answered. */
import { readFile } from 'node:fs/promises';
import { digestOf } from '../digest/digest.ts';
import { buildFlat } from '../image/erofs.ts';
import { decodeToc } from '../image/toc.ts';
import { FLATTENING, type Flattened, type ToFlattener } from '../index/orders.ts';
import { serveForked } from '../process/forked.ts';
import { writeWhole } from '../store/layout.ts';

async function flatten({ target, layers }: ToFlattener): Promise<Flattened> {
  const tocs = await Promise.all(layers.map(async ({ toc, size }) => decodeToc(await readFile(toc), size)));
  const { metadata, devices } = buildFlat(tocs, layers);
  await writeWhole(target, metadata);
  return { flat: digestOf(metadata), devices };
}

if (import.meta.main) await serveForked(FLATTENING, flatten);
