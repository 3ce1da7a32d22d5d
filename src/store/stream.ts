/** JetStream's streams: made, widened, and what their errors mean to a caller. */
import { jetstreamManager, JetStreamApiError } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { CofaError } from '../../schemas/errors.ts';

/** Creates a stream on disk, or widens the one that is there. */
export async function prepareStream(
  bus: NatsConnection,
  config: { name: string; subjects: string[]; max_bytes: number },
): Promise<void> {
  try {
    const manager = await jetstreamManager(bus, { timeout: 10_000 });
    try {
      const { config: found } = await manager.streams.info(config.name);
      const max_bytes = Math.max(found.max_bytes, config.max_bytes);
      await manager.streams.update(config.name, { subjects: config.subjects, max_bytes });
    } catch (error) {
      if (!(error instanceof JetStreamApiError) || error.status !== 404) throw error;
      const fixed = { storage: 'file', discard: 'new', retention: 'limits', num_replicas: 1 };
      await manager.streams.add({ ...config, ...fixed } as never);
    }
  } catch (cause) {
    throw storeError(cause);
  }
}

export function storeError(cause: unknown): CofaError {
  if (cause instanceof CofaError) return cause;
  const text = cause instanceof Error ? cause.message : String(cause);
  return new CofaError('unavailable', `the event log does not take events: ${text}`, {
    cause,
    hint: 'look at the disk of NATS and at its log',
  });
}
