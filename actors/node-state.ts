/**
 * What a node knows, as a fold over its event log. The engine after a restart, `status` and the replay of a log all use
 * this one function, so they cannot disagree.
 */
import type { CofaEvent, EventOf } from '../schemas/events.ts';
import type { TrustPolicy } from '../schemas/trust.ts';
import { type BlockRun, blockRun, sizeOf } from './ranges.ts';
import { foldSnapshot, type SnapshotFacts } from './snapshots.ts';

export interface ImageFacts {
  resolved: EventOf<'image.resolved'>;
  prepared: EventOf<'image.prepared'> | undefined;
  failure: { code: string; message: string } | undefined;
  /** Digest of flat metadata that the node has built from the layers by itself; undefined: not yet. */
  verified: string | undefined;
  /** Metadata of the registry that turned out not to be those of the layers. */
  refuted: { flat: string; sidecar: string | undefined; message: string } | undefined;
}

/** What is known of the flat metadata of an image: docs/trust.md. */
export type Proof = 'proven' | 'unproven' | 'refuted';

/** Undefined while there are none. */
export function proofOf({
  prepared,
  verified,
  refuted,
}: Pick<ImageFacts, 'prepared' | 'verified' | 'refuted'>): Proof | undefined {
  if (prepared === undefined) return undefined;
  const { origin, flat } = prepared;
  if (origin === 'node' || flat === verified) return 'proven';
  return flat === refuted?.flat ? 'refuted' : 'unproven';
}

export interface LayerFacts {
  /** raw bytes */
  size: number;
  blockSize: number;
  blockCount: number;
  /** Digest of the compressed blob that its span table belongs to. */
  blob: string;
  /** One byte a block: 1 = present. */
  present: Uint8Array;
  presentCount: number;
  /** The whole device was hashed and is what its diffID says. */
  complete: boolean;
  handedOver: boolean;
  /** Blocks that a scrub found damaged, until one that compared all finds none; undefined: none. */
  damaged?: { at: number; bad: number; repaired: number; kept: number } | undefined;
}

export interface MountFacts {
  id: string;
  dir: string;
  ref: string;
  manifest: string;
  prefetch: boolean;
  /** Bytes per second in the background; undefined: no limit. */
  prefetchLimit?: number | undefined;
  container: string | undefined;
  /** undefined: the engine's policy. */
  trust?: TrustPolicy | undefined;
  /** The folder was made for the mount. */
  made?: true | undefined;
  state: 'requested' | 'mounted' | 'detached' | 'unmounted' | 'failed';
}

/** A process of the engine, as its supervisor told it. */
export interface ProcessFacts {
  role: EventOf<'process.started'>['role'];
  /** Undefined: it does not run. */
  pid: number | undefined;
  /** Starts since the engine's own. */
  starts: number;
  lastEnd:
    | { at: number; code: number | undefined; signal: string | undefined; reason: string | undefined }
    | undefined;
}

export interface NodeState {
  images: Map<string, ImageFacts>;
  layers: Map<string, LayerFacts>;
  /** Mounts that are neither unmounted nor failed. */
  mounts: Map<string, MountFacts>;
  /** containerd's snapshots by id. */
  snapshots: Map<string, SnapshotFacts>;
  running: boolean;
  /** The engine before the present one ended without its `engine.stopped`. */
  crashed: boolean;
  /** Id of the root whose device files the blocks lie in; undefined before any engine said so. */
  root: string | undefined;
  /** What retention has removed: the log begins behind this sequence, 0 when nothing is missing. */
  trimmed: number;
  /** Of the engine that runs or ran last, by name. */
  processes: Map<string, ProcessFacts>;
}

export const emptyNode = (): NodeState => ({
  images: new Map(),
  layers: new Map(),
  mounts: new Map(),
  snapshots: new Map(),
  running: false,
  crashed: false,
  root: undefined,
  trimmed: 0,
  processes: new Map(),
});

/** The id in a subject of the log: its last token. */
export const idOf = (subject: string): string => subject.slice(subject.lastIndexOf('.') + 1);

/**
 * Applies one event to the state, in place. `id` is the last token of its subject: the manifest's or the diffID's hex
 * digits, or the mount's id. An event that does not fit the state is ignored: the log is the truth, and a fold that
 * throws could never start again.
 */
