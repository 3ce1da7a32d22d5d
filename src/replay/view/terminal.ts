/**
 * The terminal of the view: raw keys in, whole screens out. Whatever way the process ends, short of SIGKILL, the terminal
 * is given back as it was: alternate screen left, cursor shown, line mode on.
 */
import { ReadStream, isatty } from 'node:tty';
import { CofaError } from '../../../schemas/errors.ts';
import { Interrupted } from '../../terminal/interrupted.ts';
import type { Size } from './canvas.ts';
import { type Key, KeyReader } from './keys.ts';

/** xterm's private modes: 1049 is the alternate screen with the cursor's place saved, 25 the cursor. */
const ENTER = '\x1b[?1049h\x1b[?25l\x1b[2J';
const LEAVE = '\x1b[0m\x1b[?25h\x1b[?1049l';
/** An escape that nothing follows for this long, ms, is the escape key. */
const ESCAPE_MS = 40;

export interface TerminalEvents {
  keys(keys: Key[]): void;
  /** The screen has another size, or has been drawn over by others. */
  changed(): void;
  /** A signal asks to end. */
  stopped(reason: Interrupted): void;
}

/** Error `invalid-argument` where input or output is no terminal. */
export function checkTerminal(): void {
  if (isatty(0) && isatty(1) && process.env.TERM !== 'dumb') return;
  throw new CofaError('invalid-argument', 'the view needs a terminal', {
    hint: 'for scripts: cofa replay with --at, --diff, --events, --break or why, and --json',
  });
}

export class Terminal {
  readonly #write: (text: string) => void;
  readonly #events: TerminalEvents;
  readonly #input: ReadStream;
  readonly #reader = new KeyReader();
  #timer: NodeJS.Timeout | undefined;
  #isOpen = false;
  #isSuspended = false;

  constructor(write: (text: string) => void, events: TerminalEvents) {
    this.#write = write;
    this.#events = events;
    this.#input = new ReadStream(0);
    this.#input.setEncoding('utf8');
    this.#input.on('data', (text: string) => this.#feed(text));
    // The terminal has gone: a closed window, a cut connection.
    this.#input.on('error', this.#gone);
    this.#input.on('end', this.#gone);
    process.on('exit', this.#restore);
    // Before Node prints what it dies of.
    process.on('uncaughtExceptionMonitor', this.#restore);
    process.on('SIGCONT', this.#resume);
    process.stdout.on('resize', this.#changed);
    for (const signal of SIGNALS) process.on(signal, this.#signalled);
    this.#open();
  }

  get size(): Size {
    const { columns = 80, rows = 24 } = process.stdout;
    return { columns: Math.max(1, Math.min(columns, 1_000)), rows: Math.max(1, Math.min(rows, 500)) };
  }

  write(text: string): void {
    if (this.#isOpen) this.#write(text);
  }

  /** To the shell, until it brings the process back. */
  suspend(): void {
    this.#restore();
    this.#isSuspended = true;
    // The whole group, as the terminal itself would. Without a shell that controls jobs nothing stops, and it goes on.
    process.kill(0, 'SIGTSTP');
    setTimeout(this.#resume, 20);
  }

  /** Gives the terminal back. */
  close(): void {
    this.#restore();
    clearTimeout(this.#timer);
    process.off('exit', this.#restore);
    process.off('uncaughtExceptionMonitor', this.#restore);
    process.off('SIGCONT', this.#resume);
    process.stdout.off('resize', this.#changed);
    for (const signal of SIGNALS) process.off(signal, this.#signalled);
    this.#input.removeAllListeners();
    this.#input.destroy();
  }

  #open(): void {
    if (this.#isOpen) return;
    this.#isOpen = true;
    this.#input.setRawMode(true);
    this.#write(ENTER);
  }

  readonly #restore = (): void => {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    try {
      this.#write(LEAVE);
    } finally {
      this.#input.setRawMode(false);
    }
  };

  readonly #resume = (): void => {
    if (this.#isSuspended) {
      this.#isSuspended = false;
      this.#open();
    } else if (this.#isOpen) {
      // Stopped from outside: a shell may have set the modes meanwhile, and setting what is set would do nothing.
      this.#input.setRawMode(false);
      this.#input.setRawMode(true);
    } else return;
    this.#events.changed();
  };

  readonly #changed = (): void => this.#events.changed();

  readonly #signalled = (signal: NodeJS.Signals): void => this.#events.stopped(new Interrupted(signal));

  readonly #gone = (): void => this.#events.stopped(new Interrupted('SIGHUP'));

  #feed(text: string): void {
    clearTimeout(this.#timer);
    const keys = this.#reader.feed(text);
    if (keys.length > 0) this.#events.keys(keys);
    if (this.#reader.isWaiting)
      this.#timer = setTimeout(() => this.#events.keys(this.#reader.flush()), ESCAPE_MS);
  }
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;
