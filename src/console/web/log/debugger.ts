/**
 * Where one is in a log, and how one moves: the page's side of what the terminal view calls a session. Moving needs no server:
 * columns tell times and sequences. What an event says, the state and searches come from the server, whose model is that of the
 * terminal view; of questions that outdate each other only the last is asked.
 */
import { batch, computed, effect, signal, untracked } from '@preact/signals';
import type {
  DifferenceDocument,
  EventDocument,
  Explanation,
  FoundEvent,
  FoundMoment,
  LogDocument,
  MomentDocument,
} from '../../../replay/documents.ts';
import type { Axis } from '../../../replay/density.ts';
import { ask, type Query, sentenceOf } from '../api.ts';
import { log as news, opened } from '../live.ts';
import { Columns } from './columns.ts';
import { Latest } from './latest.ts';
import { LineCache } from './lines.ts';

/** Recorded time per real time, while playing. */
export const SPEEDS = [0.01, 0.1, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] as const;

/** A part of the axis that is looked at; undefined: all of it. */
export type Zoom = { from: number; to: number } | undefined;

/** An explanation, of which moment, and the lines that led to it. */
type Shown = Explanation & { position: number; clock: number; open: readonly number[] };

/** What an address says of a log: moments in the words of `cofa replay --at`. */
export interface Goal {
  at: string | undefined;
  mark: string | undefined;
  breakpoints: readonly string[];
}

/** Questions of one kind outdate each other: the answer to the last one counts, or what one has done since. */
type Kind = 'move' | 'mark' | 'difference' | 'why';

export class Debugger {
  readonly log: LogDocument;
  readonly columns = new Columns();
  readonly lines: LineCache;
  /** Rises when columns have grown. */
  readonly grown = signal(0);
  /** Rises when the server has told what further events say. */
  readonly told = signal(0);
  readonly count = signal(0);
  /** Events that have happened. */
  readonly position = signal(0);
  /** Recorded time that is shown, ms since the epoch; while playing it runs between events. */
  readonly clock = signal(0);
  /** 1: forward, -1: backward, 0: not. */
  readonly playing = signal<1 | 0 | -1>(0);
  readonly speed = signal(1);
  readonly following = signal(false);
  readonly mark = signal<number | undefined>(undefined);
  readonly breakpoints = signal<readonly string[]>([]);
  readonly axis = signal<Axis>('time');
  readonly zoom = signal<Zoom>(undefined);
  readonly message = signal<{ text: string; isBad: boolean }>({ text: '', isBad: false });
  /** What runs and can be stopped. */
  readonly busy = signal<string | undefined>(undefined);
  readonly event = signal<EventDocument | undefined>(undefined);
  readonly state = signal<MomentDocument | undefined>(undefined);
  readonly difference = signal<DifferenceDocument | undefined>(undefined);
  readonly explanation = signal<Shown | undefined>(undefined);
  /** What n and N look for. */
  readonly wanted = signal<{ kind: 'text' | 'conditions'; text: string } | undefined>(undefined);
  /** Whether all events that there are have come. */
  readonly isWhole = computed(() => this.grown.value >= 0 && this.columns.count >= this.count.value);
  readonly #stop = new AbortController();
  readonly #asked = new Map<Kind, AbortController>();
  readonly #event = new Latest();
  readonly #state = new Latest();
  #search: AbortController | undefined;
  #loading: Promise<void> | undefined;
  /** The columns of where one is have not come: the clock is set when they do. */
  #isClockDue = false;
  /** The time to which one has moved, while events of it may still come. */
  #timeDue: number | undefined;
  /** While playing: the position at which a breakpoint stops. */
  #stopAt: { position: number; what: string } | undefined;
  /** Following: events up to here have been compared with the breakpoints. */
  #checked = 0;
  readonly #ends: Array<() => void> = [];
  /** How often the server had been there by the last look. */
  #times = opened.peek();

