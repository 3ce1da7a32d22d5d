/** The view without a terminal: keys in, screens out. Screens are stored as text; `vitest -u` writes them anew. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { docsPictures } from '../../ops/replay-picture.ts';
import { repaint, toAnsi } from '../../src/replay/view/ansi.ts';
import { Canvas, textWidth } from '../../src/replay/view/canvas.ts';
import { COMMAND_GROUPS, commandOf } from '../../src/replay/view/commands.ts';
import { KeyReader } from '../../src/replay/view/keys.ts';
import { render } from '../../src/replay/view/render.ts';
import { Session } from '../../src/replay/view/session.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { LAYER_A, logOf, MOUNT, record, sampleRecords, START } from './sample-log.ts';
import { screenOf } from './screen.ts';

const SIZE = { columns: 80, rows: 24 };
const log = logOf(sampleRecords(), { distance: 7 });
log.paths = (_, block) => (block < 80 ? ['/usr/bin/app'] : ['/usr/lib/libapp.so', '/etc/app.conf']);

const open = (options: { isLive?: boolean } = {}) =>
  new Session(log, { title: 'start.cofa-log', now: () => 0, ...options });

/** Presses keys as a terminal would send them, and lets what they began come to its end. */
function type(session: Session, ...inputs: string[]): Session {
  const reader = new KeyReader();
  for (const input of inputs) {
    for (const key of [...reader.feed(input), ...reader.flush()]) session.press(key);
    for (let slice = 0; session.busy !== undefined && slice < 1_000; slice++) session.tick(0);
  }
  return session;
}

const screen = (session: Session, size = SIZE) => `${render(session, size).lines().join('\n')}\n`;
const footer = (session: Session) => render(session, SIZE).lines().at(-1);

describe('screens', () => {
  test.each([
    ['beginning', ['g'], SIZE],
    ['trace', ['lllllllll', 'h'], SIZE],
    ['flight', [':', '+460ms\r'], SIZE],
    ['wide', ['llllllll', 'm', 'll'], { columns: 120, rows: 36 }],
    ['help', ['?'], SIZE],
    ['why-read', ['llllllll', 'w', '\r'], SIZE],
    ['why-start', ['ll', 'w'], { columns: 110, rows: 34 }],
    ['diff', ['m', 'G', 'd'], SIZE],
    ['event', ['l', '\r'], SIZE],
    ['prompt', ['b', 'read > 100'], SIZE],
    ['error', ['b', 'blok 3\r'], SIZE],
  ])('%s', async (name, keys, size) => {
    await expect(screen(type(open(), ...keys), size)).toMatchFileSnapshot(`../fixtures/replay/${name}.txt`);
  });

  test('are of the size that is asked for, and one that is too small says so', () => {
    for (const size of [SIZE, { columns: 60, rows: 16 }, { columns: 200, rows: 70 }]) {
      const canvas = render(type(open(), 'G'), size);
      expect(canvas.lines()).toHaveLength(size.rows);
      for (const line of canvas.lines()) expect(textWidth(line)).toBeLessThanOrEqual(size.columns);
    }
    expect(screen(open(), { columns: 40, rows: 10 })).toMatch(/^this needs 60 columns/);
  });

  test('of an empty log, and of one that begins with a state', () => {
    const empty = new Session(logOf([]), { title: 'empty', now: () => 0 });
    expect(screen(type(empty, 'lhgGwd/x\r', 'n', ' '))).toMatch(/nothing has happened yet/);
  });
});

test('the pictures in the documentation are those of the code: node ops/replay-picture.ts --docs', async () => {
  for (const [name, svg] of await docsPictures())
    expect(readFileSync(new URL(`../../docs/${name}`, import.meta.url), 'utf8') === svg, name).toBe(true);
});

describe('commands', () => {
  const commands = COMMAND_GROUPS.flatMap((group) => group.commands);
  /** Names of keys in the help; other keys are shown as they are typed. */
  const SHOWN: Record<string, string> = {
    up: '↑',
    down: '↓',
    left: '←',
    right: '→',
    'page-up': 'PgUp',
    'page-down': 'PgDn',
    home: 'Home',
    end: 'End',
    enter: 'Enter',
    escape: 'Esc',
    tab: 'Tab',
    redraw: 'Ctrl-L',
    ' ': 'Space',
  };

  test('each has an id, and keys that no other command of its place has', () => {
    const ids = commands.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const command of commands)
      for (const key of command.keys) {
        const pressed = [...key].length === 1 ? { name: 'text' as const, text: key } : { name: key as 'up' };
        expect(commandOf(command.place, pressed)?.id).toBe(command.id);
      }
  });

  test('each key of the events stands in its line of the help; + has = beside it on many keyboards', () => {
    for (const { keys, help, commands: mine } of COMMAND_GROUPS) {
      if (keys === undefined) continue;
      const words = [...keys.split(/\s+/), ...help.join(' ').split(/[;:,]*\s+/)];
      for (const command of mine.filter(({ place }) => place === 'events'))
        for (const key of command.keys.filter((one) => one !== '='))
          expect(words, command.id).toContain(SHOWN[key] ?? key);
    }
  });

  test('in the state the arrows scroll it, other keys do what they do in the events', () => {
    expect(commandOf('state', { name: 'up' })?.id).toBe('state.up');
    expect(commandOf('state', { name: 'right' })?.id).toBe('event.next');
    expect(commandOf('overlay', { name: 'tab' })).toBeUndefined();
  });
});

