/** `cofa index REF`: prepares an image. Needs no engine, no root, no mount: any machine that may push can do it. */
import { defined } from '../../schemas/defined.ts';
import type { Command } from 'commander';
import type { ResolvedImage } from '../registry/client.ts';
import type { IndexedImage } from '../index/index-image.ts';
import { DEFAULT_KEYS } from '../signature/key-directory.ts';
import { type Context, examples, numberOption } from './context.ts';
import { copyTag, type NamedCopy, pushFor } from './index-as.ts';
import { type Signed, signedText, signedView, signerOf } from './index-sign.ts';
import { addRegistryOptions, type RegistryFlags } from './registry-options.ts';
import { registrySettings } from './registry-settings.ts';
import { formatBytes, formatDuration, formatShare, renderPairs, shortDigest } from '../terminal/table.ts';

interface IndexOptions extends RegistryFlags {
  platform?: string;
  dryRun?: boolean;
  force?: boolean;
  threads?: number;
  sign?: string;
  sidecar?: string;
  keys: string;
  as?: string;
}

export function define(command: Command, context: Context): void {
  addRegistryOptions(command)
    .description(
      'Prepare an image: read each layer once, see what its command will read first, and put a sidecar beside the image into the registry, so that nodes can mount it at once. The image itself is not touched.',
    )
    .argument('<ref>', 'image as docker writes it: debian:12, host:5000/app@sha256:…')
    .option('--platform <os/arch>', 'which image of a multi-platform one (default: this machine’s)')
    .option('--dry-run', 'do all but push')
    .option('--force', 'also if the image has a sidecar already')
    .option(
      '--threads <n>',
      'layers at the same time (default: one a core)',
      numberOption('--threads', { min: 1, max: 64, integer: true }),
    )
    .option('--sign <key>', 'sign the sidecar with this private key: a file, or env:NAME')
    .option('--sidecar <digest>', 'with --sign: sign this one, which cofa index printed before, as it is')
    .option(
      '--keys <dir>',
      'trusted keys: what they vouch for is signed without reading the image again',
      DEFAULT_KEYS,
    )
    .option(
      '--as <ref>',
      'put the sidecar beside a copy of the image that names it: a tag in the same repository, with a digest of its own',
    )
    .action((ref: string, options: IndexOptions) => indexAndPush(ref, options, context));
  examples(command, [
    ['cofa index registry.example/app:1.4', ''],
    ['cofa index --platform linux/arm64 registry.example/app:1.4', ''],
    ['cofa index --sign release.key registry.example/app:1.4', 'for nodes that trust release.pub'],
    ['cofa index --as registry.example/app:1.4-cofa registry.example/app:1.4', 'same layers, a new digest'],
    ['cofa index --dry-run debian:12', 'how large would the sidecar be?'],
  ]);
}

async function indexAndPush(ref: string, options: IndexOptions, context: Context): Promise<void> {
  const started = performance.now();
  const [
    { RegistryClient },
    { parseReference },
    { findSidecar },
    { indexImage, sidecarOf },
    { ProgressView },
  ] = await Promise.all([
    import('../registry/client.ts'),
    import('../registry/reference.ts'),
    import('../registry/sidecars.ts'),
    import('../index/index-image.ts'),
    import('./progress.ts'),
  ]);
  const signal = context.signal();
  const registry = await registrySettings(options, context);
  const signer = await signerOf(options, context);
  const copy = copyTag(options.as, parseReference(ref));
  const client = new RegistryClient(registry);
  const view = new ProgressView(`indexing ${ref}`, context.output.progress);
  try {
    const image = await client.resolve(parseReference(ref), defined({ signal, platform: options.platform }));
    // A dry run is about what it would give.
    if (options.force !== true && options.dryRun !== true && copy === undefined) {
      const found =
        signer === undefined
          ? await findSidecar(client, image, signal)
          : await signer.existing(client, image, signal);
      if (found !== undefined) {
        const { descriptor, size } = found;
        const signed = await signer?.sign(client, image, descriptor, signal);
        reportExisting(image, { digest: descriptor.digest, size }, signed, context);
        return;
      }
    }
    const [{ showOn }, { giveIndexingRoom }, { findHints }, { cutForHints }] = await Promise.all([
      import('./engine-progress.ts'),
      import('../process/heap.ts'),
      import('../index/image-hints.ts'),
      import('../index/cut-for-hints.ts'),
    ]);
    let indexed = await indexImage(
      defined({
        image,
        registry,
        signal,
        onBegun: () => giveIndexingRoom(),
        onProgress: showOn(view, (text) => context.output.warn(text)),
        threads: options.threads,
      }),
    );
    view.update('phase', { label: 'looking at its command', done: 0, total: undefined });
    const hints = await findHints(client, image, indexed, {
      signal,
      onFailed: (why) => context.output.warn(`its starts get no hints: ${why}`),
    });
    if (hints !== undefined) {
      indexed = await cutForHints(client, image, indexed, hints, {
        signal,
        onFailed: (why) => context.output.warn(`its starts fetch more than they read: ${why}`),
      });
    }
    const indexedMs = performance.now() - started;
    let sidecar: { digest: string; size: number } | undefined;
    let signed: Signed | undefined;
    let named: NamedCopy | undefined;
    if (options.dryRun !== true) {
      view.update('phase', { label: 'pushing the sidecar', done: 0, total: undefined });
      const pushed = await pushFor(client, image, { sidecar: sidecarOf(indexed, hints), copy, signal });
      sidecar = { digest: pushed.descriptor.digest, size: pushed.size };
      named = pushed.named;
      signed = await signer?.sign(client, image, pushed.descriptor, signal);
    }
    view.stop();
    const totalMs = performance.now() - started;
    report(image, { indexed, hints, sidecar, signed, named }, { indexedMs, totalMs }, context);
  } finally {
    view.stop();
    await client.close();
  }
}

