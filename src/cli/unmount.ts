/** `cofa unmount DIR` */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { type Context, examples } from './context.ts';

export function define(command: Command, context: Context): void {
  command
    .description('Take a mount away. What was fetched stays on the disk for the next one.')
    .argument('<dir>', 'where it is mounted')
    .action(async (dir: string) => {
      const { connectEngine } = await import('../client/client.ts');
      const client = await connectEngine(context.root);
      try {
        const reply = await client.call('unmount', { dir: resolve(dir) }, { signal: context.signal() });
        context.output.data(reply, () => (context.output.quiet ? '' : `${reply.dir} is unmounted`));
      } finally {
        await client.close();
      }
    });
  examples(command, [['cofa unmount /mnt', '']]);
}
