/** Buttons and fields of the view Log, and what it has to say. */
import type { ComponentChildren } from 'preact';
import { useState } from 'preact/hooks';
import { log as news } from '../live.ts';
import { type Debugger, SPEEDS } from './debugger.ts';
import type { Field } from './keys.ts';
import { zoomBy } from './time-line.tsx';

type Fields = Partial<Record<Field, HTMLInputElement>>;

export function Toolbar({ debug, fields }: { debug: Debugger; fields: Fields }) {
  const { playing, speed, following, count, mark, busy, message, axis, zoom } = debug;
  return (
    <div class="toolbar">
      <div class="group" role="group" aria-label="Steps">
        <Button name="To the beginning" run={() => debug.jump(0)}>
          |◁
        </Button>
        <Button name="The event before" run={() => debug.step(-1)}>
          ◁
        </Button>
        <Button
          name={playing.value === -1 ? 'Pause' : 'Play backwards'}
          isOn={playing.value === -1}
          run={() => void debug.togglePlaying(-1)}
        >
          {playing.value === -1 ? '||' : '◀'}
        </Button>
        <Button
          name={playing.value === 1 ? 'Pause' : 'Play'}
          isOn={playing.value === 1}
          run={() => void debug.togglePlaying(1)}
        >
          {playing.value === 1 ? '||' : '▶'}
        </Button>
        <Button name="The next event" run={() => debug.step(1)}>
          ▷
        </Button>
        <Button name="To the end" run={() => debug.jump(count.value)}>
          ▷|
        </Button>
        <select
          aria-label="Speed"
          value={speed.value}
          onChange={(event) => (speed.value = Number(event.currentTarget.value))}
        >
          {SPEEDS.map((one) => (
            <option value={one}>{one}x</option>
          ))}
        </select>
        {news.value?.isLive === true && (
          <Button name="Follow the engine" isOn={following.value} run={() => debug.toggleFollowing()}>
            follow
          </Button>
        )}
      </div>
      <div class="group" role="group" aria-label="Time line">
        <Button name="Zoom in" run={() => zoomBy(debug, 0.5)}>
          +
        </Button>
        <Button name="Zoom out" run={() => zoomBy(debug, 2)}>
          −
        </Button>
        <Button name="Show all of it" run={() => (zoom.value = undefined)}>
          all
        </Button>
        <Button
          name="Axis by events"
          isOn={axis.value === 'events'}
          run={() => {
            zoom.value = undefined;
            axis.value = axis.value === 'time' ? 'events' : 'time';
          }}
        >
          by events
        </Button>
      </div>
      <div class="group" role="group" aria-label="Compare">
        <Button name="Mark this moment" isOn={mark.value !== undefined} run={() => debug.setMark()}>
          mark
        </Button>
        <Button name="diff: from the mark to here" run={() => void debug.showDifference()}>
          diff
        </Button>
        <Button name="Why it took so long" run={() => void debug.showWhy()}>
          why
        </Button>
      </div>
      <Ask
        label="Go to a moment"
        hint="1234, 12:00:03, -10m"
        field={(input) => (fields.moment = input)}
        enter={async (text) => {
          await debug.jumpTo(text);
          return true;
        }}
      />
      <Search debug={debug} fields={fields} />
      <Breakpoints debug={debug} fields={fields} />
      <Where debug={debug} />
      <p class={message.value.isBad ? 'message bad' : 'message'} role="status">
        {busy.value === undefined ? message.value.text : `${busy.value} … `}
        {busy.value !== undefined && (
          <button type="button" onClick={() => debug.stop()}>
            stop
          </button>
        )}
      </p>
    </div>
  );
}

/** By itself: it changes with each move. */
function Where({ debug }: { debug: Debugger }) {
  const { position, count } = debug;
  return (
    <p class="where facts">
      event {position.value.toLocaleString('en')} of {count.value.toLocaleString('en')}
      {debug.grown.value >= 0 && position.value > 0 && debug.columns.count >= position.value
        ? ` · sequence ${debug.seqOf(position.value)}`
        : ''}
      {count.value > 0 && ` · ${new Date(debug.clock.value).toISOString()}`}
    </p>
  );
}

function Button(props: { name: string; run: () => void; isOn?: boolean; children: ComponentChildren }) {
  const { name, run, isOn, children } = props;
  return (
    <button type="button" aria-label={name} title={name} aria-pressed={isOn} onClick={run}>
      {children}
    </button>
  );
}

interface AskProps {
  label: string;
  hint: string;
  field: (input: HTMLInputElement) => void;
  /** Whether the text was taken: the field is empty then. */
  enter: (text: string) => Promise<boolean>;
  keeps?: boolean;
}

function Ask({ label, hint, field, enter, keeps }: AskProps) {
  const [text, setText] = useState('');
  return (
    <form
      class="ask"
      onSubmit={(event) => {
        event.preventDefault();
        if (text.trim() === '') return;
        void enter(text).then((isTaken) => {
          if (!isTaken) return;
          if (keeps !== true) setText('');
          if (document.activeElement instanceof HTMLInputElement) document.activeElement.blur();
        });
      }}
    >
      <input
        type="text"
        aria-label={label}
        placeholder={hint}
        title={label}
        value={text}
        maxLength={1_000}
        spellcheck={false}
        autocomplete="off"
        ref={(input) => {
          if (input !== null) field(input);
        }}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === 'Escape') event.currentTarget.blur();
        }}
      />
    </form>
  );
}

function Search({ debug, fields }: { debug: Debugger; fields: Fields }) {
  const [kind, setKind] = useState<'text' | 'conditions'>('text');
  return (
    <div class="group" role="group" aria-label="Search">
      <select
        aria-label="What the search is"
        value={kind}
        onChange={(event) => setKind(event.currentTarget.value === 'text' ? 'text' : 'conditions')}
      >
        <option value="text">text</option>
        <option value="conditions">condition</option>
      </select>
      <Ask
        label="Search"
        hint={kind === 'text' ? 'search a text' : 'read > 100ms'}
        keeps
        field={(input) => (fields.search = input)}
        enter={async (text) => {
          debug.wanted.value = { kind, text };
          await debug.find(1);
          return true;
        }}
      />
      <Button name="The one before" run={() => void debug.find(-1)}>
        ↑
      </Button>
      <Button name="The next one" run={() => void debug.find(1)}>
        ↓
      </Button>
    </div>
  );
}

function Breakpoints({ debug, fields }: { debug: Debugger; fields: Fields }) {
  const { breakpoints } = debug;
  return (
    <div class="group" role="group" aria-label="Breakpoints">
      <Ask
        label="Set a breakpoint"
        hint="break: block 4711 present"
        field={(input) => (fields.breakpoint = input)}
        enter={async (text) => await debug.addBreakpoint(text)}
      />
      {breakpoints.value.map((text) => (
        <span class="chip" key={text}>
          {text}
          <button
            type="button"
            class="quiet"
            aria-label={`Remove the breakpoint ${text}`}
            onClick={() => debug.removeBreakpoint(text)}
          >
            ✕
          </button>
        </span>
      ))}
      {breakpoints.value.length > 0 && (
        <>
          <Button name="The breakpoint before" run={() => void debug.toBreakpoint(-1)}>
            ↑
          </Button>
          <Button name="The next breakpoint" run={() => void debug.toBreakpoint(1)}>
            ↓
          </Button>
        </>
      )}
    </div>
  );
}
