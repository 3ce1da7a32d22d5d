/** `cofa upgrade`: other processes, with the code that is on the disk now, take the place of those that run. */
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';

/** Longer than the engine gives a front end to load and fetchers to end, ms. */
const WAIT_MS = 180_000;

export function define(command: Command, context: Context): void {
  command
    .description(
      'Put new processes, with the code that is on the disk now, into the place of the front end and the fetchers. No read fails.',
    )
    .option(
      '--engine',
      'into the place of the whole engine, which may be of an earlier version; readers wait some seconds',
    )
    .option('--if-running', 'say nothing and end well where no engine runs')
    .action(async (options: { engine?: boolean; ifRunning?: boolean }) => {
      try {
        await (options.engine === true ? replaceWhole(context) : replaceServers(context));
      } catch (error) {
        if (options.ifRunning !== true || !isNotRunning(error)) throw error;
      }
    });
  command.addHelpText(
    'after',
    `
The new front end loads while the old one serves. If it does not start, the old one stays (exit 8).
With --engine supervisor and nats-server change, too: the Debian package does so when it is upgraded.`,
  );
  examples(command, [
    ['cofa upgrade', ''],
    ['cofa upgrade --engine', 'after an update of cofa itself'],
  ]);
}

const isNotRunning = (error: unknown): boolean => error instanceof CofaError && error.code === 'not-running';

async function replaceServers(context: Context): Promise<void> {
  const options = { timeoutMs: WAIT_MS, signal: context.signal() };
  const reply = await withEngine(context, ({ call }) => call('upgrade', {}, options));
  context.output.data(reply, () =>
    context.output.quiet
      ? ''
      : `front end ${reply.frontEnd.from} → ${reply.frontEnd.to}, readers waited ${reply.frontEnd.pauseMs} ms; ${reply.fetchers} fetchers started again`,
  );
}

async function replaceWhole(context: Context): Promise<void> {
  const { replaceEngine } = await import('./upgrade-engine.ts');
  const swap = await replaceEngine(context.root, context.signal());
  const seconds = (swap.pauseMs / 1000).toFixed(1);
  context.output.data(swap, () =>
    context.output.quiet ? '' : `engine ${swap.from} → ${swap.to}, readers waited ${seconds} s`,
  );
}
