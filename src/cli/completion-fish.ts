/** What completes `cofa` in fish (complete(1) of fish). */
import type {
  DescribedArgument,
  DescribedCommand,
  DescribedOption,
  DescribedProgram,
} from './description.ts';

/**
 * Which command a line names are its words without options, from the first on: `cofa trust rm` is not `cofa rm`, as fish's own
 * `__fish_seen_subcommand_from` has it.
 */
const FUNCTIONS = `function __cofa_words
  set -l value
  for word in (commandline -opc)[2..-1]
    if set -q value[1]
      set -e value[1]
    else if test "$word" = --root
      set value 1
    else if not string match -q -- '-*' $word
      echo $word
    end
  end
end
function __cofa_none
  test (count (__cofa_words)) -eq 0
end
function __cofa_in
  set -l words (__cofa_words)
  set -l most (count $argv)
  test (count $words) -ge $most; and test "$words[1..$most]" = "$argv"
end`;

export function fishCompletion({ globals, commands }: DescribedProgram): string {
  const names = commands.map(({ name }) => name).join(' ');
  const lines = [
    '# fish completion for cofa, printed by: cofa completion fish',
    FUNCTIONS,
    'complete -c cofa -f',
    ...globals.map((one) => optionLine('', one)),
    ...commands.map(({ name, summary }) => line('__cofa_none', `-a ${name} -d ${quote(summary)}`)),
    ...commands.flatMap((one) => commandLines(one, names)),
  ];
  return `${lines.join('\n')}\n`;
}

function commandLines(command: DescribedCommand, all: string): string[] {
  const { name, commands } = command;
  if (commands.length === 0) return ownLines(command, `__cofa_in ${name}`, all);
  // What is typed behind the name of a group is one of its commands, or the group's own.
  const alone = [name, ...commands.map((one) => one.name)]
    .map((one) => `__cofa_in ${one}`)
    .join('; and not ');
  return [
    ...commands.map((one) => line(alone, `-a ${one.name.slice(name.length + 1)} -d ${quote(one.summary)}`)),
    ...ownLines({ ...command, arguments: [] }, alone, all),
    ...commands.flatMap((one) => ownLines(one, `__cofa_in ${one.name}`, all)),
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
