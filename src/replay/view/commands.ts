/**
 * Every action of the view as a command: an id, its keys, what it does. Commands stand in the order of the help, in
 * groups that share a line of it. The session looks keys up here and the help overlay prints the same table, so a key
 * that works is a key that the help knows.
 */
import type { Key, KeyName } from './keys.ts';
import type { Session } from './session.ts';

/** Where keys go: the list of events, the state beside it, or what lies above both. */
export type Place = 'events' | 'state' | 'overlay';

/** A named key, or the character that a key types. */
type KeyText = KeyName | (string & {});

export interface Command {
  /** Names the command in tests; the same id never stands twice. */
  id: string;
  place: Place;
  keys: readonly KeyText[];
  run: (session: Session) => void;
}

export interface CommandGroup {
  /** The keys as the help shows them; undefined: the help does not list the group. */
  keys?: string;
  /** Lines of help; the keys stand beside the first. */
  help: readonly string[];
  commands: readonly Command[];
}

type Commands = (id: string, keys: readonly KeyText[], run: Command['run']) => Command;

const inPlace =
  (place: Place): Commands =>
  (id, keys, run) => ({ id, place, keys, run });

const onEvents = inPlace('events');
const onState = inPlace('state');
const onOverlay = inPlace('overlay');

/** In the state keys that its own commands do not know do what they do in the events. */
const FALLBACK: Partial<Record<Place, Place>> = { state: 'events' };

