/** Which log a command reads: that of the engine, running or not. */
import type { LiveLogOptions } from '../replay/live-log.ts';

/** `nats`, `natsCa`, `node`: for a NATS of one's own (`cofa up --nats`), of an engine that does not run. */
export function logSource(
  root: string,
  options: { nats?: string; natsCa?: string; node?: string } = {},
): LiveLogOptions {
  return {
    root,
    nats: options.nats,
    natsCa: options.natsCa,
    node: options.node,
    async startServer() {
      const { natsOfStopped } = await import('../process/stopped-nats.ts');
      return await natsOfStopped(root);
    },
  };
}
