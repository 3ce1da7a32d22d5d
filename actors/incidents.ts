/**
 * Which moments of the log are incidents, as a fold over it: what went wrong (incident-triggers.ts), put together where it has
 * one cause, and the stretch of the log around it that is worth keeping.
 *
 *     events ──────────────┬───────┬──┬──────────────┬───────────────▶
 *     triggers             1       2  3              4
 *     stretch    [─────────┴───────┴──┴────]   [─────┴────]
 *                 BEFORE              AFTER     QUIET later: another incident
 *
 * - **Bursts are merged.** A trigger that comes within QUIET_MS of the one before belongs to its incident, whatever its kind: a
 *   process that dies takes reads with it. An incident takes triggers for LONGEST_MS at most.
 * - **The rate is bounded**, by cause and for all: what comes beyond is counted to the last incident of its cause.
 * - **It follows from the log alone.** Time is that of the events; `save` and a new fold go on as if there had been no break,
 *   wherever it was. So an incident is found once, with the same number and the same stretch, however often the log is read.
 *
 * An incident is complete when the log has an event behind its QUIET_MS. Where none comes, `dueAt` says when it can be kept as
 * it is; what the log says later may still make it longer.
 */
import type { CofaEvent } from '../schemas/events.ts';
import { type Allowed, refilled } from './allowance.ts';
import {
  INCIDENT_KINDS,
  type IncidentKind,
  noTriggers,
  type SavedTriggers,
  type Trigger,
  TriggerFold,
} from './incident-triggers.ts';

/** What happened, to what, and when. */
export interface IncidentCause {
  kind: IncidentKind;
  of: string;
  detail: string;
  times: number;
  /** Sequences of the first event and the last one that told of it. */
  seq: number;
  lastSeq: number;
  /** ms since the epoch, by these events */
  at: number;
  lastAt: number;
}

export interface Incident {
  /** Sequence of the event that began it: its number. */
  seq: number;
  at: number;
  lastAt: number;
  /** The gravest of its causes. */
  kind: IncidentKind;
  causes: IncidentCause[];
  /** The stretch: sequences of its first and last event. */
  from: number;
  to: number;
  /** Triggers of the same causes that came later and were too many for incidents of their own; and when the last one came. */
  more: number;
  moreAt: number | null;
}

/** What a fold that goes on later begins with: plain data. */
export interface SavedIncidents {
  now: number;
  events: number;
  /** [ms, sequence, number of the event] */
  marks: Array<[number, number, number]>;
  open: Incident | null;
  /** Number of the event that the stretch of the open incident begins with. */
  openBegan: number;
  /** Complete ones that later triggers may be counted to. */
  recent: Incident[];
  all: Allowed;
  causes: Array<[cause: string, known: { allowed: Allowed; incident: number }]>;
  triggers: SavedTriggers;
}

/** Triggers no further apart belong together, ms. */
export const QUIET_MS = 10_000;
/** An incident takes triggers for so long, ms. */
export const LONGEST_MS = 120_000;
/** What is kept before the first trigger began and after the last one, ms. */
const BEFORE_MS = 30_000;
const AFTER_MS = 5_000;
/** Events of a stretch: before the first trigger, and in all. */
const MOST_BEFORE = 10_000;
const MOST_EVENTS = 20_000;
/** Incidents in a row, then one for each pause: of all causes together, and of one cause. */
const ALL = { burst: 20, refillMs: 300_000 };
const OWN = { burst: 3, refillMs: 1_200_000 };
const MOST_CAUSES = 16;
const MOST_KNOWN = 512;
const MOST_RECENT = 32;
/** A clock that stepped back this far is believed, ms. */
const STEP_MS = 60_000;
/** A place is noted after so many ms or events. */
const MARK = { ms: 1_000, events: 500, most: 900 };

/** The fold in front of the first event. */
export const noIncidents = (): SavedIncidents => ({
  now: 0,
  events: 0,
  marks: [],
  open: null,
  openBegan: 0,
  recent: [],
  all: { left: ALL.burst, at: 0 },
  causes: [],
  triggers: noTriggers(),
});

