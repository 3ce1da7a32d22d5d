/** `cofa rm CONTAINER…`: removes what kept and dead containers have on the disk. */
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { type Context, examples } from './context.ts';

export function define(command: Command, context: Context): void {
  command
    .description(
      'Remove containers: those that ended and were kept (cofa run --keep), and what a killed cofa run left.',
    )
    .argument('<container...>', 'names as cofa ps shows them')
    .option('-f, --force', 'kill those that still run')
    .action(async (names: string[], options: { force?: boolean }) => {
      const [{ connectEngine }, { reapContainers }, { unmount }] = await Promise.all([
        import('../client/client.ts'),
        import('../container/reap.ts'),
        import('../kernel/mount.ts'),
      ]);
      const client = await connectEngine(context.root).catch(whereNoneRuns);
      try {
        for (const only of names) {
          await reapContainers({
            root: context.root,
            only,
            force: options.force === true,
            now: new Date(),
            unmountImage: async (dir) => {
              const asked = client?.call('unmount', { dir }, { timeoutMs: 60_000 });
              if ((await asked?.catch(whereNoneRuns)) === undefined) await unmount(dir);
            },
          });
          context.output.line({ removed: only }, () => (context.output.quiet ? '' : only));
        }
      } finally {
        await client?.close();
      }
    });
  examples(command, [
    ['cofa rm build-1', ''],
    ['cofa rm --force 0a1b2c3d4e5f', 'also if it runs'],
  ]);
}

/** An engine that was killed leaves its endpoint, so connecting to it fails with the first call. */
function whereNoneRuns(error: unknown): undefined {
  if (!(error instanceof CofaError) || error.code !== 'not-running') throw error;
}
