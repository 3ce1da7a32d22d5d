/** `cofa events`: the event log as lines. */
import type { Command } from 'commander';
import type { EventLine } from '../client/client.ts';
import { CofaError } from '../../schemas/errors.ts';
import { type Context, examples, numberOption } from './context.ts';
import { defineExport } from './events-export.ts';
import { withEngine } from './engine.ts';
import { wordsOfStored } from '../replay/event-words.ts';
import { logSource } from './log-source.ts';
import { printable } from '../terminal/output.ts';

interface EventsOptions {
  sinceStart?: boolean;
  from?: string;
  type?: string;
  image?: string;
  mount?: string;
  follow: boolean;
  count?: number;
}

export function define(command: Command, context: Context): void {
  command
    .description(
      'Follow the event log until Ctrl-C: what the engine decided, in order. Only what comes from now on, unless told otherwise.',
    )
    .option('--since-start', 'from the first event on')
    .option('--from <moment>', 'from this sequence number or time on: 120, 2026-11-24T12:00:03Z, -10m')
    .option('--type <glob>', 'only events of this type, such as mount.*')
    .option('--image <ref>', 'only the events of this image, its layers and its mounts')
    .option('--mount <id>', 'only the events of this mount (id or directory) and its image')
    .option('--follow', 'go on when the log ends (the default)')
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
      const { eventFilter } = await import('../replay/event-filter.ts');
      const wanted = await eventFilter(logSource(context.root), options);
      const signal = context.signal();
      const from = wanted.fromSeq ?? (options.sinceStart === true || wanted.byTime ? 'start' : 'now');
      let seen = 0;
      await withEngine(context, async (engine) => {
        for await (const event of engine.events({ from, follow: options.follow, signal })) {
          if (!wanted.accepts(event)) continue;
          context.output.line(event, () => renderEvent(event));
          if (++seen === options.count) return;
        }
      }).catch((error: unknown) => {
        // Ctrl-C is how one leaves.
        if (!signal.aborted) throw error;
      });
    });
  examples(command, [
    ['cofa events', 'from now on'],
    ['cofa events --since-start --no-follow', 'the whole log'],
    ['cofa events --from 120 --count 10 --json', 'one JSON object a line'],
    ["cofa events --from -10m --type 'mount.*' --no-follow", 'mounts of the last ten minutes'],
    ['cofa events export FILE', 'write it into a file, for cofa replay'],
  ]);
  command.enablePositionalOptions();
  defineExport(command.command('export <file>'), context);
}

/** `SEQ TIME AGGREGATE TYPE name=value …` */
export function renderEvent(event: EventLine): string {
  // cofa.v1.<node>.event.<kind>.<id>: node and kind are known, or stand in the type.
  const id = event.subject.split('.').at(-1) ?? '';
  const words = wordsOfStored(event, Date.parse(event.time));
  const fields =
    words !== undefined
      ? [words]
      : Object.entries(event.data).map(([name, value]) => {
          const text = typeof value === 'string' ? value : JSON.stringify(value);
          return `${name}=${text.length > 80 ? `${text.slice(0, 79)}…` : text}`;
        });
  return printable(
    `${String(event.seq).padStart(6)}  ${event.time}  ${event.type}  ${id.slice(0, 12)}  ${fields.join(' ')}`.trimEnd(),
  );
}
