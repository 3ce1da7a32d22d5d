/** `cofa rmi REF…`: removes images from the node. */
import type { Command } from 'commander';
import type { PruneReply } from '../../schemas/api.ts';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';
import { formatBytes } from '../terminal/table.ts';

/** Punching holes into an image's layers takes a while on a slow disk, ms. */
const WAIT_MS = 120_000;

export function define(command: Command, context: Context): void {
  command
    .description('Remove images, and their layers that no other image has. What is mounted stays.')
    .argument('<ref...>', 'images as cofa images shows them, or the first digits of a digest')
    .action(async (refs: string[]) => {
      const options = { timeoutMs: WAIT_MS, signal: context.signal() };
      await withEngine(context, async ({ call }) => {
        for (const ref of refs) {
          const reply = await call('remove', { ref }, options);
          context.output.line(reply, () => (context.output.quiet ? '' : renderRemoved(reply)));
        }
      });
    });
  examples(command, [
    ['cofa rmi localhost:5000/demo:1', ''],
    ['cofa rmi 3f57d9401f8d', 'by digest'],
  ]);
}

const renderRemoved = ({ images, freedBytes }: PruneReply): string =>
  `${images.map(({ ref }) => ref).join(', ')}: ${formatBytes(freedBytes)} freed`;
