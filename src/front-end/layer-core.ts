/** What the parts of a layer host (layer-host.ts) share: the actor, and what they need of the front end around it. */
import type { FileHandle } from 'node:fs/promises';
import type { Logger } from 'pino';
import type { FetchCost } from '../../actors/one-stream.ts';
import type { Counts } from '../../actors/counts.ts';
import { LAYER_LIMITS, LayerActor, type LayerEffect, type LayerEvent } from '../../actors/layer.ts';
import type { ErrorCode } from '../../schemas/errors.ts';
import type { EventOf } from '../../schemas/events.ts';
import type { FrontNotice } from '../../schemas/front.ts';
import type { FirstReads } from '../fuse/transport.ts';
import type { SpanTable } from '../image/span-table.ts';
import type { Clock } from '../process/ports.ts';
import type { LayerLog } from '../store/layer-log.ts';
import type { FetchPool } from './fetch-pool.ts';
import type { LayerHost } from './layer-host.ts';
import type { SpanUse } from './span-use.ts';
import type { Supplies } from './supplies.ts';

export interface LayerHostOptions {
  layer: OpenedLayer;
  /** What the log says of layers, and how more is said. */
  facts: LayerLog;
  pool: Pick<FetchPool, 'submit' | 'promote' | 'cancel' | 'readFailed'>;
  cache: CacheOfLayer;
  fuse: FuseOfLayer;
  on: LayerListener;
  clock: Clock;
  log: Logger;
  readDeadlineMs: number;
  /** What reads and fetches are counted in; absent: they are not. */
  counts?: Counts;
}

/** Which layer it is, and the files that it lies in. */
export interface OpenedLayer {
  /** The layer's id (schemas/front.ts). */
  diffId: string;
  /** What its device hashes to when it is whole. */
  content: string;
  /** Of the image that was first: it says how reads and prefetch are cut into spans. */
  table: SpanTable;
  supplies: Supplies;
  /** The device, open for reading and writing. The host closes it. */
  file: FileHandle;
  /** The kernel reads the device file itself. */
  direct: boolean;
}

/** What the cache is told of a layer. */
export interface CacheOfLayer {
  /** When the layer's spans were used. */
  use: SpanUse;
  /** Compressed bytes by layer; counted by the host. */
  fetched: Map<string, number>;
  /** A fetch was begun or has failed: the cache may have to act. */
  onFetch: (code?: ErrorCode) => void;
}

export interface FuseOfLayer {
  /** Where the FUSE threads note which blocks are read first. */
  firstReads: FirstReads;
  /** `FuseTransport.quiesce` */
  quiesce: () => Promise<void>;
}

/** Whom the host tells, and asks. */
export interface LayerListener {
  notify: (notice: FrontNotice) => void;
  /** An append has ended, undefined: well. */
  logged: (error: unknown) => void;
  /** The whole is not the layer. Resolves with whether the disk has lost blocks, which have been taken out then. */
  mismatch: (layer: LayerHost) => Promise<boolean>;
  /** Whether the front end has to go on seeing the layer's reads: then it is not handed over yet. */
  isWatched: () => boolean;
  /** A fetch has ended well. */
  fetched: (cost: FetchCost) => void;
}

export type EvictionReason = EventOf<'layer.evicted'>['reason'];

/** A log that does not take events is tried again after this, ms. */
export const RETRY_APPEND_MS = 1_000;

export class LayerCore {
  readonly options: LayerHostOptions;
  readonly actor: LayerActor;
  /** One byte a block, which the FUSE threads read too (`DeviceFile.blocks`). */
  readonly states: Uint8Array<SharedArrayBuffer>;
  isClosed = false;
  /** Carries out an effect. */
  readonly run: (effect: LayerEffect) => void;

  constructor(options: LayerHostOptions, run: (effect: LayerEffect) => void) {
    const { table } = options.layer;
    const { readDeadlineMs } = options;
    this.options = options;
    this.run = run;
    this.states = new Uint8Array(new SharedArrayBuffer(table.blockCount));
    // The pauses between the tries alone are longer than the deadline: a read waits as long as it may.
    const attempts = LAYER_LIMITS.attempts + Math.ceil(readDeadlineMs / LAYER_LIMITS.retryMaxMs);
    this.actor = new LayerActor(table, this.states, { readDeadlineMs, attempts });
  }

  get diffId(): string {
    return this.options.layer.diffId;
  }

  now(): number {
    return this.options.clock.now();
  }

  /** Whether the log says so. */
  isKnown(fact: 'complete' | 'handedOver'): boolean {
    return this.options.facts.layers.get(this.diffId)?.[fact] === true;
  }

  /** Gives the actor an input and runs the effects of it. */
  send(event: LayerEvent): void {
    for (const effect of this.actor.handle(event)) this.run(effect);
  }

  /** As `send`, for a caller that carries out the effects of this type by itself: returns them when the others have run. */
  take<T extends LayerEffect['type']>(event: LayerEvent, type: T): Array<LayerEffect & { type: T }> {
    const taken: Array<LayerEffect & { type: T }> = [];
    for (const effect of this.actor.handle(event)) {
      if (isOf(effect, type)) taken.push(effect);
      else this.run(effect);
    }
    return taken;
  }
}

const isOf = <T extends LayerEffect['type']>(
  effect: LayerEffect,
  type: T,
): effect is LayerEffect & { type: T } => effect.type === type;
