/** The log of one process of the engine: a JSON object a line on its standard output, which is ROOT/log/NAME.log. */
import { writeSync } from 'node:fs';
import { type Logger, pino } from 'pino';

const STDOUT = 1;

/**
 * `level`: `trace` … `silent`. `error` fields keep message, stack, code and cause. A line that cannot be written is lost:
 * a full disk must not end the process.
 */
export function createLog(name: string, level: string): Logger {
  return pino(
    { name, level, serializers: { error: pino.stdSerializers.errWithCause } },
    {
      write: (line: string) => {
        try {
          writeSync(STDOUT, line);
        } catch {
          // There is nowhere to say it.
        }
      },
    },
  );
}
