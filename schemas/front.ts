/** Messages between the supervisor and the front end (msgpack on NATS, request/reply). Internal to one node. */
import type { CacheStatus, LayerStatus } from './api.ts';
import type { ErrorCode } from './errors.ts';
import type { BlobSource, BlockPair, JobLayer, PackSource, StartRun } from './fetch.ts';

/** Where a layer's blocks may come from, as an image names it. */
export interface Supply {
  source: BlobSource;
  /** Digest of the span table, which names it in the store; absent: that of the blob does. */
  table?: string;
}

/** The supply in a message or a job that has one. */
export const supplyOf = ({ source, table }: Supply): Supply =>
  table === undefined ? { source } : { source, table };

/** Tells supplies apart. */
export const supplyKey = ({ source, table }: Supply): string =>
  JSON.stringify([source.registry, source.repository, source.digest, table]);

/** Name of its span table in the store. */
export const tableOfSupply = ({ source, table }: Supply): string => table ?? source.digest;

/**
 * `front.open`: serve this layer's device below the FUSE mount. Idempotent.
 *
 * In this and all other messages of this page `diffId` is the layer's *id*: its block root, or the diffID of a layer that has
 * none. The word is that of engines whose layers had no roots: a supervisor may be older than its front end (`cofa upgrade`).
 */
export interface OpenLayer extends Supply {
  diffId: string;
  /** What the device must hash to when it is whole; absent: its id. */
  content?: string;
  /** raw bytes */
  size: number;
  /** What further images that have the layer name. */
  others?: readonly Supply[];
  /** Fetch what is absent in the background. */
  prefetch: boolean;
  /** No faster than this, bytes per second for each image that wants it, all its layers together; absent: no limit. */
  limits?: ReadonlyArray<readonly [image: string, rate: number]>;
  /**
   * The device was built on this node and its diffID is proven: where the log knows nothing of the layer yet, every block
   * is present.
   */
  built: boolean;
  /** The kernel reads the device file itself, or may be about to: none of its bytes may go. */
  direct?: boolean;
}
export interface OpenLayerReply {
  /** Device size, bytes: raw size padded to 512. */
  deviceSize: number;
  /** File name below the FUSE mount. */
  name: string;
  state: LayerStatus['state'];
  /** Of the front end that has it open. */
  front: string;
}

/** `front.close`: no image needs the layer any more; its device file stays in the store. */
export interface CloseLayer {
  diffId: string;
}

/** `front.start`: an image was attached whose layers are open, and something starts in it. */
export interface BeginStart {
  /** Digest of the image's manifest. */
  manifest: string;
  /** Which of the image's commands; src/pack/pack-store.ts. */
  start: string;
  /** `registry/repository` that the image was taken from. */
  repository: string;
  layers: JobLayer[];
  /** Its startup pack, to be brought at once. */
  pack?: PackSource;
  /** The pack is only asked for: the order that brings it follows when the layers are open. */
  ahead?: true;
  /** Without a pack: what it is likely to read, in this order. */
  hints?: { devices: readonly string[]; runs: readonly StartRun[] };
  /** Record what is read until the start is over. */
  record: boolean;
}

/**
 * `front.handed-over`: the kernel is about to read the device file itself. Asked before it does, since no block may
 * leave the file from then on. Only where the reply's state is `handed-over` the loop may be moved.
 * `front.take-back`: it is about to read the FUSE file again. `front.taken-back`: it does, or the other did not come about.
 */
export interface HandedOver {
  diffId: string;
}
export interface HandedOverReply {
  state: LayerStatus['state'];
}

/** `front.given-up`: no better span table can be made for the layer than those by which its blocks do not come. */
export interface GivenUp {
  diffId: string;
}

/** `front.needs`: the layers of mounts, and those of images that are known. */
export interface CacheNeeds {
  mounts: string[];
  images: string[];
}

/** `front.uses` (empty): the layers that the node knows. `idleMs`: since the last use that is remembered. */
export interface LayerUse {
  diffId: string;
  bytes: number;
  idleMs: number;
}

/** `front.shrink`: evict until the cache holds `keep` bytes, startup spans of mounted images excepted. Reply: bytes. */
export interface Shrink {
  keep: number;
  dryRun: boolean;
}

/** `front.collect`: remove the layers that are neither needed nor in use. */
export interface Collect {
  needed: string[];
  dryRun: boolean;
}
export interface CollectReply {
  layers: string[];
  bytes: number;
}

/**
 * `front.scrub`: compare present blocks with their digests, and take out those that are bad. Without `ranges` the next
 * `count` present blocks from `from` on. May be asked again: what has been taken out is not present any more.
 */
