/** The keys of the view Log: those of the terminal view. The help prints the same table. */
import type { Debugger } from './debugger.ts';
import { zoomBy } from './time-line.tsx';

/** Fields that a key leads to. */
export type Field = 'moment' | 'search' | 'breakpoint';

interface Command {
  keys: readonly string[];
  run: (debug: Debugger, focus: (field: Field) => void) => void;
}

interface Group {
  shown: string;
  does: string;
  commands: readonly Command[];
}

const on = (keys: readonly string[], run: Command['run']): Command => ({ keys, run });

const GROUPS: readonly Group[] = [
  {
    shown: '→ ← ↓ ↑ l h j k',
    does: 'the next event, the one before',
    commands: [
      on(['ArrowRight', 'ArrowDown', 'l', 'j'], (debug) => debug.step(1)),
      on(['ArrowLeft', 'ArrowUp', 'h', 'k'], (debug) => debug.step(-1)),
    ],
  },
  {
    shown: 'PgDn PgUp J K',
    does: 'ten on, back',
    commands: [
      on(['PageDown', 'J'], (debug) => debug.step(10)),
      on(['PageUp', 'K'], (debug) => debug.step(-10)),
    ],
  },
  {
    shown: '] [',
    does: 'a thousand',
    commands: [on([']'], (debug) => debug.step(1_000)), on(['['], (debug) => debug.step(-1_000))],
  },
  {
    shown: 'g G Home End',
    does: 'the beginning, the end',
    commands: [
      on(['Home', 'g'], (debug) => debug.jump(0)),
      on(['End', 'G'], (debug) => debug.jump(debug.count.value)),
    ],
  },
  {
    shown: ':',
    does: 'go to a sequence or a time: 1234, 12:00:03, -10m, +3s',
    commands: [on([':'], (_, focus) => focus('moment'))],
  },
  {
    shown: 'r R',
    does: 'the next read that waited, the one before',
    commands: [on(['r'], (debug) => void debug.toRead(1)), on(['R'], (debug) => void debug.toRead(-1))],
  },
  {
    shown: '/ n N',
    does: 'search; the next, the one before',
    commands: [
      on(['/'], (_, focus) => focus('search')),
      on(['n'], (debug) => void debug.find(1)),
      on(['N'], (debug) => void debug.find(-1)),
    ],
  },
  {
    shown: 'b c C B',
    does: 'set a breakpoint; go to the next, back; take all away',
    commands: [
      on(['b'], (_, focus) => focus('breakpoint')),
      on(['c'], (debug) => void debug.toBreakpoint(1)),
      on(['C'], (debug) => void debug.toBreakpoint(-1)),
      on(['B'], (debug) => (debug.breakpoints.value = [])),
    ],
  },
  {
    shown: 'Space P + -',
    does: 'play, play backwards, pause; faster, slower',
    commands: [
      on([' '], (debug) => void debug.togglePlaying(1)),
      on(['P'], (debug) => void debug.togglePlaying(-1)),
      on(['+', '='], (debug) => debug.changeSpeed(1)),
      on(['-'], (debug) => debug.changeSpeed(-1)),
    ],
  },
  {
    shown: 'f',
    does: 'follow the running engine',
    commands: [on(['f'], (debug) => debug.toggleFollowing())],
  },
  {
    shown: 'm d',
    does: 'mark a moment; what is different between it and here',
    commands: [on(['m'], (debug) => debug.setMark()), on(['d'], (debug) => void debug.showDifference())],
  },
  {
    shown: 'w',
    does: 'why: what reads waited for, what a start was spent on',
    commands: [on(['w'], (debug) => void debug.showWhy())],
  },
  {
    shown: 'z Z',
    does: 'zoom in, out; also Ctrl and the wheel',
    commands: [on(['z'], (debug) => zoomBy(debug, 0.5)), on(['Z'], (debug) => zoomBy(debug, 2))],
  },
  {
    shown: 'x',
    does: 'the axis by time or by events',
    commands: [
      on(['x'], (debug) => {
        debug.zoom.value = undefined;
        debug.axis.value = debug.axis.value === 'time' ? 'events' : 'time';
      }),
    ],
  },
  {
    shown: 'Esc',
    does: 'stop a search, close what lies beside',
    commands: [
      on(['Escape'], (debug) => {
        debug.stop();
        debug.closeDifference();
        void debug.leaveWhy();
      }),
    ],
  },
];

export const LOG_KEYS = GROUPS.map(({ shown, does }) => [shown, does] as const);

const BY_KEY = new Map(
  GROUPS.flatMap(({ commands }) =>
    commands.flatMap((command) => command.keys.map((key) => [key, command] as const)),
  ),
);

/** Whether the key did something. */
export function pressed(key: string, debug: Debugger, focus: (field: Field) => void): boolean {
  const command = BY_KEY.get(key);
  command?.run(debug, focus);
  return command !== undefined;
}
