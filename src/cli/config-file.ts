/**
 * The file of settings of `cofa up`: TOML, whose keys are the names of the options (up-options.ts). It is read as a whole or not
 * at all: one wrong line, and no engine starts.
 *
 * The engine runs as root and starts programs that the file names. So no one but root, or the user who calls, may be able to
 * change it; and where it has a password, no other user may read it.
 */
import { open } from 'node:fs/promises';
import { isAbsolute, resolve } from 'node:path';
import type { Command } from 'commander';
import { type TomlTable, TomlError, type TomlValue, parse } from 'smol-toml';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import {
  attributeOf,
  keyOf,
  UP_OPTIONS,
  type UpOption,
  type UpOptions,
  type ValueKind,
} from './up-options.ts';

export const DEFAULT_CONFIG = '/etc/cofa/config.toml';
/** Bytes. */
const MAX_FILE = 1 << 20;

/** The options that a file may have, by key. */
export const CONFIG_KEYS: ReadonlyMap<string, UpOption & { kind: ValueKind }> = new Map(
  UP_OPTIONS.flatMap((words) =>
    words.kind === undefined ? [] : [[keyOf(words), { ...words, kind: words.kind }]],
  ),
);

/** What is wrong in a file, and what to do about it. */
export interface ConfigProblem {
  /** From 1 on; 0: of the file as a whole. */
  line: number;
  key: string | undefined;
  message: string;
  hint: string;
}

/** A value as the option itself would say it. */
export interface ConfigValue {
  value: unknown;
  line: number;
}

export interface Config {
  /** Undefined: there is none. */
  file: string | undefined;
  values: ReadonlyMap<string, ConfigValue>;
  problems: readonly ConfigProblem[];
}

/** The file that counts: the option's, else `$COFA_CONFIG`, else the default one, which need not be there. */
export function configPath(
  option: string | boolean | undefined,
): { path: string; isAsked: boolean } | undefined {
  if (option === false) return undefined;
  const asked = typeof option === 'string' ? option : process.env.COFA_CONFIG || undefined;
  if (asked === '/dev/null') return undefined;
  return asked === undefined
    ? { path: DEFAULT_CONFIG, isAsked: false }
    : { path: resolve(asked), isAsked: true };
}

/** Reads the file that counts. Errors: `not-found` where it was asked for, `environment` where it cannot be read. */
export async function readConfig(option: string | boolean | undefined): Promise<Config> {
  const wanted = configPath(option);
  const nothing = { file: undefined, values: new Map(), problems: [] };
  if (wanted === undefined) return nothing;
  const { path, isAsked } = wanted;
  const file = await readSafely(path);
  if (file !== undefined) {
    const { values, problems } = parseConfig(file.text);
    return {
      file: path,
      values,
      problems: [...file.problems, ...secrets(file.isPrivate, values), ...problems],
    };
  }
  if (!isAsked) return nothing;
  throw new CofaError('not-found', `there is no file of settings ${path}`, {
    hint: `cofa config default > ${path} makes one`,
  });
}

/** Puts what the file says into the options that the command line, or the environment, does not say. */
export async function fillFromFile(command: Command, options: UpOptions): Promise<void> {
  const config = await readConfig(options.config);
  const [first] = config.problems;
  if (first !== undefined) throw problemError(config, first);
  const said = new Map<string, unknown>(Object.entries(options));
  const filled: Record<string, unknown> = {};
  for (const [key, { value }] of config.values) {
    const attribute = attributeOf(CONFIG_KEYS.get(key) as UpOption);
    const isDefault = command.getOptionValueSource(attribute) === 'default';
    // `--snapshotter` alone leaves open where; the file may say that.
    const isOpen = said.get(attribute) === true && typeof value === 'string';
    if (said.get(attribute) === undefined || isDefault || isOpen) filled[attribute] = value;
  }
  Object.assign(options, filled);
}

