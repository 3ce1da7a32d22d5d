/** The private nats-server of an engine that does not run, for as long as its log is read. */
import type { BusAddress } from '../bus/connection.ts';
import { Layout } from '../store/layout.ts';
import { takeLock } from '../store/lock.ts';
import { startNats } from './nats-server.ts';

/**
 * Starts it, and holds the engine's lock until this process ends, so that no engine starts into it. Errors: `conflict` while an
 * engine runs, those of `startNats`.
 */
export async function natsOfStopped(root: string): Promise<{ address: BusAddress; stop(): Promise<void> }> {
  const layout = new Layout(root);
  takeLock(layout.lock(), root);
  const { address, child } = await startNats(layout);
  return { address, stop: () => child.stop() };
}
