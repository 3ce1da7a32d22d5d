/**
 * What members of a fleet say to each other. A fleet is engines, and fetchers without an engine, that share a NATS and a
 * fleet's name. The bytes go from member to member over TLS; docs/fleet.md tells the whole.
 *
 * Members speak over NATS (msgpack). Where a member does not reach NATS it brings the same messages to the other's TLS server.
 *
 *     cofa.fleet.v1.<fleet>.here.all.<from>                               Member (fleet-broadcasts.ts)
 *     cofa.fleet.v1.<fleet>.ask.<to>.<from>                               FleetAsk
 *     cofa.fleet.v1.<fleet>.answer.<to>.<from>                            FleetAnswer
 *     cofa.fleet.v1.<fleet>.hold.<to>.<from>                              FleetHold
 *     cofa.fleet.v1.<fleet>.wrong.<to>.<from>                             FleetWrong
 *     cofa.fleet.v1.<fleet>.ledger.<to>.<from>                            LedgerQuestion
 *     cofa.fleet.v1.<fleet>.proven.<to>.<from>                            LedgerAnswer
 *     https://<address>/v1/say/<kind>                                     each of these but Member
 *     https://<address>/v1/piece/<digest>/<index>                         the bytes of a piece
 *
 * The last token of a subject is the sender: NATS lets a member publish under its own name alone, so what a message says
 * about its sender needs no proof. **No message has credentials.** A token goes on the TLS connection whose other end has
 * the certificate that the home announced, with the one request that needs it.
 *
 * Each side looks at what it gets before it uses it (check-fleet.ts).
 */
import type { BlobSource, JobClass } from './fetch.ts';

/** A piece: an aligned range of a blob's compressed bytes, the unit of exchange. The last one of a blob is shorter. */
export const PIECE_BYTES = 1 << 20;
/** Neighbouring pieces that have the same homes: who shows a right there need not show it at another home for each piece. */
export const GROUP_PIECES = 8;
/** Pieces of one message. */
export const MAX_ASKED = 64;
/** Members of which a member takes notice. */
export const MAX_MEMBERS = 20_000;
/** Cells of a zone (actors/fleet-placement.ts). */
export const MAX_CELLS = 1_024;
/** Members that an ask says it has tried. */
export const MAX_TRIED = 8;
export const MAX_WEIGHT = 1_000;

/** A fleet's name and a zone's: one token of a subject. A member's is its node's (NODE_NAME). */
export const FLEET_TOKEN = /^[A-Za-z0-9_-]{1,64}$/;

/** `node`: an engine. `fetcher`: a cache and fetcher without mounts (`cofa fetcher`). */
export type MemberRole = 'node' | 'fetcher';

/** What a member announces, at its start and each `everyMs` from then on. */
export interface Member {
  /** 2: it asks by FleetAsk. Members that ask in another way do not see each other. */
  v: 2;
  fleet: string;
  /** The node's name. */
  id: string;
  /** Members of a zone are near each other. */
  zone: string;
  /** `host:port` of its TLS server; IPv6 in brackets. */
  address: string;
  /** SHA-256 of its TLS certificate, as Node writes it: `AB:CD:…`. */
  fingerprint: string;
  role: MemberRole;
  /** How much of the fleet's pieces it takes, in proportion to others; 0: it is a home of none. */
  weight: number;
  /** Version of cofa. */
  version: string;
  /** Random; another one after each start. */
  life: string;
  /** When it started, ms since 1970 by its own clock: for people. No decision uses it. */
  since: number;
  /** How often it announces itself, ms: one of which nothing is heard for several times as long is gone. */
  everyMs: number;
  /** Set by a clean stop. */
  leaving?: boolean;
}

/** Bytes of a blob by its place; `index` counts pieces from 0. */
export interface Piece {
  digest: string;
  index: number;
}

/** Pieces of a blob of so many bytes. */
export const piecesIn = (size: number): number => Math.ceil(size / PIECE_BYTES);

/** Where a piece lies in its blob of `size` bytes: `[from, to)`. */
export const bytesOfPiece = (index: number, size: number): [from: number, to: number] => [
  index * PIECE_BYTES,
  Math.min((index + 1) * PIECE_BYTES, size),
];

