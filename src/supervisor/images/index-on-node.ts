/**
 * Indexes an image on this node, in a process of its own: its memory goes when it ends, and a layer that breaks it takes
 * nothing else along.
 */
import type { ChildProcess } from 'node:child_process';
import type { Progress } from '../../../schemas/api.ts';
import { CofaError, fromErrorRecord, toErrorRecord } from '../../../schemas/errors.ts';
import type { FromIndexer, NodeIndex, ToIndexer } from '../../index/orders.ts';
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

function run(child: ChildProcess, options: IndexOnNodeOptions, onSign: () => void): Promise<NodeIndex> {
  return new Promise<NodeIndex>((resolve, reject) => {
    let silence: NodeJS.Timeout | undefined;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => {
        reject(new CofaError('timeout', `indexing ${options.image.reference.text} came to a halt`));
        child.kill('SIGKILL');
      }, SILENCE_MS);
    };
    alive();
    child.on('message', (message: FromIndexer) => {
      alive();
      onSign();
      if (message.kind === 'progress') options.onProgress(message.progress);
      else if (message.kind === 'done') resolve(message.index);
      else reject(fromErrorRecord(message.error));
    });
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      clearTimeout(silence);
      reject(
        new CofaError('internal', `the indexer of ${options.image.reference.text} ended (${signal ?? code})`),
      );
    });
    const { image, manifest, layout } = options;
    child.send({ root: layout.root, manifest, image } satisfies ToIndexer);
  });
}
