/** What happened in an incident: sentences for people, the events that tell of it, and what looks further. */
import type { Incident, IncidentCause } from '../../actors/incidents.ts';
import type { IncidentShown } from '../../schemas/incidents.ts';
import { formatUs } from '../replay/format.ts';
import type { ReplayEvent } from '../replay/record.ts';
import type { ReplayLog } from '../replay/replay-log.ts';
import { findMount } from '../replay/start-phases.ts';
import { type TracedRead, traceOf } from '../replay/trace.ts';
import { allReads } from '../replay/why-read.ts';
import { explainStart, isOver } from '../replay/why-start.ts';
import { formatBytes, formatDuration, shortDigest } from '../terminal/table.ts';
import { byGravity } from './summary.ts';

export type Story = Pick<IncidentShown, 'story' | 'relevant' | 'next'>;

export interface StoryOptions {
  /** Of the stretch, and of the engine. */
  file: string;
  root: string;
}

/** Events that are named at most, and words of each. */
const MOST_RELEVANT = 24;
const MOST_WORDS = 160;
/** Sentences of one incident, about. */
const MOST_FILES = 3;

/** `log`: the stretch that was kept. */
export function tellStory(incident: Incident, log: ReplayLog, options: StoryOptions): Story {
  const teller = new Teller(incident, log, options);
  return teller.tell();
}

class Teller {
  readonly #incident: Incident;
  readonly #log: ReplayLog;
  readonly #options: StoryOptions;
  readonly #story: string[] = [];
  readonly #seqs = new Set<number>();
  readonly #next: Story['next'] = [];

  constructor(incident: Incident, log: ReplayLog, options: StoryOptions) {
    this.#incident = incident;
    this.#log = log;
    this.#options = options;
  }

