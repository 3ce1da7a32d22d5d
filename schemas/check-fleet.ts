/**
 * Whether what another member of the fleet says is what it should be. A member is a stranger: all that it sends has bounds,
 * and what a message says of a blob must fit its size.
 */
import { isDigest } from './digest.ts';
import {
  FLEET_TOKEN,
  type FleetAnswer,
  type FleetAsk,
  type FleetDone,
  type FleetHold,
  type FleetWrong,
  type LedgerEntry,
  MAX_ASKED,
  MAX_TRIED,
  MAX_WEIGHT,
  type Member,
  PIECE_BYTES,
  piecesIn,
} from './fleet.ts';
import type { Predicate } from './predicate.ts';
import { count, fields, flag, isKind, list, maybe, oneOf, only, text } from './shapes.ts';

/** Compressed bytes of a blob: 1 TiB. */
const MAX_BLOB = 2 ** 40;
const MAX_INDEX = MAX_BLOB / PIECE_BYTES;
/** Longest pause that an answer may ask for, ms. */
export const MAX_PAUSE_MS = 60_000;

const matches =
  (pattern: RegExp): Predicate =>
  (value) =>
    typeof value === 'string' && pattern.test(value);

const token = matches(FLEET_TOKEN);
const life = matches(/^[A-Za-z0-9_-]{8,64}$/);
const hash = matches(/^[0-9a-f]{64}$/);
const fingerprint = matches(/^(?:[0-9A-F]{2}:){31}[0-9A-F]{2}$/);
const hostAndPort = matches(/^(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}$/);
const address: Predicate = (value) => {
  if (!hostAndPort(value)) return false;
  const port = Number((value as string).slice((value as string).lastIndexOf(':') + 1));
  return port >= 1 && port <= 65_535;
};
const index = count(0, MAX_INDEX);
const rising: Predicate = (value) => {
  const items = value as number[];
  for (let at = 1; at < items.length; at++)
    if ((items[at - 1] as number) >= (items[at] as number)) return false;
  return true;
};
const indexes: Predicate = (value) => indexList(value) && rising(value);
const indexList = list(index, MAX_ASKED);

/** A registry's or repository's name has no space: keys are made of them. */
const word = matches(/^\S{1,256}$/);
const source = fields({ registry: word, repository: word, digest: isDigest, size: count(1, MAX_BLOB) });

const MEMBER = fields({
  v: only(1),
  fleet: token,
  id: token,
  zone: token,
  address,
  fingerprint,
  role: oneOf(['node', 'fetcher']),
  weight: count(0, MAX_WEIGHT),
  version: text(64),
  life,
  since: count(0),
  everyMs: count(500, 600_000),
  leaving: maybe(flag),
});

const ASK = fields({
  v: only(1),
  ask: count(1),
  life,
  class: oneOf(['demand', 'prefetch']),
  token: flag,
  source,
  pieces: indexes,
  tried: maybe(list(token, MAX_TRIED)),
  proof: maybe(fields({ nonce: hash, hash })),
});

const pieceAnswers = list(
  fields({
    index,
    state: oneOf(['have', 'coming', 'bring', 'prove', 'fetch', 'busy', 'none']),
    at: maybe(token),
    ms: maybe(count(0, MAX_PAUSE_MS)),
  }),
  MAX_ASKED,
);
const ANSWER = fields({
  v: only(1),
  ask: count(0),
  life,
  pieces: pieceAnswers,
  challenge: maybe(fields({ nonce: hash, from: count(0, MAX_BLOB), to: count(1, MAX_BLOB) })),
});

const DONE = fields({ v: only(1), life, registry: word, digest: isDigest, pieces: pieceAnswers });
const HOLD = fields({ v: only(1), life, source, pieces: indexes, failed: maybe(indexes) });
const WRONG = fields({ v: only(1), life, registry: word, digest: isDigest, index, member: token, hash });

const entry = { v: only(1), verdict: oneOf(['proven', 'refuted']) };
const LEDGER = {
  root: fields({ ...entry, diffId: isDigest, root: isDigest }),
  flat: fields({ ...entry, manifest: isDigest, flat: isDigest, sidecar: maybe(isDigest) }),
};

/** Whether all pieces lie in the blob. */
const fits = ({ source, pieces }: Pick<FleetAsk, 'source' | 'pieces'>): boolean =>
  (pieces.at(-1) ?? 0) < piecesIn(source.size);

export const isMember = (value: unknown): value is Member => MEMBER(value);

export const isFleetAsk = (value: unknown): value is FleetAsk =>
  ASK(value) && (value as FleetAsk).pieces.length > 0 && fits(value as FleetAsk);

/** Bytes that a challenge may have an asker fetch: `PROOF_BYTES` of actors/fleet-rights.ts fit. */
const MAX_CHALLENGE = 1 << 16;

export const isFleetAnswer = (value: unknown): value is FleetAnswer => {
  if (!ANSWER(value)) return false;
  const { challenge } = value as FleetAnswer;
  return (
    challenge === undefined ||
    (challenge.to > challenge.from && challenge.to - challenge.from <= MAX_CHALLENGE)
  );
};

export const isFleetDone = (value: unknown): value is FleetDone => DONE(value);

export const isFleetHold = (value: unknown): value is FleetHold => {
  if (!HOLD(value)) return false;
  const { source, pieces, failed = [] } = value as FleetHold;
  return fits({ source, pieces }) && fits({ source, pieces: failed });
};

export const isFleetWrong = (value: unknown): value is FleetWrong => WRONG(value);

export const isLedgerEntry = (value: unknown): value is LedgerEntry => isKind(LEDGER, value);
