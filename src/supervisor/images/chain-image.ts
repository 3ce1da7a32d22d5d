/**
 * The flat image of the lowest layers of an image, built from their tables of contents: for snapshots that stand on
 * layers which several images share, or on an image from which another was built.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type ImageDevice, tableNameOf } from '../../../actors/device.ts';
import { CofaError } from '../../../schemas/errors.ts';
import type { NewEvent } from '../../../schemas/events.ts';
import { SpanTable } from '../../image/span-table.ts';
import { FLATTENING, type Flattened, type ToFlattener } from '../../index/orders.ts';
import { runForked } from '../../process/forked.ts';
import type { ResolvedImage } from '../../registry/client.ts';
import type { SidecarHandle } from '../../registry/sidecars.ts';
import type { LaterSync } from '../../store/later-sync.ts';
import type { Layout } from '../../store/layout.ts';
import { keepHints, readHints } from './hints.ts';
import { isLarge, takeLarge } from './large-part.ts';
import type { Check } from './sidecar-choice.ts';
import { takeTable } from './tables.ts';

export interface ChainOrder {
  layout: Layout;
  /** Takes what is written. */
  files: LaterSync;
  /** ChainID of the layers; names the flat image in the store. */
  chain: string;
  /** The whole image. */
  image: ResolvedImage;
  /** How many of its layers, from the lowest. */
  layers: number;
  /** Has the tables that are not in the store. */
  sidecar: SidecarHandle | undefined;
  /** Layers that images of this node have, with span tables whose block root is proven. */
  known: readonly ImageDevice[];
  /** Told of what can be done without. */
  onFailed: (sentence: string) => void;
  /** Told of each layer whose table is in the store. */
  onTable?: ((device: ImageDevice) => void) | undefined;
}

/** Heap of the process that builds, MiB: a table of a million entries takes some 1.5 GB. */
const HEAP_MIB = 3_072;
/** All of its memory: the heap, and the metadata that it makes. */
const MEMORY_MIB = 4_096;
/** The process that builds is given so long, ms: 200,000 files take two seconds. */
const BUILD_MS = 120_000;

/**
 * Fetches what is missing, builds and stores the flat image. Errors: `not-found` where there are no tables of contents,
 * `integrity` where they do not fit the layers, those of the registry.
 */
export async function prepareChain(
  order: ChainOrder,
  check: Check = async () => undefined,
): Promise<NewEvent & { type: 'image.prepared' }> {
  const { layout, files, chain, image, sidecar } = order;
  const drafts: string[] = [];
  try {
    const layers = await Promise.all(
      image.layers.slice(0, order.layers).map(async ({ diffId }, at) => {
        const device = await deviceOf(order, at);
        order.onTable?.(device);
        // What this node has built itself is of the layer's own bytes. Tables from elsewhere stay apart from these.
        let toc = layout.toc(diffId);
        const known = await readFile(toc).catch(() => undefined);
        if (known === undefined) {
          toc = join(layout.image(chain), `toc-${at}`);
          drafts.push(toc);
          const draft = toc;
          await takeToc(order, at, draft);
        }
        return { diffId, size: device.size, toc, device };
      }),
    );
    // Who has fewer layers runs something else, or is about to get the others.
    if (sidecar !== undefined && layers.length === image.layers.length)
      await keepHints({ layout, files }, chain, await readHints(sidecar, order.onFailed));
    const built = await flatten({
      target: layout.flat(chain),
      layers: layers.map(({ diffId, size, toc }) => ({ diffId, size, toc })),
    });
    const devices = built.devices.flatMap((at) => layers[at]?.device ?? []);
    const vouched = await check({ flat: built.flat, roots: rootsOf(devices) });
    return {
      type: 'image.prepared',
      origin: sidecar === undefined ? 'node' : 'sidecar',
      ...(sidecar === undefined ? {} : { sidecar: sidecar.descriptor.digest }),
      ...(sidecar?.revision === undefined ? {} : { revision: sidecar.revision }),
      flat: built.flat,
      devices,
      ...(vouched === undefined ? {} : { vouched }),
    };
  } finally {
    for (const draft of drafts) await rm(draft, { force: true });
  }
}

async function takeToc(order: ChainOrder, layer: number, target: string): Promise<void> {
  const { layout, files } = order;
  const sidecar = tables(order);
  const part = { kind: 'toc', layer } as const;
  if (isLarge(sidecar, part)) await takeLarge(layout, sidecar, part, { kind: 'toc', target });
  else await sidecar.use(part, (bytes) => files.write(target, bytes));
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

const rootsOf = (devices: readonly ImageDevice[]): Array<{ diffId: string; root: string }> =>
  devices.flatMap(({ diffId, root }) => (root === undefined ? [] : [{ diffId, root }]));

/**
 * A layer's span table is in the store when this resolves: one that the node has made or that came with a voucher, else the
 * sidecar's, else one of a proven block root.
 */
async function deviceOf(order: ChainOrder, at: number): Promise<ImageDevice> {
  const { layout, files, image, known } = order;
  const layer = image.layers[at] as ResolvedImage['layers'][number];
  const { diffId, blob } = layer;
  for (const device of known) {
    if (device.diffId !== diffId || device.spans !== blob.digest) continue;
    if (device.pushed === true && order.sidecar !== undefined) continue;
    const isHere = await readFile(layout.spans(tableNameOf(device))).then(
      (bytes) => SpanTable.of(bytes, layer).rawSize === device.size,
      () => false,
    );
    if (isHere) return device;
  }
  const taken = await takeTable({ layout, files, image, sidecar: tables(order) }, at);
  return { diffId, spans: blob.digest, ...taken };
}

const flatten = (order: ToFlattener): Promise<Flattened> =>
  runForked(FLATTENING, order, {
    program: new URL('../../indexer/flattener.ts', import.meta.url),
    what: 'the process that builds a flat image',
    heapMiB: HEAP_MIB,
    memoryMiB: MEMORY_MIB,
    silenceMs: BUILD_MS,
  });