export function foldEvent(state: NodeState, id: string, event: CofaEvent): void {
  switch (event.type) {
    case 'engine.started':
      state.crashed = state.running;
      state.running = true;
      state.processes.clear();
      if (event.root !== undefined && event.root !== state.root) {
        // The node begins anew on another disk, as after a reinstallation: mounts come back, blocks do not.
        if (state.root !== undefined) for (const layer of state.layers.values()) forgetBlocks(layer);
        state.root = event.root;
      }
      return;
    case 'engine.trimmed':
      state.trimmed = Math.max(state.trimmed, event.through);
      return;
    case 'process.started': {
      const starts = (state.processes.get(event.name)?.starts ?? 0) + 1;
      const lastEnd = state.processes.get(event.name)?.lastEnd;
      state.processes.set(event.name, { role: event.role, pid: event.pid, starts, lastEnd });
      return;
    }
    case 'process.ended': {
      const process = state.processes.get(event.name);
      if (process === undefined) return;
      const { at, code, signal, reason } = event;
      // The one after it may have been told of first.
      if (process.pid === event.pid) process.pid = undefined;
      process.lastEnd = { at, code, signal, reason };
      return;
    }
    case 'engine.stopped':
      state.running = false;
      return;
    case 'image.resolved': {
      const before = state.images.get(`sha256:${id}`);
      state.images.set(`sha256:${id}`, {
        resolved: event,
        prepared: before?.prepared,
        failure: undefined,
        verified: before?.verified,
        refuted: before?.refuted,
      });
      return;
    }
    case 'image.verified': {
      const image = state.images.get(`sha256:${id}`);
      if (image === undefined) return;
      image.verified = event.flat;
      // What the registry offers now is right; what the node built for itself says nothing about the registry.
      if (event.sidecar !== undefined) image.refuted = undefined;
      return;
    }
    case 'image.refuted': {
      const image = state.images.get(`sha256:${id}`);
      if (image !== undefined)
        image.refuted = { flat: event.flat, sidecar: event.sidecar, message: event.message };
      return;
    }
    case 'image.prepared':
    case 'image.failed': {
      const image = state.images.get(`sha256:${id}`);
      if (image === undefined) return;
      if (event.type === 'image.prepared') {
        image.prepared = event;
        image.failure = undefined;
      } else {
        image.failure = { code: event.code, message: event.message };
      }
      return;
    }
    case 'image.removed':
      state.images.delete(`sha256:${id}`);
      return;
    case 'mount.requested':
      state.mounts.set(id, {
        id,
        dir: event.dir,
        ref: event.ref,
        manifest: event.manifest,
        prefetch: event.prefetch,
        prefetchLimit: event.prefetchLimit,
        container: event.container,
        trust: event.trust,
        made: event.made,
        state: 'requested',
      });
      return;
    case 'mount.mounted':
    case 'mount.detached': {
      const mount = state.mounts.get(id);
      if (mount !== undefined) mount.state = event.type === 'mount.mounted' ? 'mounted' : 'detached';
      return;
    }
    case 'mount.unmounted':
    case 'mount.failed':
      state.mounts.delete(id);
      return;
    case 'snapshot.prepared':
    case 'snapshot.committed':
    case 'snapshot.updated':
    case 'snapshot.removed':
      foldSnapshot(state.snapshots, id, event);
      return;
    default:
      foldLayer(state.layers, `sha256:${id}`, event);
  }
}

type LayerEvent = Extract<CofaEvent, { type: `layer.${string}` }>;

/** The part of the fold that a front end needs. */
export function foldLayer(layers: Map<string, LayerFacts>, diffId: string, event: LayerEvent): void {
  if (event.type === 'layer.opened') {
    const before = layers.get(diffId);
    if (before !== undefined && before.size === event.size && before.blockSize === event.blockSize) {
      before.blob = event.blob;
      return;
    }
    layers.set(diffId, {
      size: event.size,
      blockSize: event.blockSize,
      blockCount: event.blockCount,
      blob: event.blob,
      present: new Uint8Array(event.blockCount),
      presentCount: 0,
      complete: false,
      handedOver: false,
    });
    return;
  }
  const layer = layers.get(diffId);
  if (layer === undefined) return;
  switch (event.type) {
    case 'layer.blocks':
      for (const [first, count] of event.ranges) {
        const end = Math.min(first + count, layer.blockCount);
        for (let block = first; block < end; block++) {
          layer.presentCount += 1 - (layer.present[block] ?? 1);
          layer.present[block] = 1;
        }
      }
      return;
    case 'layer.evicted':
      for (const [first, count] of event.ranges) {
        const end = Math.min(first + count, layer.blockCount);
        for (let block = first; block < end; block++) {
          layer.presentCount -= layer.present[block] ?? 0;
          layer.present[block] = 0;
        }
      }
      layer.complete = false;
      layer.handedOver = false;
      // Until the scrub that found them says how it ended.
      if (event.reason === 'scrub')
        layer.damaged = { at: event.at, bad: sizeOf(event.ranges), repaired: 0, kept: 0 };
      return;
    case 'layer.taken-back':
      layer.handedOver = false;
      return;
    case 'layer.removed':
      layers.delete(diffId);
      return;
    case 'layer.dropped':
      forgetBlocks(layer);
      return;
    case 'layer.completed':
      layer.complete = true;
      return;
    case 'layer.handed-over':
      layer.handedOver = true;
      return;
    case 'layer.scrubbed': {
      const { at, bad, repaired, kept = 0, scope } = event;
      if (bad > 0) layer.damaged = { at, bad, repaired, kept };
      else if (scope === undefined) layer.damaged = undefined;
    }
  }
}

function forgetBlocks(layer: LayerFacts): void {
  layer.damaged = undefined;
  layer.present.fill(0);
  layer.presentCount = 0;
  layer.complete = false;
  layer.handedOver = false;
}

/** The present blocks, in order. */
export function presentRanges(present: Uint8Array): BlockRun[] {
  const ranges: BlockRun[] = [];
  for (let block = 0; block < present.length; block++) {
    if (present[block] !== 1) continue;
    const first = block;
    while (block + 1 < present.length && present[block + 1] === 1) block++;
    ranges.push(blockRun(first, block - first + 1));
  }
  return ranges;
}
