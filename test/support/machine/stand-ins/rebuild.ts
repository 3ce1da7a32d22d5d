/**
 * Stand-in for src/supervisor/images/rebuild.ts: the process reads each layer, from its device or from the registry,
 * and gives the layers' metadata, or a table, or dies.
 */
import type { ImageDevice } from '../../../../actors/device.ts';
import { type Rebuilt, rebuiltPath, type TableOrder } from '../../../../src/index/orders.ts';
import { CofaError } from '../../../../schemas/errors.ts';
import type { RebuildOrder } from '../../../../src/index/rebuild-flat.ts';
import { hexOf } from '../../../../schemas/digest.ts';
import { type Layout, writeWhole } from '../../../../src/store/layout.ts';
import { RIGHT } from '../disk.ts';
import { machine } from '../machine.ts';
import { digestOf, type SimLayer, world } from '../world.ts';
import { request } from './registry-client.ts';
import { encodeTable } from './span-table.ts';

export * from '../../../../src/supervisor/images/rebuild.ts';

export async function rebuild(
  layout: Layout,
  manifest: string,
  { layers, local }: RebuildOrder,
  { expected, signal }: { expected?: string; signal?: AbortSignal },
): Promise<Rebuilt> {
  const { random } = machine();
  machine().meet('rebuilds');
  const isAttackers = world().images.find((one) => one.manifest === manifest)?.isAttackers === true;
  const dies = random.chance(world().plan.rebuildDies);
  for (const { diffId } of layers) {
    const layer = world().layer(diffId);
    const isHere = local.some((one) => one.diffId === diffId);
    if (!isHere) await request('layer blob', signal);
    let isWhole = true;
    for (let block = 0; block < layer.blockCount; block++) {
      await machine().sleep(world().plan.blockMs);
      signal?.throwIfAborted();
      if (dies && random.chance(0.3)) {
        machine().meet('rebuilds that die');
        throw new CofaError('internal', 'the rebuild ended early');
      }
      if (isHere) isWhole &&= world().device(layout.root, layer.root)?.blocks?.[block] === RIGHT;
    }
    if (!isWhole) {
      machine().meet('rebuilds whose layers went');
      throw new CofaError('integrity', `the device of layer ${diffId} is another one`);
    }
    // No table here is of his blob, which has to be read.
    if (isAttackers) throw new CofaError('integrity', 'the tar is not what the config says');
    await writeWhole(layout.spans(tableOf(layer)), encodeTable(layer));
  }
  const image = world().images.find((one) => hexOf(one.manifest) === hexOf(manifest));
  if (image === undefined) throw new CofaError('internal', 'no such image');
  const isSame =
    expected !== undefined && (expected === digestOf(image.flat) || world().sabotage === 'blind-proof');
  const path = rebuiltPath(layout, manifest, expected !== undefined);
  if (!isSame) await writeWhole(path, image.flat);
  return {
    flat: digestOf(image.flat),
    devices: layers.map(({ diffId, blob }) => {
      const layer = world().layer(diffId);
      return { diffId, size: layer.size, spans: blob, root: layer.root, table: tableOf(layer) };
    }),
    difference: isSame ? undefined : 'other bytes',
    path,
  };
}

/** The process reads the layer's blob, and makes the table that the layer has; of an attacker's blob it finds that. */
export async function makeTable(
  layout: Layout,
  { layer }: Omit<TableOrder, 'root'>,
  signal: AbortSignal,
): Promise<ImageDevice> {
  machine().meet('tables made anew');
  const dies = machine().random.chance(world().plan.rebuildDies);
  const genuine = world().layers.find(({ diffId }) => diffId === layer.diffId);
  await request('layer blob', signal);
  for (let block = 0; block < (genuine?.blockCount ?? 0); block++) {
    await machine().sleep(world().plan.blockMs);
    signal.throwIfAborted();
    if (dies && machine().random.chance(0.3)) throw new CofaError('internal', 'the process ended early');
  }
  if (genuine?.blob !== layer.blob) throw new CofaError('integrity', 'the tar is not what the config says');
  await writeWhole(layout.spans(tableOf(genuine)), encodeTable(genuine));
  const { diffId, size, blob: spans, root } = genuine;
  return { diffId, size, spans, root, table: tableOf(genuine) };
}

const tableOf = (layer: SimLayer): string => digestOf(encodeTable(layer));
