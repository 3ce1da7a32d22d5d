/**
 * One startup pack: stream → decode → verify → write, over all layers that it has blocks of. Like a fetch
 * (fetch-job.ts), but in the order in which the image's start reads.
 */
import { closeSync, openSync } from 'node:fs';
import { CofaError } from '../../schemas/errors.ts';
import type { StartRun } from '../../schemas/fetch.ts';
import type { SpanTable } from '../image/span-table.ts';
import { decodePack } from '../pack/format.ts';
import { DiskRoom } from '../store/disk-room.ts';
import type { Layout } from '../store/layout.ts';

/** Blocks of one layer in a row that are reported together. */
const REPORT_BLOCKS = 8;

export interface PackContext {
  layout: Layout;
  /** The image's layers by diffID, as they may occur in the pack; it has no business with others. */
  layers: ReadonlyMap<string, PackedLayer>;
  signal: AbortSignal;
  /** What is about to come: `[device, first, count]` of the layers named by diffID. Once, before any block. */
  onHeader(devices: readonly string[], runs: readonly StartRun[]): void;
  /** Blocks `[first, first + count)` of the layer of this id are verified and written. */
  onBlocks(layer: string, first: number, count: number): void;
}

/** A layer on this node. */
export interface PackedLayer {
  /** Its id, which names its device. */
  id: string;
  table: SpanTable;
}

/** A layer that the pack has blocks of. */
interface Target extends PackedLayer {
  file: number;
}

/**
 * Brings the blocks of a pack into the layer devices. A block that fails its check is left out, and with it all blocks
 * that follow: the rest is then fetched from the layers. Errors: `integrity` (the pack is malformed, for other layers, or
 * has wrong blocks), `no-space`, those of the body.
 */
export async function runPack(body: AsyncIterable<Uint8Array>, context: PackContext): Promise<void> {
  const { layout, layers, signal } = context;
  const room = new DiskRoom(layout.root);
  const targets: Target[] = [];
  let layer = '';
  let from = 0;
  let count = 0;
  const report = () => {
    if (count > 0) context.onBlocks(layer, from, count);
    count = 0;
  };
  try {
    await decodePack(
      body,
      (header) => {
        for (const [device, diffId] of header.devices.entries()) {
          const mine = layers.get(diffId);
          const isTwice = header.devices.indexOf(diffId) !== device;
          if (
            mine === undefined ||
            isTwice ||
            mine.table.rawSize !== header.sizes[device] ||
            mine.table.blockSize !== header.blockSize
          )
            throw new CofaError('integrity', `the startup pack is for another layer than ${diffId}`);
          targets.push({ ...mine, file: openSync(layout.device(mine.id), 'r+') });
        }
        context.onHeader(header.devices, header.runs);
      },
      ({ device, block, bytes }) => {
        signal.throwIfAborted();
        const { id, table, file } = targets[device] as Target;
        if (!table.verify(block, bytes)) {
          throw new CofaError(
            'integrity',
            `the startup pack has a wrong block ${block} of layer ${table.diffId}`,
          );
        }
        room.write(file, bytes, block * table.blockSize);
        if (count > 0 && (id !== layer || block !== from + count)) report();
        if (count === 0) {
          layer = id;
          from = block;
        }
        count += 1;
        if (count === REPORT_BLOCKS) report();
      },
    );
  } finally {
    // What came before an error is verified and written: it stays.
    report();
    for (const { file } of targets) closeSync(file);
  }
}
