/** The process that builds one flat image from tables of contents; started by chain-image.ts, ends when it has answered. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { toErrorRecord } from '../../schemas/errors.ts';
import { buildFlat } from '../image/erofs.ts';
import { decodeToc } from '../image/toc.ts';
import type { FromFlattener, ToFlattener } from '../index/orders.ts';
import { writeWhole } from '../store/layout.ts';

const say = (message: FromFlattener) =>
  new Promise<void>((resolve) => {
    if (process.send === undefined) throw new Error('flattener.ts is started by chain-image.ts');
    process.send(message, () => resolve());
  });

process.once('disconnect', () => process.exit(1));
process.once('message', async ({ target, layers }: ToFlattener) => {
  try {
    const tocs = await Promise.all(layers.map(async ({ toc }) => decodeToc(await readFile(toc))));
    const { metadata, devices } = buildFlat(tocs, layers);
    await writeWhole(target, metadata);
    const flat = `sha256:${createHash('sha256').update(metadata).digest('hex')}`;
    await say({ kind: 'done', flat, devices });
  } catch (error) {
    await say({ kind: 'failed', error: toErrorRecord(error) });
  }
  process.exit(0);
});
