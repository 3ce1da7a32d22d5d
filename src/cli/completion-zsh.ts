/** What completes `cofa` in zsh (zshcompsys(1), `_arguments`). */
import type {
  DescribedArgument,
  DescribedCommand,
  DescribedOption,
  DescribedProgram,
} from './description.ts';

/** The script, to be called `_cofa` in a folder of `fpath`. */
export function zshCompletion({ globals, commands }: DescribedProgram): string {
  return `#compdef cofa
# zsh completion for cofa, printed by: cofa completion zsh
${functionOf('_cofa', '', [], globals, commands, [])}
${commands.map((one) => commandFunctions(one, globals, commands)).join('\n')}
if [ "$funcstack[1]" = _cofa ]; then _cofa "$@"; else compdef _cofa cofa; fi
`;
}

const nameOf = (name: string): string => `_cofa_${name.replaceAll(/[^a-z]/g, '_')}`;

function commandFunctions(
  one: DescribedCommand,
  globals: readonly DescribedOption[],
  all: readonly DescribedCommand[],
): string {
  const subject = one.name === 'help' ? [helpTopic(all)] : one.arguments.map(place);
  const own = functionOf(nameOf(one.name), one.name, one.options, globals, one.commands, subject);
  return [own, ...one.commands.map((sub) => commandFunctions(sub, globals, all))].join('\n');
}

function functionOf(
  name: string,
  parent: string,
  options: readonly DescribedOption[],
  globals: readonly DescribedOption[],
  commands: readonly DescribedCommand[],
  places: readonly string[],
): string {
  const specs = [...options, ...globals].flatMap(optionSpecs);
  if (commands.length === 0) {
    return `${name}() {\n  _arguments -S ${[...specs, ...places].map((one) => `\\\n    ${one}`).join(' ')}\n}`;
  }
  const list = commands.map(({ name: full, summary }) => {
    const word = full.slice(parent === '' ? 0 : parent.length + 1);
    return `    ${quote(`${word}:${summary}`)}`;
  });
  const calls = commands.map(({ name: full }) => {
    const word = full.slice(parent === '' ? 0 : parent.length + 1);
    return `        ${word}) ${nameOf(full)} ;;`;
  });
  return `${name}() {
  local context state state_descr line
  typeset -A opt_args
  local -a commands=(
${list.join('\n')}
  )
  _arguments -C -S ${[...specs, "'1: :->command'", "'*:: :->rest'"].map((one) => `\\\n    ${one}`).join(' ')}
  case $state in
    command) _describe -t commands 'cofa command' commands ;;
    rest)
      case $line[1] in
${calls.join('\n')}
      esac
      ;;
  esac
}`;
}

function optionSpecs({ short, long, value, isOptional, about, choices, kind }: DescribedOption): string[] {
  const what = `[${escape(about)}]`;
  const action =
    choices === undefined
      ? { file: '_files', dir: '_directories', word: ' ' }[kind]
      : `(${choices.join(' ')})`;
  const argument = value === undefined ? '' : `:${escape(value.replaceAll(/[<>[\]]/g, ''))}:${action}`;
  const equals = value === undefined ? '' : isOptional ? '=-' : '=';
  const optional = isOptional && value !== undefined ? `:${argument}` : argument;
  const repeats = long === '--help' ? '' : '*';
  return [
    quote(`${repeats}${long}${equals}${what}${optional}`),
    ...(short === undefined
      ? []
      : [quote(`${repeats}${short}${value === undefined ? '' : '+'}${what}${argument}`)]),
  ];
}

function place({ words, kind, isVariadic, choices }: DescribedArgument): string {
  const name = escape(words.replaceAll(/[<>[\].]/g, ''));
  const action =
    choices === undefined
      ? { file: '_files', dir: '_directories', word: ' ' }[kind]
      : `(${choices.join(' ')})`;
  // Behind an image stands a command, with options of its own.
  if (words === '[command...]') return quote(`*::${name}:_default`);
  return quote(`${isVariadic ? '*' : ''}:${name}:${action}`);
}

const helpTopic = (all: readonly DescribedCommand[]): string =>
  quote(`:topic:(${[...all.map(({ name }) => name), 'exit-codes'].join(' ')})`);

const escape = (text: string): string => text.replaceAll(/[\\[\]:]/g, (one) => `\\${one}`);
const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
