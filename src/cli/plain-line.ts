/**
 * The line of `cofa run` where it is right and asks for no help: read by Node's own parser, with the options that are declared
 * for commander. To load commander, declare the options and parse takes 5 ms of the 40 that Node and `cofa` need before they
 * talk to the engine. Commander reads every other line.
 */
import { parseArgs } from 'node:util';
import { GLOBAL_OPTIONS, type GlobalOptions, type OptionWords } from './context.ts';
import { defined } from '../../schemas/defined.ts';
import { RUN_OPTIONS, type RunWords } from './run-options.ts';

export interface PlainRun {
  global: GlobalOptions;
  options: RunWords;
  ref: string;
  args: string[];
}

/**
 * What commander would make of a line whose command is `run`; undefined where commander must say what is wrong, or show help.
 * Throws what an option's `parse` throws.
 */
export function parsePlainRun(argv: readonly string[]): PlainRun | undefined {
  const before = takeOptions(argv, GLOBAL_OPTIONS);
  if (before === undefined || argv[before.end] !== 'run') return undefined;
  const rest = argv.slice(before.end + 1);
  const own = takeOptions(rest, [...RUN_OPTIONS, ...GLOBAL_OPTIONS]);
  const ref = own === undefined ? undefined : rest[own.end];
  if (own === undefined || ref === undefined) return undefined;
  const { root, json, quiet, ...options } = own.said as RunWords & GlobalOptions;
  // Commander says what is wrong with two roots.
  if (root !== undefined && before.said['root'] !== undefined) return undefined;
  return {
    // Those before the command win, as with commander's optsWithGlobals.
    global: { ...defined({ root, json, quiet }), ...before.said },
    options,
    ref,
    args: rest.slice(own.end + 1),
  };
}

/** The options up to the first other word, which stands at `end`. Undefined for what is not declared or not complete. */
function takeOptions(
  argv: readonly string[],
  declared: readonly OptionWords[],
): { said: Record<string, unknown>; end: number } | undefined {
  const known = new Map(declared.map((words) => [longOf(words), words]));
  const options = Object.fromEntries(
    declared.map((words) => {
      const short = /^-(\w),/.exec(words.flags)?.[1];
      const type = takesValue(words) ? ('string' as const) : ('boolean' as const);
      return [longOf(words), short === undefined ? { type } : { type, short }];
    }),
  );
  const { tokens } = parseArgs({
    args: [...argv],
    options,
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const said: Record<string, unknown> = {};
  for (const token of tokens) {
    if (token.kind === 'positional') return { said, end: token.index };
    const words = token.kind === 'option' ? known.get(token.name) : undefined;
    if (token.kind !== 'option' || words === undefined) return undefined;
    if ((token.value !== undefined) !== takesValue(words)) return undefined;
    const isNo = token.name.startsWith('no-');
    const key = (isNo ? token.name.slice(3) : token.name).replace(/-(.)/g, (_, one: string) =>
      one.toUpperCase(),
    );
    said[key] = token.value === undefined ? !isNo : (words.parse?.(token.value, said[key]) ?? token.value);
  }
  return { said, end: argv.length };
}

const longOf = ({ flags }: OptionWords): string => /--([\w-]+)/.exec(flags)?.[1] ?? '';
const takesValue = ({ flags }: OptionWords): boolean => flags.includes('<');
