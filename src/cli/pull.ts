/** `cofa pull REF`: an image into containerd, lazily, for clients that do not say what they pull. */
import { defined } from '../../schemas/defined.ts';
import { mkdir, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { type Context, examples } from './context.ts';
import { callersTrace } from './image-request.ts';
import { addRegistryOptions, type RegistryFlags } from './registry-options.ts';
import { registrySettings } from './registry-settings.ts';
import { formatBytes, shortDigest } from '../terminal/table.ts';

interface PullOptions extends RegistryFlags {
  address?: string;
  namespace?: string;
  snapshotter: string;
  platform?: string;
  layers?: boolean;
}

/** The engine downloads the whole of an image without a sidecar. */
const PREPARE_MS = 3_600_000;

export function define(command: Command, context: Context): void {
  addRegistryOptions(command)
    .description(
      'Put an image into containerd without its layers, which stay in the registry until something reads them. For clients that do not say what they pull, such as ctr; docker and Kubernetes pull lazily by themselves. This node prepares an image without a sidecar: it reads the layers once.',
    )
    .argument('<ref>', 'image as docker writes it: debian:12, host:5000/app@sha256:…')
    .option('--address <socket>', 'containerd’s (default: $CONTAINERD_ADDRESS, else where it is found)')
    .option(
      '--namespace <name>',
      'containerd’s namespace: moby is docker’s, k8s.io Kubernetes’s (default: $CONTAINERD_NAMESPACE, else default)',
    )
    .option('--snapshotter <name>', 'what containerd’s configuration calls cofa', 'cofa')
    .option('--platform <os/arch>', 'which image of a multi-platform one (default: this machine’s)')
    .option(
      '--layers',
      'fetch the layers, too: for what needs them as files, such as docker save, push and docker images',
    )
    .action((ref: string, options: PullOptions) => pull(ref, options, context));
  examples(command, [
    ['cofa pull registry.example/app:1.4', 'then: ctr run --snapshotter cofa …'],
    ['cofa pull --namespace k8s.io registry.example/app:1.4', 'before a pod needs it'],
    ['cofa pull --namespace moby --layers registry.example/app:1.4', 'then: docker save …'],
  ]);
}

async function pull(ref: string, options: PullOptions, context: Context): Promise<void> {
  const [
    { asCofaError, connectContainerd, findSocket },
    { pullInto },
    { RegistryClient },
    { parseReference },
    { ProgressView },
  ] = await Promise.all([
    import('../containerd/client.ts'),
    import('../containerd/pull.ts'),
    import('../registry/client.ts'),
    import('../registry/reference.ts'),
    import('./progress.ts'),
  ]);
  const signal = context.signal();
  const reference = parseReference(ref);
  const reach = await registrySettings(options, context);
  const socket = findSocket(options.address);
  const namespace = options.namespace ?? process.env.CONTAINERD_NAMESPACE ?? 'default';
  const view = new ProgressView(`pulling ${reference.text}`, context.output.progress);
  const registry = new RegistryClient(reach);
  const containerd = connectContainerd(socket, namespace, callersTrace());
  const { platform, snapshotter } = options;
  try {
    const image = await registry.resolve(reference, defined({ signal, platform }));
    const total = image.layers.reduce((sum, { blob }) => sum + blob.size, 0);
    let done = 0;
    const pulled = await pullInto({
      containerd,
      registry,
      snapshotter,
      reference,
      image,
      layers: options.layers === true,
      prepareHere: () => prepareHere(`${nameWithout(ref)}@${image.descriptor.digest}`, context, view),
      onBytes: (count) => {
        done += count;
        if (options.layers === true) view.update('phase', { label: 'fetching layers', done, total });
      },
      signal,
    });
    view.stop();
    const result = { ...pulled, namespace, snapshotter, address: socket, imageBytes: total };
    context.output.data(result, () => {
      if (context.output.quiet) return '';
      const layers =
        options.layers === true
          ? `its ${pulled.lazyLayers} layers have been fetched`
          : `its ${pulled.lazyLayers} layers (${formatBytes(total)}) stay in the registry`;
      return `${pulled.name} (${shortDigest(pulled.manifest)}) is in containerd, namespace ${namespace}; ${layers}`;
    });
  } catch (error) {
    signal.throwIfAborted();
    throw asCofaError(error, socket);
  } finally {
    view.stop();
    containerd.close();
    await registry.close();
  }
}

/** The engine prepares an image when it mounts it. Once snapshots stand on the image the mount has done its work. */
async function prepareHere(
  ref: string,
  context: Context,
  view: import('./progress.ts').ProgressView,
): Promise<() => Promise<void>> {
  const [{ connectEngine }, { showOn }, { takeBack }, { randomBytes }] = await Promise.all([
    import('../client/client.ts'),
    import('./engine-progress.ts'),
    import('../container/take-back.ts'),
    import('node:crypto'),
  ]);
  const client = await connectEngine(context.root);
  const dir = join(context.root, 'run', `pull-${randomBytes(6).toString('hex')}`);
  const undo = async () => {
    try {
      await takeBack(client, dir);
    } finally {
      await client.close();
      await rmdir(dir).catch(() => {});
    }
  };
  try {
    await mkdir(dir, { recursive: true });
    const options = {
      onProgress: showOn(view, (text) => context.output.warn(text)),
      signal: context.signal(),
      timeoutMs: PREPARE_MS,
    };
    await client.call('mount', { ref, dir, prefetch: false, ...callersTrace() }, options);
  } catch (error) {
    await undo().catch(() => {});
    throw error;
  }
  return undo;
}

/** The reference without tag and digest. */
function nameWithout(ref: string): string {
  const named = ref.split('@')[0] as string;
  const colon = named.indexOf(':', named.lastIndexOf('/') + 1);
  return colon < 0 ? named : named.slice(0, colon);
}
