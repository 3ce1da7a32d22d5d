/** Messages between the supervisor and the front end (msgpack on NATS, request/reply). Internal to one node. */
import type { LayerStatus } from './api.ts';
import type { BlobSource } from './fetch.ts';

/** `front.open`: serve this layer's device below the FUSE mount. Idempotent. */
export interface OpenLayer {
  diffId: string;
  /** raw bytes */
  size: number;
  source: BlobSource;
  /** Fetch what is absent in the background. */
  prefetch: boolean;
  /** The device was built on this node and its diffID is proven: every block is present. */
  built: boolean;
  /** The kernel reads the device file itself: as `handed-over`, for a front end whose log may not know yet. */
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

/**
 * `front.handed-over`: the kernel is about to read the device file itself. Asked before it does, since no block may
 * leave the file from then on. Only where the reply's state is `handed-over` the loop may be moved.
 * `front.taken-back`: that did not come about, or is over.
 */
export interface HandedOver {
  diffId: string;
}
export interface HandedOverReply {
  state: LayerStatus['state'];
}

/** `front.settled` (empty): after a restart every layer that is in use is open again. `front.status`: */
export interface FrontStatus {
  layers: Array<LayerStatus & { hits: number; misses: number; errors: number }>;
  workers: Array<{ name: string; pid: number; slots: number; running: number }>;
  queued: { demand: number; prefetch: number };
  degraded: string[];
}

/** `front.notice`: what the supervisor must act on. */
export type FrontNotice =
  | { kind: 'ready'; front: string; pid: number }
  | { kind: 'complete'; diffId: string }
  | { kind: 'corrupt'; diffId: string; message: string };