describe('keys', () => {
  test('step, jump and say where the ends are', () => {
    const session = open();
    const at = (...keys: string[]) => type(session, ...keys).position;
    expect(at('l')).toBe(2);
    expect(at('\x1b[C')).toBe(3);
    expect(at('\x1b[D', 'h')).toBe(1);
    expect(at('\x1b[6~')).toBe(11);
    expect(at('\x1b[5~', '\x1b[5~')).toBe(0);
    expect(at('h')).toBe(0);
    expect(footer(session)).toBe('this is the beginning');
    expect(at('G')).toBe(29);
    expect(at('l')).toBe(29);
    expect(footer(session)).toBe('this is the end');
    expect(at('t', '17\r')).toBe(6);
    expect(at(':', '+110ms\r')).toBe(3);
    expect(at(':', '12', '\x1b')).toBe(3);
    expect(at(':', 'nonsense\r')).toBe(3);
    expect(footer(session)).toMatch(/^go to: nonsense█ "nonsense" is no moment/);
    expect(at('\x15', 'end\r')).toBe(29);
  });

  test('search forwards and backwards, and to reads', () => {
    const session = type(open(), '/', 'LAYER.TRACE\r');
    expect(session.log.seqOf(session.position)).toBe(20);
    expect(type(session, 'n').position).toBe(14);
    expect(type(session, 'N').position).toBe(9);
    expect(type(session, 'N').position).toBe(9);
    expect(footer(session)).toMatch(/no earlier event/);
    type(session, 'g', 'r', 'r');
    expect(session.clock).toBe(START + 405);
    expect(screen(session)).toMatch(/reads in flight: 2/);
    type(session, 'R');
    expect(session.clock).toBe(START + 400);
  });

  test('breakpoints stop what plays and can be gone to', () => {
    const session = type(open(), 'b', 'read > 100ms\r', 'b', 'event mount.*\r');
    expect(session.breakpoints).toHaveLength(2);
    expect(type(session, 'c').position).toBe(3);
    expect(footer(session)).toBe('breakpoint: event mount.*');
    type(session, 'c', ' ');
    expect(session.isPlaying).toBe(true);
    session.tick(100_000);
    expect(session).toMatchObject({ isPlaying: false, position: 9 });
    expect(footer(session)).toBe('breakpoint: read > 100ms');
    expect(type(session, 'C').position).toBe(7);
    expect(type(session, 'B', 'c').position).toBe(7);
    expect(footer(session)).toMatch(/no breakpoints/);
  });

  test('playing goes with recorded time, at a speed, to the end', () => {
    const session = type(open(), ' ');
    session.tick(105);
    expect(session).toMatchObject({ position: 2, clock: START + 105 });
    type(session, '+', '+', '+');
    expect(session.speed).toBe(10);
    session.tick(30);
    expect(session.clock).toBe(START + 405);
    // Between two events: two reads wait.
    expect(screen(session)).toMatch(/reads in flight: 2/);
    session.tick(60_000);
    expect(session).toMatchObject({ position: 29, isPlaying: false, clock: START + 5100 });
    for (const _ of Array.from({ length: 20 })) type(session, '-');
    expect(session.speed).toBe(0.01);
  });

  test('following takes what comes, and stops at a breakpoint', () => {
    const live = logOf(sampleRecords());
    const session = new Session(live, { title: 'live', isLive: true, now: () => 0 });
    expect(session.position).toBe(29);
    type(session, 'b', 'event mount.failed\r', 'f');
    session.append(record(500, 6_000, 'mount', MOUNT, { type: 'mount.mounted' }));
    expect(session.position).toBe(30);
    session.append(record(501, 6_001, 'mount', MOUNT, { type: 'mount.failed', code: 'x', message: 'y' }));
    expect(footer(session)).toBe('breakpoint: event mount.failed');
    session.append(record(502, 6_002, 'mount', MOUNT, { type: 'mount.mounted' }));
    expect(session).toMatchObject({ position: 31, isFollowing: false });
    type(session, 'h', 'f', 'h');
    session.append(record(503, 6_003, 'mount', MOUNT, { type: 'mount.mounted' }));
    expect(session).toMatchObject({ position: 31, isFollowing: false });
    session.end('gone');
    expect(footer(type(session, 'f'))).toMatch(/nothing is added/);
  });

  test('a long search is done in slices, and can be stopped', () => {
    const many = logOf(
      Array.from({ length: 9_000 }, (_, index) =>
        record(index + 1, index, 'layer', LAYER_A, { type: 'layer.blocks', ranges: [[index % 400, 1]] }),
      ),
    );
    let now = 0;
    const session = new Session(many, { title: 'long', now: () => (now += 15) });
    const reader = new KeyReader();
    for (const key of reader.feed('/nowhere\r')) session.press(key);
    expect(session.busy?.share).toBeGreaterThan(0);
    expect(footer(session)).toMatch(/^looking for "nowhere": \d+ %/);
    session.press({ name: 'escape' });
    expect(session).toMatchObject({ busy: undefined, position: 1 });
    for (const key of reader.feed('n')) session.press(key);
    for (let slice = 0; session.busy !== undefined && slice < 100; slice++) session.tick(0);
    expect(footer(session)).toMatch(/no later event/);
  });

  test('any keys in any order: nothing throws, the state is that of the position', () => {
    const key = fc.constantFrom(
      ...'lhjkJK][gGnNcC +-fmdwxbBrR?:/tq0123456789.*>ems'.split(''),
      '\r',
      '\x1b',
      '\t',
      '\x7f',
      '\x1b[A',
      '\x1b[6~',
      'read > 1ms',
      'mount',
    );
    const states = Array.from({ length: log.count + 1 }, (_, position) =>
      digestOfNodeState(log.stateAt(position)),
    );
    fc.assert(
      fc.property(
        fc.array(key, { maxLength: 60 }),
        fc.integer({ min: 20, max: 140 }),
        fc.integer({ min: 5, max: 50 }),
        (keys, columns, rows) => {
          const session = open();
          for (const one of keys) {
            type(session, one);
            if (session.isMoving) session.tick(700);
            const canvas = render(session, { columns, rows });
            expect(canvas.lines()).toHaveLength(rows);
          }
          expect(digestOfNodeState(log.stateAt(session.position))).toBe(states[session.position]);
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('what a terminal sends', () => {
  test('sequences are keys, also in pieces; an escape alone is one', () => {
    const reader = new KeyReader();
    expect(reader.feed('a\x1b[Aé\x1bOH\x1b[5~\x03')).toEqual([
      { name: 'text', text: 'a' },
      { name: 'up' },
      { name: 'text', text: 'é' },
      { name: 'home' },
      { name: 'page-up' },
      { name: 'interrupt' },
    ]);
    expect(reader.feed('\x1b')).toEqual([]);
    expect(reader.isWaiting).toBe(true);
    expect(reader.feed('[')).toEqual([]);
    expect(reader.feed('B')).toEqual([{ name: 'down' }]);
    reader.feed('\x1b');
    expect(reader.flush()).toEqual([{ name: 'escape' }]);
    expect(reader.feed('\x1b[1;5Cx')).toEqual([{ name: 'right' }, { name: 'text', text: 'x' }]);
    expect(reader.feed('\x1b[200~')).toEqual([{ name: 'unknown' }]);
  });

  test('anything is taken', () => {
    fc.assert(
      fc.property(fc.array(fc.string()), (inputs) => {
        const reader = new KeyReader();
        for (const input of inputs)
          for (const key of [...reader.feed(input), ...reader.flush()]) expect(key.name).toBeTypeOf('string');
        expect(reader.isWaiting).toBe(false);
      }),
    );
  });
});

describe('what a terminal is sent', () => {
  test('the rows that differ, so that the screen is the canvas', () => {
    let shown: readonly string[] | undefined;
    let written = '';
    const session = open();
    for (const keys of ['', 'l', 'G', '?', '\x1b', 'g']) {
      type(session, keys);
      const canvas = render(session, SIZE);
      const now = toAnsi(canvas, { colour: keys !== 'l' });
      const step = repaint(now, shown);
      shown = now;
      written += step;
      expect(screenOf(written, SIZE)).toEqual(canvas.lines());
    }
    expect(repaint(shown ?? [], shown)).toBe('');
  });

  test('no colours where none are wanted', () => {
    const plain = toAnsi(render(type(open(), 'G'), SIZE), { colour: false }).join('');
    const codes = new Set([...plain.matchAll(/\[([0-9;]*)m/g)].flatMap(([, code = '']) => code.split(';')));
    for (const code of codes) expect(['0', '1', '2', '4', '7']).toContain(code);
  });

  test('text from outside moves no cursor, and wide characters take two columns', () => {
    const canvas = new Canvas({ columns: 10, rows: 2 });
    canvas.text(0, 0, 'a\x1b[2Jb\u202e');
    expect(canvas.lines()[0]).toBe('a·[2Jb·');
    canvas.text(0, 1, '漢字漢字漢字');
    expect(canvas.lines()[1]).toBe('漢字漢字…');
    expect(textWidth('漢字e\u0301')).toBe(5);
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.nat(12), (text, column) => {
        const one = new Canvas({ columns: 12, rows: 1 });
        one.text(column, 0, text);
        expect(textWidth(one.lines()[0] ?? '')).toBeLessThanOrEqual(12);
        expect(one.lines()[0]).not.toMatch(/\p{Cc}/u);
      }),
    );
  });
});
