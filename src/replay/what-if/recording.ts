/** A start as the log tells of it, ready to be run again: what is fixed, what it cost, and what was known of it before. */
import type { LayerShape } from '../shapes.ts';

/** One read of the program, of blocks that it had not read before. */
export interface ProgramRead {
  layer: string;
  first: number;
  count: number;
  /** The read after which the program went on to this one; undefined: the layers' attachment. Earlier in the list. */
  after: number | undefined;
  /** How long it computed in between, ms. */
  thinkMs: number;
}

/** Blocks in the order in which a start reads them, or is likely to. */
export interface OrderedRun {
  layer: string;
  first: number;
  count: number;
}

/** What of a phase depends on the link. */
export interface PhaseCost {
  phase: 'resolve' | 'prepare' | 'attach';
  ms: number;
  /** Round trips one after the other, and bytes. */
  trips: number;
  bytes: number;
}

/** What the engine's own work costs, as its fetches tell. */
export interface Costs {
  /** Decode, verify and write of a block of 64 KiB, ms of one core. */
  fetchBlockMs: number;
  packBlockMs: number;
  /** From the layers' attachment to the first block of a pack that has come before, ms. */
  packReadyMs: number;
  /** From a request's arrival at the registry to the answer's first byte, ms. */
  serverMs: number;
  /** A message between front end and fetcher, ms. */
  hopMs: number;
  /** From the block's presence to the program, ms. */
  replyMs: number;
}

export interface LinkState {
  /** Bits a second; Infinity: nothing that the log tells was limited by it. */
  rate: number;
  rttMs: number;
}

export type Ahead = 'pack' | 'files' | 'hints' | 'nothing';

export interface Policy {
  ahead: Ahead;
  /** Whether the rest of the image, and what lies near its reads, is fetched. */
  prefetch: boolean;
  /** Bytes a second of that; undefined: no limit. */
  prefetchLimit: number | undefined;
  fetchers: number;
  /** Jobs side by side in one. */
  slots: number;
  cores: number;
  /** Bytes of a block; undefined: as it is. */
  block: number | undefined;
}

export interface Recording {
  mount: string;
  ref: string;
  manifest: string;
  dir: string;
  /** Which of the image's commands; undefined: the log has no account of the start. */
  start: string | undefined;
  /** When it was asked for, ms since the epoch. */
  at: number;
  phases: PhaseCost[];
  layers: Map<string, LayerShape>;
  /** Blocks that were present before, by layer. */
  present: Map<string, Array<readonly [first: number, count: number]>>;
  reads: ProgramRead[];
  /** From the last read to the container's end, ms; undefined: it did not end soon after it. */
  tailMs: number | undefined;
  /** What a pack of this start would hold, and what hints or an earlier build named. */
  packed: OrderedRun[];
  foretold: { by: Ahead; runs: OrderedRun[] };
  /** Of the pack; undefined: none was brought, or its size is not known. */
  packBytes: number | undefined;
  /** From the request of the mount to that of the pack, ms. */
  packAfterMs: number;
  costs: Costs;
  link: LinkState;
  policy: Policy;
  /** What was measured. */
  measured: Outcome;
  /** What is guessed, a sentence each. */
  notes: string[];
}

/** How a start went, or would go. Times in µs. */
export interface Outcome {
  /** From the call to the answer of the last first read. */
  us: number;
  /** To the container's end; undefined: it goes on. */
  endUs: number | undefined;
  phases: Array<{ phase: string; us: number }>;
  /** `failed`: those of them that got EIO. */
  reads: {
    count: number;
    waited: number;
    failed: number;
    waitedUs: number;
    blockedUs: number;
    p50Us: number;
    maxUs: number;
  };
  /** Compressed bytes by why they came until then. */
  bytes: { sidecar: number; pack: number; demand: number; ahead: number; rest: number };
  /** For blocks and the pack. */
  requests: number;
}
