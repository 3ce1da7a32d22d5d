/** `cofa events export FILE`: the event log as one file that can be carried anywhere. */
import { defined } from '../../schemas/defined.ts';
import type { Command } from 'commander';
import { version } from '../client/version.ts';
import { type Context, examples } from './context.ts';
import { logSource } from './log-source.ts';
import { formatBytes } from '../terminal/table.ts';

interface ExportOptions {
  image?: string;
  mount?: string;
  from?: string;
  to?: string;
  nats?: string;
  natsCa?: string;
  node?: string;
  force?: boolean;
}

export function defineExport(command: Command, context: Context): void {
  command
    .description(
      'Write the event log into a file that `cofa replay FILE` reads anywhere: compressed, with checksums, and with the state in front of its first event. The engine need not run.',
    )
    .summary('write the log into a file')
    .option('--image <ref>', 'only the events of this image, its layers and its mounts')
    .option('--mount <id>', 'only the events of this mount (id or directory) and its image')
    .option('--from <moment>', 'from this sequence or time on: 1234, 2026-11-24T12:00:03Z, -10m (ago)')
    .option('--to <moment>', 'up to this sequence or time')
    .option('--force', 'replace the file if it exists')
    .option('--nats <url>', "the engine's own NATS, when it does not run and was started with --nats")
    .option('--nats-ca <file>', 'authority that has signed the certificate of that NATS')
    .option('--node <name>', 'whose log, when several nodes share that NATS')
    .action(async (file: string, options: ExportOptions) => {
      const { parseMoment } = await import('../replay/moments.ts');
      const { openLiveLog } = await import('../replay/live-log.ts');
      const { exportLog } = await import('../replay/export.ts');
      const { pathsOfRoot } = await import('../image/file-paths.ts');
      const { shapesOfRoot } = await import('../replay/shapes.ts');
      const { ProgressView } = await import('./progress.ts');
      const moments = {
        from: options.from === undefined ? undefined : parseMoment(options.from),
        to: options.to === undefined ? undefined : parseMoment(options.to),
      };
      const signal = context.signal();
      const progress = new ProgressView('export', context.output.progress);
      const live = await openLiveLog(logSource(context.root, options));
      try {
        const result = await exportLog(live, file, {
          ...moments,
          image: options.image,
          mount: options.mount,
          cofa: version(),
          now: Date.now(),
          replace: options.force === true,
          pathsOf: pathsOfRoot(context.root),
          shapes: shapesOfRoot(context.root),
          signal,
          onProgress: (events) =>
            progress.update('events', { label: `${events} events`, done: 0, total: undefined }),
        });
        progress.stop();
        const { firstAt, lastAt, cut: _, ...rest } = result;
        const data = defined({ ...rest, firstTime: timeOf(firstAt), lastTime: timeOf(lastAt) });
        context.output.data(data, () =>
          result.events === 0
            ? `${file}: no events in that range, and the state in front of it\n`
            : `${file}: ${result.events} events, sequence ${result.firstSeq} to ${result.lastSeq}, ${formatBytes(result.bytes)}\n`,
        );
      } finally {
        progress.stop();
        await live.close();
      }
    });
  examples(command, [
    ['cofa events export start.cofa-log', 'everything'],
    ['cofa events export -q start.cofa-log --mount /mnt/demo --from -10m', 'one mount, the last ten minutes'],
    ['cofa replay start.cofa-log', 'look at it, anywhere'],
  ]);
}

const timeOf = (at: number | undefined): string | undefined =>
  at === undefined ? undefined : new Date(at).toISOString();
