/**
 * Which events of the log tell of something that went wrong: a process that crashed, a read that failed, bytes that are not
 * what they should be, a start that took too long. A pure fold, in the order of the log: what it finds follows from the
 * events alone. actors/incidents.ts makes incidents of these triggers.
 */
import type { CofaEvent, EventOf } from '../schemas/events.ts';
import { layerIdOf } from './device.ts';
import { ASKED_ENDS } from './process.ts';

/** The gravest first. */
export const INCIDENT_KINDS = ['integrity', 'eio', 'crash', 'slow-start'] as const;
export type IncidentKind = (typeof INCIDENT_KINDS)[number];

/** One event that tells of a failure. */
export interface Trigger {
  kind: IncidentKind;
  /** What it happened to: name of a process or of a member of the fleet, hex digits of a layer or an image. With the kind it is the cause. */
  of: string;
  /** When it began, ms since the epoch. */
  since: number;
  /** How often: reads that failed, fetches that were refused; else 1. */
  times: number;
  /** What the event says of it; may be empty. */
  detail: string;
}

/** A mount whose start is followed. Times in ms since the epoch. */
interface Start {
  mount: string;
  manifest: string;
  ref: string;
  since: number;
  mountedAt: number | null;
  /** When at least one read waited: disjoint, ascending. */
  waits: Array<[from: number, to: number]>;
}

/** What a fold that goes on later begins with. */
export interface SavedTriggers {
  running: boolean;
  lastAt: number;
  starts: Start[];
  /** Layers of images, shortened: `[manifest, layers]`. */
  images: Array<[string, string[]]>;
}

/** The fold in front of the first event. */
export const noTriggers = (): SavedTriggers => ({ running: false, lastAt: 0, starts: [], images: [] });

/** A pause without a waiting read that ends a start, ms; and the longest start: as in src/replay/why-start.ts. */
const QUIET_MS = 500;
const LONGEST_START_MS = 60_000;
const MOST_STARTS = 256;
const MOST_WAITS = 1_024;
const MOST_IMAGES = 1_024;
/** Digits of a layer's id that are enough to know it again. */
const SHORT = 16;
const DETAIL = 200;

const short = (layer: string): string => layer.replace('sha256:', '').slice(0, SHORT);

export class TriggerFold {
  readonly #slowMs: number;
  readonly #starts: Map<string, Start>;
  readonly #images: Map<string, string[]>;
  #running: boolean;
  #lastAt: number;

  /** `slowMs`: a start that waits for cofa at least so long is a trigger; Infinity: none is. */
  constructor(slowMs: number, { running, lastAt, starts, images }: SavedTriggers = noTriggers()) {
    this.#slowMs = slowMs;
    this.#running = running;
    this.#lastAt = lastAt;
    this.#starts = new Map(starts.map((start) => [start.mount, { ...start, waits: [...start.waits] }]));
    this.#images = new Map(images);
  }

