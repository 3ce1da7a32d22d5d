/** The logs of the engine's processes: one JSON object a line, into ROOT/log. */
import { type Logger, pino } from 'pino';

/** `error` fields keep message, stack, code and cause. */
export const createLog = (name: string, level: string): Logger =>
  pino({ name, level, serializers: { error: pino.stdSerializers.errWithCause } });
