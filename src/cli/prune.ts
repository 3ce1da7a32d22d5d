/** `cofa prune`: gives disk space back. */
import type { Command } from 'commander';
import type { PruneReply } from '../../schemas/api.ts';
import { byteOption } from './byte-option.ts';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';
import { formatBytes } from '../terminal/table.ts';

interface PruneOptions {
  all?: boolean;
  dryRun?: boolean;
  keep?: number;
}

/** Punching holes into everything takes a while on a slow disk. */
const WAIT_MS = 300_000;

export function define(command: Command, context: Context): void {
  command
    .description(
      'Remove what no mount needs: images that are not mounted, their layers, and files that a crash left. It all can be fetched again.',
    )
    .option('-a, --all', 'also of mounted images all but what their starts read')
    .option('-n, --dry-run', 'only say what would go')
    .option(
      '--keep <size>',
      'stop when the cache is no larger than this; what was not used for longest goes first',
      byteOption('--keep'),
    )
    .action(async (options: PruneOptions) => {
      const { all, dryRun = false, keep } = options;
      const reply = await withEngine(context, ({ call }) =>
        call('prune', { all, dryRun, keepBytes: keep }, { timeoutMs: WAIT_MS, signal: context.signal() }),
      );
      context.output.data(reply, () => (context.output.quiet ? '' : renderPruned(reply, dryRun)));
    });
  examples(command, [
    ['cofa prune', ''],
    ['cofa prune --dry-run', 'what would go, and how much it is'],
    ['cofa prune --keep 20G', 'only as much as is needed'],
    ['cofa prune --all', 'mounted images keep their start alone'],
  ]);
}

export function renderPruned(reply: PruneReply, dryRun: boolean): string {
  const lines = reply.images.map(({ ref }) => `${dryRun ? 'would remove' : 'removed'} ${ref}\n`);
  const verb = dryRun ? 'would be freed' : 'freed';
  lines.push(`${formatBytes(reply.freedBytes)} ${verb}, the cache holds ${formatBytes(reply.usedBytes)}\n`);
  return lines.join('');
}
