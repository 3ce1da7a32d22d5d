/** `cofa unmount DIR` */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';

export function define(command: Command, context: Context): void {
  command
    .description('Take a mount away. What was fetched stays on the disk for the next one.')
    .argument('<dir>', 'where it is mounted')
    .action(async (dir: string) => {
      const options = { signal: context.signal() };
      const reply = await withEngine(context, ({ call }) => call('unmount', { dir: resolve(dir) }, options));
      context.output.data(reply, () => (context.output.quiet ? '' : `${reply.dir} is unmounted`));
    });
  examples(command, [['cofa unmount /mnt', '']]);
}