  save(): SavedTriggers {
    return {
      running: this.#running,
      lastAt: this.#lastAt,
      starts: [...this.#starts.values()],
      images: [...this.#images],
    };
  }

  /** What was known before the first event: whether an engine ran, and the layers of an image by their ids. */
  begin(running: boolean, images: Iterable<readonly [manifest: string, layers: Iterable<string>]>): void {
    this.#running = running;
    for (const [manifest, layers] of images) this.#knowImage(manifest, layers);
  }

  /** The next event; `id`: last token of its subject. */
  take(id: string, event: CofaEvent): Trigger[] {
    const found = this.#take(id, event);
    this.#lastAt = event.at;
    return found;
  }

  #take(id: string, event: CofaEvent): Trigger[] {
    const { at } = event;
    const one = (kind: IncidentKind, of: string, detail: string): Trigger[] => [
      { kind, of, since: at, times: 1, detail: detail.slice(0, DETAIL) },
    ];
    switch (event.type) {
      case 'engine.started': {
        const crashed = this.#running;
        this.#running = true;
        this.#starts.clear();
        if (!crashed) return [];
        return [{ ...(one('crash', 'supervisor', '')[0] as Trigger), since: Math.min(at, this.#lastAt) }];
      }
      case 'engine.stopped':
        this.#running = false;
        return [];
      case 'process.ended':
        return isCrash(event) ? one('crash', event.name, endOf(event)) : [];
      case 'fleet.left-out':
        return one(
          'integrity',
          `member ${event.name}`,
          `piece ${event.piece} of ${event.blob} was not what the registry sends`,
        );
      case 'fleet.disbelieved':
        return one(
          'integrity',
          `member ${event.name}`,
          `it spoke of ${event.said}, ${event.about === 'root' ? `a block root of ${event.subject}` : 'flat metadata'}, and this node has found otherwise`,
        );
      case 'image.refuted':
        return one('integrity', id, event.message);
      case 'root.refuted':
        return one('integrity', id, 'its block states are those of other bytes');
      case 'layer.dropped':
        return event.reason === 'corrupt' ? one('integrity', id, event.message) : [];
      case 'layer.scrubbed': {
        const { bad, repaired } = event;
        return bad === 0
          ? []
          : one('integrity', id, `${bad} blocks were damaged on the disk, ${repaired} were repaired`);
      }
      case 'layer.started': {
        const { manifest, pack } = event;
        if (pack === undefined || !isOfIntegrity(pack.error)) return [];
        const [found] = one('integrity', short(manifest), messageOf(pack.error));
        return [{ ...(found as Trigger), since: Math.min(at, pack.at) }];
      }
      case 'layer.trace':
        return this.#trace(id, event);
      case 'image.prepared':
        this.#knowImage(`sha256:${id}`, event.devices.map(layerIdOf));
        return [];
      case 'image.removed':
        this.#images.delete(`sha256:${id}`);
        return [];
      case 'mount.requested':
        this.#request(id, event);
        return [];
      case 'mount.mounted': {
        const start = this.#starts.get(id);
        if (start === undefined) return [];
        start.mountedAt = at;
        return this.#judge(start);
      }
      case 'mount.failed':
      case 'mount.unmounted':
        this.#starts.delete(id);
        return [];
      default:
        return [];
    }
  }

  #knowImage(manifest: string, layers: Iterable<string>): void {
    this.#images.delete(manifest);
    this.#images.set(manifest, [...layers].map(short));
    if (this.#images.size > MOST_IMAGES) this.#images.delete(this.#images.keys().next().value as string);
  }

  #request(mount: string, { at, asked, manifest, ref }: EventOf<'mount.requested'>): void {
    if (this.#slowMs === Number.POSITIVE_INFINITY) return;
    const since = asked === undefined ? at : Math.min(asked, at);
    this.#starts.set(mount, { mount, manifest, ref, since, mountedAt: null, waits: [] });
    if (this.#starts.size > MOST_STARTS) this.#starts.delete(this.#starts.keys().next().value as string);
  }

  #trace(id: string, event: EventOf<'layer.trace'>): Trigger[] {
    const found: Trigger[] = [];
    const failed = event.reads.filter(({ errno }) => errno !== 0);
    if (failed.length > 0) {
      const since = Math.min(event.at, ...failed.map((read) => read.at));
      found.push({ kind: 'eio', of: id, since, times: failed.length, detail: '' });
    }
    const refused = event.jobs.filter(({ error }) => isOfIntegrity(error));
    if (refused.length > 0) {
      const since = Math.min(event.at, ...refused.map(({ queuedAt }) => queuedAt));
      const detail = messageOf(refused[0]?.error).slice(0, DETAIL);
      found.push({ kind: 'integrity', of: id, since, times: refused.length, detail });
    }
    for (const start of this.#starts.values()) {
      if (start.mountedAt === null) continue;
      if (event.at > start.mountedAt + 2 * LONGEST_START_MS) this.#starts.delete(start.mount);
      else if (this.#images.get(start.manifest)?.includes(short(id)) === true)
        found.push(...this.#waited(start, event));
    }
    return found;
  }

  #waited(start: Start, { reads }: EventOf<'layer.trace'>): Trigger[] {
    const { since, mountedAt } = start;
    for (const { at, us } of reads)
      if (at >= since && at <= (mountedAt ?? at) + LONGEST_START_MS)
        addWait(start.waits, [at, at + us / 1000]);
    return this.#judge(start);
  }

  /** A start that has waited too long by now is told, once. */
  #judge(start: Start): Trigger[] {
    const { mount, manifest, ref, since } = start;
    const ms = waitedMs(start);
    if (ms < this.#slowMs) return [];
    this.#starts.delete(mount);
    return [{ kind: 'slow-start', of: short(manifest), since, times: 1, detail: ref.slice(0, DETAIL) }];
  }
}

/** What begins what fetches say of wrong bytes: code and message. */
const INTEGRITY = 'integrity:';
const isOfIntegrity = (error: string | undefined): boolean => error?.startsWith(INTEGRITY) === true;
const messageOf = (error = ''): string => error.slice(INTEGRITY.length).trim();

const isCrash = ({ reason }: EventOf<'process.ended'>): boolean =>
  !(Object.values(ASKED_ENDS) as Array<string | undefined>).includes(reason);

/** Such as `killed by SIGKILL: it did not answer for 10 s`. */
function endOf({ code, signal, reason }: EventOf<'process.ended'>): string {
  const how =
    signal !== undefined
      ? `killed by ${signal}`
      : code === undefined
        ? 'it could not be started'
        : `ended with ${code}`;
  return reason === undefined ? how : `${how}: ${reason}`;
}

/** How long a start has waited for cofa: until its mount was ready, then while a read waited, up to the first pause, ms. */
function waitedMs({ since, mountedAt, waits }: Start): number {
  if (mountedAt === null) return 0;
  let sum = mountedAt - since;
  let until: number | undefined;
  for (const [from, to] of waits) {
    if (until !== undefined && from - until > QUIET_MS) break;
    sum += Math.max(0, to - Math.max(from, mountedAt));
    until = to;
  }
  return sum;
}

/** Adds a time to disjoint ascending ones. */
function addWait(waits: Array<[number, number]>, [from, to]: [number, number]): void {
  let first = waits.length;
  while (first > 0 && (waits[first - 1] as [number, number])[1] >= from) first--;
  let end = first;
  while (end < waits.length && (waits[end] as [number, number])[0] <= to) end++;
  const met = waits.slice(first, end);
  const merged: [number, number] = [
    Math.min(from, ...met.map((one) => one[0])),
    Math.max(to, ...met.map((one) => one[1])),
  ];
  waits.splice(first, end - first, merged);
  if (waits.length > MOST_WAITS) waits.pop();
}
