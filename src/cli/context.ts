/** What every command gets: the global options, where output goes, and how it is stopped. */
import { isAbsolute, resolve } from 'node:path';
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { Interrupted } from '../terminal/interrupted.ts';
import { Output, type Sink } from '../terminal/output.ts';

export const DEFAULT_ROOT = '/var/lib/cofa';

export interface GlobalOptions {
  root?: string;
  json?: boolean;
  quiet?: boolean;
}

/** Reads an option's word. `choices`: the only words that it takes, for completions. */
export interface Parse {
  (value: string, before: unknown): unknown;
  choices?: readonly string[];
}

/** How an option is declared: to commander, and to plain-line.ts. */
export interface OptionWords {
  /** As commander writes them: short and long form, and its value. */
  flags: string;
  about: string;
  /** Makes of the word, and of what the option said before, what it says now. Throws where the word is wrong. */
  parse?: Parse;
  /** What it says where it is not given. */
  fallback?: string | number | boolean;
  /** The same as people write it, such as `64MiB`: the option takes that word, too. */
  fallbackWords?: string;
  /** Left out of the help. */
  hidden?: boolean;
}

/** Every command takes these, before and behind its name. */
export const GLOBAL_OPTIONS: readonly OptionWords[] = [
  { flags: '--root <dir>', about: `state of the engine (default: $COFA_ROOT, else ${DEFAULT_ROOT})` },
  { flags: '--json', about: 'print data, and errors, as JSON' },
  { flags: '-q, --quiet', about: 'no progress, no remarks' },
];

/** Declares options on a command. */
export function addOptions(command: Command, options: readonly OptionWords[]): void {
  for (const { flags, about, parse, fallback, fallbackWords, hidden = false } of options) {
    const option = command.createOption(flags, about).hideHelp(hidden);
    if (fallback !== undefined) option.default(fallback, fallbackWords);
    if (parse !== undefined) option.argParser<unknown>(parse);
    command.addOption(option);
  }
}

export class Context {
  readonly sink: Sink;
  /** Exit code of a command that did its work and has bad news (`doctor`). */
  exit = 0;
  /** Called while a container of `cofa run` runs: there is time then. */
  readonly onRunning: () => void;
  #options: GlobalOptions = {};
  #stop: { signal: AbortSignal; handler: (signal: NodeJS.Signals) => void } | undefined;

  constructor(sink: Sink, onRunning: () => void = () => {}) {
    this.sink = sink;
    this.onRunning = onRunning;
  }

  /** Called once the options are parsed. */
  configure(options: GlobalOptions): void {
    this.#options = options;
  }

  get output(): Output {
    return new Output(this.sink, { json: this.#options.json === true, quiet: this.#options.quiet === true });
  }

  /** The cofa root: `--root`, else $COFA_ROOT, else /var/lib/cofa; absolute. */
  get root(): string {
    const root = this.#options.root ?? (process.env.COFA_ROOT || DEFAULT_ROOT);
    const path = isAbsolute(root) ? resolve(root) : resolve(process.cwd(), root);
    if (path === '/') throw new CofaError('invalid-argument', 'the cofa root cannot be /');
    return path;
  }

  /** What a user would type to reach the same root again: empty for the default. */
  get rootFlag(): string {
    return this.root === DEFAULT_ROOT || process.env.COFA_ROOT !== undefined ? '' : ` --root ${this.root}`;
  }

  /** Aborted by Ctrl-C and SIGTERM from the first use on; a second one ends the process at once. */
  signal(): AbortSignal {
    if (this.#stop === undefined) {
      const stop = new AbortController();
      const handler = (signal: NodeJS.Signals) => {
        const interrupted = new Interrupted(signal);
        if (stop.signal.aborted) process.exit(interrupted.exit);
        stop.abort(interrupted);
      };
      this.#stop = { signal: stop.signal, handler };
      for (const signal of STOPPING) process.on(signal, handler);
    }
    return this.#stop.signal;
  }

  /** Signals go back to Node's own handling. */
  close(): void {
    if (this.#stop === undefined) return;
    for (const signal of STOPPING) process.off(signal, this.#stop.handler);
    this.#stop = undefined;
  }
}

const STOPPING = ['SIGINT', 'SIGTERM'] as const;

/** One file a command: declares options, help and action on a commander command. */
export interface CommandModule {
  define(command: Command, context: Context): void;
}

/** Adds examples to the end of a command's help. */
export function examples(command: Command, lines: ReadonlyArray<readonly [line: string, why: string]>): void {
  const width = Math.max(...lines.map(([line]) => line.length));
  const text = lines
    .map(([line, why]) => `  ${why === '' ? line : `${line.padEnd(width)}  # ${why}`}`)
    .join('\n');
  command.addHelpText('after', `\nExamples:\n${text}\n`);
}

/** A number in an option. Error: `invalid-argument` naming the option. */
export function numberOption(
  name: string,
  o: { min: number; max: number; integer: boolean },
): (text: string) => number {
  return (text) => {
    const value = Number(text);
    const fits =
      text.trim() !== '' && value >= o.min && value <= o.max && (!o.integer || Number.isInteger(value));
    if (!fits) {
      const kind = o.integer ? 'a whole number' : 'a number';
      throw new CofaError(
        'invalid-argument',
        `${name}: ${JSON.stringify(text)} is not ${kind} from ${o.min} to ${o.max}`,
      );
    }
    return value;
  };
}

/** One of a few words in an option. Error: `invalid-argument` naming the option. */
export function oneOf(
  name: string,
  allowed: readonly string[],
): ((text: string) => string) & { choices: readonly string[] } {
  const parse = (text: string) => {
    if (allowed.includes(text)) return text;
    throw new CofaError(
      'invalid-argument',
      `${name}: ${JSON.stringify(text)} is not one of ${allowed.join(', ')}`,
    );
  };
  return Object.assign(parse, { choices: allowed });
}
