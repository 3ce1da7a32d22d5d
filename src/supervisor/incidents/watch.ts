/**
 * Sees in the log, as it grows, that something went wrong, and has the black box keep the stretch around it some seconds later. What
 * is an incident the black box decides by itself, from the log: this only says when to look. So nothing is lost with this
 * process, and while nothing fails no other process runs.
 *
 *     trigger ── quiet for 10 s ──▶ the black box runs, once ──▶ it may ask for another look
 *     the engine has started ── a minute, or less where the one before crashed ──▶ the same
 */
import type { Logger } from 'pino';
import { layersOfImage } from '../../../actors/device.ts';
import { IncidentFold, LONGEST_MS, QUIET_MS } from '../../../actors/incidents.ts';
import type { Counts } from '../../../actors/counts.ts';
import type { ImageFacts } from '../../../actors/node-state.ts';
import { idOf } from '../../../actors/node-state.ts';
import { toErrorRecord } from '../../../schemas/errors.ts';
import type { KeepOrder, Kept } from '../../incidents/orders.ts';
import type { Clock, Timer } from '../../process/ports.ts';
import type { LogRecord } from '../../store/event-log.ts';
import type { LiveFold } from '../../store/live-fold.ts';

export interface KeepOptions {
  signal: AbortSignal;
  /** It does not give way to others. */
  isUrgent: boolean;
}

/** Errors: those of the process. */
export type KeepIncidents = (order: KeepOrder, options: KeepOptions) => Promise<Kept>;

/** A look begins so long after the incident can be kept, ms: events of other processes come a moment later. */
const LATE_MS = 2_500;
/** The first look of an engine, ms after its start. */
const FIRST_MS = 60_000;
/** Between two looks at least, ms; where all that came was too many for incidents of their own, the second one. */
const PAUSE_MS = 5_000;
const COUNT_PAUSE_MS = 60_000;
/** After a look that failed, ms: twice as long each time, up to the longest; so many in a row, then with the next trigger. */
const RETRY_MS = 15_000;
const LONGEST_RETRY_MS = 600_000;
const MOST_TRIES = 8;
/** Events after which the black box looks in any case: the next look has less to read then. */
const MOST_EVENTS = 100_000;
/** Names that are remembered. */
const MOST_COUNTED = 64;

export interface IncidentWatchOptions {
  order: KeepOrder;
  keep: KeepIncidents;
  isUrgent: boolean;
  live: Pick<LiveFold, 'state' | 'listen'>;
  /** Incidents are counted here. */
  counts: Pick<Counts, 'add'>;
  clock: Clock;
  log: Logger;
}

export class IncidentWatch {
  readonly #options: IncidentWatchOptions;
  readonly #fold: IncidentFold;
  readonly #stop = new AbortController();
  readonly #unlisten: () => void;
  #timer: { at: number; timer: Timer } | undefined;
  #looking = false;
  #again = false;
  #lastLook = Number.NEGATIVE_INFINITY;
  /** When the first trigger came that no look of the black box has covered yet, ms; undefined: all are covered. */
  #untoldSince: number | undefined;
  #events = 0;
  #tries = 0;
  /** Incidents that are counted: one that has grown is kept again. */
  readonly #counted = new Set<string>();

  /** Follows the log from now on. */
  constructor(options: IncidentWatchOptions) {
    this.#options = options;
    const { live, order } = options;
    this.#fold = new IncidentFold(order.slowMs === 0 ? Number.POSITIVE_INFINITY : order.slowMs);
    const images = [...live.state.images].map(
      ([manifest, image]) => [manifest, layersOfImage(image as ImageFacts)] as const,
    );
    this.#fold.begin(live.state.running, images);
    this.#unlisten = live.listen((record) => this.#take(record));
  }

  /** Each engine looks once at least, since the one before may have ended too early. `crashed`: that end is an incident itself. */
  begin(crashed: boolean): void {
    this.#lookIn(crashed ? QUIET_MS + LATE_MS : FIRST_MS);
  }

  /** Ends the look, if one is under way. The next engine goes on. */
  close(): void {
    this.#unlisten();
    this.#timer?.timer.cancel();
    this.#stop.abort();
  }

  #take({ seq, subject, event }: LogRecord): void {
    const fold = this.#fold;
    const before = fold.told;
    fold.take(seq, idOf(subject), event);
    fold.drain();
    this.#events += 1;
    if (fold.told > before) {
      this.#tries = 0;
      const now = this.#options.clock.now();
      this.#untoldSince ??= now;
      // Triggers may never end: the first one is looked at all the same.
      const latest = this.#untoldSince + LONGEST_MS + QUIET_MS + LATE_MS;
      this.#lookIn(Math.min(this.#dueIn(), latest - now));
    } else if (this.#events === MOST_EVENTS) this.#lookIn(0);
  }

  #count(kept: Kept['kept']): void {
    for (const { name, kind } of kept) {
      if (this.#counted.has(name)) continue;
      this.#counted.add(name);
      if (this.#counted.size > MOST_COUNTED) this.#counted.delete([...this.#counted][0] as string);
      this.#options.counts.add('incidents_total', 1, kind);
    }
  }

  #dueIn(): number {
    const { clock } = this.#options;
    const { dueAt } = this.#fold;
    if (dueAt === undefined) return COUNT_PAUSE_MS - (clock.now() - this.#lastLook);
    return Math.min(Math.max(0, dueAt - clock.wallMs()), 10 * QUIET_MS) + LATE_MS;
  }

  /** The look that is due last counts: a burst is looked at when it is over. */
  #lookIn(ms: number): void {
    if (this.#stop.signal.aborted) return;
    const { clock } = this.#options;
    const at = Math.max(clock.now() + ms, this.#lastLook + PAUSE_MS);
    this.#timer?.timer.cancel();
    const timer = clock.after(at - clock.now(), () => {
      this.#timer = undefined;
      void this.#look();
    });
    this.#timer = { at, timer: timer.unref() };
  }

  async #look(): Promise<void> {
    if (this.#looking) {
      this.#again = true;
      return;
    }
    const { keep, order, isUrgent, clock, log } = this.#options;
    this.#looking = true;
    this.#events = 0;
    this.#untoldSince = undefined;
    try {
      const { kept, lost, againMs } = await keep(order, { signal: this.#stop.signal, isUrgent });
      this.#tries = 0;
      this.#count(kept);
      if (kept.length > 0) log.warn({ kept }, 'an incident is kept: cofa incidents show');
      if (lost > 0) log.warn({ lost }, 'incidents could not be kept');
      if (againMs !== undefined && this.#timer === undefined) this.#lookIn(againMs);
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#tries += 1;
      log.warn({ error: toErrorRecord(error) }, 'the log could not be looked at for incidents');
      if (this.#tries < MOST_TRIES)
        this.#lookIn(Math.min(RETRY_MS * 2 ** (this.#tries - 1), LONGEST_RETRY_MS));
    } finally {
      this.#looking = false;
      this.#lastLook = clock.now();
      if (this.#again) {
        this.#again = false;
        this.#lookIn(0);
      }
    }
  }
}
