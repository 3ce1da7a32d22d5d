/**
 * Messages between the front end and the pool of fetchers (msgpack on NATS). A job is small: what its bytes decode to
 * is in the span table, which lies in the store by the blob's digest.
 */
import type { ErrorRecord } from './errors.ts';

/** Blocks of a layer in a row; actors/ranges.ts has the type of those that were checked. */
export type BlockPair = readonly [first: number, count: number];

/** `[device, first block, blocks]`; `device` counts the layers that a startup pack or a recording names. */
export type StartRun = readonly [device: number, first: number, count: number];

/** Where a layer's compressed bytes come from. No credentials: each fetcher reads docker's configuration itself. */
export interface BlobSource {
  registry: string;
  repository: string;
  digest: string;
  /** compressed bytes */
  size: number;
}

/** `demand`: a reader waits for it. `prefetch`: no reader does. */
export type JobClass = 'demand' | 'prefetch';

/**
 * Fetch these blocks, verify each, write them into the layer device: one run of blocks or several, ascending, no two adjacent.
 * Blocks, since the same layer may have come with several span tables (src/index/cut-spans.ts): the front end's and the fetcher's
 * need not be the same one.
 */
export interface FetchOrder {
  kind: 'fetch';
  /** The layer's id, `sha256:…`. */
  layer: string;
  class: JobClass;
  runs: readonly BlockPair[];
  source: BlobSource;
  /** Digest of the span table, which names it in the store; absent: that of the blob does. */
  table?: string;
}

/** Hash the whole device and compare it with the diffID. */
export interface VerifyOrder {
  kind: 'verify';
  /** The layer's id. */
  layer: string;
  /** What the device must hash to; absent: its id. */
  diffId?: string;
  /** raw bytes, without the padding to 512 */
  size: number;
}

/** A layer of an image, as jobs that concern several need it. */
export interface JobLayer {
  diffId: string;
  /** Digest of the blob that its span table belongs to. */
  blob: string;
  /** The layer's id on this node; absent: its diffID. Packs, recordings and hints name layers by diffID, devices bear ids. */
  layer?: string;
  /** Digest of the span table, which names it in the store; absent: that of the blob does. */
  table?: string;
}

/** Which device a job's layer has on this node. */
export const layerOf = ({ layer, diffId }: Pick<JobLayer, 'layer' | 'diffId'>): string => layer ?? diffId;

/**
 * Where a startup pack lies: in the object store of NATS, or as a blob beside the image. `files`: there is none, but the
 * store has what a start of another image of the repository read (actors/start-files.ts).
 */
export type PackSource =
  | { kind: 'nats'; name: string; size: number }
  | ({ kind: 'registry' } & BlobSource)
  | { kind: 'files'; name: string; size: number };

/**
 * Bring the blocks of a startup pack into the devices. Answered by `pack` once, then by `blocks` for each layer. Of `files`
 * nothing is brought: `pack` says what the start is likely to read.
 */
export interface PackOrder {
  kind: 'pack';
  /** Empty: the job concerns several. */
  layer: string;
  /** Digest of the image's manifest. */
  manifest: string;
  layers: JobLayer[];
  pack: PackSource;
  /**
   * Only ask for it, and keep what comes: the layers are not known yet, nor their devices there. The same job comes again
   * without this word when they are.
   */
  held?: true;
}

/** Read blocks of the device from the disk and compare each with the layer's span table. */
export interface ScrubOrder {
  kind: 'scrub';
  /** The layer's id. */
  layer: string;
  /** Digest of the blob that the layer's span table belongs to. */
  blob: string;
  /** Digest of the span table, which names it in the store; absent: that of the blob does. */
  table?: string;
  ranges: readonly BlockPair[];
}

