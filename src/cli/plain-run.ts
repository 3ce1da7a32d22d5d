/**
 * `cofa run` in plain words, from its command line to its exit code, with nothing loaded that it does not need. All that this
 * module imports goes into one file (bundle.ts): what is loaded lazily stays outside of it.
 */
import { Context } from './context.ts';
import { exitCodeOf } from './ending.ts';
import { processSink, type Sink } from '../terminal/output.ts';
import { runCommand } from './run-command.ts';
import { type PlainRun, parsePlainRun } from './run-words.ts';

/**
 * The exit code; undefined, and nothing was done, where the words are not plain. `onRunning` is called while the container
 * runs. Never throws.
 */
export async function plainRun(
  argv: readonly string[],
  sink: Sink = processSink,
  onRunning?: () => void,
): Promise<number | undefined> {
  let plain: PlainRun | undefined;
  const context = new Context(sink);
  const exit = await exitCodeOf(argv, context, async () => {
    plain = parsePlainRun(argv);
    if (plain === undefined) return;
    context.configure(plain.global);
    await runCommand(plain.ref, plain.args, plain.options, context, onRunning);
  });
  return plain === undefined && exit === 0 ? undefined : exit;
}
