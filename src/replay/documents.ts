/** Documents about a node and its log that the page shows. Types alone: the page is compiled without Node's. */
import type { ImageStatus, ProcessStatus, Status } from '../../schemas/api.ts';
import type { WhyStart } from '../../schemas/replay.ts';

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
  /** Until the last read that waited was answered, ms. */
  startMs?: number;
  phases: Array<Pick<WhyStart['phases'][number], 'phase' | 'us'>>;
  reads?: { count: number; blockedUs: number; failed: number };
  /** Compressed bytes that its reads waited for. */
  bytes?: number;
  failure?: string;
}