function summaryOf(image: ResolvedImage) {
  return {
    ref: image.reference.text,
    manifest: image.descriptor.digest,
    layers: image.layers.length,
    imageBytes: image.layers.reduce((sum, layer) => sum + layer.blob.size, 0),
  };
}

function reportExisting(
  image: ResolvedImage,
  { digest, size }: { digest: string; size: number },
  signed: Signed | undefined,
  context: Context,
): void {
  const summary = { ...summaryOf(image), indexed: false, sidecar: digest, sidecarBytes: size };
  context.output.data({ ...summary, ...signedView(signed) }, () => {
    if (context.output.quiet) return '';
    const line = `${image.reference.text} is indexed already: sidecar ${digest}, ${formatBytes(size)}`;
    return signed === undefined ? `${line}; again: --force` : `${line}; ${signedText(signed)}`;
  });
}

interface Outcome {
  indexed: IndexedImage;
  hints: Buffer | undefined;
  /** Undefined after a dry run. */
  sidecar: { digest: string; size: number } | undefined;
  signed: Signed | undefined;
  /** With `--as`. */
  named: NamedCopy | undefined;
}

function report(
  image: ResolvedImage,
  { indexed, hints, sidecar, signed, named }: Outcome,
  times: { indexedMs: number; totalMs: number },
  context: Context,
): void {
  const layers = [...new Set(indexed.layers)];
  const summary = {
    ...summaryOf(image),
    indexed: true,
    rawBytes: layers.reduce((sum, layer) => sum + layer.rawSize, 0),
    flatBytes: indexed.flat.length,
    spansBytes: layers.reduce((sum, layer) => sum + layer.spans.length, 0),
    tocBytes: layers.reduce((sum, layer) => sum + layer.toc.length, 0),
    hintsBytes: hints?.length ?? 0,
    spans: layers.reduce((sum, layer) => sum + layer.spanCount, 0),
    sidecar: sidecar?.digest ?? null,
    sidecarBytes: sidecar?.size ?? null,
    ...signedView(signed),
    as: named ?? null,
    indexMs: Math.round(times.indexedMs),
    totalMs: Math.round(times.totalMs),
  };
  context.output.data(summary, () => {
    if (context.output.quiet) return '';
    return renderPairs([
      ['image', `${summary.ref} (${shortDigest(summary.manifest)})`],
      [
        'layers',
        `${summary.layers}, ${formatBytes(summary.imageBytes)} compressed, ${formatBytes(summary.rawBytes)} raw`,
      ],
      [
        'index',
        `flat image ${formatBytes(summary.flatBytes)}, ${summary.spans} spans ${formatBytes(summary.spansBytes)}, contents ${formatBytes(summary.tocBytes)}`,
      ],
      [
        'sidecar',
        sidecar === undefined
          ? 'not pushed (--dry-run)'
          : `${sidecar.digest}, ${formatBytes(sidecar.size)} = ${formatShare(sidecar.size, summary.imageBytes)} of the image`,
      ],
      ...(named === undefined ? [] : [['copy', `${named.ref}, ${named.manifest}`] as const]),
      ...(signed === undefined ? [] : [['signature', signedText(signed)] as const]),
      ['time', `${formatDuration(times.indexedMs)} to index, ${formatDuration(times.totalMs)} in all`],
    ]);
  });
}
