/** What completes `cofa` in bash (bash(1), "Programmable Completion"); it needs no package of completions. */
import type {
  DescribedArgument,
  DescribedCommand,
  DescribedOption,
  DescribedProgram,
} from './description.ts';

/** The script. Each command becomes three tables: its options, its options' values, its arguments. */
export function bashCompletion({ globals, commands }: DescribedProgram): string {
  const all = commands.flatMap((one) => [one, ...one.commands]);
  const cases = [
    tables('', [], globals, words(commands)),
    ...all.map((one) => tables(one.name, one.options, globals, argumentsOf(one, commands))),
  ];
  return `# bash completion for cofa, printed by: cofa completion bash
_cofa() {
  local cur=\${COMP_WORDS[COMP_CWORD]} before= path= place=0 at word options values arguments
  COMPREPLY=()
  # bash takes =, : and @ for words of their own: --trust=own is three.
  if [[ $cur == '=' ]]; then
    before=\${COMP_WORDS[COMP_CWORD-1]} cur=
  elif [[ \${COMP_WORDS[COMP_CWORD-1]} == '=' ]]; then
    before=\${COMP_WORDS[COMP_CWORD-2]}
  fi
  # The command that the words before the cursor name, and how many arguments it has got.
  _cofa_tables ''
  for (( at = 1; at < COMP_CWORD; at++ )); do
    word=\${COMP_WORDS[at]}
    case $word in
      [=:@]) (( at++ )) ;;
      -*)
        if [[ $values == *" $word:"[!?]* && \${COMP_WORDS[at+1]} != '=' ]]; then
          (( ++at == COMP_CWORD )) && before=$word
        fi
        ;;
      *)
        if _cofa_tables "\${path:+$path }$word"; then
          path="\${path:+$path }$word"
        else
          (( place++ ))
          # What follows the image of run belongs to the container.
          [[ $path == run ]] && { compopt -o default; return; }
        fi
        ;;
    esac
  done
  _cofa_tables "$path"
  if [[ -n $before ]]; then
    [[ $values == *" $before:"* ]] || return
    values=\${values#*" $before:"}
    values=\${values%% *}
    _cofa_kind "\${values#\\?}"
  elif [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
  else
    set -- $arguments
    (( place >= $# && $# > 0 )) && [[ \${!#} == *+ ]] && place=$(( $# - 1 ))
    (( place < $# )) || return
    shift "$place"
    _cofa_kind "\${1%+}"
  fi
}

# Completes by what belongs in a place: file, dir, word, or words with | between them.
_cofa_kind() {
  local IFS=$'\\n'
  case $1 in
    file) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")) ;;
    dir) compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur")) ;;
    file,*) compopt -o filenames; COMPREPLY=($(compgen -W "\${1#file,}" -- "$cur"; compgen -f -- "$cur")) ;;
    word) ;;
    *) COMPREPLY=($(compgen -W "\${1//|/$IFS}" -- "$cur")) ;;
  esac
}

# Of one command: its options; those with a value, as OPTION:WHAT, with ? before WHAT where it may be missing; what its arguments are, + behind one that repeats.
_cofa_tables() {
  case $1 in
${cases.join('\n')}
    *) return 1 ;;
  esac
}

complete -F _cofa cofa
`;
}

function tables(
  name: string,
  own: readonly DescribedOption[],
  globals: readonly DescribedOption[],
  places: string,
): string {
  const options = [...own, ...globals];
  const names = options.flatMap(({ short, long }) => (short === undefined ? [long] : [short, long]));
  const values = options.flatMap((one) =>
    one.value === undefined
      ? []
      : [one.long, ...(one.short === undefined ? [] : [one.short])]
          // A value that may be missing stands behind =; the next word is something else.
          .map((word) => `${word}:${one.isOptional ? '?' : ''}${one.choices?.join('|') ?? one.kind}`),
  );
  return `    '${name}') options='${names.join(' ')}' values=' ${values.join(' ')} ' arguments='${places}' ;;`;
}

function argumentsOf(command: DescribedCommand, all: readonly DescribedCommand[]): string {
  if (command.commands.length > 0) {
    const own = command.arguments.some(({ kind }) => kind === 'file') ? 'file,' : '';
    return own + words(command.commands, command.name);
  }
  if (command.name === 'help') return `${words(all)}|exit-codes`;
  return command.arguments.map(placeOf).join(' ');
}

const placeOf = ({ choices, kind, isVariadic }: DescribedArgument): string =>
  `${choices?.join('|') ?? kind}${isVariadic ? '+' : ''}`;

const words = (commands: readonly DescribedCommand[], parent = ''): string =>
  commands.map(({ name }) => name.slice(parent === '' ? 0 : parent.length + 1)).join('|');
