/**
 * Wrong bytes of a blob may be the fault of a mirror or of the fleet. Each that brought some is left out, and the next host is
 * asked: several mirrors may stand before one storage that is spoilt.
 */
import { toErrorRecord } from '../../schemas/errors.ts';

/** Hosts that may bring wrong bytes of one blob before its reader hears of them. */
const MOST_LIARS = 8;

/**
 * Reads until what comes is right, as long as `doubt` finds a host that brought wrong bytes and is not asked any more. `spare`: so
 * many reads more for bytes that were spoilt on their way. `reads`: how many it took. Errors: the last one of `read`.
 */
export async function readUntilRight<T>(
  read: () => Promise<T>,
  doubt: () => boolean,
  spare = 0,
): Promise<{ value: T; reads: number }> {
  for (let reads = 1; ; reads++) {
    try {
      return { value: await read(), reads };
    } catch (error) {
      if (toErrorRecord(error).code !== 'integrity') throw error;
      const isHelped = doubt() || reads <= spare;
      if (!isHelped || reads > MOST_LIARS) throw error;
    }
  }
}