export interface Scrub {
  diffId: string;
  from: number;
  count: number;
  ranges?: readonly BlockPair[];
}
export interface ScrubReply {
  /** The present blocks go on here; undefined: that was the last one. */
  next?: number;
  /** Blocks that were compared. */
  blocks: number;
  bad: readonly BlockPair[];
  /** Of the bad ones: still there, since a read or a fetch needs them at the moment, or the kernel. */
  kept: readonly BlockPair[];
  /** The kernel reads the device file itself: take it back first. */
  direct: boolean;
  /** Every block of the layer is present. */
  whole: boolean;
}

/** `front.refetch`: fetch absent blocks of an open layer, and sync them. Reply: what went wrong, if anything. */
export interface Refetch {
  diffId: string;
  ranges: readonly BlockPair[];
}
export interface RefetchReply {
  failure?: { code: ErrorCode; message: string };
}

/**
 * `front.scrubbed`: what a scrub has found is to be a fact. Reply: the bad blocks, which a front end that died may have
 * found and not told.
 */
export interface Scrubbed {
  diffId: string;
  /** When it began, ms since the epoch. */
  since: number;
  blocks: number;
  bad: number;
  repaired: number;
  kept: number;
  scope?: 'newest' | 'part';
}

/** `front.doubt`: blocks that came shortly before an unclean stop, to be compared before they are relied on. */
export interface Doubt {
  layers: Array<{ diffId: string; ranges: readonly BlockPair[] }>;
}

/**
 * `front.settled`: after a restart every layer that is in use is open again, with the front ends that said so. The question
 * may outlive them: to another one it means nothing.
 */
export interface Settled {
  fronts: string[];
}

/** A layer, as the front end sees it. `diffId` is its id; `content`: what its device must hash to, absent: the id. */
export type FrontLayer = Omit<LayerStatus, 'root'> & { content?: string };

/** `front.status`: */
export interface FrontStatus {
  layers: Array<FrontLayer & { hits: number; misses: number; errors: number }>;
  workers: Array<{ name: string; pid: number; slots: number; running: number }>;
  queued: { demand: number; prefetch: number };
  cache: CacheStatus;
  degraded: string[];
}

/** Every question to the front end: `front.<name>`. Who asks and who answers are both checked against this table. */
export interface FrontCalls {
  open: { request: OpenLayer; reply: OpenLayerReply };
  close: { request: CloseLayer; reply: void };
  start: { request: BeginStart; reply: void };
  'handed-over': { request: HandedOver; reply: HandedOverReply };
  'take-back': { request: HandedOver; reply: void };
  'taken-back': { request: HandedOver; reply: HandedOverReply };
  'given-up': { request: GivenUp; reply: void };
  needs: { request: CacheNeeds; reply: void };
  uses: { request: Empty; reply: LayerUse[] };
  shrink: { request: Shrink; reply: number };
  collect: { request: Collect; reply: CollectReply };
  scrub: { request: Scrub; reply: ScrubReply };
  refetch: { request: Refetch; reply: RefetchReply };
  scrubbed: { request: Scrubbed; reply: number };
  doubt: { request: Doubt; reply: void };
  settled: { request: Settled; reply: void };
  status: { request: Empty; reply: FrontStatus };
}
export type FrontCall = keyof FrontCalls;
export type FrontRequest<Call extends FrontCall> = FrontCalls[Call]['request'];
export type FrontReply<Call extends FrontCall> = FrontCalls[Call]['reply'];
export type Empty = Record<string, never>;

/** The subject of a question: the type says which one it is. */
export type FrontSubject<Call extends FrontCall> = string & { readonly question?: Call };

/** One handler for each question. */
export type FrontHandlers = {
  readonly [Call in FrontCall]: (request: FrontRequest<Call>) => FrontReply<Call> | Promise<FrontReply<Call>>;
};

/** `front.notice`: what the supervisor must act on. */
export type FrontNotice =
  /** Every block is there, and they are the layer; it may have to stay as it is for a while yet. */
  | { kind: 'whole'; diffId: string }
  /** It can be handed over. */
  | { kind: 'complete'; diffId: string }
  /** Bytes of a handed-over device have to go: take it back. */
  | { kind: 'take-back'; diffId: string }
  /** Blocks of it are not what they should be, whichever of its images' span tables they are fetched by. */
  | { kind: 'astray'; diffId: string }
  /** Its blocks that were in doubt have been compared. */
  | { kind: 'checked'; diffId: string }
  | { kind: 'corrupt'; diffId: string; message: string };