  constructor(log: LogDocument) {
    this.log = log;
    this.lines = new LineCache(() => (this.told.value += 1));
    this.count.value = log.count;
    this.position.value = log.isLive ? log.count : Math.min(1, log.count);
    this.clock.value = log.isLive ? log.lastAt : log.firstAt;
    this.#checked = log.count;
    const [note] = log.notes;
    if (note !== undefined) this.say(note);
    void this.#load();
    this.#ends.push(
      effect(() => {
        const { count, generation } = news.value ?? {};
        if (count !== undefined && generation === log.generation && count > this.count.peek())
          this.#grow(count);
      }),
      effect(() => this.#look(this.position.value, this.clock.value)),
      effect(() => this.#askAgain(opened.value)),
    );
  }

  /** Goes on where one was when the log was read anew; a sequence names its moment in both. */
  async resume(before: Debugger): Promise<void> {
    const wordOf = (position: number | undefined): string | undefined =>
      position === undefined || position > before.columns.count
        ? undefined
        : position === 0
          ? 'start'
          : String(before.seqOf(position));
    batch(() => {
      this.axis.value = before.axis.value;
      this.speed.value = before.speed.value;
      this.wanted.value = before.wanted.value;
      this.breakpoints.value = before.breakpoints.value;
      this.following.value = before.following.value && this.log.isLive;
      if (before.axis.value === 'time') this.zoom.value = before.zoom.value;
    });
    const at = this.following.value ? undefined : wordOf(before.position.value);
    const mark = wordOf(before.mark.value);
    await Promise.all([at === undefined ? undefined : this.jumpTo(at), this.#markAt(mark)]);
  }

  /** What one does before all of it has been found counts more. */
  async goTo({ at, mark, breakpoints }: Goal): Promise<void> {
    const to = at ?? mark;
    const going = [to === undefined ? undefined : this.jumpTo(to), this.#markAt(mark)];
    for (const condition of breakpoints) await this.addBreakpoint(condition);
    await Promise.all(going);
  }

  close(): void {
    for (const end of this.#ends) end();
    this.#stop.abort();
    this.#search?.abort();
  }

  /** Time of the event before a position. */
  timeOf(position: number): number {
    if (position > 0 && position <= this.columns.count) return this.columns.timeAt(position - 1);
    return position >= this.count.value ? this.log.lastAt : this.log.firstAt;
  }

  seqOf(position: number): number {
    return position > 0 && position <= this.columns.count
      ? this.columns.seqAt(position - 1)
      : this.log.beginning;
  }

  say(text: string, isBad = false): void {
    this.message.value = { text, isBad };
  }

  step(by: number): void {
    const next = this.#held(this.position.value + by);
    if (next === this.position.value) this.say(by > 0 ? 'this is the end' : 'this is the beginning');
    this.jump(next);
  }

  /** `clock`: a time between the event before the position and the one behind it. */
  jump(position: number, clock?: number): void {
    this.#giveUp('move');
    this.#timeDue = undefined;
    const next = this.#held(position);
    batch(() => {
      this.playing.value = 0;
      if (next < this.count.value) this.following.value = false;
      this.#moveTo(next, clock);
    });
  }

  /** To a place on the axis: a time, or a position. */
  scrub(place: number): void {
    if (this.axis.value === 'events') this.jump(Math.round(place));
    else this.#jumpToTime(place);
  }

  #jumpToTime(at: number): void {
    this.jump(this.columns.positionOfTime(at), Math.max(this.log.firstAt, at));
    this.#timeDue = this.isWhole.value ? undefined : at;
  }

  /** In the words of `cofa replay --at`. */
  async jumpTo(text: string): Promise<void> {
    await this.#try('move', async (stop) => {
      const { position, clock } = await ask<FoundMoment>('log/moment', { text }, stop);
      this.jump(position, clock);
    });
  }

  async toRead(direction: 1 | -1): Promise<void> {
    await this.#try('move', async (stop) => {
      const query = { clock: this.clock.value, direction: direction > 0 ? 'next' : 'previous' };
      const { position, clock } = await ask<FoundMoment>('log/read', query, stop);
      this.jump(position, clock);
    });
  }

  /** To the next event that is wanted, or the one before. */
  async find(direction: 1 | -1): Promise<void> {
    const { wanted } = this;
    if (wanted.value === undefined) {
      this.say('nothing to look for yet: / searches');
      return;
    }
    const found = await this.#look4(wanted.value, direction, `looking for ${wanted.value.text}`);
    if (found === undefined) return;
    if (found.index === null)
      this.say(`${wanted.value.text}: no ${direction > 0 ? 'later' : 'earlier'} event`, true);
    else this.#arrive(found.index, '');
  }

  async toBreakpoint(direction: 1 | -1): Promise<void> {
    if (this.breakpoints.value.length === 0) {
      this.say('there are no breakpoints; b sets one');
      return;
    }
    const found = await this.#look4(this.#conditions(), direction, 'going to the next breakpoint');
    if (found === undefined) return;
    if (found.index === null) this.say('no event fulfils a breakpoint', true);
    else this.#arrive(found.index, found.what);
  }

