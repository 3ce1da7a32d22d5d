/** Documents about a node and its log that the page shows. Types alone: the page is compiled without Node's. */
import type { ImageStatus, ProcessStatus, Status } from '../../schemas/api.ts';
import type { IncidentListed } from '../../schemas/incidents.ts';
import type { ReplayState, WhyStart } from '../../schemas/replay.ts';

/** How a node is, at the end of a log or as its engine says it. */
export interface NodeDocument {
  node: string;
  /** Version of cofa; absent: not known. */
  version?: string;
  /** Absent: of a file. */
  root?: string;
  /** When this was so, ISO 8601; null: not known. */
  time: string | null;
  /** Whether the engine has said it, and not the log alone. */
  isLive: boolean;
  health: Health;
  /** ISO 8601; absent: not known. */
  startedAt?: string;
  processes: NodeProcess[];
  mounts: NodeMount[];
  images: NodeImage[];
  /** Absent: the log does not tell. */
  cache?: Status['cache'];
  log: { events: number; bytes?: number; limit?: number };
  /** The last ones, newest first. */
  starts: StartSummary[];
}

export interface Health {
  level: 'good' | 'busy' | 'bad';
  /** One sentence. */
  headline: string;
  /** What is degraded and why, one sentence each. */
  degraded: string[];
}

export type NodeProcess = Pick<ProcessStatus, 'role' | 'name' | 'pid' | 'restarts'> & {
  state: ProcessStatus['state'] | 'ended';
} & Partial<Pick<ProcessStatus, 'since' | 'lastEnd' | 'rssBytes'>>;

export interface NodeMount {
  id: string;
  dir: string;
  ref: string;
  state: string;
  trust?: string;
  container?: string;
}

export type NodeImage = Omit<ImageStatus, 'layers' | 'state' | 'reads'> & {
  state: string;
  layers: number;
  /** Absent: the log does not tell. */
  reads?: ImageStatus['reads'];
};

/** A start of the last ones. */
export interface StartSummary {
  mount: string;
  ref: string;
  dir: string;
  /** When it began, ISO 8601. */
  time: string;
  /** Of `mount.requested`: where the log tells of it. */
  seq: number;
  state: 'starting' | 'ready' | 'failed';
  /** Until its mount was ready, ms; absent: it is not. */
  mountMs?: number;
  /** What it took, as `cofa replay why` divides it, ms. */
  startMs?: number;
  parts: Array<Pick<WhyStart['wall']['parts'][number], 'part' | 'us'>>;
  /** Absent: the log does not say enough of it. */
  expected?: StartExpectation;
  reads?: { count: number; blockedUs: number; failed: number };
  /** Compressed bytes that its reads waited for. */
  bytes?: number;
  failure?: string;
}

/** What a start lets expect, ms. */
export interface StartExpectation {
  /** With a startup pack, by the model of what-if. Absent: it does not know. */
  packMs?: number;
  /** Starts before it that are like it, in the median. Absent: the log tells of none. */
  earlierMs?: number;
  /** How many. */
  earlier?: number;
}

/** A log at first sight. */
export interface LogDocument {
  node: string;
  title: string;
  generation: number;
  count: number;
  /** Sequence in front of its first event; 0: it begins with the node's first. */
  beginning: number;
  /** ms since the epoch, of the first and of the last event. */
  firstAt: number;
  lastAt: number;
  isLive: boolean;
  notes: string[];
  /** By time, over all of it. */
  density: { events: number[]; waits: number[] };
}

/** An event in a list. */
export interface EventLine {
  /** What it is about, short. */
  subject: string;
  summary: string;
  style: string;
}

/** An event as a whole. */
export interface EventDocument {
  index: number;
  seq: number;
  time: string;
  type: string;
  subject: string;
  style: string;
  strange?: string;
  /** What it says, for people. */
  details: Array<{ text: string; style: string }>;
  data: Record<string, unknown>;
}

/** A layer with a bar in place of its ranges: the share that is present in each part of it, 0 to 1. */
export type LayerBar = Omit<ReplayState['layers'][number], 'present'> & { bar: number[] };

/** The state after an event, and what the event changed. */
export type MomentDocument = Omit<ReplayState, 'layers'> & {
  layers: LayerBar[];
  /** By the event before this moment, one thing a line. */
  changes: string[];
  /** Reads that wait at this moment, the longest first. */
  waiting: Array<{ id: string; text: string }>;
};

/** What is different between two moments. */
export interface DifferenceDocument {
  from: { seq: number; position: number; time: string | null };
  to: { seq: number; position: number; time: string | null };
  lines: string[];
}

/** Where a moment lies. */
export interface FoundMoment {
  position: number;
  /** ms since the epoch: a time may lie between two events. */
  clock: number;
}

export interface FoundEvent {
  /** null: there is none. */
  index: number | null;
  /** Which condition it fulfils. */
  what: string;
}

/** Lines of text that explain something. */
export interface Explanation {
  title: string;
  /** `opens`: there is an explanation behind the line. */
  lines: Array<{ text: string; opens: boolean }>;
}

/** The incidents of a node, the newest first. */
export interface IncidentsDocument {
  /** False: the log is a file, and no incidents are at hand. */
  isOfNode: boolean;
  incidents: IncidentListed[];
  /** What cannot be read, a sentence each. */
  problems: string[];
}

/** A layer that the log tells of. */
export interface LayerSummary {
  /** Its id, `sha256:…`. */
  layer: string;
  diffId: string;
  /** Uncompressed bytes. */
  size: number;
  blockCount: number;
  blockSize: number;
  /** Blocks. */
  present: number;
  /** References of the images that have it. */
  images: string[];
}
