/** Which log a command reads: that of the engine, running or not. */
import type { LiveLogOptions } from '../replay/live-log.ts';

/** `nats`, `node`: for a NATS of one's own (`cofa up --nats`), of an engine that does not run. */
export function logSource(root: string, options: { nats?: string; node?: string } = {}): LiveLogOptions {
  return {
    root,
    nats: options.nats,
    node: options.node,
    async startServer() {
      const { natsOfStopped } = await import('../process/stopped-nats.ts');
      return await natsOfStopped(root);
    },
  };
}
