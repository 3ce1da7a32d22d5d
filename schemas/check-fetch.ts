/**
 * Whether a message between the front end and the pool of fetchers is one. Both look before they use it: each would
 * otherwise loop over a count that the other, or another client of the node's NATS, has made up.
 *
 * A field that this cofa does not know is let through: during `cofa upgrade` both are of two versions for a moment. These
 * are no schemas of zod, which would take a fetcher's start 50 ms to load.
 */
import { isDigest } from './digest.ts';
import type { Completion, FetcherHello, Job, JobWord, PackCompletion, RecordOrder } from './fetch.ts';
import { type Predicate, tupleOf } from './predicate.ts';
import {
  amount,
  count,
  fields,
  flag,
  isKind,
  kindOf,
  list,
  MAX_NAME,
  maybe,
  name,
  oneOf,
  only,
  sentence,
  text,
} from './shapes.ts';

/** Runs of one message: NATS takes fewer. */
const MAX_RUNS = 2 ** 18;
/** Blocks of a layer: 2^32 of them are 256 TiB. */
const MAX_BLOCK = 2 ** 32;
/** Blocks of one run: those of a layer of 1 TiB. */
const MAX_BLOCKS = 2 ** 24;
/** Blocks that a start reads, in all its runs: their reader goes through them one by one. 64 GiB. */
const MAX_START_BLOCKS = 2 ** 20;
const MAX_LAYERS = 4_096;
/** Layers and runs of a report: fetchers tell of 16 pieces at a time. */
const MAX_MORE = 1_024;

const bytes = count(0);
export const block = count(0, MAX_BLOCK);
const blocks = count(1, MAX_BLOCKS);
export const blockPairs = list(tupleOf([block, blocks]), MAX_RUNS);
export const startRuns = list(tupleOf([count(0, MAX_LAYERS), block, blocks]), MAX_RUNS);
/** Devices or layers that runs count. */
export const deviceNames = list(isDigest, MAX_LAYERS);
const set = fields({ devices: deviceNames, runs: startRuns });
export const jobLayers = list(
  fields({ diffId: isDigest, blob: isDigest, layer: maybe(name), table: maybe(isDigest) }),
  MAX_LAYERS,
);
const blob = { registry: name, repository: name, digest: isDigest, size: bytes };
export const blobSource = fields(blob);
/** `layer`: id of the layer; empty: the job concerns several. */
const head = { v: only(1), job: count(1), front: name, layer: name };

const MESSAGES: Readonly<Record<string, Predicate>> = {
  fetch: fields({
    ...head,
    class: oneOf(['demand', 'prefetch']),
    runs: blockPairs,
    source: blobSource,
    table: maybe(isDigest),
  }),
  verify: fields({ ...head, size: bytes, diffId: maybe(isDigest) }),
  scrub: fields({ ...head, blob: isDigest, table: maybe(isDigest), ranges: blockPairs }),
  record: fields({
    ...head,
    manifest: isDigest,
    start: name,
    repository: text(2 * MAX_NAME),
    layers: jobLayers,
    set,
    brought: maybe(set),
  }),
  pack: fields({ ...head, manifest: isDigest, layers: jobLayers, held: maybe(only(true)) }),
  stop: fields(head),
  hold: fields({ ...head, ms: amount }),
};
const PACKS: Readonly<Record<string, Predicate>> = {
  nats: fields({ name, size: bytes }),
  files: fields({ name, size: bytes }),
  registry: blobSource,
};

const fetcher = { worker: name };
const answer = { ...head, ...fetcher };
const end = fields({
  ...answer,
  bytes,
  error: maybe(fields({ code: name, message: sentence, hint: maybe(sentence) })),
  retryable: maybe(flag),
  times: maybe(
    fields({ firstByteUs: bytes, lookupUs: maybe(bytes), fetchUs: bytes, decodeUs: bytes, writeUs: bytes }),
  ),
  bad: maybe(blockPairs),
});
const COMPLETIONS: Readonly<Record<string, Predicate>> = {
  blocks: fields({
    ...answer,
    firstBlock: block,
    count: blocks,
    bytes,
    more: maybe(list(tupleOf([name, block, blocks]), MAX_MORE)),
  }),
  pack: fields({ ...answer, devices: list(name, MAX_LAYERS), runs: startRuns }),
  done: end,
  failed: end,
};
const HELLO = fields({
  v: only(1),
  ...fetcher,
  pid: count(1),
  slots: count(0, 4_096),
  leaving: maybe(flag),
  back: maybe(flag),
});

/** What a fetcher takes. */
export function isJob(value: unknown): value is Job | JobWord {
  if (!isKind(MESSAGES, value)) return false;
  const kind = kindOf(value);
  if (kind === 'record') return blocksIn((value as RecordOrder).set.runs) <= MAX_START_BLOCKS;
  if (kind !== 'pack') return true;
  return isPackSource((value as { pack?: unknown }).pack);
}

export const isPackSource: Predicate = (value) => isKind(PACKS, value);

/** What a front end takes of a job. */
export function isCompletion(value: unknown): value is Completion {
  if (!isKind(COMPLETIONS, value)) return false;
  const { kind, runs } = value as Pick<PackCompletion, 'kind' | 'runs'>;
  return kind !== 'pack' || blocksIn(runs) <= MAX_START_BLOCKS;
}

const blocksIn = (runs: PackCompletion['runs']): number => runs.reduce((sum, [, , count]) => sum + count, 0);

export const isFetcherHello = (value: unknown): value is FetcherHello => HELLO(value);
