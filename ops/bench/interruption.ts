/**
 * The end of a benchmark before its time: by Ctrl-C, by timeout(1), by a terminal that is closed. What it has begun is taken
 * down all the same.
 */
import { constants } from 'node:os';

/**
 * Aborted at the first SIGINT, SIGTERM or SIGHUP, which end this program no more by themselves; its exit code is then 128 and
 * the signal's number. `say` hears it once.
 */
export function interruption(say: (line: string) => void): AbortSignal {
  const controller = new AbortController();
  // Not `once`: timeout(1) sends its signal to this program and then to the whole group, and people press Ctrl-C again.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => {
      if (controller.signal.aborted) return;
      say(`${signal}: what was begun is taken down`);
      process.exitCode = 128 + constants.signals[signal];
      controller.abort(new Error(`interrupted by ${signal}`));
    });
  return controller.signal;
}