/** The pieces that the bytes `[from, to)` lie in: `[first, count]`. */
export function piecesOfBytes(from: number, to: number): [first: number, count: number] {
  const first = Math.floor(from / PIECE_BYTES);
  return [first, to > from ? Math.floor((to - 1) / PIECE_BYTES) - first + 1 : 0];
}

/**
 * To a home, or to a member that holds pieces: what of these is there? A home that lacks a piece sees to it that one member
 * fetches it. Asking is also what makes one wait for it: behind `coming` another FleetAnswer follows.
 */
export interface FleetAsk {
  v: 1;
  class: JobClass;
  /** The asker could come with a token of its own pull, which lets the home fetch. */
  token: boolean;
  source: BlobSource;
  /** Indexes, rising. */
  pieces: readonly number[];
  /** Members that did not bring these pieces: a second home takes over from the first only then. */
  tried?: readonly string[];
  /**
   * The member is asked as home of this cell of a large zone. One of an earlier version takes no notice: it is no home of the
   * zone, and names the one that is.
   */
  cell?: number;
  /** To the challenge that came with `prove`. */
  proof?: FleetProof;
}

/** The asker has read from the registry what the challenge named. */
export interface FleetProof {
  nonce: string;
  /** `proofText` of the nonce, the asker's id and the bytes, SHA-256 in hex. */
  hash: string;
}

/** Read these bytes of the blob from the registry, with your own right, and show that you did. */
export interface FleetChallenge {
  nonce: string;
  /** Bytes of the blob, `[from, to)`. */
  from: number;
  to: number;
}

/**
 * - `have`: come for it.
 * - `coming`: another answer follows.
 * - `bring`: come for it with a token: no right of yours is known here, or there is no other way to fetch it.
 * - `prove`: ask again with the answer to the challenge: the registry has no tokens.
 * - `fetch`: fetch it from the registry, and say so by a FleetHold. Others wait for you meanwhile, for so long at most.
 * - `busy`: not before `ms`; ask another home, or the registry.
 * - `none`: neither here nor this member's to fetch. A home of a cell says so to the one that is to get it for the cell.
 */
export type PieceState = 'have' | 'coming' | 'bring' | 'prove' | 'fetch' | 'busy' | 'none';

export interface PieceAnswer {
  index: number;
  state: PieceState;
  /** With `have`: the member to come to, where it is not the one that answers. With `none`: the home to ask first. */
  at?: string;
  /** With `busy` and `fetch`. */
  ms?: number;
  /** With `prove`. */
  challenge?: FleetChallenge;
}

/** To an ask, and later to who was told `coming`: what came of it. `none`: it did not come; ask again, or elsewhere. */
export interface FleetAnswer {
  v: 1;
  registry: string;
  digest: string;
  pieces: readonly PieceAnswer[];
}

/** To the homes of these pieces: this member holds them. A home may come for them, and send others, who show it their right. */
export interface FleetHold {
  v: 1;
  source: BlobSource;
  pieces: readonly number[];
  /** It could not fetch these, which it had been told to: another member may. */
  failed?: readonly number[];
  /** The member is told as home of this cell. */
  cell?: number;
}

/** To the home that named the member whose bytes did not verify, and to that member. */
export interface FleetWrong {
  v: 1;
  source: BlobSource;
  index: number;
  /** Whose bytes they were. */
  member: string;
}

/** Layers of an image that a member asks about; of images with more it does not ask. */
export const MAX_LEDGER_LAYERS = 192;
/** Entries of one answer, and answers of one member to one question: some 12 KB each. */
export const MAX_LEDGER_ENTRIES = 64;
export const MAX_LEDGER_ANSWERS = 8;

/**
 * What a member has proven or refuted by itself: of a whole layer that hashed to its diffID the block root, or of whole layers
 * their flat metadata. Only what this node found out is said, never what it has heard. Each member's own event log holds its
 * part of the ledger.
 */
