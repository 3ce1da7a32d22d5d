/** `cofa rmi REF…`: removes images from the node. */
import type { Command } from 'commander';
import { type Context, examples } from './context.ts';
import { formatBytes } from '../terminal/table.ts';

export function define(command: Command, context: Context): void {
  command
    .description('Remove images, and their layers that no other image has. What is mounted stays.')
    .argument('<ref...>', 'images as cofa images shows them, or the first digits of a digest')
    .action(async (refs: string[]) => {
      const { connectEngine } = await import('../client/client.ts');
      const client = await connectEngine(context.root);
      try {
        for (const ref of refs) {
          const reply = await client.call(
            'remove',
            { ref },
            { timeoutMs: 120_000, signal: context.signal() },
          );
          context.output.line(reply, () =>
            context.output.quiet
              ? ''
              : `${reply.images.map((image) => image.ref).join(', ')}: ${formatBytes(reply.freedBytes)} freed`,
          );
        }
      } finally {
        await client.close();
      }
    });
  examples(command, [
    ['cofa rmi localhost:5000/demo:1', ''],
    ['cofa rmi 3f57d9401f8d', 'by digest'],
  ]);
}
