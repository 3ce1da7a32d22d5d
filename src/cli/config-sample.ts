/** The file of settings with every key, each with the words that `cofa up --help` has for its option. */
import { CONFIG_KEYS, DEFAULT_CONFIG, sampleOf } from './config-file.ts';
import type { UpOption, ValueKind } from './up-options.ts';

/** A key, and what a reader should know of it. */
export interface ConfigWords {
  key: string;
  about: string;
  /** Of a value: a type in words, or the words that are allowed. */
  takes: string;
  /** A line of the file; commented out it says what holds without it, or an example. */
  line: string;
  /** What holds without it, as TOML, where that is one value. */
  fallback: string | undefined;
}

/** Every key in the order of the options. */
export function configWords(): ConfigWords[] {
  return [...CONFIG_KEYS].map(([key, words]) => ({
    key,
    about: aboutOf(words),
    takes: words.parse?.choices?.map((one) => JSON.stringify(one)).join(', ') ?? TAKES[words.kind],
    line: `${key} = ${sampleOf(words)}`,
    fallback:
      words.fallback === undefined ? undefined : JSON.stringify(words.fallbackWords ?? words.fallback),
  }));
}

const TAKES: Record<ValueKind, string> = {
  boolean: 'true or false',
  number: 'a number',
  size: 'a number of bytes, or a text such as "20G"',
  socket: 'true, false, or an absolute path',
  string: 'a text',
  path: 'an absolute path',
  strings: 'a list of texts',
  paths: 'a list of absolute paths',
};

/** The words of the option are those of its switch: `--no-defer` says what `defer = false` does. */
function aboutOf({ flags, about, kind }: UpOption): string {
  if (kind === 'boolean' && flags.startsWith('--no-')) return `false: ${about} (default: true)`;
  return about.replace('; again for another', '');
}

const HEAD = `# Settings of cofa's engine, read by \`cofa up\` from ${DEFAULT_CONFIG}. The form is TOML (https://toml.io).
#
# A key is the name of an option of \`cofa up\`; an option on the command line wins. A line with # in front holds the
# default, or an example where the text above it says otherwise. Paths are absolute. How registries are reached, the first
# four, is read by every command that talks to one by itself: index, inspect, pull, pack, fetcher.
#
#     cofa config check      says what is wrong, with its line
#     cofa config show       says what holds, and from where
#
# It is read when the engine starts: cofa upgrade --engine, where systemd starts it, and no read fails; else cofa down and
# cofa up. With systemctl restart cofa, reads of what is not on the node fail until the engine is back.
`;

/** The file. Lines of the keys in \`active\` are not commented out. */
export function sampleConfig(active: readonly string[] = []): string {
  const entries = configWords().map(({ key, about, takes, line }) => {
    const words = wrap(`${about}. Takes ${takes}.`, 118);
    return `\n${words.map((one) => `# ${one}\n`).join('')}${active.includes(key) ? '' : '#'}${line}\n`;
  });
  return HEAD + entries.join('');
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [''];
  for (const word of text.split(' ')) {
    const last = lines.at(-1) as string;
    if (last !== '' && last.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  return lines;
}
