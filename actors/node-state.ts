/**
 * What a node knows, as a fold over its event log. The engine while it runs and after a restart, `status` and the replay of
 * a log all use this one function, so they cannot disagree.
 */
import type { CofaEvent, EventMap, EventOf, EventType, LayerEventType } from '../schemas/events.ts';
import { policyNamed, type TrustPolicy } from '../schemas/trust.ts';
import { addBlock, type BlockRun, sizeOf } from './ranges.ts';
import { foldSnapshot, type SnapshotEvent, type SnapshotFacts } from './snapshots.ts';

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
  /** What its bytes hash to when it is whole; undefined: its id, as of layers that have no block root. */
  diffId?: string | undefined;
  /** Digest of its span table, which names it in the store; undefined: `blob` does. */
  table?: string | undefined;
  /** One byte a block: 1 = present. */
  present: Uint8Array;
  presentCount: number;
  /** The whole device was hashed and is what its diffID says. */
  complete: boolean;
  handedOver: boolean;
  /** Blocks that a scrub found damaged, until one that compared all finds none; undefined: none. */
  damaged?: { at: number; bad: number; repaired: number; kept: number } | undefined;
}

/** What a whole layer has shown about block roots of a diffID; docs/trust.md. */
export interface RootFacts {
  /** The one right root; undefined: not known yet. */
  proven?: string | undefined;
  /** Roots that belong to other bytes, the newest at the end. */
  refuted: string[];
  /** When the last of it was found, ms since the epoch. */
  at: number;
}

/** diffIDs whose roots are remembered; those that were found the longest ago go first. */
const MOST_ROOTS = 65_536;
/** Wrong roots that are remembered of a diffID. */
const MOST_REFUTED = 64;

/** What was asked for, and where its mount is by now. */
export interface MountFacts {
  id: string;
  dir: string;
  ref: string;
  manifest: string;
  prefetch: boolean;
  /** Bytes per second in the background; undefined: no limit. */
  prefetchLimit?: number | undefined;
  container?: string | undefined;
  /** undefined: the engine's policy. */
  trust?: TrustPolicy | undefined;
  /** Flags of the mount, mount(8); undefined: without. */
  nosuid?: true | undefined;
  nodev?: true | undefined;
  /** No part of the path may be a symbolic link; undefined: root may have made some. */
  nosymlinks?: true | undefined;
  /** The folder was made for the mount. */
  made?: true | undefined;
  state: 'requested' | 'mounted' | 'detached' | 'unmounted' | 'failed';
}

