/**
 * The process that indexes one image for the node; started by indexers.ts, ends when it has answered. `rehearse ROOT`: it has time
 * before its order comes, loads what it needs and goes through it with an image of its own.
 */
import { availableParallelism } from 'node:os';
import { createHash } from 'node:crypto';
import { toErrorRecord } from '../../schemas/errors.ts';
import { indexImage } from '../index/index-image.ts';
import type { FromIndexer, NodeIndex, ToIndexer } from '../index/orders.ts';
import { ThreadPool } from '../index/thread-pool.ts';
import { Layout, writeWhole } from '../store/layout.ts';
import { giveHeapRoom, INDEXING_ROOM_PERCENT, Tidying } from '../process/heap.ts';
import { readSettings } from '../process/settings.ts';

const say = (message: FromIndexer) =>
  new Promise<void>((resolve) => {
    if (process.send === undefined) throw new Error('indexer/main.ts is started by indexers.ts');
    process.send(message, () => resolve());
  });

// The supervisor is gone: nobody wants the outcome.
process.once('disconnect', () => process.exit(1));
/** The order has come. */
const working = new AbortController();
let pool: ThreadPool | undefined;
process.once('message', async (order: ToIndexer) => {
  working.abort();
  try {
    await say({ kind: 'done', index: await run(order) });
  } catch (error) {
    await say({ kind: 'failed', error: toErrorRecord(error) });
  }
  process.exit(0);
});

const [mode, ownRoot] = process.argv.slice(2);
if (mode === 'rehearse' && ownRoot !== undefined) {
  const threads = availableParallelism();
  pool = new ThreadPool(threads);
  const { rehearseIndex } = await import('./rehearse.ts');
  // It only would be slower: whoever sends the order hears of what is really wrong.
  await rehearseIndex({ root: ownRoot, name: 'indexer', signal: working.signal }, pool, threads).catch(
    (error: unknown) => {
      if (!working.signal.aborted) console.error('the rehearsal of an indexer failed', error);
    },
  );
  // Not before: what a rehearsal leaves would be kept for as long as no order comes.
  giveHeapRoom(INDEXING_ROOM_PERCENT);
  if (!working.signal.aborted) new Tidying().now();
}

async function run({ root, manifest, image }: ToIndexer): Promise<NodeIndex> {
  const layout = new Layout(root);
  const indexed = await indexImage({
    image,
    ...(pool === undefined ? {} : { pool }),
    registry: (await readSettings(root)).registry,
    deviceOf: layout.device,
    onBegun: () => giveHeapRoom(INDEXING_ROOM_PERCENT),
    onLayer: async (layer) => {
      await Promise.all([
        writeWhole(layout.spans(layer.blobDigest), layer.spans),
        writeWhole(layout.toc(layer.diffId), layer.toc),
      ]);
    },
    onProgress: (progress) => void say({ kind: 'progress', progress }),
  });
  await writeWhole(layout.flat(manifest), indexed.flat);
  return {
    flat: `sha256:${createHash('sha256').update(indexed.flat).digest('hex')}`,
    devices: indexed.devices.flatMap((at) => {
      const layer = indexed.layers[at];
      return layer === undefined
        ? []
        : [{ diffId: layer.diffId, size: layer.rawSize, spans: layer.blobDigest }];
    }),
  };
}