/** Merge what a start has read with earlier recordings, and make the image's startup pack of it. */
export interface RecordOrder {
  kind: 'record';
  /** Empty: the job concerns several. */
  layer: string;
  /** Digest of the image's manifest. */
  manifest: string;
  /** Which of the image's commands; src/pack/pack-store.ts. */
  start: string;
  /** `registry/repository` that the image was taken from. */
  repository: string;
  layers: JobLayer[];
  set: { devices: readonly string[]; runs: readonly StartRun[] };
  /** What a pack that lies beside the image has brought for this start; where it still fits none is made. */
  brought?: { devices: readonly string[]; runs: readonly StartRun[] };
}

/** What a part of the front end submits to the pool (src/front-end/fetch-pool.ts). */
export type JobOrder = FetchOrder | VerifyOrder | PackOrder | ScrubOrder | RecordOrder;

interface JobName {
  v: 1;
  /** Unique for the front end's life. */
  job: number;
  /** Front end that waits; a completion names it so that a successor ignores its predecessor's jobs. */
  front: string;
}

/** An order as the pool sends it to a fetcher: the same from its submission to its completion. */
export type Job<Order extends JobOrder = JobOrder> = Order & JobName;
export type FetchJob = Job<FetchOrder>;
export type VerifyJob = Job<VerifyOrder>;
export type PackJob = Job<PackOrder>;
export type ScrubJob = Job<ScrubOrder>;
export type RecordJob = Job<RecordOrder>;

/** Another fetcher has the job of this number, or it is over: go on no longer. Nothing is answered. */
export interface StopWord extends JobName {
  kind: 'stop';
  layer: string;
}

/** A reader waits for another job: go on with this one after `ms`, or when it is sent with 0. Nothing is answered. */
export interface HoldWord extends JobName {
  kind: 'hold';
  layer: string;
  ms: number;
}

/** What a fetcher is told of a job that it has. */
export type JobWord = StopWord | HoldWord;

/**
 * What each message about a job begins with. Messages say `worker` for the fetcher's name: `cofa upgrade` changes front end and
 * fetchers one after the other, so for a moment they are of two versions.
 */
export interface CompletionHead extends JobName {
  worker: string;
  layer: string;
}

/** Blocks that are verified and written (not yet synced). `bytes`: compressed bytes received since the last message. */
export interface BlocksCompletion extends CompletionHead {
  kind: 'blocks';
  firstBlock: number;
  count: number;
  bytes: number;
  /** Further blocks that came with them: those of a startup pack lie in small pieces all over its layers. */
  more?: ReadonlyArray<readonly [layer: string, first: number, count: number]>;
}

/** What a startup pack is about to bring, by `devices` (diffIDs). */
export interface PackCompletion extends CompletionHead {
  kind: 'pack';
  devices: readonly string[];
  runs: readonly StartRun[];
}

export interface EndCompletion extends CompletionHead {
  kind: 'done' | 'failed';
  /** Compressed bytes not yet reported by `blocks`. */
  bytes: number;
  /** With `failed`. */
  error?: ErrorRecord;
  /** With `failed`: whether the same job may succeed when tried again. */
  retryable?: boolean;
  /** Of a fetch: where its time went. */
  times?: FetchTimes;
  /** Of a scrub: blocks whose bytes on the disk are not the layer's. */
  bad?: readonly BlockPair[];
}

/** Where the time of a fetch went, µs. Its parts run one after the other, so they add up to its duration. */
export interface FetchTimes {
  /** From the start to the first byte; 0 where none came. A part of `fetchUs`. */
  firstByteUs: number;
  /** A part of `firstByteUs`: the name of the registry was looked up; absent: it was not. */
  lookupUs?: number;
  /** Waiting for bytes of the registry. */
  fetchUs: number;
  /** Decoding and verifying. */
  decodeUs: number;
  /** Writing into the layer device. */
  writeUs: number;
}

export type Completion = BlocksCompletion | PackCompletion | EndCompletion;

/** Sent each second by each fetcher. `slots`: jobs that it runs side by side. */
export interface FetcherHello {
  v: 1;
  /** Its name. */
  worker: string;
  pid: number;
  slots: number;
  /** Set on a clean stop: give it no more jobs. */
  leaving?: boolean;
  /** Its connection was cut and is back: jobs that were sent meanwhile are lost. */
  back?: boolean;
}
