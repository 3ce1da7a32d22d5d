/**
 * The view's state and its actions. It knows neither terminal nor timers: keys and elapsed time come in, commands.ts says
 * which action a key starts, and render.ts draws the result. `tick` searches in slices, so that Esc can stop a search.
 */
import { CofaError } from '../../../schemas/errors.ts';
import { formatCondition } from '../conditions.ts';
import { neighbourRead } from '../in-flight.ts';
import { clockOf, parseMoment, positionOf } from '../moments.ts';
import type { RawRecord } from '../record.ts';
import type { ReplayLog } from '../replay-log.ts';
import type { Wanted } from '../search.ts';
import { anyOf, type Breakpoint, describeHit, firstHit, withBreakpoint } from './breakpoints.ts';
import { commandOf, helpRows, type Place } from './commands.ts';
import type { Key } from './keys.ts';
import {
  explainDifference,
  explainEvent,
  explainMoment,
  helpOverlay,
  movedBy,
  openedFrom,
  type Overlay,
} from './overlays.ts';
import { editPrompt, type Prompt } from './prompts.ts';
import { SearchTask, type SearchTaskOptions } from './search-task.ts';

/** Recorded time per real time, while playing. */
const SPEEDS = [0.01, 0.1, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] as const;

export class Session {
  readonly log: ReplayLog;
  readonly title: string;
  /** Whether more events can come. */
  isLive: boolean;
  /** Events that have happened. */
  position: number;
  /** Recorded time that is shown, ms since the epoch; while playing it runs between events. */
  clock: number;
  isPlaying = false;
  speed = 1;
  isFollowing = false;
  breakpoints: Breakpoint[] = [];
  /** The target of n and N. */
  wanted: Wanted | undefined;
  /** Position of the mark. */
  mark: number | undefined;
  focus: 'events' | 'state' = 'events';
  /** First line of the state that is shown. */
  stateScroll = 0;
  axis: 'time' | 'events' = 'time';
  prompt: Prompt | undefined;
  overlay: Overlay | undefined;
  message: { text: string; bad: boolean } | undefined;
  isOver = false;
  #task: SearchTask | undefined;
  readonly #now: () => number;

  /** `now`: a clock for the slices of a search, ms. */
  constructor(log: ReplayLog, options: { title: string; isLive?: boolean; now: () => number }) {
    this.log = log;
    this.title = options.title;
    this.isLive = options.isLive === true;
    this.#now = options.now;
    this.position = this.isLive ? log.count : Math.min(1, log.count);
    this.clock = log.timeOf(this.position);
    const [note] = log.notes;
    if (note !== undefined) this.#say(note);
  }

  /** The search that runs, and how far it is, 0 to 1; undefined without one. */
  get busy(): { readonly label: string; readonly share: number } | undefined {
    return this.#task;
  }

  /** Whether `tick` has something to do. */
  get isMoving(): boolean {
    return this.isPlaying || this.#task !== undefined;
  }

  /** Index of the event that happened last; undefined at the beginning. */
  get current(): number | undefined {
    return this.position > 0 ? this.position - 1 : undefined;
  }