export class IncidentFold {
  readonly #triggers: TriggerFold;
  #now: number;
  #events: number;
  #marks: Array<[number, number, number]>;
  #open: Incident | undefined;
  #openBegan: number;
  readonly #recent: Map<number, Incident>;
  #all: Allowed;
  readonly #causes: Map<string, { allowed: Allowed; incident: number }>;
  #complete: Incident[] = [];
  /** Events of this fold that told of a failure. */
  told = 0;
  readonly #counted = new Set<number>();

  constructor(slowMs: number, saved: SavedIncidents = noIncidents()) {
    const { now, events, marks, open, openBegan, recent, all, causes, triggers } = saved;
    this.#triggers = new TriggerFold(slowMs, triggers);
    this.#now = now;
    this.#events = events;
    this.#marks = [...marks];
    this.#open = open === null ? undefined : copy(open);
    this.#openBegan = openBegan;
    this.#recent = new Map(recent.map((one) => [one.seq, copy(one)]));
    this.#all = { ...all };
    this.#causes = new Map(causes.map(([cause, { allowed, incident }]) => [cause, { allowed, incident }]));
  }

  /** Plain data, which nothing that comes later changes. */
  save(): SavedIncidents {
    return structuredCloneOf({
      now: this.#now,
      events: this.#events,
      marks: this.#marks,
      open: this.#open ?? null,
      openBegan: this.#openBegan,
      recent: [...this.#recent.values()],
      all: this.#all,
      causes: [...this.#causes],
      triggers: this.#triggers.save(),
    });
  }

  /** See `TriggerFold.begin`. */
  begin(...known: Parameters<TriggerFold['begin']>): void {
    this.#triggers.begin(...known);
  }

  /** The incident that may still grow. */
  get open(): Incident | undefined {
    return this.#open && copy(this.#open);
  }

  /** When the open incident can be kept as it is, by the clock of the events, ms; undefined where there is none. */
  get dueAt(): number | undefined {
    const open = this.#open;
    return open && Math.min(open.lastAt + QUIET_MS, open.at + LONGEST_MS + QUIET_MS);
  }

  /** Incidents that became complete since the last call, and the complete ones to which triggers were counted. */
  drain(): { complete: Incident[]; counted: Incident[] } {
    const complete = this.#complete;
    const fresh = new Set(complete.map(({ seq }) => seq));
    const counted = [...this.#counted].filter((seq) => !fresh.has(seq));
    this.#complete = [];
    this.#counted.clear();
    const known = counted.flatMap((seq) => this.#recent.get(seq) ?? []);
    return {
      complete: complete.map((one) => copy(this.#recent.get(one.seq) ?? one)),
      counted: known.map(copy),
    };
  }

  /** The next event of the log; `id`: last token of its subject. */
  take(seq: number, id: string, event: CofaEvent): void {
    const { at } = event;
    this.#now = at > this.#now || this.#now - at > STEP_MS ? at : this.#now;
    this.#events += 1;
    this.#closeWhenQuiet();
    for (const trigger of this.#triggers.take(id, event)) {
      this.told += 1;
      this.#add(seq, trigger);
    }
    const open = this.#open;
    if (open !== undefined && this.#now <= open.lastAt + AFTER_MS && this.#hasRoom()) open.to = seq;
    this.#mark(seq);
  }

  #closeWhenQuiet(): void {
    const open = this.#open;
    if (open === undefined) return;
    const apart = this.#now - open.lastAt;
    // Also where the clock was set back far behind it.
    if (apart <= QUIET_MS && apart >= -STEP_MS && this.#now - open.at <= LONGEST_MS) return;
    this.#open = undefined;
    this.#complete.push(open);
    this.#recent.set(open.seq, open);
    if (this.#recent.size > MOST_RECENT) this.#recent.delete(this.#recent.keys().next().value as number);
  }

  #add(seq: number, trigger: Trigger): void {
    if (this.#open !== undefined) return this.#merge(this.#open, seq, trigger);
    const cause = keyOf(trigger);
    const known = this.#causes.get(cause) ?? { allowed: { left: OWN.burst, at: this.#now }, incident: seq };
    const own = refilled(known.allowed, OWN, this.#now);
    const all = refilled(this.#all, ALL, this.#now);
    if (own.left === 0 || all.left === 0) return this.#count(known.incident, trigger);
    this.#all = { ...all, left: all.left - 1 };
    this.#know(cause, { allowed: { ...own, left: own.left - 1 }, incident: seq });
    const { place, from } = this.#beginning(seq, trigger.since - BEFORE_MS);
    this.#openBegan = place;
    this.#open = {
      seq,
      at: this.#now,
      lastAt: this.#now,
      kind: trigger.kind,
      causes: [this.#causeOf(seq, trigger)],
      from,
      to: seq,
      more: 0,
      moreAt: null,
    };
  }

  #merge(open: Incident, seq: number, trigger: Trigger): void {
    open.lastAt = this.#now;
    if (this.#hasRoom()) open.to = seq;
    const same = open.causes.find((one) => keyOf(one) === keyOf(trigger));
    if (same !== undefined) {
      same.times += trigger.times;
      same.lastSeq = seq;
      same.lastAt = this.#now;
      return;
    }
    if (open.causes.length < MOST_CAUSES) open.causes.push(this.#causeOf(seq, trigger));
    if (INCIDENT_KINDS.indexOf(trigger.kind) < INCIDENT_KINDS.indexOf(open.kind)) open.kind = trigger.kind;
    // Its next trigger alone is a new incident, and one of its own.
    const known = this.#causes.get(keyOf(trigger));
    const allowed = refilled(known?.allowed ?? { left: OWN.burst, at: this.#now }, OWN, this.#now);
    this.#know(keyOf(trigger), { allowed, incident: open.seq });
  }

  #causeOf(seq: number, { kind, of, detail, times }: Trigger): IncidentCause {
    return { kind, of, detail, times, seq, lastSeq: seq, at: this.#now, lastAt: this.#now };
  }

  /** There are too many: it belongs to the last incident of its cause, or to the last one there was. */
  #count(seq: number, { times }: Trigger): void {
    const incident = this.#recent.get(seq) ?? [...this.#recent.values()].at(-1);
    if (incident === undefined) return;
    incident.more += times;
    incident.moreAt = this.#now;
    this.#counted.add(incident.seq);
  }

  #know(cause: string, known: { allowed: Allowed; incident: number }): void {
    this.#causes.delete(cause);
    this.#causes.set(cause, known);
    if (this.#causes.size > MOST_KNOWN) this.#causes.delete(this.#causes.keys().next().value as string);
  }

  /** The first event of a stretch that is to begin at this time. */
  #beginning(seq: number, at: number): { place: number; from: number } {
    let found: [number, number, number] = [this.#now, seq, this.#events];
    for (let index = this.#marks.length - 1; index >= 0; index--) {
      const mark = this.#marks[index] as [number, number, number];
      if (this.#events - mark[2] > MOST_BEFORE) break;
      found = mark;
      if (mark[0] <= at) break;
    }
    return { from: found[1], place: found[2] };
  }

  #hasRoom(): boolean {
    return this.#events - this.#openBegan < MOST_EVENTS;
  }

  #mark(seq: number): void {
    const [at, , number] = this.#marks.at(-1) ?? [Number.NEGATIVE_INFINITY, 0, 0];
    if (this.#now - at < MARK.ms && this.#now >= at && this.#events - number < MARK.events) return;
    this.#marks.push([this.#now, seq, this.#events]);
    if (this.#marks.length > MARK.most) this.#marks.splice(0, this.#marks.length - MARK.most / 2);
  }
}

const keyOf = ({ kind, of }: Pick<Trigger, 'kind' | 'of'>): string => `${kind} ${of}`;

const copy = (incident: Incident): Incident => ({
  ...incident,
  causes: incident.causes.map((cause) => ({ ...cause })),
});

/** Plain data only: a copy by its text is as good as any. */
const structuredCloneOf = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T;