/** An image in podman's additional image store. */
export interface PodmanFacts {
  ref: string;
  names: readonly string[];
  /** Digest of the index that the name points at; undefined: it points at the manifest. */
  index?: string | undefined;
  /** Bytes of each layer's tar, the lowest first. */
  sizes: readonly number[];
  /** When it was put there, ms since the epoch. */
  at: number;
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

/** Another member of the node's fleet. */
export type MemberFacts = Omit<EventOf<'fleet.changed'>['came'][number], 'name'>;

/** Members that were left out, or are disbelieved, and are remembered; those since the longest ago are forgotten first. */
const MOST_LEFT_OUT = 256;

export interface NodeState {
  images: Map<string, ImageFacts>;
  /** By id: the block root, or the diffID of a layer that a cofa without roots has opened. */
  layers: Map<string, LayerFacts>;
  /** By diffID. */
  roots: Map<string, RootFacts>;
  /** Mounts that are neither unmounted nor failed. */
  mounts: Map<string, MountFacts>;
  /** containerd's snapshots by id. */
  snapshots: Map<string, SnapshotFacts>;
  /** What podman's additional image store has, by manifest. */
  podman: Map<string, PodmanFacts>;
  running: boolean;
  /** The engine before the present one ended without its `engine.stopped`. */
  crashed: boolean;
  /** Id of the root whose device files the blocks lie in; undefined before any engine said so. */
  root: string | undefined;
  /** What retention has removed: the log begins behind this sequence, 0 when nothing is missing. */
  trimmed: number;
  /** Of the engine that runs or ran last, by name. */
  processes: Map<string, ProcessFacts>;
  /** Of the fleet that the node is a member of: the others, by name. */
  members: Map<string, MemberFacts>;
  /** Members that sent wrong bytes, by name: since when, and until when they are left out, ms since the epoch. */
  leftOut: Map<string, { at: number; until: number }>;
  /** Members that have vouched for what is wrong, by name: since when, and until when their word does not count, ms since the epoch. */
  disbelieved: Map<string, { at: number; until: number }>;
}

/** The state in front of the first event. */
export const emptyNode = (): NodeState => ({
  images: new Map(),
  layers: new Map(),
  roots: new Map(),
  mounts: new Map(),
  snapshots: new Map(),
  podman: new Map(),
  running: false,
  crashed: false,
  root: undefined,
  trimmed: 0,
  processes: new Map(),
  members: new Map(),
  leftOut: new Map(),
  disbelieved: new Map(),
});

/** The id in a subject of the log: its last token. */
export const idOf = (subject: string): string => subject.slice(subject.lastIndexOf('.') + 1);

/**
 * Applies one event to the state, in place. `id` is the last token of its subject: the manifest's or the diffID's hex
 * digits, or the mount's id. An event that does not fit the state is ignored: the log is the truth, and a fold that
 * throws could never start again.
 *
 * An event changes only what is known of its own subject. `engine.started` alone reaches further: an engine appends it
 * before it folds. So records of different subjects may be folded in any order (src/store/live-fold.ts relies on it).
 */
export function foldEvent(state: NodeState, id: string, event: CofaEvent): void {
  foldOne(state, id, event.type, event);
}

/** The part of the fold that a front end needs. */
export function foldLayer(
  layers: Map<string, LayerFacts>,
  diffId: string,
  event: EventOf<LayerEventType>,
): void {
  foldOneOfLayer(layers, diffId, event.type, event);
}

// The type comes as an argument of its own, so that the compiler sees that handler and event belong together.
function foldOne<T extends EventType>(state: NodeState, id: string, type: T, event: EventMap[T]): void {
  FOLD[type]?.(state, id, event);
}

function foldOneOfLayer<T extends LayerEventType>(
  layers: Map<string, LayerFacts>,
  diffId: string,
  type: T,
  event: EventMap[T],
): void {
  LAYER_FOLD[type]?.(layers, diffId, event);
}

/** One handler for each type of event: a new type without one does not compile. */
type Fold = { readonly [T in EventType]: (state: NodeState, id: string, event: EventMap[T]) => void };
type LayerFold = {
  readonly [T in LayerEventType]: (
    layers: Map<string, LayerFacts>,
    diffId: string,
    event: EventMap[T],
  ) => void;
};

const digestOf = (id: string): string => `sha256:${id}`;

const LAYER_FOLD: LayerFold = {
  'layer.opened': (layers, id, { size, blockSize, blockCount, blob, diffId, table }) => {
    const before = layers.get(id);
    if (before !== undefined && before.size === size && before.blockSize === blockSize) {
      before.blob = blob;
      before.table = table;
      return;
    }
    const present = new Uint8Array(blockCount);
    const blocks = { blockSize, blockCount, present, presentCount: 0 };
    layers.set(id, { size, blob, diffId, table, ...blocks, complete: false, handedOver: false });
  },
  'layer.blocks': (layers, diffId, { ranges }) => {
    const layer = layers.get(diffId);
    if (layer !== undefined) mark(layer, ranges, 1);
  },
  'layer.evicted': (layers, diffId, { ranges, reason, at }) => {
    const layer = layers.get(diffId);
    if (layer === undefined) return;
    mark(layer, ranges, 0);
    layer.complete = false;
    layer.handedOver = false;
    // Until the scrub that found them says how it ended.
    if (reason === 'scrub') layer.damaged = { at, bad: sizeOf(ranges), repaired: 0, kept: 0 };
  },
  'layer.taken-back': (layers, diffId) => {
    const layer = layers.get(diffId);
    if (layer !== undefined) layer.handedOver = false;
  },
  'layer.removed': (layers, diffId) => {
    layers.delete(diffId);
  },
  'layer.dropped': (layers, diffId) => {
    const layer = layers.get(diffId);
    if (layer !== undefined) forgetBlocks(layer);
  },
  'layer.completed': (layers, diffId) => {
    const layer = layers.get(diffId);
    if (layer !== undefined) layer.complete = true;
  },
  'layer.handed-over': (layers, diffId) => {
    const layer = layers.get(diffId);
    if (layer !== undefined) layer.handedOver = true;
  },
  'layer.scrubbed': (layers, diffId, { at, bad, repaired, kept = 0, scope }) => {
    const layer = layers.get(diffId);
    if (layer === undefined) return;
    if (bad > 0) layer.damaged = { at, bad, repaired, kept };
    else if (scope === undefined) layer.damaged = undefined;
  },
  'layer.trace': () => {},
  'layer.started': () => {},
};

/** The handler of a layer's event, for the whole node. */
const ofLayer =
  <T extends LayerEventType>(type: T) =>
  (state: NodeState, id: string, event: EventMap[T]): void =>
    LAYER_FOLD[type](state.layers, digestOf(id), event);

const ofSnapshot = ({ snapshots }: NodeState, id: string, event: SnapshotEvent): void =>
  foldSnapshot(snapshots, id, event);

const FOLD: Fold = {
  'engine.started': (state, _, { root }) => {
    state.crashed = state.running;
    state.running = true;
    state.processes.clear();
    state.members.clear();
    if (root === undefined || root === state.root) return;
    // The node begins anew on another disk, as after a reinstallation: mounts come back, blocks do not.
    if (state.root !== undefined) for (const layer of state.layers.values()) forgetBlocks(layer);
    state.root = root;
  },
  'engine.stopped': (state) => {
    state.running = false;
  },
  'engine.trimmed': (state, _, { through }) => {
    state.trimmed = Math.max(state.trimmed, through);
  },

  'engine.measured': () => {},

  'process.started': ({ processes }, _, { role, name, pid }) => {
    const before = processes.get(name);
    processes.set(name, { role, pid, starts: (before?.starts ?? 0) + 1, lastEnd: before?.lastEnd });
  },
  'process.ended': ({ processes }, _, { name, pid, at, code, signal, reason }) => {
    const process = processes.get(name);
    if (process === undefined) return;
    // The one after it may have been told of first.
    if (process.pid === pid) process.pid = undefined;
    process.lastEnd = { at, code, signal, reason };
  },

  'fleet.changed': ({ members }, _, { whole, came, gone }) => {
    if (whole === true) members.clear();
    for (const name of gone) members.delete(name);
    for (const { name, ...facts } of came) members.set(name, facts);
  },
  'fleet.left-out': ({ leftOut }, _, event) => keepNamed(leftOut, event),
  'fleet.disbelieved': ({ disbelieved }, _, event) => keepNamed(disbelieved, event),
  'fleet.disputed': () => {},

  // In place, as all that follows: who holds an image's facts sees them change.
  'image.resolved': ({ images }, id, event) => {
    const image = images.get(digestOf(id));
    if (image === undefined) {
      const unknown = { prepared: undefined, failure: undefined, verified: undefined, refuted: undefined };
      images.set(digestOf(id), { resolved: event, ...unknown });
      return;
    }
    image.resolved = event;
    image.failure = undefined;
  },
  'image.prepared': ({ images }, id, event) => {
    const image = images.get(digestOf(id));
    if (image === undefined) return;
    image.prepared = event;
    image.failure = undefined;
  },
  'image.verified': ({ images }, id, { flat, sidecar }) => {
    const image = images.get(digestOf(id));
    if (image === undefined) return;
    image.verified = flat;
    // What the registry offers now is right; what the node built for itself says nothing about the registry.
    if (sidecar !== undefined) image.refuted = undefined;
  },
  'image.refuted': ({ images }, id, { flat, sidecar, message }) => {
    const image = images.get(digestOf(id));
    if (image !== undefined) image.refuted = { flat, sidecar, message };
  },
  'image.failed': ({ images }, id, { code, message }) => {
    const image = images.get(digestOf(id));
    if (image !== undefined) image.failure = { code, message };
  },
  'image.removed': ({ images }, id) => {
    images.delete(digestOf(id));
  },

  'layer.opened': ofLayer('layer.opened'),
  'layer.blocks': ofLayer('layer.blocks'),
  'layer.dropped': ofLayer('layer.dropped'),
  'layer.completed': ofLayer('layer.completed'),
  'layer.handed-over': ofLayer('layer.handed-over'),
  'layer.scrubbed': ofLayer('layer.scrubbed'),
  'layer.trace': ofLayer('layer.trace'),
  'layer.started': ofLayer('layer.started'),
  'layer.evicted': ofLayer('layer.evicted'),
  'layer.taken-back': ofLayer('layer.taken-back'),
  'layer.removed': ofLayer('layer.removed'),

  'root.proven': ({ roots }, id, { root, at }) => {
    const { refuted } = rootsOf(roots, id);
    keepRoots(roots, id, { proven: root, refuted: refuted.filter((one) => one !== root), at });
  },
  'root.refuted': ({ roots }, id, { root, at }) => {
    const { proven, refuted } = rootsOf(roots, id);
    if (proven === root || refuted.includes(root)) return;
    keepRoots(roots, id, { proven, refuted: [...refuted, root].slice(-MOST_REFUTED), at });
  },

  'mount.requested': ({ mounts }, id, event) => {
    const { dir, ref, manifest, prefetch, prefetchLimit, container, nosuid, nodev, nosymlinks, made } = event;
    const trust = event.trust && policyNamed(event.trust);
    const options = { prefetch, prefetchLimit, container, trust, nosuid, nodev, nosymlinks, made };
    mounts.set(id, { id, dir, ref, manifest, ...options, state: 'requested' });
  },
  'mount.mounted': ({ mounts }, id) => {
    const mount = mounts.get(id);
    if (mount !== undefined) mount.state = 'mounted';
  },
  'mount.detached': ({ mounts }, id) => {
    const mount = mounts.get(id);
    if (mount !== undefined) mount.state = 'detached';
  },
  'mount.unmounted': ({ mounts }, id) => {
    mounts.delete(id);
  },
  'mount.failed': ({ mounts }, id) => {
    mounts.delete(id);
  },

  'snapshot.prepared': ofSnapshot,
  'snapshot.committed': ofSnapshot,
  'snapshot.updated': ofSnapshot,
  'snapshot.removed': ofSnapshot,

  'podman.added': ({ podman }, id, { ref, names, index, sizes, at }) => {
    podman.set(digestOf(id), { ref, names, index, sizes, at });
  },
  'podman.removed': ({ podman }, id) => {
    podman.delete(digestOf(id));
  },
};

function keepNamed(
  named: Map<string, { at: number; until: number }>,
  { name, at, until }: { name: string; at: number; until: number },
): void {
  named.delete(name);
  named.set(name, { at, until });
  if (named.size > MOST_LEFT_OUT) named.delete(named.keys().next().value as string);
}

const rootsOf = (roots: ReadonlyMap<string, RootFacts>, id: string): RootFacts =>
  roots.get(digestOf(id)) ?? { refuted: [], at: 0 };

function keepRoots(roots: Map<string, RootFacts>, id: string, facts: RootFacts): void {
  roots.set(digestOf(id), facts);
  if (roots.size <= MOST_ROOTS) return;
  let oldest: [string, RootFacts] | undefined;
  for (const entry of roots) if (oldest === undefined || entry[1].at < oldest[1].at) oldest = entry;
  if (oldest !== undefined) roots.delete(oldest[0]);
}

/** What is known of a root: `other` is none of this diffID, `unknown` has neither been proven nor refuted. */
export type RootStanding = 'proven' | 'unknown' | 'other';

/** How a block root (`sha256:…`) of the layer `diffId` stands, by what this node has found out of that layer. */
export function standingOf(
  roots: ReadonlyMap<string, RootFacts>,
  diffId: string,
  root: string,
): RootStanding {
  const known = roots.get(diffId);
  if (known?.proven !== undefined) return known.proven === root ? 'proven' : 'other';
  return known?.refuted.includes(root) === true ? 'other' : 'unknown';
}

/** Sets the blocks of the ranges to present (1) or absent (0), as far as the layer has them. */
function mark(layer: LayerFacts, ranges: ReadonlyArray<readonly [number, number]>, to: 0 | 1): void {
  const { present, blockCount } = layer;
  for (const [first, count] of ranges) {
    const end = Math.min(first + count, blockCount);
    for (let block = first; block < end; block++) {
      layer.presentCount += to - (present[block] ?? to);
      present[block] = to;
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
  for (let block = 0; block < present.length; block++) if (present[block] === 1) addBlock(ranges, block);
  return ranges;
}