/** The first problem as the error that it is. */
export function problemError(config: Config, first: ConfigProblem): CofaError {
  const others = config.problems.length - 1;
  const more = others === 0 ? '' : ` (and ${others} more: cofa config check)`;
  return new CofaError('invalid-argument', `${whereOf(config, first)}: ${first.message}${more}`, {
    hint: first.hint,
  });
}

/** `FILE:LINE`, or the file alone where the problem has no line of it. */
export const whereOf = ({ file }: Config, { line }: ConfigProblem): string =>
  line === 0 ? `${file}` : `${file}:${line}`;

/** What a text says. A value that is wrong is in `problems` and not in `values`. Never throws. */
export function parseConfig(text: string): Pick<Config, 'values' | 'problems'> {
  const values = new Map<string, ConfigValue>();
  const problems: ConfigProblem[] = [];
  let table: TomlTable;
  try {
    table = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    // The message goes on with a picture of the line.
    const message = error.message.split('\n')[0]?.replace(/^Invalid TOML document: /, '') ?? '';
    const hint = 'one KEY = VALUE a line, texts in quotes: cofa config default shows every key';
    return {
      values,
      problems: [{ line: error.line, key: undefined, message: `not TOML: ${message}`, hint }],
    };
  }
  for (const [key, given] of Object.entries(table)) {
    const line = lineOf(text, key);
    try {
      values.set(key, { value: valueOf(key, given), line });
    } catch (thrown) {
      if (!(thrown instanceof CofaError)) throw thrown;
      problems.push({ line, key, message: thrown.message, hint: thrown.hint ?? helpOf(key) });
    }
  }
  return { values, problems: problems.toSorted((a, b) => a.line - b.line) };
}

/** The value of one key. Error: `invalid-argument` with the key. */
function valueOf(key: string, given: TomlValue): unknown {
  const words = CONFIG_KEYS.get(key);
  if (words === undefined)
    throw new CofaError('invalid-argument', `unknown key ${JSON.stringify(key)}`, { hint: guess(key) });
  const texts = textsOf(words.kind, given);
  if (texts === undefined) {
    throw new CofaError(
      'invalid-argument',
      `${key}: ${typeName(given)}, where ${KINDS[words.kind]} belongs`,
      {
        hint: `such as: ${key} = ${sampleOf(words)}`,
      },
    );
  }
  if (typeof texts === 'boolean') return texts;
  const isPath = words.kind === 'path' || words.kind === 'paths' || words.kind === 'socket';
  const relative = isPath ? texts.find((text) => !isAbsolute(text)) : undefined;
  if (relative !== undefined) {
    throw new CofaError('invalid-argument', `${key}: ${JSON.stringify(relative)} is not an absolute path`, {
      hint: `such as: ${key} = ${words.kind === 'socket' ? '"/run/cofa/NAME.sock"' : sampleOf(words)}`,
    });
  }
  try {
    let value: unknown;
    for (const text of texts) value = words.parse?.(text, value) ?? text;
    return value;
  } catch (thrown) {
    if (!(thrown instanceof CofaError)) throw thrown;
    throw new CofaError('invalid-argument', thrown.message.replace(`--${key}:`, `${key}:`), {
      hint: `${words.about}; such as: ${key} = ${sampleOf(words)}`,
    });
  }
}

/** The value as words of a command line; undefined where it has another type. */
function textsOf(kind: ValueKind, given: TomlValue): string[] | boolean | undefined {
  switch (kind) {
    case 'boolean':
      return typeof given === 'boolean' ? given : undefined;
    case 'number':
      return typeof given === 'number' ? [String(given)] : undefined;
    case 'size':
      return typeof given === 'string' || typeof given === 'number' ? [String(given)] : undefined;
    case 'socket':
      return typeof given === 'string' ? [given] : typeof given === 'boolean' ? given : undefined;
    case 'string':
    case 'path':
      return typeof given === 'string' ? [given] : undefined;
    case 'strings':
    case 'paths':
      return Array.isArray(given) && given.every((one) => typeof one === 'string') ? given : undefined;
  }
}

