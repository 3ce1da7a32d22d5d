/**
 * The options of `cofa run`, once for commander (run.ts), which knows help, guesses and complaints, and once for itself: a
 * command line that is right and asks for no help is read here, in a moment, where loading commander takes 15 ms.
 */
import { TRUST_POLICIES, type TrustPolicy } from '../../schemas/trust.ts';
import { checkName } from '../container/options.ts';
import { type GlobalOptions, oneOf } from './context.ts';
import { PREFETCH_HELP, type Prefetch, prefetchOption } from './prefetch-option.ts';

/** What the options say, as commander hands it over. */
export interface RunWords {
  name?: string;
  env?: string[];
  envFile?: string[];
  volume?: string[];
  workdir?: string;
  user?: string;
  hostname?: string;
  entrypoint?: string;
  platform?: string;
  tty?: boolean;
  interactive?: boolean;
  readOnly?: boolean;
  keep?: boolean;
  rm?: boolean;
  securityOpt?: string[];
  prefetch?: Prefetch;
  trust?: TrustPolicy;
}

export interface OptionWords {
  /** As commander writes them: short and long form, and its value. */
  flags: string;
  about: string;
  /** Makes of the word, and what there was before, what the option says; throws where the word is wrong. */
  parse?: (value: string, before: string[] | undefined) => unknown;
}

const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];

export const RUN_OPTIONS: readonly OptionWords[] = [
  { flags: '-e, --env <name[=value]>', about: 'environment; the caller’s value without =', parse: collect },
  { flags: '--env-file <file>', about: 'environment from a file', parse: collect },
  { flags: '-v, --volume <host:dir[:ro]>', about: 'show a directory or file of the host', parse: collect },
  { flags: '-w, --workdir <dir>', about: 'directory to start in' },
  { flags: '-u, --user <user[:group]>', about: 'names of the image, or numbers' },
  { flags: '-i, --interactive', about: 'pass the standard input on' },
  { flags: '-t, --tty', about: 'give it a terminal' },
  { flags: '--entrypoint <program>', about: 'replaces the entrypoint of the image; "" for none' },
  { flags: '--hostname <name>', about: 'its own hostname' },
  { flags: '--name <name>', about: 'name of the container (default: by chance)', parse: checkName },
  { flags: '--read-only', about: 'nothing can be written to its root' },
  { flags: '--security-opt <option>', about: 'no-new-privileges, or seccomp=unconfined', parse: collect },
  { flags: '--rm', about: 'throw away what it wrote (this is the default)' },
  { flags: '--keep', about: 'keep what it wrote, below ROOT/containers/NAME/upper' },
  { flags: '--platform <os/arch>', about: 'another platform than the node’s' },
  { flags: '--prefetch <on|off|rate>', about: PREFETCH_HELP, parse: prefetchOption },
  { flags: '--no-prefetch', about: 'fetch nothing that is not read' },
  { flags: '--trust <policy>', about: 'as for cofa mount', parse: oneOf('--trust', TRUST_POLICIES) },
];

/** Those that every command takes, before and behind its name. */
const GLOBAL_OPTIONS: readonly OptionWords[] = [
  { flags: '--root <dir>', about: '' },
  { flags: '--json', about: '' },
  { flags: '-q, --quiet', about: '' },
];

export interface PlainRun {
  global: GlobalOptions;
  options: RunWords;
  ref: string;
  args: string[];
}

/**
 * What commander would make of a command line whose command is `run`; undefined where it is wrong or asks for help, or takes
 * more to be understood. Throws what an option's `parse` throws.
 */
export function parsePlainRun(argv: readonly string[]): PlainRun | undefined {
  const before = takeOptions(argv, 0, GLOBAL);
  if (before === undefined || argv[before.next] !== 'run') return undefined;
  const own = takeOptions(argv, before.next + 1, RUN);
  const ref = own === undefined ? undefined : argv[own.next];
  if (own === undefined || ref === undefined) return undefined;
  const { root, json, quiet, ...options } = own.found;
  return {
    // Those before the command win, as with commander's optsWithGlobals.
    global: { ...given({ root, json, quiet }), ...before.found },
    options,
    ref,
    args: argv.slice(own.next + 1),
  };
}

interface Known extends OptionWords {
  key: string;
  /** What it says without a value; undefined: it takes one. */
  plain: boolean | undefined;
}

const GLOBAL = byWord(GLOBAL_OPTIONS);
const RUN = byWord([...RUN_OPTIONS, ...GLOBAL_OPTIONS]);

/** By `-x` and `--long`. */
function byWord(options: readonly OptionWords[]): Map<string, Known> {
  const known = new Map<string, Known>();
  for (const option of options) {
    const [words = '', value] = option.flags.split(' <');
    const forms = words.split(', ');
    const long = (forms.at(-1) ?? '').slice(2);
    const isNo = long.startsWith('no-');
    const key = (isNo ? long.slice(3) : long).replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
    for (const form of forms)
      known.set(form, { ...option, key, plain: value === undefined ? !isNo : undefined });
  }
  return known;
}

/** Options from a word on; `next` is the first that is none. Undefined where commander has to say what is meant, or wrong. */
function takeOptions(
  argv: readonly string[],
  from: number,
  known: ReadonlyMap<string, Known>,
): { found: Record<string, unknown> & GlobalOptions; next: number } | undefined {
  const found: Record<string, unknown> = {};
  let next = from;
  for (; next < argv.length; next++) {
    const word = argv[next] as string;
    if (!word.startsWith('-') || word === '-') break;
    const equals = word.startsWith('--') ? word.indexOf('=') : -1;
    const option = known.get(equals < 0 ? word : word.slice(0, equals));
    if (option !== undefined) {
      let value: string | undefined;
      if (option.plain === undefined) value = equals < 0 ? argv[++next] : word.slice(equals + 1);
      if (value === undefined ? option.plain === undefined : option.plain !== undefined) return undefined;
      if (option.plain !== undefined && equals >= 0) return undefined;
      found[option.key] =
        option.plain ?? option.parse?.(value as string, found[option.key] as never) ?? value;
      continue;
    }
    // `-it`: several without a value.
    const letters = Array.from(word.slice(1), (letter) => known.get(`-${letter}`));
    if (word.startsWith('--') || letters.some((one) => one?.plain === undefined)) return undefined;
    for (const one of letters as Known[]) found[one.key] = one.plain;
  }
  return { found, next };
}

function given(options: Record<string, unknown>): GlobalOptions {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
