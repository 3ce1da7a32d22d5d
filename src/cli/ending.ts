/** How a command ends: what it throws becomes a sentence and an exit code. */
import type { Context } from './context.ts';
import { failureOf, showFailure } from './failure.ts';
import { asksForJson, commandNameOf } from './words.ts';

/** Does a command's work; the result is the exit code. Never throws. */
export async function exitCodeOf(
  argv: readonly string[],
  context: Context,
  work: () => Promise<void>,
): Promise<number> {
  const name = commandNameOf(argv);
  try {
    await work();
    return context.exit;
  } catch (thrown) {
    const failure = failureOf(thrown, name);
    if (failure.record !== undefined) {
      const json = context.output.json || asksForJson(argv);
      showFailure(failure.record, context.sink, { json, command: name });
    }
    return failure.exit;
  } finally {
    context.close();
  }
}
