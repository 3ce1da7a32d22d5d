/** JetStream's streams: made, widened, and what their errors mean to a caller. */
import { setTimeout as sleepMs } from 'node:timers/promises';
import { jetstreamManager, JetStreamApiError } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { CofaError } from '../../schemas/errors.ts';

/** Copies of a stream where NATS is a cluster: the log stays while one of three servers is away. */
export const REPLICAS = 3;

/** JetStream's error: the cluster has not so many servers. */
const NO_PEERS: ReadonlySet<number> = new Set([10_005, 10_023, 10_074]);
/** Servers that start together find each other within so long, ms: a stream keeps the copies that it was made with. */
const PEERS_MS = 5_000;
const PEERS_STEP_MS = 250;

/**
 * Creates a stream on disk, or widens the one that is there; its copies stay as they are, since the operator may have chosen them.
 * On a cluster of NATS a new one has three.
 */
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
      await replicated(bus, async (num_replicas) => {
        const fixed = { storage: 'file', discard: 'new', retention: 'limits', num_replicas };
        await manager.streams.add({ ...config, ...fixed } as never);
      });
    }
  } catch (cause) {
    throw storeError(cause);
  }
}

/** What JetStream says, as `unavailable`; a CofaError stays as it is. */
export function storeError(cause: unknown): CofaError {
  if (cause instanceof CofaError) return cause;
  const text = cause instanceof Error ? cause.message : String(cause);
  return new CofaError('unavailable', `the event log does not take events: ${text}`, {
    cause,
    hint: 'look at the disk of NATS and at its log',
  });
}

/**
 * Calls `make` with the copies that there can be: three on a cluster, one elsewhere, or where the cluster is smaller for longer than
 * its servers take to find each other. `sleep` takes ms.
 */
export async function replicated<Made>(
  bus: Pick<NatsConnection, 'info'>,
  make: (replicas: number) => Promise<Made>,
  sleep: (ms: number) => Promise<unknown> = sleepMs,
): Promise<Made> {
  if (bus.info?.cluster === undefined) return await make(1);
  for (let waited = 0; ; waited += PEERS_STEP_MS) {
    try {
      return await make(REPLICAS);
    } catch (error) {
      if (!(error instanceof JetStreamApiError) || !NO_PEERS.has(error.code)) throw error;
      if (waited >= PEERS_MS) return await make(1);
      await sleep(PEERS_STEP_MS);
    }
  }
}
