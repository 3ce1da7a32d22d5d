/** Reads the command line, runs one command, and turns what it throws into a sentence and an exit code. */
import { processSink, type Sink } from '../terminal/output.ts';
import { Context } from './context.ts';
import { failureOf, showFailure } from './failure.ts';
import { asksForJson, commandNameOf } from './words.ts';

export { commandNameOf } from './words.ts';

/**
 * Runs `cofa` with these arguments; the result is the exit code. `onRunning` is called while a container of `cofa run` runs.
 * Never throws.
 */
export async function main(
  argv: readonly string[],
  sink: Sink = processSink,
  onRunning: () => void = () => {},
): Promise<number> {
  const name = commandNameOf(argv);
  const context = new Context(sink, onRunning);
  try {
    if (name !== 'run' || !(await runPlain(argv, context))) {
      const { runCommandLine } = await import('./command-line.ts');
      await runCommandLine(argv, context);
    }
    return context.exit;
  } catch (thrown) {
    const failure = failureOf(thrown, name);
    if (failure.record !== undefined) {
      const json = context.output.json || asksForJson(argv);
      showFailure(failure.record, sink, { json, command: name });
    }
    return failure.exit;
  } finally {
    context.close();
  }
}

/** Runs a container if the line is plain (plain-line.ts); whether it was. */
async function runPlain(argv: readonly string[], context: Context): Promise<boolean> {
  const [{ parsePlainRun }, { runCommand }] = await Promise.all([
    import('./plain-line.ts'),
    import('./run-command.ts'),
  ]);
  const plain = parsePlainRun(argv);
  if (plain === undefined) return false;
  context.configure(plain.global);
  await runCommand(plain.ref, plain.args, plain.options, context);
  return true;
}
