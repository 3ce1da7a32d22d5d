/** What an asker of the fleet is told, and what it wants done (fleet-asker.ts). */
import type { BlobSource, JobClass } from '../schemas/fetch.ts';
import type { PieceAnswer } from '../schemas/fleet.ts';
import type { Peers } from './fleet-peers.ts';

export type AskerEvent =
  | { type: 'want'; source: BlobSource; index: number; class: JobClass; token: boolean; now: number }
  /** No job wants it any more. */
  | { type: 'drop'; key: string; now: number }
  /** Of an ask, a FleetDone, or a GET that brought no bytes. */
  | { type: 'answer'; member: string; key: string; answer: PieceAnswer; now: number }
  /** A GET has brought all bytes. */
  | { type: 'came'; member: string; key: string; now: number }
  /** Bytes of a GET go on coming. */
  | { type: 'moves'; member: string; key: string; now: number }
  /** No answer, or not all bytes. */
  | { type: 'silent'; member: string; key: string; now: number }
  /** The registry has given it to this node, or has not. */
  | { type: 'read'; key: string; ok: boolean; now: number }
  /** Its bytes fit what they should be, as far as they were decoded. */
  | { type: 'verified'; key: string; source: BlobSource; index: number; now: number }
  /** They do not. `from`: where the member said that it had them from. */
  | {
      type: 'wrong';
      member: string;
      from?: string;
      key: string;
      source: BlobSource;
      index: number;
      now: number;
    }
  | { type: 'tick'; now: number };

/** What a member is asked, and for which piece. */
interface Question {
  member: string;
  key: string;
  source: BlobSource;
  index: number;
  class: JobClass;
  tried: readonly string[];
  /** It is asked as home of this node's cell. */
  cell?: number | undefined;
}

export type AskerEffect =
  /** `isHedge`: as well as another one, which is late. */
  | (Question & { type: 'ask'; token: boolean; isHedge: boolean })
  /** `token`: come with the registry's token of this node's own pull. */
  | (Question & { type: 'get'; token: boolean })
  /** Answer the challenge that came with the answer, then ask again. */
  | (Question & { type: 'prove' })
  /** The member may stop what this node has asked it for, or gets from it. */
  | { type: 'leave'; member: string; key: string }
  /** Read it from the registry. `lease`: members wait for this node to have it. */
  | { type: 'read'; key: string; source: BlobSource; index: number; class: JobClass; lease: boolean }
  /** Tell the homes, this node's own too, that it is here (`ok`), or that it could not be had. `cell`: those of this node's cell. */
  | {
      type: 'hold';
      members: readonly string[];
      source: BlobSource;
      index: number;
      ok: boolean;
      cell?: number | undefined;
    }
  | { type: 'wrong'; members: readonly string[]; member: string; source: BlobSource; index: number }
  /** Here are its bytes: `from` a member, or the registry. */
  | { type: 'give'; key: string; from: string }
  /** Neither the fleet nor the registry brings it. */
  | { type: 'failed'; key: string };

export interface AskerLimits {
  /** Pieces that are wanted at once; what is beyond is read from the registry. */
  most: number;
  atOnce: number;
  /** Of these, what prefetch leaves free. */
  demandShare: number;
  /** Patience, ms: `…Ms` where all members are fast, and at the most `…MostMs` where they are slow. For what a reader waits for; */
  demandMs: number;
  demandMostMs: number;
  /** for anything else. */
  prefetchMs: number;
  /** One that says "coming" is asked again after so long, ms. */
  comingMs: number;
  /** One that does not answer for so long is asked no more; and one that sends no bytes. */
  askMs: number;
  askMostMs: number;
  silentMs: number;
  silentMostMs: number;
  /** All that could be asked are busy: they are asked again after so long, ms. */
  busyMs: number;
  /** One that says that it is busy is not asked again before this, ms, even if it names less. */
  leastBusyMs: number;
  /** Members that are tried for one piece. */
  tries: number;
  /** Answers that are heard for one piece, but for `busy`: a member that keeps an asker going costs no more. */
  answers: number;
  /** An asker is sent on so often before it waits for `busyMs`. */
  hops: number;
}

export const ASKER_LIMITS: AskerLimits = {
  most: 8_192,
  atOnce: 32,
  demandShare: 0.25,
  demandMs: 10_000,
  // A read has 30 s, the registry's part included.
  demandMostMs: 15_000,
  prefetchMs: 60_000,
  comingMs: 5_000,
  // A busy home's process may stand still for longer than a second.
  askMs: 2_000,
  askMostMs: 8_000,
  silentMs: 3_000,
  silentMostMs: 10_000,
  busyMs: 250,
  leastBusyMs: 50,
  tries: 8,
  answers: 1_024,
  hops: 2,
};

/** One is late when it takes so many times as long as is usual. */
const TIMES_USUAL = 4;

/** So long something is waited for that lately took `usual`; ms. */
export const patience = (least: number, usual: number, most: number): number =>
  Math.max(least, Math.min(most, TIMES_USUAL * usual));

export interface AskerPorts {
  self: string;
  /** Whether this node has the piece by itself. */
  holds: (key: string) => boolean;
  /** The cell of this node in its zone (fleet-placement.ts); undefined: it has none. */
  cell: () => number | undefined;
  /** Homes of the piece in this zone, or in one of its cells; none where the fleet has no other members there. */
  homes: (source: BlobSource, index: number, cell?: number) => readonly string[];
  /** Those that do what the zone's homes do where none of them answers, in order. */
  standIns: (source: BlobSource, index: number) => readonly string[];
  peers: Peers;
  /** May this node be sent to for pieces? Then it says what it has. */
  serves: boolean;
}
