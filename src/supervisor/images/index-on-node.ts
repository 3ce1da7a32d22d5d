/**
 * Indexes an image on this node, in a process of its own: its memory goes when it ends, and a layer that breaks it takes
 * nothing else along.
 */
import type { ChildProcess } from 'node:child_process';
import type { Progress } from '../../../schemas/api.ts';
import { toErrorRecord } from '../../../schemas/errors.ts';
import { INDEXING, type NodeIndex } from '../../index/orders.ts';
import { askForked } from '../../process/forked.ts';
import type { ResolvedImage } from '../../registry/client.ts';
import type { Layout } from '../../store/layout.ts';
import type { Indexers } from './indexers.ts';

/** Without a sign of life for this long, ms, the indexer is ended: its registry client gives up long before. */
const SILENCE_MS = 180_000;

/**
 * Streams every layer into its device and builds the flat image; all of it lies synced in the store when this resolves.
 * Errors: those of indexing (src/index/index-image.ts), `timeout` when the indexer falls silent.
 */
export async function indexOnNode(options: IndexOnNodeOptions): Promise<NodeIndex> {
  const atHand = options.indexers.take();
  if (atHand !== undefined) {
    let hasBegun = false;
    try {
      return await run(atHand, options, () => {
        hasBegun = true;
      });
    } catch (error) {
      // It may have ended while it waited, and this process not have heard of it.
      if (hasBegun || toErrorRecord(error).code !== 'internal') throw error;
    }
  }
  return await run(options.indexers.start(), options, () => {});
}

interface IndexOnNodeOptions {
  layout: Layout;
  manifest: string;
  image: ResolvedImage;
  indexers: Indexers;
  onProgress: (progress: Progress) => void;
}

const run = (
  child: ChildProcess,
  { image, manifest, layout, onProgress }: IndexOnNodeOptions,
  onSign: () => void,
): Promise<NodeIndex> =>
  askForked(
    child,
    INDEXING,
    { root: layout.root, manifest, image },
    {
      what: `the indexer of ${image.reference.text}`,
      silenceMs: SILENCE_MS,
      onNote: onProgress,
      onSign,
    },
  );
