/** `cofa scrub`: are the blocks on the disk what they were when they came? */
import type { Command } from 'commander';
import type { ScrubReply } from '../../schemas/api.ts';
import { byteOption } from './byte-option.ts';
import type { EngineClient } from '../client/client.ts';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';
import { formatBytes, formatDuration, renderTable, shortDigest } from '../terminal/table.ts';

interface ScrubOptions {
  image?: string;
  layer?: string;
  repair?: boolean;
  rate?: number;
  stop?: boolean;
}

/** It may take hours; an engine of which nothing is heard for this long is given up, ms. */
const LONGEST_MS = 7 * 86_400_000;
const SILENCE_MS = 120_000;

export function define(command: Command, context: Context): void {
  command
    .description(
      'Compare every block on the disk with its digest. Damaged blocks are taken out, so that they are fetched again when they are read.',
    )
    .option('--image <ref>', 'only the layers of this image')
    .option('--layer <digest>', 'only this layer: its diffID or the first digits of it')
    .option('--repair', 'fetch damaged blocks again at once')
    .option(
      '--rate <size>',
      'read so much in a second at most; 0: as fast as the disk is (default: 128M)',
      byteOption('--rate'),
    )
    .option('--stop', 'stop the scrub that is running')
    .action(async (options: ScrubOptions) => {
      await withEngine(context, async (engine) => {
        if (options.stop === true) await stopScrub(engine, context);
        else await scrub(engine, options, context);
      });
    });
  examples(command, [
    ['cofa scrub', ''],
    ['cofa scrub --repair --rate 0', 'as fast as it goes'],
    ['cofa scrub --image debian:12', ''],
    ["cofa scrub --json | jq '.layers[] | select(.bad > 0)'", ''],
  ]);
}

async function stopScrub({ call }: EngineClient, context: Context): Promise<void> {
  const reply = await call('scrub-stop', {}, { timeoutMs: 10_000, signal: context.signal() });
  context.output.data(reply, () => (reply.stopped ? 'stopped\n' : 'no scrub is running\n'));
}

async function scrub({ call }: EngineClient, options: ScrubOptions, context: Context): Promise<void> {
  const [{ ProgressView }, { showOn }] = await Promise.all([
    import('./progress.ts'),
    import('./engine-progress.ts'),
  ]);
  const { image: ref, layer, repair, rate: bytesPerSecond } = options;
  const view = new ProgressView('scrub', context.output.progress);
  const signal = context.signal();
  try {
    const terms = { timeoutMs: LONGEST_MS, silenceMs: SILENCE_MS, onProgress: showOn(view), signal };
    const reply = await call('scrub', { ref, layer, repair, bytesPerSecond }, terms);
    view.stop();
    context.output.data(reply, () => renderScrub(reply, context.output.quiet));
    if (isBad(reply)) context.exit = BAD_EXIT;
  } catch (error) {
    view.stop();
    // No user waits for it any more.
    if (signal.aborted) await call('scrub-stop', {}, { timeoutMs: 5_000 }).catch(() => {});
    throw error;
  }
}

/** As of an error `integrity`. */
const BAD_EXIT = 6;

/** Damage was found that is not repaired, or not all could be compared. */
const isBad = ({ bad, repaired, layers }: ScrubReply): boolean =>
  bad > repaired || layers.some(({ failure }) => failure !== undefined);

export function renderScrub(reply: ScrubReply, quiet: boolean): string {
  const shown = quiet
    ? reply.layers.filter((layer) => layer.bad > 0 || layer.failure !== undefined)
    : reply.layers;
  const parts: string[] = [];
  if (shown.length > 0) {
    parts.push(
      renderTable(
        ['LAYER', 'COMPARED', 'BLOCKS', 'DAMAGED', 'REPAIRED', 'RESULT', 'IMAGE'],
        shown.map((layer) => [
          shortDigest(layer.diffId),
          formatBytes(layer.bytes),
          String(layer.blocks),
          String(layer.bad),
          String(layer.repaired),
          resultOf(layer),
          layer.refs.join(', ') || '-',
        ]),
        ['COMPARED', 'BLOCKS', 'DAMAGED', 'REPAIRED'],
      ),
    );
  }
  if (quiet) return parts.join('');
  const how = reply.stopped ? 'stopped after' : 'compared';
  const found = reply.bad === 0 ? 'no block is damaged' : `${reply.bad} damaged, ${reply.repaired} repaired`;
  parts.push(`${how} ${formatBytes(reply.bytes)} in ${formatDuration(reply.ms)}: ${found}\n`);
  if (reply.bad > reply.repaired + reply.kept)
    parts.push(
      'damaged blocks were taken out; they are fetched again when they are read, or at once: cofa scrub --repair\n',
    );
  return parts.join('');
}

function resultOf({ bad, repaired, kept, whole, failure }: ScrubReply['layers'][number]): string {
  if (failure !== undefined) return failure;
  if (kept > 0) return `${kept} cannot be taken out: unmount what uses it`;
  if (bad > repaired) return 'taken out';
  return whole ? 'whole, is its diffID' : 'ok';
}
