/** The view Log: the event log as a debugger. */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { effect } from '@preact/signals';
import type { LogDocument } from '../../../replay/documents.ts';
import { ask, sentenceOf } from '../api.ts';
import { areKeysOn, isTyping } from '../keys.ts';
import { log as news } from '../live.ts';
import { Debugger } from '../log/debugger.ts';
import { EventList } from '../log/event-list.tsx';
import { type Field, LOG_KEYS, pressed } from '../log/keys.ts';
import { DifferencePanel, EventPanel, StatePanel, WhyPanel } from '../log/panels.tsx';
import { TimeLine } from '../log/time-line.tsx';
import { Toolbar } from '../log/toolbar.tsx';
import { addressOf, noteAddress } from '../place.ts';
import type { View } from '../views.ts';

export const logView: View = { id: 'log', title: 'Log', keys: LOG_KEYS, Body };

/** Between two tries to read a log that could not be had, ms. */
const AGAIN_MS = 2_000;

function Body({ words }: { words: URLSearchParams }) {
  const [debug, setDebug] = useState<Debugger>();
  const [problem, setProblem] = useState<string>();
  useEffect(() => debuggers(setDebug, setProblem), []);
  if (debug !== undefined) return <Shown debug={debug} words={words} />;
  if (problem !== undefined) return <p role="alert">{problem}</p>;
  return <p class="muted">reading the log …</p>;
}

/**
 * Makes the debugger of the log, and another one when the log is another (its generation), which goes on where one was. A
 * generation is told once and asked for once: a debugger that is shown keeps the place to which one has moved in it. Returns what
 * ends both.
 */
function debuggers(show: (debug: Debugger) => void, fail: (sentence: string) => void): () => void {
  const stop = new AbortController();
  let made: Debugger | undefined;
  let told = news.peek()?.generation;
  let isLoading = false;
  let again: ReturnType<typeof setTimeout> | undefined;
  const make = (log: LogDocument): void => {
    const before = made;
    before?.close();
    made = new Debugger(log);
    performance.mark('cofa-log-first-paint');
    show(made);
    if (before !== undefined) void made.resume(before);
  };
  const load = async (): Promise<void> => {
    if (isLoading) return;
    isLoading = true;
    clearTimeout(again);
    try {
      for (;;) {
        const before = told;
        const log = await ask<LogDocument>('log', {}, stop.signal);
        make(log);
        if (told === before || told === log.generation) break;
      }
    } catch (error) {
      if (stop.signal.aborted) return;
      if (made === undefined) fail(sentenceOf(error));
      else made.say(sentenceOf(error), true);
      again = setTimeout(() => void load(), AGAIN_MS);
    } finally {
      isLoading = false;
    }
  };
  void load();
  const following = effect(() => {
    const generation = news.value?.generation;
    if (generation === undefined || generation === told) return;
    told = generation;
    if (made !== undefined && made.log.generation !== generation) void load();
  });
  return () => {
    following();
    stop.abort();
    clearTimeout(again);
    made?.close();
  };
}

function Shown({ debug, words }: { debug: Debugger; words: URLSearchParams }) {
  const fields = useRef<Partial<Record<Field, HTMLInputElement>>>({});
  // Once an address: a debugger that follows another one goes on where that one was.
  const gone = useRef<URLSearchParams | undefined>(undefined);
  useEffect(() => {
    if (gone.current !== words) go(debug, words);
    gone.current = words;
  }, [debug, words]);
  // Before it is painted: a key that follows a click on what is seen is heard.
  useLayoutEffect(() => {
    const focus = (field: Field) => fields.current[field]?.focus();
    const key = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
      if (event.key.length === 1 && !areKeysOn.value) return;
      // What can be pressed takes them itself.
      if ((event.key === ' ' || event.key === 'Enter') && isPressed(event)) return;
      if (pressed(event.key, debug, focus)) event.preventDefault();
    };
    addEventListener('keydown', key);
    let frame = 0;
    let last = performance.now();
    const tick = (now: number) => {
      debug.tick(now - last);
      last = now;
      if (debug.playing.value !== 0) frame = requestAnimationFrame(tick);
    };
    const playing = effect(() => {
      cancelAnimationFrame(frame);
      if (debug.playing.value === 0) return;
      last = performance.now();
      frame = requestAnimationFrame(tick);
    });
    const noting = effect(() => {
      const { position, mark, breakpoints, axis, following, isWhole, playing } = debug;
      // What the address says is what is read here.
      for (const part of [position, mark, breakpoints, axis, following, isWhole]) void part.value;
      return playing.value === 0 ? noteAddress(() => addressOfMoment(debug)) : undefined;
    });
    return () => {
      removeEventListener('keydown', key);
      cancelAnimationFrame(frame);
      playing();
      noting();
    };
  }, [debug]);
  return (
    <>
      <h1 class="hidden">Event log of {debug.log.node}</h1>
      <TimeLine debug={debug} />
      <Toolbar debug={debug} fields={fields.current} />
      <div class="log-grid">
        <EventList debug={debug} />
        <div class="beside">
          <WhyPanel debug={debug} />
          <DifferencePanel debug={debug} />
          <EventPanel debug={debug} />
        </div>
        <StatePanel debug={debug} />
      </div>
    </>
  );
}

const isPressed = ({ target }: Event): boolean =>
  target instanceof HTMLElement && target.closest('button, summary, a') !== null;

/** The words of an address: `at` a moment, `mark` another, `break` a condition (any number), `axis`. */
function go(debug: Debugger, words: URLSearchParams): void {
  if (words.get('axis') === 'events') debug.axis.value = 'events';
  void debug.goTo({
    at: words.get('at')?.slice(0, 100),
    mark: words.get('mark')?.slice(0, 100),
    breakpoints: words
      .getAll('break')
      .slice(0, 20)
      .map((condition) => condition.slice(0, 1_000)),
  });
}

/** Sequences name a moment as long as the log holds it, whatever has been removed before. */
function addressOfMoment(debug: Debugger): string {
  const { position, mark, breakpoints, axis, following, isWhole } = debug;
  const seq = (at: number) => (at === 0 ? 'start' : String(debug.seqOf(at)));
  const place = isWhole.value && !following.value ? seq(position.value) : undefined;
  const address = addressOf('log', {
    at: place,
    mark: mark.value === undefined || !isWhole.value ? undefined : seq(mark.value),
    axis: axis.value === 'events' ? 'events' : undefined,
  });
  const more = breakpoints.value.map((text) => `break=${encodeURIComponent(text)}`).join('&');
  return more === '' ? address : `${address}${address.includes('?') ? '&' : '?'}${more}`;
}
