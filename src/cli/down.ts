/** `cofa down`: stops the engine and waits for its end. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import type { ProcessIdentity } from '../container/host.ts';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';

/** Longer than the engine gives its own processes to end, ms. */
const WAIT_MS = 60_000;

export function define(command: Command, context: Context): void {
  command
    .description(
      'Stop the engine. Its mounts come back with the next up; those in use stay where their image has arrived as a whole, and while others are in use it refuses.',
    )
    .option('--force', 'stop also then; reads of what has not arrived fail with EIO from then on')
    .action(async (options: { force?: boolean }) => {
      const { identify } = await import('../container/host.ts');
      const signal = context.signal();
      const { pid, engine } = await withEngine(context, async ({ endpoint, call }) => {
        const running = { pid: endpoint.pid, engine: identify(endpoint.pid) };
        await call('down', { force: options.force === true }, { signal });
        return running;
      }).catch((error: unknown) => {
        // Who wants to stop an engine is not helped by how one is started.
        if (!(error instanceof CofaError) || error.code !== 'not-running') throw error;
        const hint = 'there is nothing to stop; of an engine with another root: cofa down --root DIR';
        throw new CofaError(error.code, error.message, { cause: error, hint });
      });
      if (engine !== undefined) await untilEnded(engine, context.root, signal);
      context.output.data({ stopped: true, pid }, () =>
        context.output.quiet ? '' : 'the engine has stopped',
      );
    });
  examples(command, [
    ['cofa down', ''],
    ['cofa down --force', 'also while something uses an image that has not arrived'],
  ]);
}

async function untilEnded(engine: ProcessIdentity, root: string, signal: AbortSignal): Promise<void> {
  const { isAlive } = await import('../container/host.ts');
  const deadline = performance.now() + WAIT_MS;
  while (isAlive(engine)) {
    signal.throwIfAborted();
    if (performance.now() > deadline) {
      throw new CofaError(
        'timeout',
        `the engine (pid ${engine.pid}) has not ended after ${WAIT_MS / 1000} s`,
        {
          hint: `it is still stopping; its log: ${root}/log/supervisor.log`,
        },
      );
    }
    await sleep(30);
  }
}
