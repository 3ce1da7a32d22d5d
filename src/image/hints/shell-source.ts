/**
 * The commands that a shell script names: the first words of its lines, where they are literal, with the words behind
 * them. It reads without a grammar: commands in branches that are not taken count as well.
 */

export interface ShellCommand {
  /** The program and its literal arguments, up to the first that is not literal. */
  words: string[];
  /** The script passes its own arguments on: `exec "$@"`. */
  isArguments: boolean;
}

/** What a script says of other files. */
export interface ShellScript {
  commands: ShellCommand[];
  /** What it prepends to PATH. */
  path: string[];
  /** Programs that it looks for, or runs from a folder that a variable names: `command -v java`, `"$HOME_OF_JAVA"/bin/java`. */
  mentioned: string[];
  /** Names of scripts that it reads into itself, without their folders where these are not literal. */
  sourced: string[];
}

const MOST_COMMANDS = 256;
const MOST_MENTIONED = 64;
const MOST_LINE = 1_000;
const MOST_VARIABLES = 512;
const MOST_VALUE = 4_096;
const ASSIGNMENT = /^(\w+)=(.*)$/;
const VARIABLE = /\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::?[-=]([^{}$`]*))?\})/g;
const MENTIONED =
  /(?:\$\{?\w+\}?"?(?:\/[\w.-]+)*\/s?bin\/|\b(?:which|command\s+-[vV]|type\s+-p|hash)\s+"?)([A-Za-z][\w.+-]*)/g;
const SOURCED = /^\s*(?:\[[^\]]*\]\s*&&\s*)?(?:\.|source)\s+(.+?)\s*(?:[;&|#].*)?$/;
const MOST_WORDS = 32;
const KEYWORDS = new Set(
  'if then else elif fi for while until do done case esac in { } ! [ [[ ]] test : . source cd set unset shift export readonly local eval trap exit return read echo printf true false wait umask ulimit times type alias hash getopts let declare function continue break'.split(
    ' ',
  ),
);
/** Words that stand before a command and run it. */
const BEFORE = new Set([
  'exec',
  'command',
  'builtin',
  'then',
  'else',
  'do',
  '!',
  'if',
  'while',
  'until',
  'elif',
  '{',
  'time',
  'eval',
  'export',
  'readonly',
  'local',
]);

/**
 * `variables`: what is known of them, those of the image's configuration among them. Assignments of literal values are added in
 * their order.
 */
export function scriptOf(source: string, variables: Map<string, string> = new Map()): ShellScript {
  const script: ShellScript = { commands: [], path: [], mentioned: [], sourced: [] };
  const { commands, path } = script;
  const text = source.replaceAll(/\\\r?\n/g, ' ');
  let here: string | undefined;
  for (const line of text.split('\n')) {
    if (here !== undefined) {
      if (line.trim() === here) here = undefined;
      continue;
    }
    if (/^\s*#/.test(line)) continue;
    note(script, line.slice(0, MOST_LINE));
    here = /<<-?\s*['"]?(\w+)['"]?/.exec(line)?.[1];
    for (const part of line.split(/;|&&|\|\|?|\$\(|`|\)|&/)) {
      if (commands.length >= MOST_COMMANDS) return script;
      const words = wordsOf(part).map((word) => expanded(word, variables));
      while (words.length > 0) {
        const [first = ''] = words;
        const [, name = '', value = ''] = ASSIGNMENT.exec(first) ?? [];
        if (name === 'PATH') path.push(...value.split(':').filter((one) => /^\/[^$]*$/.test(one)));
        else if (name !== '' && !isComputed(line, name))
          assign(variables, name, value, line.startsWith(name));
        if (!BEFORE.has(first) && name === '') break;
        words.shift();
      }
      // `set -- program …`: the script becomes that in the end
      if (words[0] === 'set' && words[1] === '--') words.splice(0, 2);
      const [first] = words;
      if (first === undefined || KEYWORDS.has(first)) continue;
      if (first === '$@' || first === '${@}') commands.push({ words: [], isArguments: true });
      else if (/^[\w./+-]+$/.test(first)) {
        const end = words.findIndex((word) => /[$*?<>]/.test(word));
        const literal = words.slice(0, end < 0 ? MOST_WORDS : Math.min(end, MOST_WORDS));
        commands.push({ words: literal, isArguments: words[end] === '$@' && end > 0 });
      }
    }
  }
  return script;
}

/** What a command says is not known: the line was split there. */
function isComputed(line: string, name: string): boolean {
  const from = line.indexOf(`${name}=`) + name.length + 1;
  return /^["']?(?:\$\(|`)/.test(line.slice(from, from + 3));
}

/** `isCertain`: it is not part of a branch, which may not be taken where the variable has a value. */
function assign(variables: Map<string, string>, name: string, value: string, isCertain: boolean): void {
  if (/[$`*]/.test(value) || value.length > MOST_VALUE) return;
  const isKnown = variables.has(name);
  if (isKnown ? isCertain : variables.size < MOST_VARIABLES) variables.set(name, value);
}

/** `$NAME`, `${NAME}` and `${NAME:-value}` where they are known; others stay as they are. */
function expanded(word: string, variables: ReadonlyMap<string, string>): string {
  if (!word.includes('$')) return word;
  const whole = word.replaceAll(VARIABLE, (as, plain?: string, braced?: string, otherwise?: string) => {
    const value = variables.get(plain ?? braced ?? '');
    return value === undefined || (value === '' && otherwise !== undefined) ? (otherwise ?? as) : value;
  });
  return whole.length > MOST_VALUE ? word : whole;
}

function note({ mentioned, sourced }: ShellScript, line: string): void {
  const read = SOURCED.exec(line)?.[1]?.replaceAll(/["']/g, '');
  if (read === undefined) {
    for (const [, name = ''] of line.matchAll(MENTIONED))
      if (mentioned.length < MOST_MENTIONED && !mentioned.includes(name)) mentioned.push(name);
    return;
  }
  if (sourced.length >= MOST_MENTIONED) return;
  const name = /[$`]/.test(read) ? read.slice(read.lastIndexOf('/') + 1) : (read.split(/\s/, 1)[0] as string);
  if (/^[\w./+-]+$/.test(name)) sourced.push(name);
}

/** Words without their quotes; a comment ends them. */
function wordsOf(text: string): string[] {
  const words: string[] = [];
  for (const match of text.matchAll(/(?:[^\s"'#]|"[^"]*"|'[^']*'|(?<=\S)#)+|#/g)) {
    if (match[0] === '#' || words.length >= MOST_WORDS * 2) break;
    words.push(match[0].replaceAll(/["'\\]/g, ''));
  }
  return words;
}