export type LedgerEntry = { v: 1; verdict: 'proven' | 'refuted' } & (
  | { kind: 'root'; diffId: string; root: string }
  /**
   * `layers`: digest over the layers (`layersText`, actors/device.ts); `revision`: of the builder that this member has
   * run; `flat`: digest of the flat metadata; `sidecar`: of the sidecar that had them, where one did.
   */
  | { kind: 'flat'; layers: string; revision: number; flat: string; sidecar?: string }
);

/** Which image is asked about. */
export interface LedgerSubject {
  /** Digest over its layers, as in an entry. */
  layers: string;
  /** diffIDs of its layers. */
  diffIds: readonly string[];
}

/** To another node: what have you proven of an image with these layers? */
export interface LedgerQuestion extends LedgerSubject {
  v: 1;
  /** Random; the answers name it, so that no earlier answer serves again. */
  nonce: string;
  /**
   * Others have vouched: digest over what the first of them said (`claimText`, actors/fleet-ledger.ts). Who has found the same, or
   * nothing, does not answer.
   */
  known?: string;
}

/** To the member that asked: all that the sender has found out about these layers, in one answer or several; often nothing. */
export interface LedgerAnswer {
  v: 1;
  nonce: string;
  entries: readonly LedgerEntry[];
  /** No further answer to this question follows. */
  last: boolean;
}

/** What a member has heard, as its process tells the supervisor. */
export interface LedgerHeard {
  /** Other nodes that were there, and how many of them have answered to the end. */
  nodes: number;
  answered: number;
  said: ReadonlyArray<{ from: string; entries: readonly LedgerEntry[] }>;
}

/** Names of the headers with which the bytes of a piece are asked for. */
export const PIECE_HEADERS = {
  registry: 'x-cofa-registry',
  repository: 'x-cofa-repository',
  /** Bytes of the blob. */
  size: 'x-cofa-size',
  class: 'x-cofa-class',
  /** The registry's token of the asker's own pull, as it stands behind `Bearer`; for this request alone. */
  token: 'x-cofa-token',
  /** `1`: the asker has no token that it could hand over, nor could have one. */
  noToken: 'x-cofa-no-token',
  /** As `proof` of an ask: nonce, space, hash. */
  proof: 'x-cofa-proof',
  /** Of a process of the node: the body is what the challenge of this nonce names. */
  nonce: 'x-cofa-nonce',
  /** As `tried` of an ask, with commas. */
  tried: 'x-cofa-tried',
  /** `1`: a home of the piece wants it, to keep it for others. */
  forHome: 'x-cofa-for-home',
  /** As `cell` of an ask; with `forHome`: whose home wants it. */
  cell: 'x-cofa-cell',
  /** Of the answer: where the bytes came from: `registry`, or a member. */
  from: 'x-cofa-from',
} as const;

/** HTTP's status for what a member says instead of bytes (200). Its body is the PieceAnswer, as JSON. */
export const PIECE_STATUS: Readonly<Record<Exclude<PieceState, 'have'>, number>> = {
  coming: 202,
  bring: 401,
  prove: 403,
  none: 404,
  fetch: 409,
  busy: 503,
};

export interface FleetSubjects {
  /** Of a message to another member. */
  to(kind: FleetMessage, member: string): string;
  /** Everything of a kind that is sent to this member; the last token is the sender. */
  mine(kind: FleetMessage): string;
}

export const FLEET_MESSAGES = ['ask', 'answer', 'hold', 'wrong', 'ledger', 'proven'] as const;
export type FleetMessage = (typeof FLEET_MESSAGES)[number];

/** Error: RangeError for a name that is no single token. */
export function fleetSubjects(fleet: string, self: string): FleetSubjects {
  for (const token of [fleet, self])
    if (!FLEET_TOKEN.test(token))
      throw new RangeError(
        `fleet and member are each one word of ${FLEET_TOKEN}, not ${JSON.stringify(token)}`,
      );
  const base = `cofa.fleet.v1.${fleet}`;
  return {
    to: (kind, member) => `${base}.${kind}.${member}.${self}`,
    mine: (kind) => `${base}.${kind}.${self}.*`,
  };
}

/** The sender of a message, by its subject. */
export const senderOf = (subject: string): string => subject.slice(subject.lastIndexOf('.') + 1);
