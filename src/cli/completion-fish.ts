/** What completes `cofa` in fish (complete(1) of fish). */
import type {
  DescribedArgument,
  DescribedCommand,
  DescribedOption,
  DescribedProgram,
} from './description.ts';

export function fishCompletion({ globals, commands }: DescribedProgram): string {
  const names = commands.map(({ name }) => name).join(' ');
  const lines = [
    '# fish completion for cofa, printed by: cofa completion fish',
    'complete -c cofa -f',
    ...globals.map((one) => optionLine('', one)),
    ...commands.map(({ name, summary }) =>
      line(`not __fish_seen_subcommand_from ${names}`, `-a ${name} -d ${quote(summary)}`),
    ),
    ...commands.flatMap((one) => commandLines(one, names)),
  ];
  return `${lines.join('\n')}\n`;
}

function commandLines(command: DescribedCommand, all: string): string[] {
  const { name, commands } = command;
  const inside = `__fish_seen_subcommand_from ${name}`;
  if (commands.length === 0) return ownLines(command, inside, all);
  const words = commands.map((one) => one.name.slice(name.length + 1));
  return [
    ...commands.map((one, at) =>
      line(
        `${inside}; and not __fish_seen_subcommand_from ${words.join(' ')}`,
        `-a ${words[at]} -d ${quote(one.summary)}`,
      ),
    ),
    ...ownLines({ ...command, arguments: [] }, inside, all),
    ...commands.flatMap((one, at) =>
      ownLines(one, `${inside}; and __fish_seen_subcommand_from ${words[at]}`, all),
    ),
  ];
}

function ownLines(command: DescribedCommand, condition: string, all: string): string[] {
  const places =
    command.name === 'help' ? [`-a ${quote(`${all} exit-codes`)}`] : command.arguments.flatMap(place);
  return [
    ...command.options.map((one) => optionLine(condition, one)),
    ...places.map((one) => line(condition, one)),
  ];
}

function place({ choices, kind }: DescribedArgument): string[] {
  if (choices !== undefined) return [`-a ${quote(choices.join(' '))}`];
  return { file: ['-F'], dir: ["-a '(__fish_complete_directories)'"], word: [] }[kind];
}

function optionLine(condition: string, option: DescribedOption): string {
  const { short, long, value, isOptional, choices, kind, about } = option;
  const words = [`-l ${long.slice(2)}`];
  if (short !== undefined) words.unshift(`-s ${short.slice(1)}`);
  // A value that may be missing stands behind =.
  if (value !== undefined && !isOptional) {
    const what = { file: '-r -F', dir: "-xa '(__fish_complete_directories)'", word: '-x' }[kind];
    words.push(choices === undefined ? what : `-xa ${quote(choices.join(' '))}`);
  }
  return line(condition, `${words.join(' ')} -d ${quote(about)}`);
}

const line = (condition: string, rest: string): string =>
  `complete -c cofa${condition === '' ? '' : ` -n ${quote(condition)}`} ${rest}`;
const quote = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
