/** A plain line of `cofa run` is read by Node's parser, any other by commander: both must understand the same. */
import { Command } from 'commander';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Context, type GlobalOptions } from '../../src/cli/context.ts';
import { define } from '../../src/cli/run.ts';
import { parsePlainRun } from '../../src/cli/plain-line.ts';

const sink = { out: () => {}, err: () => {}, errIsTerminal: false };

/** What commander makes of it; undefined where it complains or shows help. */
function byCommander(argv: readonly string[]): unknown {
  const globals = (command: Command) =>
    command.option('--root <dir>').option('--json').option('-q, --quiet').exitOverride();
  const quiet = { writeOut: () => {}, writeErr: () => {}, outputError: () => {} };
  const program = globals(new Command('cofa')).enablePositionalOptions().configureOutput(quiet);
  const run = globals(program.command('run')).configureOutput(quiet);
  define(run, new Context(sink));
  let found: unknown;
  run.action((ref: string, args: string[], words: Record<string, unknown>) => {
    const { root: _, json: __, quiet: ___, ...options } = words;
    const { root, json, quiet: isQuiet } = run.optsWithGlobals<GlobalOptions>();
    found = { ref, args, options, global: { root, json, quiet: isQuiet } };
  });
  try {
    program.parse([...argv], { from: 'user' });
  } catch (error) {
    return { error: String((error as Error).message) };
  }
  return found;
}

const words = fc.constantFrom(
  '',
  'bad name',
  ...(
    'run -- - -e --env -eA=1 --env=B=2 --env-file -v -w -u -i -t -it -ti -iq -itx --interactive --tt' +
    'y --tty=1 --entrypoint --entrypoint= --hostname --name bad --name=x --read-only --security-opt ' +
    '--rm --keep --platform --no-prefetch --prefetch --trust never --trust=strange --root --root=/r ' +
    '--json -q --quiet -h --help --prefetch=off --prefetch=5k --bogus debian:12 x -x --inter'
  ).split(' '),
);

it('whatever is understood without commander, commander understands in the same way', () => {
  let understood = 0;
  fc.assert(
    fc.property(fc.array(words, { maxLength: 3 }), fc.array(words, { maxLength: 7 }), (before, after) => {
      const argv = [...before, 'run', ...after];
      let plain: unknown;
      try {
        plain = parsePlainRun(argv);
      } catch (error) {
        plain = { error: (error as Error).message };
      }
      if (plain === undefined) return;
      understood += 1;
      expect(plain).toEqual(byCommander(argv));
    }),
    { numRuns: 5_000 },
  );
  expect(understood).toBeGreaterThan(100);
});

it.each([
  [['run', 'debian:12'], 'debian:12', []],
  [
    ['--root', '/r', 'run', '-it', '-e', 'A=1', 'debian:12', 'sh', '-c', 'true'],
    'debian:12',
    ['sh', '-c', 'true'],
  ],
  [['run', '--rm', '--name=a', '--no-prefetch', '-q', 'x', '--help'], 'x', ['--help']],
])('%j is understood without commander', (argv, ref, args) => {
  expect(parsePlainRun(argv)).toMatchObject({ ref, args });
});

it.each([
  [['run', '--help']],
  [['run']],
  [['run', '--bogus', 'x']],
  [['run', '-e']],
  [['status']],
  [['run', '--', 'x']],
])('%j is left to commander', (argv) => {
  expect(parsePlainRun(argv)).toBeUndefined();
});
