/**
 * How long a call of the API may take in all. A registry that answers by one byte a second, or a disk that does not answer,
 * holds a call no longer than that; its caller hears `timeout`. What the call began ends by itself: what it reads of a registry
 * has limits of its own (src/registry/transport.ts).
 */
import type { Operation } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';

const MINUTE_MS = 60_000;
/** Of operations that the table does not have. */
const USUAL_MS = 10 * MINUTE_MS;

const DEADLINES_MS: Partial<Record<Operation, number>> = {
  status: MINUTE_MS,
  expect: MINUTE_MS,
  chain: 2 * MINUTE_MS,
  // All layers of an image without a sidecar are streamed and indexed first.
  mount: 24 * 60 * MINUTE_MS,
  'podman-add': 24 * 60 * MINUTE_MS,
  // All devices are read, at the pace that the operator said.
  scrub: 7 * 24 * 60 * MINUTE_MS,
};

/** ms for an operation, answered over NATS or on the socket. */
export const deadlineOf = (operation: Operation): number => DEADLINES_MS[operation] ?? USUAL_MS;

/** The outcome of `work`; error `timeout` where that is not there after `ms`. */
export async function withinDeadline<T>(operation: Operation, ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = new CofaError('timeout', `${operation} did not end within ${ms / 1000} s`, {
      hint: 'what it began ends by itself; cofa status says how the engine is',
    });
    timer = setTimeout(() => reject(error), ms).unref();
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
