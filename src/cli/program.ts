/** Reads the command line, runs one command, and turns what it throws into a sentence and an exit code. */
import { Context } from './context.ts';
import { exitCodeOf } from './ending.ts';
import { processSink, type Sink } from '../terminal/output.ts';
import { commandNameOf } from './words.ts';

export { commandNameOf } from './words.ts';

/** Runs `cofa` with these arguments; the result is the exit code. Never throws. */
export async function main(argv: readonly string[], sink: Sink = processSink): Promise<number> {
  if (commandNameOf(argv) === 'run') {
    const { plainRun } = await import('./plain-run.ts');
    const exit = await plainRun(
      argv,
      sink,
      () => void import('./bundle.ts').then(({ keepBundle }) => keepBundle()),
    );
    if (exit !== undefined) return exit;
  }
  const context = new Context(sink);
  return await exitCodeOf(argv, context, async () => {
    const { asUsageError, runCommandLine } = await import('./command-line.ts');
    try {
      await runCommandLine(argv, context);
    } catch (thrown) {
      const error = asUsageError(thrown, commandNameOf(argv));
      if (error !== undefined) throw error;
    }
  });
}