  tell(): Story {
    const { file } = this.#options;
    for (const cause of byGravity(this.#incident)) {
      this.#seqs.add(cause.seq).add(cause.lastSeq);
      if (cause.kind === 'crash') this.#tellCrash(cause);
      else if (cause.kind === 'eio') this.#tellReads(cause);
      else if (cause.kind === 'integrity') this.#tellBytes(cause);
      else this.#tellStart(cause);
    }
    this.#tellWaits();
    const { more, moreAt } = this.#incident;
    if (more > 0)
      this.#story.push(
        `The same came ${more} times more until ${timeOf(moreAt ?? 0)}, too often to be kept each time.`,
      );
    this.#advise(`cofa replay ${file}`, 'the stretch of the log, event by event');
    return { story: this.#story, relevant: this.#relevant(), next: this.#next };
  }

  #tellCrash({ of, detail, times, lastSeq, lastAt }: IncidentCause): void {
    const { root } = this.#options;
    if (of === 'supervisor') {
      const before = this.#eventBefore(lastSeq);
      const last = before === undefined ? '' : ` Its last event was ${before.type} at ${timeOf(before.at)}.`;
      const mounts = this.#after(lastSeq, (event) => event.type === 'mount.mounted').length;
      this.#story.push(
        `The engine ended without a word: it was killed, or the power was cut.${last}`,
        `Another one started at ${timeOf(lastAt)}${mounts === 0 ? '' : `, and ${mounts} mounts came back`}.`,
      );
      this.#advise(`less ${root}/log/supervisor.log`, 'what the engine itself wrote');
      return;
    }
    const how = /^(killed|ended)/.test(detail) ? detail.replace(/^killed/, 'was killed') : `ended: ${detail}`;
    const often = times === 1 ? '' : `, ${times} times by then`;
    this.#story.push(`${of} ${how} at ${timeOf(lastAt)}${often}.`);
    const [next] = this.#after(lastSeq, ({ type, data }) => type === 'process.started' && data.name === of);
    if (next !== undefined) {
      this.#seqs.add(next.seq);
      const ms = Math.max(0, next.at - lastAt);
      this.#story.push(
        `The supervisor started another one ${formatDuration(ms)} later, process ${String(next.data.pid)}.`,
      );
    } else this.#story.push('No other one had started when the stretch ends.');
    this.#advise(`less ${root}/log/${of}.log`, 'what it said last');
  }

  #tellReads({ of, times, at }: IncidentCause): void {
    const failed = this.#reads().filter(({ errno, layer }) => errno !== 0 && layer === `sha256:${of}`);
    const slowest = longest(failed);
    const waited = slowest === undefined ? '' : `; the longest had waited ${formatUs(slowest.us)}`;
    this.#story.push(
      `${times === 1 ? 'A read' : `${times} reads`} of layer ${shortDigest(of)} got an error instead of data, first told at ${timeOf(at)}${waited}.`,
    );
    const files = new Set(failed.flatMap(({ layer, block }) => [...this.#log.pathsOf(layer, block)]));
    if (files.size > 0) {
      const more = files.size > MOST_FILES ? ' and others' : '';
      this.#story.push(`Their blocks hold ${[...files].slice(0, MOST_FILES).join(', ')}${more}.`);
    }
    const why = this.#errorsOf(of);
    this.#story.push(
      why === undefined
        ? 'No fetch of the stretch says why: it was still waited for, or no process was there to answer.'
        : `Its fetches failed: ${why}.`,
    );
    if (slowest !== undefined)
      this.#advise(
        `cofa replay why ${this.#options.file} --read ${slowest.id}`,
        'what the longest of these reads waited for',
      );
  }

  #tellBytes({ of, detail, times, seq }: IncidentCause): void {
    const type = this.#event(seq)?.type;
    const often = times === 1 ? '' : ` (${times} times)`;
    const id = shortDigest(of);
    switch (type) {
      case 'image.refuted':
        this.#story.push(
          `The sidecar of image ${id} is not what the layers give: ${detail}. Programs may have read names or modes that are not the image’s.`,
        );
        break;
      case 'fleet.left-out':
        this.#story.push(
          `The ${of} of the fleet sent wrong bytes${often}: ${detail}. No program has read them, and the node asks that member no more for an hour.`,
        );
        this.#advise('cofa fleet', 'who is in the fleet, and who is left out');
        break;
      case 'fleet.disbelieved':
        this.#story.push(
          `The ${of} of the fleet has vouched for what is not so${often}: ${detail}. Its word does not count for a month. Where a sidecar was taken on it, programs may have read other names, modes or bytes than the image’s.`,
        );
        this.#advise('cofa status', 'which mounts are refuted');
        break;
      case 'layer.started':
        this.#story.push(
          `A startup pack of image ${id} had wrong blocks: ${detail}. No program has read them; the start fetched what was left from the layers.`,
        );
        break;
      case 'root.refuted':
        this.#story.push(`A span table of layer ${id} is refuted: ${detail}. No new mount uses it.`);
        break;
      case 'layer.dropped':
        this.#story.push(
          `Layer ${id} was whole and is not what its name says: ${detail}. Programs may have read its bytes.`,
        );
        break;
      case 'layer.scrubbed':
        this.#story.push(`A scrub of layer ${id} found the disk wrong: ${detail}.`);
        this.#advise('cofa scrub --repair', 'fetches damaged blocks again');
        break;
      default:
        this.#story.push(
          `Fetched bytes of layer ${id} were refused${often}, since they fail their check: ${detail}. None of them was served.`,
        );
    }
    this.#advise('cofa status', 'whether it is still so, and what to do: docs/trouble.md');
  }

  #tellStart({ seq, detail }: IncidentCause): void {
    const mount = this.#slowMount(seq, detail);
    if (mount === undefined) {
      this.#story.push(`The start of ${detail} was slow; the stretch does not hold all of it.`);
      return;
    }
    const { dir, wall, reads, bytes } = explainStart(this.#log, mount);
    const parts = wall.parts
      .filter(({ us }) => us >= wall.us / 20)
      .map(({ part, us }) => `${part} ${formatUs(us)}`);
    const took = `${isOver(this.#log, mount, wall) ? '' : 'at least '}${formatUs(wall.us)}`;
    this.#story.push(`The start of ${detail} at ${dir} took ${took}: ${parts.join(', ')}.`);
    if (reads.count > 0)
      this.#story.push(
        `${reads.count} reads waited, one or more of them for ${formatUs(reads.blockedUs)} in all and the longest for ${formatUs(reads.maxUs)}; ${formatBytes(bytes)} came for them.`,
      );
    this.#advise(
      `cofa replay why ${this.#options.file} --mount ${mount.id}`,
      'where the start spent its time, and on which files',
    );
  }

  #slowMount(seq: number, ref: string) {
    const { timeline } = this.#log;
    const told = this.#event(seq);
    try {
      if (told?.type === 'mount.mounted') return findMount(this.#log, told.id);
      // A trace: the last mount of the image before it that the stretch has from its request on.
      for (let index = timeline.positionOfSeq(seq) - 1; index >= 0; index--) {
        if (timeline.typeAt(index) !== 'mount.requested') continue;
        const { id, data } = timeline.eventAt(index);
        if (data.ref === ref) return findMount(this.#log, id);
      }
    } catch {
      // The stretch begins behind its request.
    }
    return undefined;
  }

  /** How it was for those who read meanwhile. */
  #tellWaits(): void {
    const waited = this.#reads().filter(({ errno }) => errno === 0);
    const slowest = longest(waited);
    if (slowest === undefined || this.#incident.kind === 'slow-start') return;
    this.#story.push(
      `In the stretch ${waited.length} reads waited and were answered, the longest after ${formatUs(slowest.us)}.`,
    );
  }

  #errorsOf(layer: string): string | undefined {
    const counts = new Map<string, number>();
    for (const index of this.#log.traces.all()) {
      const event = this.#log.timeline.eventAt(index);
      if (event.id !== layer) continue;
      for (const { error } of traceOf(event).jobs)
        if (error !== undefined) counts.set(error, (counts.get(error) ?? 0) + 1);
    }
    return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0];
  }

  #reads(): TracedRead[] {
    return [...allReads(this.#log)];
  }

  #event(seq: number): ReplayEvent | undefined {
    const { timeline } = this.#log;
    const position = timeline.positionOfSeq(seq);
    return position > 0 && timeline.seqAt(position - 1) === seq ? timeline.eventAt(position - 1) : undefined;
  }

  #eventBefore(seq: number): ReplayEvent | undefined {
    const { timeline } = this.#log;
    const position = timeline.positionOfSeq(seq) - 1;
    return position > 0 ? timeline.eventAt(position - 1) : undefined;
  }

  #after(seq: number, fits: (event: ReplayEvent) => boolean): ReplayEvent[] {
    const { timeline } = this.#log;
    const found: ReplayEvent[] = [];
    for (let index = timeline.positionOfSeq(seq); index < this.#log.count; index++) {
      const event = timeline.eventAt(index);
      if (fits(event)) found.push(event);
    }
    return found;
  }

  #relevant(): Story['relevant'] {
    return [...this.#seqs]
      .sort((a, b) => a - b)
      .flatMap((seq) => this.#event(seq) ?? [])
      .slice(0, MOST_RELEVANT)
      .map((event) => ({
        seq: event.seq,
        time: new Date(event.at).toISOString(),
        type: event.type,
        what: wordsOf(event),
      }));
  }

  #advise(command: string, why: string): void {
    if (!this.#next.some((one) => one.command === command)) this.#next.push({ command, why });
  }
}

const timeOf = (at: number): string => `${new Date(at).toISOString().slice(0, 23).replace('T', ' ')} UTC`;

function longest(reads: readonly TracedRead[]): TracedRead | undefined {
  let found: TracedRead | undefined;
  for (const read of reads) if (found === undefined || read.us > found.us) found = read;
  return found;
}

/** The fields of an event that say something to people. */
function wordsOf({ type, id, data }: ReplayEvent): string {
  const subject = type.startsWith('process.') || type.startsWith('engine.') ? '' : `${shortDigest(id)} `;
  if (type === 'layer.trace') {
    const failed = (data.reads as Array<{ errno: number }>).filter(({ errno }) => errno !== 0).length;
    const errors = (data.jobs as Array<{ error?: string }>).flatMap(({ error }) => error ?? []);
    return `${subject}${failed} reads failed, ${errors.length} fetches failed${errors[0] === undefined ? '' : `: ${errors[0]}`}`.slice(
      0,
      MOST_WORDS,
    );
  }
  const fields = Object.entries(data)
    .filter(([, value]) => typeof value !== 'object')
    .map(([name, value]) => `${name}=${String(value)}`);
  return `${subject}${fields.join(' ')}`.slice(0, MOST_WORDS);
}
