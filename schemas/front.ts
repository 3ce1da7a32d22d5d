/** Messages between the supervisor and the front end (msgpack on NATS, request/reply). Internal to one node. */
import type { CacheStatus, LayerStatus } from './api.ts';
import type { BlobSource, JobLayer, PackSource } from './fetch.ts';

/** `front.open`: serve this layer's device below the FUSE mount. Idempotent. */
export interface OpenLayer {
  diffId: string;
  /** raw bytes */
  size: number;
  source: BlobSource;
  /** Fetch what is absent in the background. */
  prefetch: boolean;
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
  layers: JobLayer[];
  /** Its startup pack, to be brought at once. */
  pack?: PackSource;
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

/** `front.settled` (empty): after a restart every layer that is in use is open again. `front.status`: */
export interface FrontStatus {
  layers: Array<LayerStatus & { hits: number; misses: number; errors: number }>;
  workers: Array<{ name: string; pid: number; slots: number; running: number }>;
  queued: { demand: number; prefetch: number };
  cache: CacheStatus;
  degraded: string[];
}

/** `front.notice`: what the supervisor must act on. */
export type FrontNotice =
  | { kind: 'complete'; diffId: string }
  /** Bytes of a handed-over device have to go: take it back. */
  | { kind: 'take-back'; diffId: string }
  | { kind: 'corrupt'; diffId: string; message: string };
