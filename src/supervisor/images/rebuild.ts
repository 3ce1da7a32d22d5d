/** Rebuilds a flat image, or one span table, in a process of its own; the supervisor's side of rebuilder.ts and table-maker.ts. */
import type { ImageDevice } from '../../../actors/device.ts';
import { MAKING_TABLE, REBUILDING, type Rebuilt, type TableOrder } from '../../index/orders.ts';
import type { RebuildOrder } from '../../index/rebuild-flat.ts';
import type { Layout } from '../../store/layout.ts';
import { runForked } from '../../process/forked.ts';

/** A rebuild reads or receives bytes all the time; only building the image itself is silent, for seconds. */
const SILENCE_MS = 180_000;
/** The same where it has the lowest priority on a machine that is busy. */
const BACKGROUND_SILENCE_MS = 900_000;
/** Nobody waits for it: whoever has something to do goes first, on the processor and (by the same number) on the disk. */
const NICE = 19;
/** A table of a million entries takes some 1.5 GB. */
const HEAP_MIB = 3_072;
/** All of its memory: the heap, and the metadata that it makes. */
const MEMORY_MIB = 4_096;

/** It settles when the process has ended. Errors: those of rebuildFlat, `internal` when the process dies, such as for want of memory. */
export function rebuild(
  layout: Layout,
  manifest: string,
  order: RebuildOrder,
  options: {
    /**
     * Digest of the flat metadata that are to be proven; nobody waits for that, so it is done at the lowest priority.
     * Undefined: a mount waits for the file.
     */
    expected?: string;
    onBytes?: (bytes: number) => void;
    signal?: AbortSignal | undefined;
  },
): Promise<Rebuilt> {
  return runForked(
    REBUILDING,
    { ...order, root: layout.root, manifest, expected: options.expected },
    {
      program: new URL('../../indexer/rebuilder.ts', import.meta.url),
      what: `the rebuild of the flat image of ${manifest}`,
      silenceMs: options.expected === undefined ? SILENCE_MS : BACKGROUND_SILENCE_MS,
      heapMiB: HEAP_MIB,
      memoryMiB: MEMORY_MIB,
      nice: options.expected === undefined ? undefined : NICE,
      // Where the kernel groups by sessions, what it has beside other programs is its group's.
      ownSession: options.expected !== undefined,
      onNote: options.onBytes,
      signal: options.signal,
    },
  );
}

/**
 * The layer, with a span table that the node makes from its blob; the table lies in the store when this resolves. Errors: those
 * of the registry, `integrity` where the blob does not give the layer, `internal` when the process dies.
 */
export function makeTable(
  layout: Layout,
  order: Omit<TableOrder, 'root'>,
  signal: AbortSignal,
): Promise<ImageDevice> {
  return runForked(
    MAKING_TABLE,
    { ...order, root: layout.root },
    {
      program: new URL('../../indexer/table-maker.ts', import.meta.url),
      what: `the span table of ${order.layer.diffId}`,
      silenceMs: SILENCE_MS,
      heapMiB: HEAP_MIB,
      signal,
    },
  );
}
