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
]);

export function scriptOf(source: string): ShellScript {
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
      const words = wordsOf(part);
      while (words.length > 0) {
        const [first = ''] = words;
        const assigned = /^(?:export=)?PATH=(.*)$/.exec(first)?.[1];
        if (assigned !== undefined) path.push(...assigned.split(':').filter((one) => /^\/[^$]*$/.test(one)));
        if (!BEFORE.has(first) && !/^\w+=/.test(first) && first !== 'export') break;
        words.shift();
      }
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
    words.push(match[0].replaceAll(/["']/g, ''));
  }
  return words;
}
