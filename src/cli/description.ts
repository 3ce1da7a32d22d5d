/** Every command as plain data, from the declarations that `--help` prints: for completions and the manual. */
import type { Argument, Command, Option } from 'commander';
import { buildWholeProgram } from './command-line.ts';
import { Context, type Parse } from './context.ts';

/** What belongs in the place of a word. */
export type WordKind = 'word' | 'file' | 'dir';

export interface DescribedOption {
  short: string | undefined;
  long: string;
  /** Its value as the help writes it, such as `<file>`; undefined: it takes none. */
  value: string | undefined;
  /** Whether it can do without its value; then that stands behind `=`. */
  isOptional: boolean;
  kind: WordKind;
  /** The only words that it takes; undefined: any. */
  choices: readonly string[] | undefined;
  about: string;
  fallback: string | undefined;
}

export interface DescribedArgument {
  /** As the help writes it: `<ref>`, `[command...]`. */
  words: string;
  kind: WordKind;
  isVariadic: boolean;
  choices: readonly string[] | undefined;
  about: string;
}

export interface DescribedCommand {
  /** All words behind `cofa`: `up`, `trust add`. */
  name: string;
  /** One line; of a command in a command its description. */
  summary: string;
  description: string;
  group: string;
  arguments: readonly DescribedArgument[];
  /** Without the global ones. */
  options: readonly DescribedOption[];
  /** Texts behind the options: remarks, then examples. */
  after: string;
  commands: readonly DescribedCommand[];
}

export interface DescribedProgram {
  description: string;
  globals: readonly DescribedOption[];
  commands: readonly DescribedCommand[];
}

/** Describes the whole program. Loads the code of every command. */
export async function describeProgram(): Promise<DescribedProgram> {
  const nowhere = () => {};
  const program = await buildWholeProgram(new Context({ out: nowhere, err: nowhere, errIsTerminal: false }));
  const globals = program.options.filter(({ long }) => long !== '--version').map(describeOption);
  const known = new Set(globals.map(({ long }) => long));
  return {
    description: program.description(),
    globals: [...globals, HELP],
    commands: program.commands.map((command) => describeCommand(command, '', known)),
  };
}

const HELP: DescribedOption = {
  short: '-h',
  long: '--help',
  value: undefined,
  isOptional: false,
  kind: 'word',
  choices: undefined,
  about: 'show help',
  fallback: undefined,
};

function describeCommand(command: Command, parent: string, globals: ReadonlySet<string>): DescribedCommand {
  const name = `${parent} ${command.name()}`.trim();
  return {
    name,
    summary: command.summary() || command.description(),
    description: command.description() || command.summary(),
    group: command.helpGroup(),
    arguments: command.registeredArguments.map(describeArgument),
    options: command.options
      .filter(({ long, hidden }) => !hidden && !globals.has(long ?? ''))
      .map(describeOption),
    after: textAfterHelp(command),
    commands: command.commands.map((one) => describeCommand(one, name, globals)),
  };
}

/** What `addHelpText` has put behind the help. */
function textAfterHelp(command: Command): string {
  let text = '';
  command.configureOutput({ writeOut: (part) => (text += part), getOutHelpWidth: () => 100 });
  const help = command.helpInformation();
  command.outputHelp();
  return text.slice(help.length).trim();
}

function describeOption(option: Option): DescribedOption {
  const value = /[<[].*[>\]]/.exec(option.flags)?.[0];
  return {
    short: option.short,
    long: option.long ?? '',
    value,
    isOptional: option.optional,
    kind: kindOf(value ?? ''),
    choices: choicesOf(option.parseArg),
    about: option.description,
    fallback:
      option.defaultValue === undefined || option.negate || value === undefined
        ? undefined
        : (option.defaultValueDescription ?? String(option.defaultValue)),
  };
}

function describeArgument(argument: Argument): DescribedArgument {
  const name = `${argument.name()}${argument.variadic ? '...' : ''}`;
  return {
    words: argument.required ? `<${name}>` : `[${name}]`,
    kind: kindOf(name),
    isVariadic: argument.variadic,
    choices: choicesOf(argument.parseArg),
    about: argument.description,
  };
}

const choicesOf = (parse: unknown): readonly string[] | undefined => (parse as Parse | undefined)?.choices;

/** The help's words for values say what they are. */
function kindOf(words: string): WordKind {
  if (/\bdir\b/.test(words)) return 'dir';
  return /\b(file|path|socket)\b/.test(words) ? 'file' : 'word';
}
