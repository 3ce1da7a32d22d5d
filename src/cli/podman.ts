/** `cofa podman add|ls|rm`: images that podman, buildah and CRI-O start lazily. */
import type { Command } from 'commander';
import type { PodmanImage, Status } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { STORAGE_CONF } from '../install/podman.ts';
import { renderTable } from '../terminal/table.ts';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';
import { type ImageOptions, imageRequest } from './image-request.ts';
import { PREFETCH_HELP, prefetchOption } from './prefetch-option.ts';
import { TRUST_HELP, trustOption } from './trust-option.ts';

interface StorageFlags {
  storageConf: string;
}

/** The engine downloads the whole of an image without a sidecar. */
const PREPARE_MS = 3_600_000;
const WAIT_MS = 60_000;

export function define(command: Command, context: Context): void {
  command.description(
    'Images that podman, buildah and CRI-O start lazily: they find them in an additional image store, ROOT/podman, which cofa install podman or crio makes known to them.',
  );
  command
    .command('add')
    .description(
      'Show an image to podman, without its layers: these stay in the registry until a container reads them.',
    )
    .argument('<ref>', 'image as docker writes it: debian:12, host:5000/app@sha256:…')
    .option('--platform <os/arch>', 'another platform than the node’s')
    .option('--prefetch <on|off|rate>', PREFETCH_HELP, prefetchOption)
    .option('--no-prefetch', 'fetch nothing that is not read')
    .option('--trust <policy>', `${TRUST_HELP} (default: as cofa up says)`, trustOption)
    .option('--storage-conf <file>', 'podman’s configuration of its storage', STORAGE_CONF)
    .action((ref: string, options: ImageOptions & StorageFlags) => add(ref, options, context));
  command
    .command('ls')
    .description('List the images that podman has from cofa, and whether it can save them.')
    .action(async () => {
      const { images } = await ofPodman(context);
      context.output.data(images, () => render(images));
    });
  command
    .command('rm')
    .description('Take images out of podman’s sight. podman itself cannot remove them.')
    .argument('<ref...>', 'names, or the first digits of an id')
    .option('--force', 'also where containers or images of podman stand on it: they cannot start any more')
    .option('--storage-conf <file>', 'podman’s configuration of its storage', STORAGE_CONF)
    .action((refs: string[], options: StorageFlags & { force?: boolean }) => remove(refs, options, context));
  examples(command, [
    ['cofa podman add registry.example/app:1.4', 'then: podman run registry.example/app:1.4'],
    ['cofa podman add --prefetch 20M debian:12', 'the rest with at most 20 MB/s'],
    ['cofa podman ls', ''],
    ['cofa podman rm registry.example/app:1.4', ''],
  ]);
}

async function add(ref: string, options: ImageOptions & StorageFlags, context: Context): Promise<void> {
  const [{ ProgressView }, { showOn }, { knowsStore }] = await Promise.all([
    import('./progress.ts'),
    import('./engine-progress.ts'),
    import('./podman-storage.ts'),
  ]);
  const signal = context.signal();
  const { platform, prefetch, prefetchLimit, trust } = imageRequest(ref, options);
  const view = new ProgressView(`adding ${ref}`, context.output.progress);
  const onProgress = showOn(view, (text) => context.output.warn(text));
  const request = { ref, platform, prefetch, prefetchLimit, trust };
  const added = await withEngine(context, ({ call }) =>
    call('podman-add', request, { onProgress, signal, timeoutMs: PREPARE_MS }),
  ).finally(() => view.stop());
  if (!(await knowsStore(options.storageConf, context.root)))
    context.output.warn(`podman does not look at ${context.root}/podman yet: cofa install podman`);
  context.output.data(added, () =>
    context.output.quiet ? '' : `${added.names.join(', ')} (${added.id.slice(0, 12)}) can be run by podman`,
  );
}

async function remove(
  refs: string[],
  { force = false, storageConf }: StorageFlags & { force?: boolean },
  context: Context,
): Promise<void> {
  const { storageOf, usersOf } = await import('./podman-storage.ts');
  const options = { timeoutMs: WAIT_MS, signal: context.signal() };
  await withEngine(context, async ({ call }) => {
    for (const ref of refs) {
      if (!force) {
        const users = await usersOf({
          ref,
          store: `${context.root}/podman`,
          ...(await storageOf(storageConf)),
        });
        if (users.length > 0)
          throw new CofaError('busy', `${ref} is below ${users.slice(0, 5).join(', ')}`, {
            hint: 'remove these with podman first, or --force: then they cannot start any more',
          });
      }
      const reply = await call('podman-remove', { ref }, options);
      context.output.line(reply, () => {
        if (context.output.quiet) return '';
        return reply.left.length === 0
          ? `${reply.ref}: podman does not see it any more`
          : `${reply.ref}: podman sees it as ${reply.left.join(', ')}`;
      });
    }
  });
}

async function ofPodman(context: Context): Promise<NonNullable<Status['podman']>> {
  const options = { timeoutMs: 10_000, signal: context.signal() };
  const { podman } = await withEngine(context, ({ call }) => call('status', {}, options));
  return podman ?? { store: `${context.root}/podman`, images: [] };
}

function render(images: readonly PodmanImage[]): string {
  if (images.length === 0) return 'podman has no images of cofa: cofa podman add REF\n';
  return renderTable(
    ['NAME', 'IMAGE ID', 'LAYERS', 'PODMAN', 'CAN BE SAVED'],
    images.map(({ names, id, layers, reason, whole }) => [
      names.length === 0 ? '<none>' : names.join(', '),
      id.slice(0, 12),
      String(layers),
      reason ?? 'sees it',
      whole ? 'yes' : 'when its layers are whole',
    ]),
    ['LAYERS'],
  );
}
