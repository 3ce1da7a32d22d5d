/**
 * The process that indexes one image for the node; started by indexers.ts, ends when it has answered. `rehearse ROOT`: it has time
 * before its order comes, loads what it needs and goes through it with an image of its own.
 *
 *     channel ─▶ rehearsal, until the order comes ─▶ order ─▶ index ─▶ answer
 */
import { availableParallelism } from 'node:os';
import { digestOf } from '../digest/digest.ts';
import type { Progress } from '../../schemas/api.ts';
import { indexImage } from '../index/index-image.ts';
import { INDEXING, type NodeIndex, type ToIndexer } from '../index/orders.ts';
import { rawBudget } from '../index/raw-budget.ts';
import { ThreadPool } from '../index/thread-pool.ts';
import { answerOrder, type OrderChannel, orderChannel } from '../process/forked.ts';
import { giveIndexingRoom, Tidying } from '../process/heap.ts';
import { leave } from '../process/leave.ts';
import { readSettings } from '../process/settings.ts';
import { diskReserve } from '../store/disk-room.ts';
import { Layout, writeWhole } from '../store/layout.ts';

export interface IndexerPorts {
  /** The heap may grow from now on: an image streams through it. */
  giveHeapRoom(): void;
  /** Collects the garbage that a rehearsal leaves. */
  tidy(): void;
}

/** Answers the one order of the channel. `rehearseIn`: state of the engine, where there is time for a rehearsal before. */
export async function runIndexer(
  rehearseIn: string | undefined,
  channel: OrderChannel,
  ports: IndexerPorts,
): Promise<void> {
  const pool = rehearseIn === undefined ? undefined : rehearseUntilOrder(rehearseIn, channel, ports);
  await answerOrder(INDEXING, channel, (order, note) => indexForNode(order, pool, note, ports));
}

/** Rehearses in the background, and returns the threads that are warm by that. */
function rehearseUntilOrder(root: string, { order }: OrderChannel, ports: IndexerPorts): ThreadPool {
  const threads = availableParallelism();
  const pool = new ThreadPool(threads);
  const working = new AbortController();
  void order.then(() => working.abort());
  const rehearse = async () => {
    const { rehearseIndex } = await import('./rehearse.ts');
    // A rehearsal that fails makes the index slower, not wrong: what is really wrong, the order's answer says.
    await rehearseIndex({ root, name: 'indexer', signal: working.signal }, pool, threads).catch(
      (error: unknown) => {
        if (!working.signal.aborted) console.error('the rehearsal of an indexer failed', error);
      },
    );
    // Not before: what a rehearsal leaves would be kept for as long as no order comes.
    ports.giveHeapRoom();
    if (!working.signal.aborted) ports.tidy();
  };
  void rehearse();
  return pool;
}

async function indexForNode(
  { root, manifest, image }: ToIndexer,
  pool: ThreadPool | undefined,
  onProgress: (progress: Progress) => void,
  ports: IndexerPorts,
): Promise<NodeIndex> {
  const layout = new Layout(root);
  const { registry, cacheLimit = Number.POSITIVE_INFINITY } = await readSettings(root);
  const indexed = await indexImage({
    image,
    ...(pool === undefined ? {} : { pool }),
    registry,
    // Below its reserve the cache begins to evict: it gets a chance to make room.
    budget: rawBudget(cacheLimit, diskReserve(root) / 2),
    store: root,
    onBegun: () => ports.giveHeapRoom(),
    onLayer: async (layer) => {
      await Promise.all([
        writeWhole(layout.spans(digestOf(layer.spans)), layer.spans),
        writeWhole(layout.toc(layer.diffId), layer.toc),
      ]);
    },
    onProgress,
  });
  await writeWhole(layout.flat(manifest), indexed.flat);
  return {
    flat: digestOf(indexed.flat),
    devices: indexed.devices.flatMap((at) => {
      const layer = indexed.layers[at];
      if (layer === undefined) return [];
      const { diffId, rawSize: size, blobDigest, root, spans } = layer;
      return [{ diffId, size, spans: blobDigest, root, table: digestOf(spans) }];
    }),
  };
}

if (import.meta.main) {
  const [mode, root] = process.argv.slice(2);
  await runIndexer(mode === 'rehearse' ? root : undefined, orderChannel(), {
    giveHeapRoom: giveIndexingRoom,
    tidy: () => new Tidying().now(),
  });
  leave(0);
}
