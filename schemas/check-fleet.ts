/**
 * Whether what another member of the fleet says is what it should be. A member is a stranger: all that it sends has bounds,
 * and what a message says of a blob must fit its size.
 */
import { isDigest } from './digest.ts';
import {
  FLEET_TOKEN,
  type FleetAnswer,
  type FleetAsk,
  type FleetChallenge,
  type FleetHold,
  type FleetProof,
  type FleetWrong,
  type LedgerAnswer,
  type LedgerEntry,
  type LedgerHeard,
  type LedgerQuestion,
  type LedgerSubject,
  MAX_ASKED,
  MAX_CELLS,
  MAX_LEDGER_ANSWERS,
  MAX_LEDGER_ENTRIES,
  MAX_LEDGER_LAYERS,
  MAX_MEMBERS,
  MAX_TRIED,
  MAX_WEIGHT,
  type Member,
  PIECE_BYTES,
  type PieceAnswer,
  piecesIn,
} from './fleet.ts';
import type { BlobSource } from './fetch.ts';
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

/** Host and port. Keys and names of files are made of it. */
const registry = matches(/^(?=.{1,150}$)(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?$/);
/** Bytes of a path of an address at the registry: no `..`, no query. */
const repository = matches(
  /^(?=.{1,256}$)[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:\/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*$/,
);
const source = fields({ registry, repository, digest: isDigest, size: count(1, MAX_BLOB) });

/** ms; a date beyond that has no ISO form. */
const LAST_DATE = 8.64e15;

const MEMBER = fields({
  v: only(2),
  fleet: token,
  id: token,
  zone: token,
  address,
  fingerprint,
  role: oneOf(['node', 'fetcher']),
  weight: count(0, MAX_WEIGHT),
  version: text(64),
  life,
  since: count(0, LAST_DATE),
  everyMs: count(500, 600_000),
  leaving: maybe(flag),
});

const cell = count(0, MAX_CELLS - 1);
const nonce = matches(/^[0-9a-f]{32}$/);
const PROOF = fields({ nonce, hash: matches(/^[0-9a-f]{64}$/) });
const CHALLENGE = fields({ nonce, from: count(0, MAX_BLOB), to: count(1, MAX_BLOB) });
/** Bytes that a challenge may have this node read from its registry. */
const MAX_CHALLENGE = 64 << 10;
const challenge: Predicate = (value) => {
  if (!CHALLENGE(value)) return false;
  const { from, to } = value as FleetChallenge;
  return from < to && to - from <= MAX_CHALLENGE;
};

const ASK = fields({
  v: only(1),
  class: oneOf(['demand', 'prefetch']),
  token: flag,
  source,
  pieces: indexes,
  tried: maybe(list(token, MAX_TRIED)),
  cell: maybe(cell),
  proof: maybe(PROOF),
});

const PIECE_ANSWER = fields({
  index,
  state: oneOf(['have', 'coming', 'bring', 'prove', 'fetch', 'busy', 'none']),
  at: maybe(token),
  ms: maybe(count(0, MAX_PAUSE_MS)),
  challenge: maybe(challenge),
});
const ANSWER = fields({ v: only(1), registry, digest: isDigest, pieces: list(PIECE_ANSWER, MAX_ASKED) });
const HOLD = fields({ v: only(1), source, pieces: indexes, failed: maybe(indexes), cell: maybe(cell) });
const WRONG = fields({ v: only(1), source, index, member: token });

/** Of a builder. */
const MAX_REVISION = 1 << 20;
/** Members whose answers to one question are kept. */
export const MAX_LEDGER_SAID = 64;
const entry = { v: only(1), verdict: oneOf(['proven', 'refuted']) };
const LEDGER = {
  root: fields({ ...entry, diffId: isDigest, root: isDigest }),
  flat: fields({
    ...entry,
    layers: isDigest,
    revision: count(0, MAX_REVISION),
    flat: isDigest,
    sidecar: maybe(isDigest),
  }),
};
const ledgerEntry: Predicate = (value) => isKind(LEDGER, value);
const subject = { layers: isDigest, diffIds: list(isDigest, MAX_LEDGER_LAYERS) };
const SUBJECT = fields(subject);
const QUESTION = fields({ v: only(1), nonce, known: maybe(isDigest), ...subject });
const PROVEN = fields({
  v: only(1),
  nonce,
  entries: list(ledgerEntry, MAX_LEDGER_ENTRIES),
  last: flag,
});
const ENTRIES = list(ledgerEntry, MAX_LEDGER_ENTRIES * MAX_LEDGER_ANSWERS);
const HEARD = fields({
  nodes: count(0, MAX_MEMBERS),
  answered: count(0, MAX_MEMBERS),
  said: list(fields({ from: token, entries: ENTRIES }), MAX_LEDGER_SAID),
});

/** Whether all pieces lie in the blob. */
const fits = ({ source, pieces }: Pick<FleetAsk, 'source' | 'pieces'>): boolean =>
  (pieces.at(-1) ?? 0) < piecesIn(source.size);

export const isMember = (value: unknown): value is Member => MEMBER(value);

export const isFleetAsk = (value: unknown): value is FleetAsk =>
  ASK(value) && (value as FleetAsk).pieces.length > 0 && fits(value as FleetAsk);

export const isFleetAnswer = (value: unknown): value is FleetAnswer => ANSWER(value);

export const isFleetCell = (value: unknown): value is number => cell(value);

export const isFleetChallenge = (value: unknown): value is FleetChallenge => challenge(value);

export const isFleetProof = (value: unknown): value is FleetProof => PROOF(value);

export const isPieceAnswer = (value: unknown): value is PieceAnswer => PIECE_ANSWER(value);

export const isFleetHold = (value: unknown): value is FleetHold => {
  if (!HOLD(value)) return false;
  const { source, pieces, failed = [] } = value as FleetHold;
  return fits({ source, pieces }) && fits({ source, pieces: failed });
};

export const isFleetWrong = (value: unknown): value is FleetWrong =>
  WRONG(value) && fits({ source: (value as FleetWrong).source, pieces: [(value as FleetWrong).index] });

/** Whether a blob can be had in the fleet: one byte at least, and names of which keys can be made. */
export const isFleetBlob = (value: unknown): value is BlobSource => source(value);

export const isLedgerEntry = (value: unknown): value is LedgerEntry => ledgerEntry(value);

/** All that one member has to say about an image. */
export const areLedgerEntries = (value: unknown): value is readonly LedgerEntry[] => ENTRIES(value);

export const isLedgerSubject = (value: unknown): value is LedgerSubject => SUBJECT(value);

export const isLedgerQuestion = (value: unknown): value is LedgerQuestion => QUESTION(value);

export const isLedgerAnswer = (value: unknown): value is LedgerAnswer => PROVEN(value);

export const isLedgerHeard = (value: unknown): value is LedgerHeard => HEARD(value);
