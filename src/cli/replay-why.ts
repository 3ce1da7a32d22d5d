/** `cofa replay why`: what a read waited for, and what a start was spent on. */
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { type Context, examples, numberOption } from './context.ts';
import type { SourceOptions } from './replay.ts';

interface WhyOptions extends SourceOptions {
  read?: string;
  start?: boolean;
  with?: string;
  waterfall?: boolean;
  top?: number;
}

/** Which part of which log. */
export function addLogOptions(command: Command): Command {
  return command
    .option('--from <moment>', 'begin with this sequence or time')
    .option('--to <moment>', 'end with this sequence or time')
    .option('--partial', 'of a damaged file take what is whole')
    .option('--nats <url>', "the engine's own NATS, when it does not run and was started with --nats")
    .option('--nats-ca <file>', 'authority that has signed the certificate of that NATS')
    .option('--node <name>', 'whose log, when several nodes share that NATS');
}

export function defineWhy(command: Command, context: Context): void {
  command
    .summary('say what a read or a start waited for')
    .description(
      'Say what a read waited for (--read), or what the start of a mount was spent on (--mount, or --start for the last one): its whole time by part, the reads, fetches and files that cost most, the chain of waits that led to its end, and what would have made it faster.',
    )
    .option('--read <id>', 'SEQUENCE.N as the view and the lists name it, or slowest')
    .option('--mount <id>', 'id, directory or reference of a mount')
    .option('--start', 'the last mount of the log')
    .option('--with <id>', 'compare with the start of this mount, which comes first')
    .option('--waterfall', 'every phase, fetch and file of the start on a time line')
    .option(
      '--top <n>',
      'entries of each list',
      numberOption('--top', { min: 1, max: 10_000, integer: true }),
    );
  addLogOptions(command).action(async (file: string | undefined, options: WhyOptions) => {
    const { read, mount, start } = options;
    const asked = [read, mount, start].filter((one) => one !== undefined).length;
    if (asked !== 1)
      throw new CofaError('invalid-argument', 'say one of --read, --mount, --start', {
        hint: 'such as: cofa replay why --start',
      });
    if (read !== undefined && (options.with !== undefined || options.waterfall === true))
      throw new CofaError('invalid-argument', '--with and --waterfall are about a start, not about --read');
    const { load } = await import('./replay.ts');
    const { mount: _, with: other, ...source } = options;
    const loaded = await load(context, file, source);
    try {
      const { log } = loaded;
      for (const note of log.notes) context.output.note(note);
      const text = await import('../replay/why-text.ts');
      if (read !== undefined) {
        const { explainRead, findRead, slowestRead } = await import('../replay/why-read.ts');
        const why = explainRead(log, read === 'slowest' ? slowestRead(log) : findRead(log, read));
        context.output.data(why, () => text.renderWhyRead(why, 100).join('\n'));
        return;
      }
      const { findMount } = await import('../replay/start-phases.ts');
      const { explainStart } = await import('../replay/why-start.ts');
      const top = options.top ?? 10;
      const story = findMount(log, mount);
      const why = explainStart(log, story, { top });
      if (other !== undefined) {
        const { compareStarts } = await import('../replay/compare-starts.ts');
        const first = explainStart(log, findMount(log, other), { top });
        const comparison = compareStarts(first, why, top);
        const { renderComparison } = await import('../replay/waterfall-text.ts');
        return context.output.data(comparison, () => renderComparison(comparison, 100).join('\n'));
      }
      if (options.waterfall === true && story.mountedAt !== undefined) {
        const { waterfallOf } = await import('../replay/waterfall.ts');
        const fall = waterfallOf(log, story, story.mountedAt);
        const { renderWaterfall } = await import('../replay/waterfall-text.ts');
        return context.output.data(fall, () => renderWaterfall(fall, 120).join('\n'));
      }
      context.output.data(why, () => text.renderWhyStart(why, 100).join('\n'));
    } finally {
      await loaded.close();
    }
  });
  examples(command, [
    ['cofa replay why --read slowest', 'of the running engine'],
    ['cofa replay why start.cofa-log --mount /mnt/demo', 'of an exported log'],
    ['cofa replay why --start --waterfall', 'all of it on a time line'],
    ['cofa replay why --start --with 3f2a1b0c9d8e7f60', 'against an earlier start'],
    ["cofa replay why --start --json | jq '.phases'", ''],
  ]);
}
