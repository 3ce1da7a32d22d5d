/** `cofa events`: the event log as lines. */
import type { Command } from 'commander';
import type { EventLine } from '../bus/client.ts';
import { CofaError } from '../../schemas/errors.ts';
import { type Context, examples, numberOption } from './context.ts';
import { printable } from './output.ts';

interface EventsOptions {
  sinceStart?: boolean;
  from?: number;
  follow: boolean;
  count?: number;
}

export function define(command: Command, context: Context): void {
  command
    .description(
      'Follow the event log until Ctrl-C: what the engine decided, in order. Only what comes from now on, unless told otherwise.',
    )
    .option('--since-start', 'from the first event on')
    .option(
      '--from <seq>',
      'from this sequence number on',
      numberOption('--from', { min: 1, max: Number.MAX_SAFE_INTEGER, integer: true }),
    )
    .option('--no-follow', 'end when the log ends')
    .option(
      '-n, --count <n>',
      'end after so many',
      numberOption('--count', { min: 1, max: Number.MAX_SAFE_INTEGER, integer: true }),
    )
    .action(async (options: EventsOptions) => {
      if (options.sinceStart === true && options.from !== undefined) {
        throw new CofaError('invalid-argument', '--since-start and --from exclude each other');
      }
      const { connectEngine } = await import('../bus/client.ts');
      const signal = context.signal();
      const client = await connectEngine(context.root);
      let seen = 0;
      try {
        const from = options.from ?? (options.sinceStart === true ? 'start' : 'now');
        for await (const event of client.events({ from, follow: options.follow, signal })) {
          context.output.line(event, () => renderEvent(event));
          if (++seen === options.count) return;
        }
      } catch (error) {
        // Ctrl-C is how one leaves.
        if (!signal.aborted) throw error;
      } finally {
        await client.close();
      }
    });
  examples(command, [
    ['cofa events', 'from now on'],
    ['cofa events --since-start --no-follow', 'the whole log'],
    ['cofa events --from 120 --count 10 --json', 'one JSON object a line'],
  ]);
}

/** `SEQ TIME AGGREGATE TYPE name=value …` */
export function renderEvent(event: EventLine): string {
  // cofa.v1.<node>.event.<kind>.<id>: node and kind are known, or stand in the type.
  const id = event.subject.split('.').at(-1) ?? '';
  const fields = Object.entries(event.data).map(([name, value]) => {
    const text = typeof value === 'string' ? value : JSON.stringify(value);
    return `${name}=${text.length > 80 ? `${text.slice(0, 79)}…` : text}`;
  });
  return printable(
    `${String(event.seq).padStart(6)}  ${event.time}  ${event.type}  ${id.slice(0, 12)}  ${fields.join(' ')}`.trimEnd(),
  );
}