export const COMMAND_GROUPS: readonly CommandGroup[] = [
  {
    keys: '→ ←  ↓ ↑  l h  j k',
    help: ['the next event, the one before'],
    commands: [
      onEvents('event.next', ['right', 'down', 'l', 'j'], (session) => session.step(1)),
      onEvents('event.previous', ['left', 'up', 'h', 'k'], (session) => session.step(-1)),
      onOverlay('overlay.down', ['down', 'j'], (session) => session.moveInOverlay(1)),
      onOverlay('overlay.up', ['up', 'k'], (session) => session.moveInOverlay(-1)),
    ],
  },
  {
    keys: 'PgDn PgUp  J K',
    help: ['ten events on, back'],
    commands: [
      onEvents('event.ten-on', ['page-down', 'J'], (session) => session.step(10)),
      onEvents('event.ten-back', ['page-up', 'K'], (session) => session.step(-10)),
      onOverlay('overlay.ten-down', ['page-down', ' '], (session) => session.moveInOverlay(10)),
      onOverlay('overlay.ten-up', ['page-up'], (session) => session.moveInOverlay(-10)),
    ],
  },
  {
    keys: '] [',
    help: ['a thousand'],
    commands: [
      onEvents('event.thousand-on', [']'], (session) => session.step(1000)),
      onEvents('event.thousand-back', ['['], (session) => session.step(-1000)),
    ],
  },
  {
    keys: 'g G  Home End',
    help: ['the beginning, the end'],
    commands: [
      onEvents('event.first', ['home', 'g'], (session) => session.jump(0)),
      onEvents('event.last', ['end', 'G'], (session) => session.jump(session.log.count)),
      onOverlay('overlay.top', ['home', 'g'], (session) => session.toTopOfOverlay()),
    ],
  },
  {
    keys: ': t',
    help: ['go to a sequence or time: 1234, 12:00:03, -10m, +3s'],
    commands: [onEvents('moment.ask', [':', 't'], (session) => session.ask('jump'))],
  },
  {
    keys: 'r R',
    help: ['the next read that waited, the one before'],
    commands: [
      onEvents('read.next', ['r'], (session) => session.toRead(1)),
      onEvents('read.previous', ['R'], (session) => session.toRead(-1)),
    ],
  },
  {
    keys: '/',
    help: ['search a text; n N: the next, the one before'],
    commands: [
      onEvents('search.ask', ['/'], (session) => session.ask('search')),
      onEvents('search.next', ['n'], (session) => session.find(1)),
      onEvents('search.previous', ['N'], (session) => session.find(-1)),
    ],
  },
  {
    keys: 'b',
    help: [
      'set a breakpoint; c C: go to the next, back; B: take all away',
      '  block 4711 present · read > 100ms · read failed · job > 1s',
      '  event mount.* · layer 3f2a · image app:1 · text "x" · and · or',
    ],
    commands: [
      onEvents('breakpoint.ask', ['b'], (session) => session.ask('breakpoint')),
      onEvents('breakpoint.next', ['c'], (session) => session.toBreakpoint(1)),
      onEvents('breakpoint.previous', ['C'], (session) => session.toBreakpoint(-1)),
      onEvents('breakpoint.clear', ['B'], (session) => session.clearBreakpoints()),
    ],
  },
  {
    keys: 'Space',
    help: ['play, pause; + -: faster, slower (0.01x to 1000x)'],
    commands: [
      onEvents('play.toggle', [' '], (session) => session.togglePlaying()),
      onEvents('play.faster', ['+', '='], (session) => session.changeSpeed(1)),
      onEvents('play.slower', ['-'], (session) => session.changeSpeed(-1)),
    ],
  },
  {
    keys: 'f',
    help: ['follow a running engine'],
    commands: [onEvents('follow.toggle', ['f'], (session) => session.toggleFollowing())],
  },
  {
    keys: 'm',
    help: ['mark a moment; d: what is different between it and here'],
    commands: [
      onEvents('mark.set', ['m'], (session) => session.setMark()),
      onEvents('mark.difference', ['d'], (session) => session.showDifference()),
    ],
  },
  {
    keys: 'w',
    help: [
      'why: what reads waited for (on a layer.trace, or whatever waits',
      '  now), what a start was spent on (on a mount event)',
    ],
    commands: [onEvents('why.show', ['w'], (session) => session.showWhy())],
  },
  {
    keys: 'Enter',
    help: ['the whole event; in a list: open'],
    commands: [
      onEvents('event.show', ['enter'], (session) => session.showEvent()),
      onOverlay('overlay.open', ['enter', 'right'], (session) => session.openInOverlay()),
    ],
  },
  {
    keys: 'Tab',
    help: ['the arrows move in the state, or in the events again'],
    commands: [
      onEvents('focus.toggle', ['tab'], (session) => session.toggleFocus()),
      onState('state.up', ['up', 'k'], (session) => session.scrollState(-1)),
      onState('state.down', ['down', 'j'], (session) => session.scrollState(1)),
    ],
  },
  {
    keys: 'x',
    help: ['axis by time or by events'],
    commands: [onEvents('axis.toggle', ['x'], (session) => session.toggleAxis())],
  },
  {
    keys: 'Esc q',
    help: ['close, stop a search; q here: leave'],
    commands: [
      onEvents('view.leave', ['q'], (session) => session.leave()),
      // Esc one time too often closes nothing more.
      onEvents('view.stay', ['escape'], () => undefined),
      onOverlay('overlay.close', ['escape', 'q', 'left', 'backspace'], (session) => session.closeOverlay()),
    ],
  },
  {
    keys: 'Ctrl-L Ctrl-Z',
    help: ['draw anew, to the shell (fg comes back)'],
    // run.ts clears the screen, and takes Ctrl-Z before the session sees it.
    commands: [onEvents('view.redraw', ['redraw'], () => undefined)],
  },
  {
    help: [],
    commands: [
      onEvents('help.show', ['?'], (session) => session.showHelp()),
      onOverlay('help.show-above', ['?'], (session) => session.showHelp()),
    ],
  },
];

const BY_KEY = new Map(
  COMMAND_GROUPS.flatMap(({ commands }) =>
    commands.flatMap((command) => command.keys.map((key) => [`${command.place} ${key}`, command] as const)),
  ),
);

/** The command of a key; undefined where it has none. */
export function commandOf(place: Place, key: Key): Command | undefined {
  const text = key.name === 'text' ? key.text : key.name;
  const fallback = FALLBACK[place];
  return (
    BY_KEY.get(`${place} ${text}`) ?? (fallback === undefined ? undefined : BY_KEY.get(`${fallback} ${text}`))
  );
}

/** The lines of the help: keys, and what they do. */
export function helpRows(): Array<readonly [keys: string, does: string]> {
  return COMMAND_GROUPS.flatMap(({ keys, help }) =>
    keys === undefined ? [] : help.map((does, line) => [line === 0 ? keys : '', does] as const),
  );
}
