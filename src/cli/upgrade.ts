/** `cofa upgrade`: other processes, with the code that is on the disk now, take the place of those that run. */
import type { Command } from 'commander';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';

/** Longer than the engine gives a front end to load and fetchers to end, ms. */
const WAIT_MS = 180_000;

export function define(command: Command, context: Context): void {
  command
    .description(
      'Put new processes, with the code that is on the disk now, into the place of the front end and the fetchers. No read fails.',
    )
    .action(async () => {
      const options = { timeoutMs: WAIT_MS, signal: context.signal() };
      const reply = await withEngine(context, ({ call }) => call('upgrade', {}, options));
      context.output.data(reply, () =>
        context.output.quiet
          ? ''
          : `front end ${reply.frontEnd.from} → ${reply.frontEnd.to}, readers waited ${reply.frontEnd.pauseMs} ms; ${reply.fetchers} fetchers started again`,
      );
    });
  command.addHelpText(
    'after',
    `
The new front end loads while the old one serves. Does it not start, the old one stays (exit 8).
The supervisor and nats-server go on with their code until the next: cofa down, cofa up`,
  );
  examples(command, [['cofa upgrade', '']]);
}
