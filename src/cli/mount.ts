/** `cofa mount REF DIR` */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { type Context, examples } from './context.ts';
import { TRUST_HELP, trustOption } from './trust-option.ts';
import { withEngine } from './engine.ts';
import { type ImageOptions, imageRequest } from './image-request.ts';
import { PREFETCH_HELP, prefetchOption } from './prefetch-option.ts';

interface MountFlags {
  suid?: true;
  dev?: true;
}

export function define(command: Command, context: Context): void {
  command
    .description(
      'Mount an image, read-only. Its files are there at once; their data are fetched when they are first read, and the rest in the background.',
    )
    .argument('<ref>', 'image as docker writes it: debian:12, host:5000/app@sha256:…')
    .argument('<dir>', 'empty or new directory')
    .option('--platform <os/arch>', 'another platform than the node’s')
    .option('--prefetch <on|off|rate>', PREFETCH_HELP, prefetchOption)
    .option('--no-prefetch', 'fetch nothing that is not read')
    .option('--trust <policy>', `${TRUST_HELP} (default: as cofa up says)`, trustOption)
    .option('--suid', 'its setuid programs get their rights (default: they are ordinary programs)')
    .option('--dev', 'its device files open devices of the node (default: they open nothing)')
    .action(async (ref: string, dir: string, options: ImageOptions & MountFlags) => {
      const [{ ProgressView }, { showOn }] = await Promise.all([
        import('./progress.ts'),
        import('./engine-progress.ts'),
      ]);
      const signal = context.signal();
      const { suid, dev } = options;
      const request = { ...imageRequest(ref, options), dir: resolve(dir), suid, dev };
      const view = new ProgressView(`mounting ${ref}`, context.output.progress);
      const onProgress = showOn(view, (text) => context.output.warn(text));
      const mount = await withEngine(context, async (engine) => {
        try {
          return await engine.call('mount', request, { onProgress, signal });
        } catch (error) {
          view.stop();
          // The engine works on after a Ctrl-C here; no user waits for what it mounts then.
          if (signal.aborted) {
            const { takeBack } = await import('../container/take-back.ts');
            await takeBack(engine, request.dir).catch(() => {});
          }
          throw error;
        }
      }).finally(() => view.stop());
      context.output.data(mount, () =>
        context.output.quiet ? '' : `${mount.ref} is mounted at ${mount.dir}`,
      );
    });
  examples(command, [
    ['cofa mount debian:12 /mnt', ''],
    ['cofa mount 127.0.0.1:5000/app:1.4 /srv/app', 'a registry on this machine may speak plain HTTP'],
    ['cofa mount --no-prefetch debian:12 /mnt', 'only what is read'],
    ['cofa mount --suid --dev debian:12 /mnt', 'for chroot: as the image means it'],
    ['cofa mount --prefetch 20M debian:12 /mnt', 'the rest with at most 20 MB/s'],
  ]);
}
