/**
 * Whether a message between the front end and the pool of fetchers is one. Both look before they use it: each would
 * otherwise loop over a count that the other, or another client of the node's NATS, has made up.
 *
 * A field that this cofa does not know is let through: during `cofa upgrade` both are of two versions for a moment. These
 * are no schemas of zod, which would take a fetcher's start 50 ms to load.
 */
import { isDigest } from './digest.ts';
import type { Completion, FetcherHello, Job, JobWord, PackCompletion, RecordOrder } from './fetch.ts';
import { arrayOf, objectOf, oneOf, type Predicate, tupleOf } from './predicate.ts';

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
const MAX_NAME = 256;
const MAX_TEXT = 1 << 16;

const text =
  (longest: number): Predicate =>
  (value) =>
    typeof value === 'string' && value.length <= longest;
const count =
  (least: number, most = Number.MAX_SAFE_INTEGER): Predicate =>
  (value) =>
    Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
const list = (item: Predicate, most: number): Predicate => {
  const isList = arrayOf(item);
  return (value) => isList(value) && (value as unknown[]).length <= most;
};
const maybe =
  (inner: Predicate): Predicate =>
  (value) =>
    value === undefined || inner(value);
const fields = (of: Readonly<Record<string, Predicate>>): Predicate => objectOf(Object.entries(of));
const only = (value: unknown): Predicate => oneOf([value]);
const flag: Predicate = (value) => typeof value === 'boolean';

const name = text(MAX_NAME);
const bytes = count(0);
const block = count(0, MAX_BLOCK);
const blocks = count(1, MAX_BLOCKS);
const pairs = list(tupleOf([block, blocks]), MAX_RUNS);
const starts = list(tupleOf([count(0, MAX_LAYERS), block, blocks]), MAX_RUNS);
const set = fields({ devices: list(isDigest, MAX_LAYERS), runs: starts });
const layers = list(fields({ diffId: isDigest, blob: isDigest }), MAX_LAYERS);
const blob = { registry: name, repository: name, digest: isDigest, size: bytes };
/** `layer`: id of the layer; empty: the job concerns several. */
const head = { v: only(1), job: count(1), front: name, layer: name };

const MESSAGES: Readonly<Record<string, Predicate>> = {
  fetch: fields({ ...head, class: oneOf(['demand', 'prefetch']), runs: pairs, source: fields(blob) }),
  verify: fields({ ...head, size: bytes }),
  scrub: fields({ ...head, blob: isDigest, ranges: pairs }),
  record: fields({
    ...head,
    manifest: isDigest,
    start: name,
    repository: text(2 * MAX_NAME),
    layers,
    set,
    brought: maybe(set),
  }),
  pack: fields({ ...head, manifest: isDigest, layers, held: maybe(only(true)) }),
  stop: fields(head),
  hold: fields({ ...head, ms: (value) => Number.isFinite(value) && (value as number) >= 0 }),
};
const PACKS: Readonly<Record<string, Predicate>> = {
  nats: fields({ name, size: bytes }),
  files: fields({ name, size: bytes }),
  registry: fields(blob),
};

const answer = { ...head, worker: name };
const end = fields({
  ...answer,
  bytes,
  error: maybe(fields({ code: name, message: text(MAX_TEXT), hint: maybe(text(MAX_TEXT)) })),
  retryable: maybe(flag),
  times: maybe(fields({ firstByteUs: bytes, fetchUs: bytes, decodeUs: bytes, writeUs: bytes })),
  bad: maybe(pairs),
});
const COMPLETIONS: Readonly<Record<string, Predicate>> = {
  blocks: fields({
    ...answer,
    firstBlock: block,
    count: blocks,
    bytes,
    more: maybe(list(tupleOf([name, block, blocks]), MAX_MORE)),
  }),
  pack: fields({ ...answer, devices: list(name, MAX_LAYERS), runs: starts }),
  done: end,
  failed: end,
};
const HELLO = fields({
  v: only(1),
  worker: name,
  pid: count(1),
  slots: count(0, 4_096),
  leaving: maybe(flag),
  back: maybe(flag),
});

const kindOf = (value: unknown): unknown => (value as { kind?: unknown } | null | undefined)?.kind;

const isKind = (kinds: Readonly<Record<string, Predicate>>, value: unknown): boolean => {
  const kind = kindOf(value);
  return typeof kind === 'string' && Object.hasOwn(kinds, kind) && kinds[kind]?.(value) === true;
};

/** What a fetcher takes. */
export function isJob(value: unknown): value is Job | JobWord {
  if (!isKind(MESSAGES, value)) return false;
  const kind = kindOf(value);
  if (kind === 'record') return blocksIn((value as RecordOrder).set.runs) <= MAX_START_BLOCKS;
  if (kind !== 'pack') return true;
  return isKind(PACKS, (value as { pack?: unknown }).pack);
}

/** What a front end takes of a job. */
export function isCompletion(value: unknown): value is Completion {
  if (!isKind(COMPLETIONS, value)) return false;
  const { kind, runs } = value as Pick<PackCompletion, 'kind' | 'runs'>;
  return kind !== 'pack' || blocksIn(runs) <= MAX_START_BLOCKS;
}

const blocksIn = (runs: PackCompletion['runs']): number => runs.reduce((sum, [, , count]) => sum + count, 0);

export const isFetcherHello = (value: unknown): value is FetcherHello => HELLO(value);
