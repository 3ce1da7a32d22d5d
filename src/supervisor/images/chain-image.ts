/**
 * The flat image of the lowest layers of an image, built from their tables of contents: for snapshots that stand on
 * layers which several images share, or on an image from which another was built.
 */
import { fork } from 'node:child_process';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CofaError, fromErrorRecord } from '../../../schemas/errors.ts';
import type { NewEvent } from '../../../schemas/events.ts';
import { SpanTable } from '../../image/span-table.ts';
import type { FromFlattener, ToFlattener } from '../../index/orders.ts';
import type { ResolvedImage } from '../../registry/client.ts';
import type { SidecarHandle } from '../../registry/sidecars.ts';
import { makeExpendable } from '../../kernel/oom-score.ts';
import { type Layout, writeWhole } from '../../store/layout.ts';
import { keepHints, readHints } from './hints.ts';

export interface ChainOrder {
  layout: Layout;
  /** ChainID of the layers; names the flat image in the store. */
  chain: string;
  /** The whole image. */
  image: ResolvedImage;
  /** How many of its layers, from the lowest. */
  layers: number;
  /** Has the tables that are not in the store. */
  sidecar: SidecarHandle | undefined;
  /** Told of what can be done without. */
  onFailed: (sentence: string) => void;
}

/** Heap of the process that builds, MiB: a table of a million entries takes some 1.5 GB. */
const HEAP_MIB = 3_072;
/** The process that builds is given so long, ms: 200,000 files take two seconds. */
const BUILD_MS = 120_000;

/**
 * Fetches what is missing, builds and stores the flat image. Errors: `not-found` where there are no tables of contents,
 * `integrity` where they do not fit the layers, those of the registry.
 */
export async function prepareChain(order: ChainOrder): Promise<NewEvent & { type: 'image.prepared' }> {
  const { layout, chain, image, sidecar } = order;
  const drafts: string[] = [];
  try {
    const layers = await Promise.all(
      image.layers.slice(0, order.layers).map(async ({ diffId, blob }, at) => {
        const spans = await spanTable(order, at, diffId, blob.digest);
        // What this node has built itself is of the layer's own bytes. Tables from elsewhere stay apart from these.
        let toc = layout.toc(diffId);
        const known = await readFile(toc).catch(() => undefined);
        if (known === undefined) {
          toc = join(layout.image(chain), `toc-${at}`);
          drafts.push(toc);
          await writeWhole(toc, await tables(order).toc(at));
        }
        return { diffId, size: spans.rawSize, toc, spans: blob.digest };
      }),
    );
    // Who has fewer layers runs something else, or is about to get the others.
    if (sidecar !== undefined && layers.length === image.layers.length)
      await keepHints(layout, chain, await readHints(sidecar, order.onFailed));
    const built = await flatten({ target: layout.flat(chain), layers });
    return {
      type: 'image.prepared',
      origin: sidecar === undefined ? 'node' : 'sidecar',
      ...(sidecar === undefined ? {} : { sidecar: sidecar.descriptor.digest }),
      ...(sidecar?.revision === undefined ? {} : { revision: sidecar.revision }),
      flat: built.flat,
      devices: built.devices.flatMap((at) => {
        const layer = layers[at];
        return layer === undefined ? [] : [{ diffId: layer.diffId, size: layer.size, spans: layer.spans }];
      }),
    };
  } finally {
    for (const draft of drafts) await rm(draft, { force: true });
  }
}

function tables({ image, sidecar }: ChainOrder): SidecarHandle {
  if (sidecar === undefined) {
    throw new CofaError(
      'not-found',
      `nobody has prepared ${image.reference.text}: its layers are not known`,
      {
        hint: `cofa index ${image.reference.text}`,
      },
    );
  }
  return sidecar;
}

async function spanTable(order: ChainOrder, at: number, diffId: string, blob: string): Promise<SpanTable> {
  const path = order.layout.spans(blob);
  const known = await readFile(path).then(SpanTable.decode, () => undefined);
  if (known?.diffId === diffId && known.blobDigest === blob) return known;
  const bytes = await tables(order).spans(at);
  const table = SpanTable.decode(bytes);
  if (table.diffId !== diffId || table.blobDigest !== blob)
    throw new CofaError('integrity', `the sidecar's span table of layer ${diffId} is another layer's`);
  await writeWhole(path, bytes);
  return table;
}

function flatten(order: ToFlattener): Promise<{ flat: string; devices: number[] }> {
  const child = fork(fileURLToPath(new URL('../../indexer/flattener.ts', import.meta.url)), {
    execArgv: [`--max-old-space-size=${HEAP_MIB}`],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  makeExpendable(child.pid);
  return new Promise<{ flat: string; devices: number[] }>((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new CofaError('timeout', 'building a flat image took too long'));
      child.kill('SIGKILL');
    }, BUILD_MS);
    child.on('message', (message: FromFlattener) => {
      if (message.kind === 'done') resolve(message);
      else reject(fromErrorRecord(message.error));
    });
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      clearTimeout(timer);
      reject(new CofaError('internal', `the process that builds a flat image ended (${signal ?? code})`));
    });
    child.send(order);
  });
}
