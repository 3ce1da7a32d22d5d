/**
 * The view's state and what keys do to it. No terminal and no timers in here: keys and elapsed time come in, and
 * render.ts draws what is. Long work (searches) is done in slices by `tick`, so that Esc can stop it.
 */
import { CofaError } from '../../../schemas/errors.ts';
import { CONDITION_HINT, type Condition, formatCondition, parseCondition } from '../conditions.ts';
import { neighbourRead, readsInFlight } from '../in-flight.ts';
import { parseMoment, positionOf, timeOfMoment } from '../moments.ts';
import type { RawRecord } from '../record.ts';
import type { ReplayLog } from '../replay-log.ts';
import { search, type Wanted } from '../search.ts';
import { traceOf } from '../trace.ts';
import {
  explainDifference,
  explainEvent,
  explainMount,
  explainReads,
  helpOverlay,
  type Overlay,
} from './overlays.ts';
import type { Key } from './keys.ts';

export interface Breakpoint {
  text: string;
  condition: Condition;
}

export interface Prompt {
  kind: 'jump' | 'search' | 'breakpoint';
  text: string;
}

export const SPEEDS = [0.01, 0.1, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] as const;
/** Work of one tick, ms. */
const SLICE_MS = 20;

interface Task {
  label: string;
  steps: Generator<number, number | undefined>;
  from: number;
  to: number;
  at: number;
  end: (found: number | undefined) => void;
}

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
  /** What n and N look for. */
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
  #task: Task | undefined;
  readonly #now: () => number;

  /** `now`: ms of a clock for the slices of long work. */
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

  /** What long work is under way and how far it is, 0 to 1. */
  get busy(): { label: string; share: number } | undefined {
    const task = this.#task;
    if (task === undefined) return undefined;
    return {
      label: task.label,
      share: Math.abs(task.at - task.from) / Math.max(1, Math.abs(task.to - task.from)),
    };
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
    if (key.name === 'interrupt') {
      this.isOver = true;
      return;
    }
    if (this.#task !== undefined) {
      if (key.name === 'escape' || (key.name === 'text' && key.text === 'q')) {
        this.#task = undefined;
        this.#say('stopped');
      }
      return;
    }
    this.message = undefined;
    try {
      if (this.prompt !== undefined) this.#pressInPrompt(this.prompt, key);
      else if (this.overlay !== undefined) this.#pressInOverlay(this.overlay, key);
      else this.#pressInLog(key);
    } catch (error) {
      if (!(error instanceof CofaError)) throw error;
      this.#say(error.hint === undefined ? error.message : `${error.message} (${error.hint})`, true);
    }
  }

  /** `elapsed`: ms of real time since the last tick. */
  tick(elapsed: number): void {
    if (this.#task !== undefined) this.#work(this.#task);
    else if (this.isPlaying) this.#play(elapsed);
  }

  /** An event that has just been written. */
  append(raw: RawRecord): void {
    const wasAtEnd = this.position === this.log.count;
    this.log.append(raw);
    if (this.isFollowing && wasAtEnd) {
      this.#moveTo(this.log.count);
      this.#stopAtBreakpoint(this.log.count - 1, this.log.count);
    }
  }

  /** Nothing comes any more. */
  end(why: string): void {
    this.isLive = false;
    this.isFollowing = false;
    this.#say(why);
  }

  #pressInLog(key: Key): void {
    const command = key.name === 'text' ? key.text : key.name;
    if (
      this.focus === 'state' &&
      (command === 'up' || command === 'down' || command === 'k' || command === 'j')
    ) {
      this.#scrollState(command === 'up' || command === 'k' ? -1 : 1);
      return;
    }
    switch (command) {
      case 'q':
        this.isOver = true;
        return;
      case 'right':
      case 'down':
      case 'l':
      case 'j':
        this.#step(1);
        return;
      case 'left':
      case 'up':
      case 'h':
      case 'k':
        this.#step(-1);
        return;
      case 'page-down':
      case 'J':
        this.#step(10);
        return;
      case 'page-up':
      case 'K':
        this.#step(-10);
        return;
      case ']':
        this.#step(1000);
        return;
      case '[':
        this.#step(-1000);
        return;
      case 'home':
      case 'g':
        this.#jump(0);
        return;
      case 'end':
      case 'G':
        this.#jump(this.log.count);
        return;
      case ':':
      case 't':
        this.prompt = { kind: 'jump', text: '' };
        return;
      case '/':
        this.prompt = { kind: 'search', text: '' };
        return;
      case 'b':
        this.prompt = { kind: 'breakpoint', text: '' };
        return;
      case 'B':
        if (this.breakpoints.length === 0) this.#say('there are no breakpoints; b sets one');
        else {
          this.#say(`${this.breakpoints.length} breakpoints taken away`);
          this.breakpoints = [];
        }
        return;
      case 'n':
        this.#find(1);
        return;
      case 'N':
        this.#find(-1);
        return;
      case 'r':
        this.#toRead(1);
        return;
      case 'R':
        this.#toRead(-1);
        return;
      case 'c':
        this.#continue(1);
        return;
      case 'C':
        this.#continue(-1);
        return;
      case ' ':
        this.#togglePlaying();
        return;
      case '+':
      case '=':
      case '-': {
        const at = SPEEDS.findIndex((speed) => speed >= this.speed);
        this.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at + (command === '-' ? -1 : 1)))] ?? 1;
        this.#say(`${this.speed}x of recorded time`);
        return;
      }
      case 'f':
        this.#toggleFollowing();
        return;
      case 'm':
        this.mark = this.position;
        this.#say(`marked sequence ${this.log.seqOf(this.position)}; d shows what is different from there`);
        return;
      case 'd':
        this.#diff();
        return;
      case 'w':
        this.#why();
        return;
      case 'enter':
        if (this.current !== undefined) this.overlay = explainEvent(this.log, this.current);
        return;
      case 'x':
        this.axis = this.axis === 'time' ? 'events' : 'time';
        return;
      case 'tab':
        this.focus = this.focus === 'events' ? 'state' : 'events';
        return;
      case '?':
        this.overlay = helpOverlay();
        return;
      case 'escape':
      case 'redraw':
        return;
      default:
        this.#say('? shows the keys');
    }
  }

  #pressInPrompt(prompt: Prompt, key: Key): void {
    switch (key.name) {
      case 'escape':
        this.prompt = undefined;
        return;
      case 'backspace':
        if (prompt.text === '') this.prompt = undefined;
        else this.prompt = { ...prompt, text: [...prompt.text].slice(0, -1).join('') };
        return;
      case 'clear-line':
        this.prompt = { ...prompt, text: '' };
        return;
      case 'text':
        if (prompt.text.length < 300) this.prompt = { ...prompt, text: prompt.text + key.text };
        return;
      case 'enter':
        this.#enter(prompt);
        this.prompt = undefined;
    }
  }

  /** What is wrong with the text is said, and the prompt stays. */
  #enter({ kind, text }: Prompt): void {
    if (text.trim() === '') return;
    if (kind === 'jump') {
      const moment = parseMoment(text);
      this.#jump(positionOf(moment, this.log));
      // A time may lie between two events: reads wait there.
      const { log } = this;
      const frame = { firstAt: log.timeOf(Math.min(1, log.count)), endAt: log.timeOf(log.count) };
      this.clock = Math.max(frame.firstAt, Math.min(frame.endAt, timeOfMoment(moment, frame) ?? this.clock));
    } else if (kind === 'search') {
      this.wanted = { text };
      this.#find(1);
    } else {
      const condition = parseCondition(text);
      this.breakpoints = [...this.breakpoints, { text: formatCondition(condition), condition }].slice(-20);
      this.#say('breakpoint set: c goes to the next one, C back, B takes all away');
    }
  }

  #pressInOverlay(overlay: Overlay, key: Key): void {
    const command = key.name === 'text' ? key.text : key.name;
    switch (command) {
      case 'escape':
      case 'q':
      case 'left':
      case 'backspace':
        this.overlay = overlay.parent;
        return;
      case 'enter':
      case 'right': {
        const opened = overlay.lines(100)[overlay.cursor]?.open?.();
        if (opened !== undefined) this.overlay = { ...opened, parent: overlay };
        return;
      }
      case 'down':
      case 'j':
        this.overlay = movedBy(overlay, 1);
        return;
      case 'up':
      case 'k':
        this.overlay = movedBy(overlay, -1);
        return;
      case 'page-down':
      case ' ':
        this.overlay = movedBy(overlay, 10);
        return;
      case 'page-up':
        this.overlay = movedBy(overlay, -10);
        return;
      case 'home':
      case 'g':
        this.overlay = { ...overlay, cursor: 0 };
        return;
      case '?':
        this.overlay = { ...helpOverlay(), parent: overlay };
    }
  }

  #scrollState(by: 1 | -1): void {
    const { images, layers, mounts } = this.log.stateAt(this.position);
    const lines = images.size + layers.size + mounts.size;
    this.stateScroll = Math.max(0, Math.min(lines, this.stateScroll + by));
  }

  #step(by: number): void {
    this.isPlaying = false;
    const next = Math.max(0, Math.min(this.log.count, this.position + by));
    if (next === this.position) this.#say(by > 0 ? 'this is the end' : 'this is the beginning');
    if (by < 0) this.isFollowing = false;
    this.#moveTo(next);
  }

  #jump(position: number): void {
    this.isPlaying = false;
    if (position < this.log.count) this.isFollowing = false;
    this.#moveTo(position);
  }

  #moveTo(position: number): void {
    this.position = position;
    this.clock = this.log.timeOf(position);
  }

  #togglePlaying(): void {
    if (!this.isPlaying && this.position === this.log.count) {
      this.#say('this is the end; g goes to the beginning');
      return;
    }
    this.isPlaying = !this.isPlaying;
    this.isFollowing = false;
  }

  #toggleFollowing(): void {
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

  /** Whether one of the events from `from` to before `to` is one to stop at. */
  #stopAtBreakpoint(from: number, to: number): boolean {
    const condition = this.#breakCondition();
    if (condition === undefined || to <= from) return false;
    const steps = search(this.log, { condition }, from, to);
    let next = steps.next();
    while (next.done !== true) next = steps.next();
    if (next.value === undefined) return false;
    this.isPlaying = false;
    this.#moveTo(next.value + 1);
    this.#say(this.#whichBreakpoint(next.value));
    return true;
  }

  #breakCondition(): Condition | undefined {
    return this.breakpoints.length === 0 ? undefined : this.breakpoints.flatMap(({ condition }) => condition);
  }

  #whichBreakpoint(index: number): string {
    const hit = this.breakpoints.find(({ condition }) => {
      const next = search(this.log, { condition }, index, index + 1).next();
      return next.done === true && next.value === index;
    });
    return `breakpoint: ${hit?.text ?? ''}`;
  }

  #find(direction: 1 | -1): void {
    const { wanted } = this;
    if (wanted === undefined) {
      this.#say('nothing to look for yet: / searches a text');
      return;
    }
    const what = 'text' in wanted ? `"${wanted.text}"` : formatCondition(wanted.condition);
    this.#look(wanted, direction, `looking for ${what}`, (found) => {
      if (found === undefined) this.#say(`${what}: no ${direction > 0 ? 'later' : 'earlier'} event`, true);
      else this.#jump(found + 1);
    });
  }

  #continue(direction: 1 | -1): void {
    const condition = this.#breakCondition();
    if (condition === undefined) {
      this.#say('there are no breakpoints; b sets one');
      return;
    }
    this.#look({ condition }, direction, 'going to the next breakpoint', (found) => {
      if (found === undefined) this.#say('no event fulfils a breakpoint', true);
      else {
        this.#jump(found + 1);
        this.#say(this.#whichBreakpoint(found));
      }
    });
  }

  /** To the arrival of the next read that waited, or of the one before. */
  #toRead(direction: 1 | -1): void {
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

  /** From the event after the current one, or the one before it. */
  #look(wanted: Wanted, direction: 1 | -1, label: string, end: Task['end']): void {
    this.isPlaying = false;
    const from = direction > 0 ? this.position : Math.max(-1, this.position - 2);
    const to = direction > 0 ? this.log.count : -1;
    const steps = search(this.log, wanted, from, to);
    this.#task = { label, steps, from, to, at: from, end };
    this.#work(this.#task);
  }

  #work(task: Task): void {
    const until = this.#now() + SLICE_MS;
    do {
      const next = task.steps.next();
      if (next.done === true) {
        this.#task = undefined;
        task.end(next.value);
        return;
      }
      task.at = next.value;
    } while (this.#now() < until);
  }

  #diff(): void {
    if (this.mark === undefined) this.#say('mark a moment first: m');
    else
      this.overlay = explainDifference(
        this.log,
        Math.min(this.mark, this.position),
        Math.max(this.mark, this.position),
      );
  }

  #why(): void {
    const { log, current } = this;
    const event = current === undefined ? undefined : log.timeline.eventAt(current);
    const reads = event?.type === 'layer.trace' ? traceOf(event).reads : readsInFlight(log, this.clock);
    if (reads.length > 0) this.overlay = explainReads(log, reads);
    else if (event?.kind === 'mount') this.overlay = explainMount(log, event.id);
    else this.#say('nothing waits at this moment; w explains reads (layer.trace) and mounts');
  }

  #say(text: string, bad = false): void {
    this.message = { text, bad };
  }
}

export const PROMPTS: Record<Prompt['kind'], { label: string; hint: string }> = {
  jump: { label: 'go to', hint: 'sequence, #position, time, 12:00:03, -10m, +3s, start, end' },
  search: { label: 'search', hint: 'any text of an event' },
  breakpoint: { label: 'break at', hint: CONDITION_HINT.replace('such as: ', '') },
};

function movedBy(overlay: Overlay, by: number): Overlay {
  const last = overlay.lines(100).length - 1;
  return { ...overlay, cursor: Math.max(0, Math.min(last, overlay.cursor + by)) };
}