  /** Whether the text was a condition. */
  async addBreakpoint(text: string): Promise<boolean> {
    return await this.#try(undefined, async (stop) => {
      const { text: condition } = await ask<{ text: string }>('log/condition', { text }, stop);
      this.breakpoints.value = [
        ...this.breakpoints.value.filter((one) => one !== condition),
        condition,
      ].slice(-20);
      this.say('breakpoint set: c goes to the next one, C back');
    });
  }

  removeBreakpoint(text: string): void {
    this.breakpoints.value = this.breakpoints.value.filter((one) => one !== text);
  }

  /** Plays in a direction, or pauses. With breakpoints it first finds where it is to stop. */
  async togglePlaying(direction: 1 | -1): Promise<void> {
    this.#giveUp('move');
    this.#timeDue = undefined;
    if (this.playing.value !== 0) {
      this.playing.value = 0;
      return;
    }
    const end = direction > 0 ? this.count.value : 0;
    if (this.position.value === end) {
      this.say(direction > 0 ? 'this is the end' : 'this is the beginning');
      return;
    }
    this.#stopAt = undefined;
    if (this.breakpoints.value.length > 0) {
      const found = await this.#look4(this.#conditions(), direction, 'looking where to stop');
      if (found === undefined) return;
      if (found.index !== null) this.#stopAt = { position: found.index + 1, what: found.what };
    }
    this.following.value = false;
    this.playing.value = direction;
  }

  /** `elapsed`: ms of real time since the last tick. */
  tick(elapsed: number): void {
    const direction = this.playing.value;
    if (direction === 0) return;
    const clock = this.clock.value + elapsed * this.speed.value * direction;
    const reached = this.columns.positionOfTime(clock);
    const target =
      direction > 0 ? Math.max(this.position.value, reached) : Math.min(this.position.value, reached);
    const stop = this.#stopAt;
    if (stop !== undefined && (direction > 0 ? target >= stop.position : target <= stop.position)) {
      this.playing.value = 0;
      this.#moveTo(stop.position);
      this.say(stop.what);
    } else if (direction > 0 ? target >= this.count.value : target <= 0) {
      this.playing.value = 0;
      this.#moveTo(direction > 0 ? this.count.value : 0);
      this.say(direction > 0 ? 'the end' : 'the beginning');
    } else {
      batch(() => {
        this.position.value = target;
        this.clock.value = clock;
      });
    }
  }

  changeSpeed(by: 1 | -1): void {
    const at = SPEEDS.findIndex((speed) => speed >= this.speed.value);
    this.speed.value = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at + by))] ?? 1;
    this.say(`${this.speed.value}x of recorded time`);
  }

  toggleFollowing(): void {
    if (news.value === undefined) {
      this.say('whether this log grows is not known yet: try again in a moment');
      return;
    }
    if (!news.value.isLive) {
      this.say('nothing is added to this log: it is a file, or its engine does not run');
      return;
    }
    this.#giveUp('move');
    this.#timeDue = undefined;
    // What was there before is no news.
    this.#checked = this.count.value;
    batch(() => {
      this.playing.value = 0;
      this.following.value = !this.following.value;
      if (this.following.value) this.#moveTo(this.count.value);
    });
    this.say(this.following.value ? 'following the engine' : 'no longer following');
  }

  setMark(): void {
    this.#giveUp('mark');
    const position = this.position.value;
    this.mark.value = position;
    const name = position > this.columns.count ? `event ${position}` : `sequence ${this.seqOf(position)}`;
    this.say(`marked ${name}; d shows what is different from there`);
  }

  async showDifference(): Promise<void> {
    const { mark, position } = this;
    if (mark.value === undefined) {
      this.say('mark a moment first: m');
      return;
    }
    const query = { from: Math.min(mark.value, position.value), to: Math.max(mark.value, position.value) };
    await this.#try('difference', async (stop) => {
      this.difference.value = await ask<DifferenceDocument>('log/difference', query, stop);
    });
  }

  closeDifference(): void {
    this.#giveUp('difference');
    this.difference.value = undefined;
  }

  async showWhy(): Promise<void> {
    await this.#explain({ position: this.position.value, clock: this.clock.value, open: [] });
  }

  /** What is behind a line of the explanation. */
  async openWhy(line: number): Promise<void> {
    const shown = this.explanation.value;
    if (shown !== undefined) await this.#explain({ ...shown, open: [...shown.open, line] });
  }

  /** Back to the explanation before; from the first one it closes. */
  async leaveWhy(): Promise<void> {
    const shown = this.explanation.value;
    if (shown === undefined || shown.open.length === 0) this.closeWhy();
    else await this.#explain({ ...shown, open: shown.open.slice(0, -1) });
  }

  closeWhy(): void {
    this.#giveUp('why');
    this.explanation.value = undefined;
  }

  async #explain({ position, clock, open }: Pick<Shown, 'position' | 'clock' | 'open'>): Promise<void> {
    await this.#try('why', async (stop) => {
      const query = { position, clock, ...(open.length === 0 ? {} : { open: open.join('.') }) };
      const why = await ask<Explanation>('log/why', query, stop);
      this.explanation.value = { ...why, position, clock, open };
    });
  }

  /** Ends a search. */
  stop(): void {
    this.#search?.abort();
    this.playing.value = 0;
  }

  #held(position: number): number {
    return Math.max(0, Math.min(this.count.value, position));
  }

  #moveTo(position: number, clock?: number): void {
    this.#isClockDue = clock === undefined && position > this.columns.count;
    batch(() => {
      this.position.value = position;
      this.clock.value = clock ?? this.timeOf(position);
    });
  }

  /** Sets the mark at a moment. Where there is none it stays as it was. */
  async #markAt(text: string | undefined): Promise<void> {
    if (text === undefined) return;
    await this.#try('mark', async (stop) => {
      this.mark.value = (await ask<FoundMoment>('log/moment', { text }, stop)).position;
    });
  }

  #arrive(index: number, what: string): void {
    this.jump(index + 1);
    this.say(what);
  }

  #conditions() {
    return { kind: 'conditions' as const, text: this.breakpoints.value.join('\n') };
  }

  /** Undefined: it was stopped, or failed and said so. */
  async #look4(
    { kind, text }: { kind: 'text' | 'conditions'; text: string },
    direction: 1 | -1,
    label: string,
  ): Promise<FoundEvent | undefined> {
    this.#search?.abort();
    const stop = new AbortController();
    this.#search = stop;
    this.playing.value = 0;
    this.busy.value = label;
    const at = this.position.value;
    const [from, to] = direction > 0 ? [at, this.count.value] : [at - 2, -1];
    try {
      if (direction < 0 && from < 0) return { index: null, what: '' };
      return await ask<FoundEvent>('log/find', { kind, text, from, to }, stop.signal);
    } catch (error) {
      this.say(stop.signal.aborted ? 'stopped' : sentenceOf(error), !stop.signal.aborted);
      return undefined;
    } finally {
      if (this.#search === stop) this.busy.value = undefined;
    }
  }

  /** What an event says and the state follow where one is; while one moves they come as fast as the server answers. */
  #look(position: number, clock: number): void {
    this.#event.ask(async (stop) => {
      this.event.value =
        position === 0 ? undefined : await ask<EventDocument>('log/event', { index: position - 1 }, stop);
    });
    // Without a clock the server takes the time of the event.
    const query: Query = this.#isClockDue ? { position } : { position, clock: Math.max(0, clock) };
    this.#state.ask(async (stop) => {
      this.state.value = await ask<MomentDocument>('log/state', query, stop);
    });
  }

  /** Asks for what could not be had while the server was away. `times`: it was there. */
  #askAgain(times: number): void {
    if (times === this.#times) return;
    this.#times = times;
    untracked(() => {
      this.#look(this.position.value, this.clock.value);
      this.told.value += 1;
      if (!this.isWhole.value) void this.#load();
    });
  }

  #grow(count: number): void {
    this.count.value = count;
    void this.#load();
  }

  /** One load at a time; what has come meanwhile is loaded behind it. */
  async #load(): Promise<void> {
    if (this.#loading !== undefined) return;
    const step = () => {
      this.grown.value += 1;
      if (this.#isClockDue && this.position.value <= this.columns.count) this.#moveTo(this.position.value);
      if (this.#timeDue !== undefined) this.#jumpToTime(this.#timeDue);
      if (this.following.value) this.#follow();
    };
    try {
      do {
        this.#loading = this.columns.load(this.count.value, step, this.#stop.signal);
        await this.#loading;
      } while (this.columns.count < this.count.value && !this.#stop.signal.aborted);
    } catch (error) {
      if (!this.#stop.signal.aborted) this.say(sentenceOf(error), true);
    } finally {
      this.#loading = undefined;
    }
  }

  #follow(): void {
    const [from, to] = [this.#checked, this.columns.count];
    this.#checked = Math.max(from, to);
    this.#moveTo(to);
    if (this.breakpoints.value.length === 0 || from >= to) return;
    void ask<FoundEvent>('log/find', { ...this.#conditions(), from, to }, this.#stop.signal).then(
      ({ index, what }) => {
        if (index === null || !this.following.value) return;
        // Also where it is the newest event: what comes then would lead on.
        this.following.value = false;
        this.#arrive(index, what);
      },
      () => {},
    );
  }

  /** What was asked before of the same kind is given up. Whether the work came to its end. */
  async #try(kind: Kind | undefined, work: (stop: AbortSignal) => Promise<void>): Promise<boolean> {
    const own = new AbortController();
    if (kind !== undefined) {
      this.#giveUp(kind);
      this.#asked.set(kind, own);
    }
    const stop = AbortSignal.any([own.signal, this.#stop.signal]);
    try {
      await work(stop);
      return true;
    } catch (error) {
      if (!stop.aborted) this.say(sentenceOf(error), true);
      return false;
    }
  }

  #giveUp(kind: Kind): void {
    this.#asked.get(kind)?.abort();
    this.#asked.delete(kind);
  }
}
