/** What a home of the fleet is told, and what it wants done (fleet-home.ts). */
import type { BlobSource, JobClass } from '../schemas/fetch.ts';
import type { PieceAnswer } from '../schemas/fleet.ts';
import type { Question } from './fleet-waiting.ts';

/** A GET of a piece, by TLS: its number is the program's. */
export interface PieceRequest extends Question {
  request: number;
  /** It has come with a token; `token` says whether it could. */
  hasToken: boolean;
  /** A home of the piece wants it, to keep it for others. */
  forHome: boolean;
}

export type HomeEvent =
  | ({ type: 'ask'; now: number } & Question)
  | ({ type: 'get'; now: number } & PieceRequest)
  /** The client has closed it. */
  | { type: 'aborted'; request: number; now: number }
  /**
   * An effect `fetch` has ended; `ok`: the piece is kept, at least for a moment. `refused`: the registry gives it to none, or
   * not for this token. `differs`: the piece was doubted and dropped, and the registry's bytes are others. `at`: the member
   * that was asked named another one; `busyMs`: it is busy for so long.
   */
  | {
      type: 'fetched';
      flight: number;
      key: string;
      ok: boolean;
      refused?: boolean;
      differs?: boolean;
      at?: string;
      busyMs?: number;
      now: number;
    }
  /** An effect `check` has ended, for the asker of its request or for everyone. `may` undefined: the registry did not say. */
  | { type: 'checked'; from?: string; source: BlobSource; may: boolean | undefined; now: number }
  /** An effect `send` has ended. */
  | { type: 'sent'; request: number; now: number }
  /** A reader of this node has got the piece, from a member or from `registry`, and it is kept. */
  | { type: 'kept'; key: string; from: string; now: number }
  /** The piece is no longer kept. */
  | { type: 'lost'; key: string; now: number }
  /** `cell`: this member is told as a home of that cell. */
  | {
      type: 'hold';
      from: string;
      source: BlobSource;
      index: number;
      ok: boolean;
      cell?: number | undefined;
      now: number;
    }
  /** Bytes of this home, or of a member that it had named, were wrong: this node has found so, or another says so (`from`). */
  | { type: 'wrong'; from: string; member: string; source: BlobSource; index: number; now: number }
  /** An asker has shown or refused its proof. */
  | { type: 'proved'; from: string; source: BlobSource; now: number }
  | { type: 'tick'; now: number };

export type FetchBy =
  | { by: 'everyone' }
  | { by: 'request'; request: number }
  | { by: 'member'; member: string };

export type HomeEffect =
  /** To an ask. */
  | { type: 'answer'; to: string; source: BlobSource; answer: PieceAnswer }
  /** To one who was told `coming` (FleetDone). */
  | { type: 'tell'; to: string; source: BlobSource; answer: PieceAnswer }
  /** To a GET: no bytes. */
  | { type: 'reply'; request: number; answer: PieceAnswer }
  /** To a GET: the bytes. */
  | { type: 'send'; request: number }
  | ({
      type: 'fetch';
      flight: number;
      key: string;
      source: BlobSource;
      index: number;
      class: JobClass;
      /** As home of this cell. */
      cell?: number | undefined;
    } & FetchBy)
  /** A reader waits for what this fetch brings: it comes before prefetch, where it has yet to begin. */
  | { type: 'promote'; flight: number; key: string }
  /** Ask the registry whether it gives the blob: for the token of the request, or without one to everyone. */
  | { type: 'check'; source: BlobSource; request?: number; from?: string }
  /** Keep it no longer. `isCompared`: what a registry sends for it next is compared with it. */
  | { type: 'drop'; key: string; isCompared: boolean }
  /**
   * The member has given wrong bytes of the piece. `isSure`: to this home, by what a registry sent that this node's own readers use;
   * else others say so, which names no one.
   * It may still have been cheated itself, where it said so.
   */
  | { type: 'blame'; member: string; key: string; isSure: boolean };

export interface HomeLimits {
  /** Pieces that are sent at once. */
  uploads: number;
  /** Requests for bytes that are open: most wait for what the registry says of their asker. */
  requests: number;
  /** Of these, those that wait for a slot. */
  queued: number;
  /** Askers that are sent to one holder of a piece at once; 0: the homes alone send pieces. */
  perHolder: number;
  /** Askers that wait for pieces, each counted once for each piece. */
  waiting: number;
  /** Pieces that are fetched at once. */
  flights: number;
  /** Blobs of which the registry is asked at once whether everyone may have them. */
  checks: number;
  /** An asker that fetches for others: after so long it is the next one's turn, ms. */
  leaseMs: number;
  /** An asker that was sent to a home of the zone, for its cell: after so long another one is, ms. */
  upMs: number;
  /** A fetch of one's own of which no end was heard, ms. */
  flightMs: number;
  /** The other home may have it, or not even be there: the registry is not kept waiting for longer, ms. */
  probeMs: number;
  /** One that a reader has come to wait for, and which another member is to bring: half of a reader's patience, ms. */
  joinedMs: number;
  /** A slot is kept so long for one who was told to come, ms. */
  comeMs: number;
  busyMs: number;
  /** Pieces that are kept; the program's store has bytes as its limit. */
  held: number;
}

export const HOME_LIMITS: HomeLimits = {
  uploads: 8,
  requests: 8_192,
  queued: 64,
  perHolder: 2,
  waiting: 65_536,
  flights: 1_024,
  checks: 256,
  leaseMs: 15_000,
  upMs: 3_000,
  flightMs: 60_000,
  probeMs: 1_000,
  joinedMs: 5_000,
  comeMs: 2_000,
  busyMs: 250,
  held: 65_536,
};

/** What the home knows of others. */
export interface HomePorts {
  self: string;
  /** Homes of a piece in this zone, or in one of its cells, the first one first. */
  homes: (source: BlobSource, index: number, cell?: number) => readonly string[];
  /** Those that do what the zone's homes do where none of them answers, in order. They have no home's right to the bytes. */
  standIns: (source: BlobSource, index: number) => readonly string[];
  /** Whether the member has not been silent, false or busy lately. */
  isAsked: (member: string, now: number) => boolean;
  /** As `isAsked`, but it may be busy. */
  isThere: (member: string, now: number) => boolean;
  /** Whether containers of this node have read from the registry: others can have any registry asked, such as one of their own. */
  uses: (registry: string) => boolean;
}

export const pieceKey = (
  { registry, digest }: Pick<BlobSource, 'registry' | 'digest'>,
  index: number,
): string => `${registry} ${digest} ${index}`;

/** What `pieceKey` was made of, but the registry. */
export function pieceOf(key: string): { digest: string; index: number } {
  const [, digest = '', index] = key.split(' ');
  return { digest, index: Number(index) };
}
