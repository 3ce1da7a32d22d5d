/**
 * The options of a program that node runs by itself (`node ops/bench/huge.ts --help`). The comment at the top of its file is its
 * help, so that the two cannot differ.
 */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { parseArgs, type ParseArgsConfig } from 'node:util';

const USAGE = 2;

/**
 * What parseArgs (node:util) makes of the command line. `--help` and `-h` print the comment at the top of `file`, the program's own
 * path, and end the process; an option that it does not know, or one without its value, ends it with exit code 2.
 */
export function programOptions<const T extends ParseArgsConfig>(
  file: string,
  config: T,
): ReturnType<typeof parseArgs<T>> {
  const args = config.args ?? process.argv.slice(2);
  const end = args.indexOf('--');
  if (args.slice(0, end < 0 ? args.length : end).some((word) => word === '--help' || word === '-h')) {
    console.log(helpOf(readFileSync(file, 'utf8')));
    process.exit(0);
  }
  try {
    return parseArgs(config);
  } catch (error) {
    const name = basename(file, '.ts');
    console.error(`${name}: ${(error as Error).message.split('. ')[0]}; see --help`);
    process.exit(USAGE);
  }
}

/** The text of the first block comment of a source file, without its stars. */
export function helpOf(source: string): string {
  const [, text = ''] = /\/\*\*(.*?)\*\//s.exec(source) ?? [];
  return text
    .split('\n')
    .map((line) => line.replace(/^ ?\* ?/, '').trimEnd())
    .join('\n')
    .trim();
}
