/** What can be told of the words of a command line without knowing the command. */

/** Options of the program that take a value. */
const WITH_VALUE = new Set(['--root']);

/** The first argument that is no option: the command. */
export function commandNameOf(argv: readonly string[]): string | undefined {
  return argv[commandIndexOf(argv)];
}

/** Where it stands; the number of words where there is none. */
export function commandIndexOf(argv: readonly string[]): number {
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] as string;
    if (WITH_VALUE.has(word)) index++;
    else if (!word.startsWith('-')) return index;
  }
  return argv.length;
}

/** Also when the command line cannot be parsed; what follows the image of `run` is the container's. */
export function asksForJson(argv: readonly string[]): boolean {
  const at = commandIndexOf(argv);
  for (const word of argv.slice(0, argv[at] === 'run' ? at + 1 : undefined)) {
    if (word === '--') return false;
    if (word === '--json') return true;
  }
  return false;
}
