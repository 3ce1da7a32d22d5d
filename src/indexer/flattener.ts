/** The process that builds one flat image from tables of contents; started by chain-image.ts, ends when it has answered. */
import { readFile } from 'node:fs/promises';
import { digestOf } from '../digest/digest.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import { buildFlat } from '../image/erofs.ts';
import { decodeToc } from '../image/toc.ts';
import type { FromFlattener, ToFlattener } from '../index/orders.ts';
import { orderChannel } from '../process/forked.ts';
import { writeWhole } from '../store/layout.ts';

async function flatten({ target, layers }: ToFlattener): Promise<FromFlattener> {
  try {
    const tocs = await Promise.all(layers.map(async ({ toc, size }) => decodeToc(await readFile(toc), size)));
    const { metadata, devices } = buildFlat(tocs, layers);
    await writeWhole(target, metadata);
    const flat = digestOf(metadata);
    return { kind: 'done', flat, devices };
  } catch (error) {
    return { kind: 'failed', error: toErrorRecord(error) };
  }
}

if (import.meta.main) {
  const { order, say } = orderChannel<ToFlattener, FromFlattener>();
  await say(await flatten(await order));
  process.exit(0);
}
