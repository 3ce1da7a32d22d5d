/** Stand-in for src/supervisor/images/index-on-node.ts: all layers stream into their devices, and everything is synced. */
import { CofaError } from '../../../../schemas/errors.ts';
import type { ResolvedImage } from '../../../../src/registry/client.ts';
import { hexOf } from '../../../../schemas/digest.ts';
import { type Layout, writeWhole } from '../../../../src/store/layout.ts';
import { openDevice } from '../../../../src/store/device.ts';
import { RIGHT } from '../disk.ts';
import { machine } from '../machine.ts';
import { digestOf, world } from '../world.ts';
import { request } from './registry-client.ts';
import { encodeTable } from './span-table.ts';
import { createHash } from 'node:crypto';

export * from '../../../../src/supervisor/images/index-on-node.ts';

export async function indexOnNode(options: {
  layout: Layout;
  manifest: string;
  image: ResolvedImage;
}): Promise<unknown> {
  const { layout, manifest, image } = options;
  if (world().images.find((one) => one.manifest === manifest)?.isAttackers === true) {
    await request('layer blob');
    throw new CofaError('integrity', 'the tar is not what the config says');
  }
  machine().meet('indexed on the node');
  const devices = await Promise.all(
    image.layers.map(async ({ diffId, blob }) => {
      await request('layer blob');
      const layer = world().layer(diffId);
      const { root } = layer;
      const { file } = await openDevice(layout.device(root), layer.size);
      for (let block = 0; block < layer.blockCount; block++) {
        await machine().sleep(world().plan.blockMs);
        const blocks = world().disk.file(layout.device(root))?.blocks;
        if (blocks !== undefined) blocks[block] = RIGHT;
      }
      await file.sync();
      await file.close();
      const bytes = encodeTable(layer);
      const table = digestOf(bytes);
      await writeWhole(layout.spans(table), bytes);
      return { diffId, size: layer.size, spans: blob.digest, root, table };
    }),
  );
  const found = world().images.find((one) => hexOf(one.manifest) === hexOf(manifest));
  const flat = found?.flat ?? Buffer.from('{}');
  await writeWhole(layout.flat(manifest), flat);
  return { flat: `sha256:${createHash('sha256').update(flat).digest('hex')}`, devices };
}
