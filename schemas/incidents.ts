/**
 * Incidents: what `cofa incidents --json` prints, and what lies beside each stretch of the log that is kept
 * (`ROOT/incidents/NAME.json`). Shapes only grow: a field may be added.
 */
import { z } from 'zod';

const count = z.int().min(0);
const seq = count.describe('sequence in the log');
const ms = z.number().min(0).max(8.64e15).describe('ms since the epoch');
const text = z.string().max(4_096);
const kind = z.enum(['integrity', 'eio', 'crash', 'slow-start']);

const Cause = z.object({
  kind,
  of: text.describe('name of a process; hex digits of a layer or an image'),
  detail: text.describe('what the event says of it'),
  times: count.describe('how often: failed reads, refused fetches; else events'),
  seq,
  lastSeq: seq,
  at: ms,
  lastAt: ms,
});

/** What actors/incidents.ts finds. */
export const IncidentFacts = z.object({
  seq: seq.describe('of the event that began it: its number'),
  at: ms,
  lastAt: ms,
  kind: kind.describe('the gravest of its causes'),
  causes: z.array(Cause).min(1).max(64),
  from: seq.describe('of the first event that is kept'),
  to: seq.describe('of the last one'),
  more: count.describe('the same again later, too often for incidents of their own'),
  moreAt: ms.nullable().describe('the last of these; null: none'),
});

/** `ROOT/incidents/NAME.json`. */
export const IncidentFile = z.object({
  v: z.literal(1),
  node: text,
  cofa: text.describe('version of the cofa that kept it'),
  incident: IncidentFacts,
  log: z
    .object({ file: text, bytes: count, events: count, cut: z.boolean() })
    .nullable()
    .describe('the stretch of the log; null: the log had it no more; cut: its end did not fit'),
});

const Listed = z.object({
  name: z.string(),
  number: seq,
  time: z.iso.datetime(),
  lastTime: z.iso.datetime(),
  kind,
  summary: z.string(),
  times: count,
  more: count,
  events: count,
  bytes: count.describe('of its files'),
  file: z.string().nullable().describe('the stretch of the log, for cofa replay'),
});

/** `cofa incidents ls --json` */
export const IncidentList = z.object({
  dir: z.string(),
  bytes: count,
  incidents: z.array(Listed),
});

/** `cofa incidents show --json` */
export const IncidentShown = Listed.extend({
  node: z.string(),
  causes: z.array(Cause),
  story: z.array(z.string()).describe('what happened, a sentence each'),
  relevant: z
    .array(z.object({ seq, time: z.iso.datetime(), type: z.string(), what: z.string() }))
    .describe('the events that tell of it'),
  next: z.array(z.object({ command: z.string(), why: z.string() })).describe('what looks further'),
});

/** `cofa incidents rm --json` */
export const IncidentsRemoved = z.object({ removed: z.array(z.string()), bytes: count });

export const INCIDENT_SCHEMAS = {
  incident: IncidentFile,
  'incidents.ls': IncidentList,
  'incidents.show': IncidentShown,
  'incidents.rm': IncidentsRemoved,
} as const;

export type IncidentFile = z.output<typeof IncidentFile>;
export type IncidentListed = z.output<typeof Listed>;
export type IncidentShown = z.output<typeof IncidentShown>;