  press(key: Key): void {
    if (key.name === 'interrupt') this.leave();
    else if (this.#task !== undefined) this.#pressInSearch(key);
    else {
      this.message = undefined;
      try {
        if (this.prompt === undefined) this.#pressCommand(key);
        else this.#pressInPrompt(this.prompt, key);
      } catch (error) {
        if (!(error instanceof CofaError)) throw error;
        this.#say(error.hint === undefined ? error.message : `${error.message} (${error.hint})`, true);
      }
    }
  }

  /** `elapsed`: ms of real time since the last tick. */
  tick(elapsed: number): void {
    if (this.#task !== undefined) this.#search(this.#task);
    else if (this.isPlaying) this.#play(elapsed);
  }

  /** Takes an event that the engine has just written. */
  append(raw: RawRecord): void {
    const wasAtEnd = this.position === this.log.count;
    this.log.append(raw);
    if (this.isFollowing && wasAtEnd) {
      this.#moveTo(this.log.count);
      this.#stopAtBreakpoint(this.log.count - 1, this.log.count);
    }
  }

  /** The log gets no more events; the footer shows `why`. */
  end(why: string): void {
    this.isLive = false;
    this.isFollowing = false;
    this.#say(why);
  }

  // The actions of commands.ts, in its order.

  step(by: number): void {
    this.isPlaying = false;
    const next = Math.max(0, Math.min(this.log.count, this.position + by));
    if (next === this.position) this.#say(by > 0 ? 'this is the end' : 'this is the beginning');
    if (by < 0) this.isFollowing = false;
    this.#moveTo(next);
  }

  moveInOverlay(by: number): void {
    if (this.overlay !== undefined) this.overlay = movedBy(this.overlay, by);
  }

  jump(position: number): void {
    this.isPlaying = false;
    if (position < this.log.count) this.isFollowing = false;
    this.#moveTo(position);
  }

  toTopOfOverlay(): void {
    if (this.overlay !== undefined) this.overlay = { ...this.overlay, cursor: 0 };
  }

  /** Opens a prompt; `#enter` takes its text. */
  ask(kind: Prompt['kind']): void {
    this.prompt = { kind, text: '' };
  }

  /** To the arrival of the next read that waited, or of the one before. */
  toRead(direction: 1 | -1): void {
    this.isPlaying = false;
    this.isFollowing = false;
    const read = neighbourRead(this.log, this.clock, direction);
    if (read === undefined) {
      this.#say(`no read waited ${direction > 0 ? 'later' : 'earlier'}`);
      return;
    }
    this.position = this.log.timeline.positionOfTime(read.at);
    this.clock = read.at;
  }

  /** To the next event that the last search wanted, or to the one before. */
  find(direction: 1 | -1): void {
    const { wanted } = this;
    if (wanted === undefined) {
      this.#say('nothing to look for yet: / searches a text');
      return;
    }
    const what = 'text' in wanted ? `"${wanted.text}"` : formatCondition(wanted.condition);
    this.#look(wanted, direction, `looking for ${what}`, (found) => {
      if (found === undefined) this.#say(`${what}: no ${direction > 0 ? 'later' : 'earlier'} event`, true);
      else this.jump(found + 1);
    });
  }

