/**
 * Whether a question to the front end, its answer and its notices are what schemas/front.ts says. Both ends look before they
 * use one: the front end acts for containers on what it is asked, the supervisor counts a layer as whole on what it is told.
 */
import {
  blobSource,
  block,
  blockPairs,
  deviceNames,
  isPackSource,
  jobLayers,
  startRuns,
} from './check-fetch.ts';
import { isDigest } from './digest.ts';
import type { Empty, FrontCall, FrontNotice, FrontReply, FrontRequest } from './front.ts';
import { type Predicate, tupleOf } from './predicate.ts';
import {
  amount,
  count,
  fields,
  figure,
  flag,
  isKind,
  isNothing,
  list,
  MAX_NAME,
  maybe,
  name,
  only,
  oneOf,
  sentence,
  type Shape,
  text,
} from './shapes.ts';

/** Layers of a node, images that have one, processes: more than any node has. */
const MAX_MANY = 2 ** 18;
const MAX_CONDITIONS = 4_096;

const bytes = count(0);
const layer = { diffId: isDigest };
const layers = list(isDigest, MAX_MANY);
const state = oneOf(['lazy', 'complete', 'handed-over', 'corrupt']);
const supply = { source: blobSource, table: maybe(isDigest) };
const handedOver = { request: fields(layer), reply: fields({ state }) };

const CACHE = fields({
  usedBytes: figure,
  metadataBytes: figure,
  limitBytes: (value) => value === null || figure(value),
  freeBytes: figure,
  reserveBytes: figure,
  evictedBytes: figure,
  prefetch: flag,
});
const STATUS = fields({
  layers: list(
    fields({
      ...layer,
      content: maybe(isDigest),
      state,
      blocks: fields({ absent: bytes, fetching: bytes, present: bytes }),
      bytes: fields({ total: bytes, present: bytes, fetched: bytes }),
      hits: bytes,
      misses: bytes,
      errors: bytes,
    }),
    MAX_MANY,
  ),
  workers: list(fields({ name, pid: count(1), slots: bytes, running: bytes }), MAX_MANY),
  queued: fields({ demand: bytes, prefetch: bytes }),
  cache: CACHE,
  degraded: list(sentence, MAX_CONDITIONS),
});

const CALLS: { readonly [Call in FrontCall]: { request: Predicate; reply: Predicate } } = {
  open: {
    request: fields({
      ...layer,
      ...supply,
      content: maybe(isDigest),
      size: bytes,
      others: maybe(list(fields(supply), MAX_MANY)),
      prefetch: flag,
      limits: maybe(list(tupleOf([text(2 * MAX_NAME), amount]), MAX_MANY)),
      built: flag,
      direct: maybe(flag),
    }),
    reply: fields({ deviceSize: bytes, name, state, front: name }),
  },
  close: { request: fields(layer), reply: isNothing },
  start: {
    request: fields({
      manifest: isDigest,
      start: name,
      repository: text(2 * MAX_NAME),
      layers: jobLayers,
      pack: maybe(isPackSource),
      ahead: maybe(only(true)),
      hints: maybe(fields({ devices: deviceNames, runs: startRuns })),
      record: flag,
    }),
    reply: isNothing,
  },
  'handed-over': handedOver,
  'take-back': { request: fields(layer), reply: isNothing },
  'taken-back': handedOver,
  'given-up': { request: fields(layer), reply: isNothing },
  needs: { request: fields({ mounts: layers, images: layers }), reply: isNothing },
  uses: { request: fields({}), reply: list(fields({ ...layer, bytes: figure, idleMs: figure }), MAX_MANY) },
  shrink: { request: fields({ keep: amount, dryRun: flag }), reply: figure },
  collect: {
    request: fields({ needed: layers, dryRun: flag }),
    reply: fields({ layers, bytes: figure }),
  },
  scrub: {
    request: fields({ ...layer, from: block, count: block, ranges: maybe(blockPairs) }),
    reply: fields({
      next: maybe(block),
      blocks: bytes,
      bad: blockPairs,
      kept: blockPairs,
      direct: flag,
      whole: flag,
    }),
  },
  refetch: {
    request: fields({ ...layer, ranges: blockPairs }),
    reply: fields({ failure: maybe(fields({ code: name, message: sentence })) }),
  },
  scrubbed: {
    request: fields({
      ...layer,
      since: amount,
      blocks: bytes,
      bad: bytes,
      repaired: bytes,
      kept: bytes,
      scope: maybe(oneOf(['newest', 'part'])),
    }),
    reply: bytes,
  },
  doubt: {
    request: fields({ layers: list(fields({ ...layer, ranges: blockPairs }), MAX_MANY) }),
    reply: isNothing,
  },
  settled: { request: fields({ fronts: list(name, MAX_MANY) }), reply: isNothing },
  status: { request: fields({}), reply: STATUS },
};

export const isFrontRequest = <Call extends FrontCall>(call: Call): Shape<FrontRequest<Call>> =>
  CALLS[call].request as Shape<FrontRequest<Call>>;

export const isFrontReply = <Call extends FrontCall>(call: Call): Shape<FrontReply<Call>> =>
  CALLS[call].reply as Shape<FrontReply<Call>>;

const NOTICES: { readonly [Kind in FrontNotice['kind']]: Predicate } = {
  whole: fields(layer),
  complete: fields(layer),
  'take-back': fields(layer),
  astray: fields(layer),
  checked: fields(layer),
  corrupt: fields({ ...layer, message: sentence }),
};

export const isFrontNotice: Shape<FrontNotice> = (value): value is FrontNotice => isKind(NOTICES, value);

/** A question that asks for nothing in particular, such as for room in the log. */
export const isEmpty: Shape<Empty> = fields({}) as Shape<Empty>;
