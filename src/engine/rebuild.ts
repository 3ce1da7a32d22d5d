/** Rebuilds a flat image in a process of its own; the supervisor's side of rebuilder.ts. */
import type { RebuildOrder } from '../index/rebuild-flat.ts';
import type { Layout } from '../store/layout.ts';
import { runForked } from './forked.ts';

export interface RebuilderOrder extends RebuildOrder {
  root: string;
  manifest: string;
  background: boolean;
}

export interface Rebuilt {
  /** Digest of the flat metadata that the layers give. */
  flat: string;
  devices: Array<{ diffId: string; size: number; spans: string }>;
  /** How `flat.erofs` of the store differs from them; undefined: byte for byte the same. */
  difference: string | undefined;
  /** File of the rebuilt metadata where they differ, synced; the caller's to use or to remove. */
  path: string;
}

/** A rebuild reads or receives bytes all the time; only building the image itself is silent, for seconds. */
const SILENCE_MS = 180_000;
/** A table of a million entries takes some 1.5 GB. */
const HEAP_MIB = 3_072;

/** Errors: those of rebuildFlat, `internal` when the process dies, such as for want of memory. */
export function rebuild(
  layout: Layout,
  manifest: string,
  order: RebuildOrder,
  options: {
    /** Nobody waits for it: at the lowest priority. */
    background: boolean;
    onBytes?: (bytes: number) => void;
    signal?: AbortSignal | undefined;
  },
): Promise<Rebuilt> {
  return runForked<RebuilderOrder, number, Rebuilt>(
    { ...order, root: layout.root, manifest, background: options.background },
    {
      program: new URL('./rebuilder.ts', import.meta.url),
      what: `the rebuild of the flat image of ${manifest}`,
      silenceMs: SILENCE_MS,
      heapMiB: HEAP_MIB,
      ...(options.onBytes === undefined ? {} : { onNote: options.onBytes }),
      signal: options.signal,
    },
  );
}
