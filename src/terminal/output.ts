/**
 * What a command says: data on standard output (for people, or as JSON), everything else on standard error.
 * Written with write(2) right away: the streams of node:process cost start-up time, and make the descriptors that a
 * container inherits non-blocking.
 */
import { writeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { printable } from './printable.ts';

export { printable } from './printable.ts';

export interface Sink {
  /** Standard output. */
  out(text: string): void;
  /** Standard error. */
  err(text: string): void;
  errIsTerminal: boolean;
}

export const processSink: Sink = {
  out: (text) => writeAll(1, text),
  err: (text) => writeAll(2, text),
  errIsTerminal: isatty(2),
};

export class Output {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly #sink: Sink;

  constructor(sink: Sink, options: { json: boolean; quiet: boolean }) {
    this.#sink = sink;
    this.json = options.json;
    this.quiet = options.quiet;
  }

  /** The result of a command: one JSON document, or the text that `human` gives. */
  data(value: unknown, human: () => string): void {
    this.#sink.out(this.json ? `${JSON.stringify(value, null, 2)}\n` : withNewline(human()));
  }

  /** One of many results: a JSON document a line. */
  line(value: unknown, human: () => string): void {
    this.#sink.out(this.json ? `${JSON.stringify(value)}\n` : withNewline(human()));
  }

  /** A remark beside the result; nothing with `--quiet` or `--json`. */
  note(text: string): void {
    if (!this.quiet && !this.json) this.#sink.err(`cofa: ${printable(text)}\n`);
  }

  /** A remark that matters also to those who asked for quiet. */
  warn(text: string): void {
    this.#sink.err(`cofa: ${printable(text)}\n`);
  }

  /** Where progress goes; undefined where the user does not want to see it. */
  get progress(): Sink | undefined {
    return this.quiet || this.json ? undefined : this.#sink;
  }
}

function withNewline(text: string): string {
  return text === '' || text.endsWith('\n') ? text : `${text}\n`;
}

/** All of it, also to a pipe that another process made non-blocking. A reader that has gone ends the process. */
function writeAll(fd: 1 | 2, text: string): void {
  let rest = Buffer.from(text);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (error) {
      const { code } = error as { code?: unknown };
      if (code === 'EAGAIN') Atomics.wait(PAUSE, 0, 0, 5);
      // As a program killed by SIGPIPE: `cofa events | head` ends without a word.
      else if (code === 'EPIPE') process.exit(141);
      else throw error;
    }
  }
}

const PAUSE = new Int32Array(new SharedArrayBuffer(4));