const KINDS: Record<ValueKind, string> = {
  boolean: 'true or false',
  number: 'a number',
  size: 'a size',
  socket: 'true, false or a path',
  string: 'a text in quotes',
  path: 'a path in quotes',
  strings: 'a list of texts',
  paths: 'a list of paths',
};

function typeName(given: TomlValue): string {
  if (Array.isArray(given)) return 'a list';
  if (given instanceof Date) return 'a date';
  if (typeof given === 'object') return 'a table';
  return { string: 'a text', boolean: 'true or false' }[typeof given as string] ?? 'a number';
}

/** A value of the key as TOML. */
export const sampleOf = ({ fallback, fallbackWords, sample }: UpOption): string =>
  sample ?? JSON.stringify(fallbackWords ?? fallback);

/** Keys that other commands need as well, or that are about one call. */
const ELSEWHERE: Record<string, string> = {
  root: 'every command has to know the root: --root DIR, or COFA_ROOT in the environment',
  foreground: 'it is about one call of cofa up: an option, no setting',
  'take-over': 'it is about one call of cofa up: an option, no setting',
  config: 'it is an option of cofa up: cofa up --config FILE',
  json: 'it is about one call: an option, no setting',
  quiet: 'it is about one call: an option, no setting',
};

function guess(key: string): string {
  const plain = (text: string) => text.toLowerCase().replace(/^no-|[_-]/g, '');
  const near = [...CONFIG_KEYS.keys()].find((known) => plain(known) === plain(key));
  const all = 'cofa config default shows every key';
  return ELSEWHERE[key] ?? (near === undefined ? all : `did you mean ${near}? ${all}`);
}

const helpOf = (key: string): string => CONFIG_KEYS.get(key)?.about ?? guess(key);

/** The line on which a key of the top stands, from 1 on; 0 where it is not found. */
function lineOf(text: string, key: string): number {
  const name = key.replaceAll(/[^\w-]/g, (one) => `\\${one}`);
  const line = new RegExp(`^\\s*\\[{0,2}\\s*["']?${name}["']?\\s*[=.\\]]`);
  return text.split('\n').findIndex((one) => line.test(one)) + 1;
}

/** The file, if it is there, and what is wrong with who may change it. Error: `environment`. */
async function readSafely(
  path: string,
): Promise<{ text: string; isPrivate: boolean; problems: ConfigProblem[] } | undefined> {
  try {
    const handle = await open(path);
    try {
      const { mode, uid, size } = await handle.stat();
      const problems: ConfigProblem[] = [];
      const problem = (message: string, hint: string) =>
        problems.push({ line: 0, key: undefined, message, hint });
      if (size > MAX_FILE) {
        problem(
          `it has ${size} bytes; at most ${MAX_FILE} are read`,
          'cofa config default shows what belongs there',
        );
        return { text: '', isPrivate: true, problems };
      }
      if (uid !== 0 && uid !== process.getuid?.())
        problem(`it belongs to user ${uid}, who may change what root runs`, `chown root ${path}`);
      if ((mode & 0o022) !== 0)
        problem('users other than its owner may change it, and so what root runs', `chmod go-w ${path}`);
      return { text: await handle.readFile('utf8'), isPrivate: (mode & 0o044) === 0, problems };
    } finally {
      await handle.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new CofaError(
      'environment',
      `the file of settings ${path} cannot be read: ${toErrorRecord(error).message}`,
      {
        hint: 'correct it, or name another one: --config FILE, --no-config',
      },
    );
  }
}

function secrets(isPrivate: boolean, values: ReadonlyMap<string, ConfigValue>): ConfigProblem[] {
  const nats = values.get('nats');
  if (isPrivate || nats === undefined || !/^[a-z]+:\/\/[^/]*@/i.test(String(nats.value))) return [];
  return [
    {
      line: nats.line,
      key: 'nats',
      message: 'nats: it has a password, and users other than the owner may read this file',
      hint: 'chmod go-r the file, or name the users in a file of their own: nats-users',
    },
  ];
}