  toBreakpoint(direction: 1 | -1): void {
    const condition = anyOf(this.breakpoints);
    if (condition === undefined) {
      this.#say('there are no breakpoints; b sets one');
      return;
    }
    this.#look({ condition }, direction, 'going to the next breakpoint', (found) => {
      if (found === undefined) this.#say('no event fulfils a breakpoint', true);
      else {
        this.jump(found + 1);
        this.#say(describeHit(this.log, this.breakpoints, found));
      }
    });
  }

  clearBreakpoints(): void {
    if (this.breakpoints.length === 0) this.#say('there are no breakpoints; b sets one');
    else {
      this.#say(`${this.breakpoints.length} breakpoints taken away`);
      this.breakpoints = [];
    }
  }

  togglePlaying(): void {
    if (!this.isPlaying && this.position === this.log.count) {
      this.#say('this is the end; g goes to the beginning');
      return;
    }
    this.isPlaying = !this.isPlaying;
    this.isFollowing = false;
  }

  changeSpeed(by: 1 | -1): void {
    const at = SPEEDS.findIndex((speed) => speed >= this.speed);
    this.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at + by))] ?? 1;
    this.#say(`${this.speed}x of recorded time`);
  }

  toggleFollowing(): void {
    if (!this.isLive) {
      this.#say('nothing is added to this log: it is a file, or its engine does not run');
      return;
    }
    this.isFollowing = !this.isFollowing;
    if (this.isFollowing) {
      this.isPlaying = false;
      this.#moveTo(this.log.count);
    }
    this.#say(this.isFollowing ? 'following the engine' : 'no longer following');
  }

  setMark(): void {
    this.mark = this.position;
    this.#say(`marked sequence ${this.log.seqOf(this.position)}; d shows what is different from there`);
  }

  showDifference(): void {
    const { log, mark, position } = this;
    if (mark === undefined) this.#say('mark a moment first: m');
    else this.overlay = explainDifference(log, Math.min(mark, position), Math.max(mark, position));
  }

  showWhy(): void {
    const why = explainMoment(this.log, this.current, this.clock);
    if (why === undefined)
      this.#say('nothing waits at this moment; w explains reads (layer.trace) and mounts');
    else this.overlay = why;
  }

  showEvent(): void {
    if (this.current !== undefined) this.overlay = explainEvent(this.log, this.current);
  }

  openInOverlay(): void {
    if (this.overlay !== undefined) this.overlay = openedFrom(this.overlay) ?? this.overlay;
  }

  toggleFocus(): void {
    this.focus = this.focus === 'events' ? 'state' : 'events';
  }

  scrollState(by: 1 | -1): void {
    const { images, layers, mounts } = this.log.stateAt(this.position);
    const lines = images.size + layers.size + mounts.size;
    this.stateScroll = Math.max(0, Math.min(lines, this.stateScroll + by));
  }

  toggleAxis(): void {
    this.axis = this.axis === 'time' ? 'events' : 'time';
  }

  leave(): void {
    this.isOver = true;
  }

  closeOverlay(): void {
    this.overlay = this.overlay?.parent;
  }

  showHelp(): void {
    this.overlay = { ...helpOverlay(helpRows()), parent: this.overlay };
  }

  // How keys arrive.

  #pressCommand(key: Key): void {
    const place: Place = this.overlay === undefined ? this.focus : 'overlay';
    const command = commandOf(place, key);
    if (command !== undefined) command.run(this);
    else if (place !== 'overlay') this.#say('? shows the keys');
  }

  #pressInSearch(key: Key): void {
    if (key.name !== 'escape' && !(key.name === 'text' && key.text === 'q')) return;
    this.#task = undefined;
    this.#say('stopped');
  }

  /** A text that is wrong keeps its prompt, with the reason behind it. */
  #pressInPrompt(prompt: Prompt, key: Key): void {
    if (key.name !== 'enter') {
      this.prompt = editPrompt(prompt, key);
      return;
    }
    if (prompt.text.trim() !== '') this.#enter(prompt);
    this.prompt = undefined;
  }

  /** Errors: `invalid-argument` for a text that the prompt cannot take. */
  #enter({ kind, text }: Prompt): void {
    if (kind === 'jump') this.#jumpTo(text);
    else if (kind === 'search') {
      this.wanted = { text };
      this.find(1);
    } else {
      this.breakpoints = withBreakpoint(this.breakpoints, text);
      this.#say('breakpoint set: c goes to the next one, C back, B takes all away');
    }
  }

  #jumpTo(text: string): void {
    const moment = parseMoment(text);
    this.jump(positionOf(moment, this.log));
    // A time may lie between two events: reads wait there.
    this.clock = clockOf(moment, this.log, this.clock);
  }

  // How time passes.

  #moveTo(position: number): void {
    this.position = position;
    this.clock = this.log.timeOf(position);
  }

  #play(elapsed: number): void {
    const clock = this.clock + elapsed * this.speed;
    const target = Math.max(this.position, this.log.timeline.positionOfTime(clock));
    const from = this.position;
    this.position = target;
    this.clock = clock;
    if (this.#stopAtBreakpoint(from, target)) return;
    if (target === this.log.count) {
      this.isPlaying = false;
      this.clock = this.log.timeOf(target);
      this.#say('the end');
    }
  }

  /** Whether a breakpoint stopped at one of the events from `from` to before `to`. */
  #stopAtBreakpoint(from: number, to: number): boolean {
    const hit = firstHit(this.log, this.breakpoints, from, to);
    if (hit === undefined) return false;
    this.isPlaying = false;
    // What comes next would lead on: of a log that grows the hit is the newest event.
    this.isFollowing = false;
    this.#moveTo(hit + 1);
    this.#say(describeHit(this.log, this.breakpoints, hit));
    return true;
  }

  /** Searches from the event after the current one, or from the one before it. */
  #look(wanted: Wanted, direction: 1 | -1, label: string, end: SearchTaskOptions['end']): void {
    this.isPlaying = false;
    const from = direction > 0 ? this.position : Math.max(-1, this.position - 2);
    const to = direction > 0 ? this.log.count : -1;
    this.#task = new SearchTask(this.log, { wanted, from, to, label, end });
    this.#search(this.#task);
  }

  #search(task: SearchTask): void {
    const result = task.work(this.#now);
    if (result === undefined) return;
    this.#task = undefined;
    task.end(result.found);
  }

  #say(text: string, bad = false): void {
    this.message = { text, bad };
  }
}
