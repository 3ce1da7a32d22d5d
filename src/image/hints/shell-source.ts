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

const MOST_COMMANDS = 256;
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

/** Also returns what the script prepends to PATH. */
export function commandsOf(source: string): { commands: ShellCommand[]; path: string[] } {
  const commands: ShellCommand[] = [];
  const path: string[] = [];
  const text = source.replaceAll(/\\\r?\n/g, ' ');
  let here: string | undefined;
  for (const line of text.split('\n')) {
    if (here !== undefined) {
      if (line.trim() === here) here = undefined;
      continue;
    }
    if (/^\s*#/.test(line)) continue;
    here = /<<-?\s*['"]?(\w+)['"]?/.exec(line)?.[1];
    for (const part of line.split(/;|&&|\|\|?|\$\(|`|\)|&/)) {
      if (commands.length >= MOST_COMMANDS) return { commands, path };
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
  return { commands, path };
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
