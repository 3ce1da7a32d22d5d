/** `cofa inspect REF`: what the registry has of an image, and of its sidecar. */
import { defined } from '../../schemas/defined.ts';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { ResolvedImage } from '../registry/client.ts';
import { DEFAULT_KEYS } from '../signature/key-directory.ts';
import { type Context, examples } from './context.ts';
import { findSidecars, renderSidecars, type SidecarView, vouchedText } from './inspect-sidecars.ts';
import { addRegistryOptions, type RegistryFlags } from './registry-options.ts';
import { registrySettings } from './registry-settings.ts';
import { formatBytes, formatShare, renderPairs, renderTable, shortDigest } from '../terminal/table.ts';

interface LayerView {
  blob: string;
  diffId: string;
  mediaType: string;
  /** Compressed bytes. */
  size: number;
  /** Below: from the sidecar; null without one. */
  compression: string | null;
  rawSize: number | null;
  blocks: number | null;
  spans: number | null;
}

export interface ImageView {
  ref: string;
  manifest: string;
  mediaType: string;
  platform: string;
  created: string | null;
  config: string;
  size: number;
  layers: LayerView[];
  sidecar: { digest: string; size: number; flat: number; files: number; devices: number } | null;
  /** All of them, and who vouches for each. */
  sidecars: SidecarView[];
}

export function define(command: Command, context: Context): void {
  addRegistryOptions(command)
    .description(
      'Show an image as the registry has it: manifest, layers, and whether a sidecar makes it quick to start.',
    )
    .argument('<ref>', 'image as docker writes it: debian:12, host:5000/app@sha256:…')
    .option('--platform <os/arch>', 'which image of a multi-platform one (default: this machine’s)')
    .option('--keys <dir>', 'keys that may vouch for sidecars', DEFAULT_KEYS)
    .action(async (ref: string, options: RegistryFlags & { platform?: string; keys: string }) => {
      const [{ RegistryClient }, { parseReference }] = await Promise.all([
        import('../registry/client.ts'),
        import('../registry/reference.ts'),
      ]);
      const signal = context.signal();
      const client = new RegistryClient(await registrySettings(options, context));
      try {
        const image = await client.resolve(
          parseReference(ref),
          defined({ signal, platform: options.platform }),
        );
        const { readKeys, trustedOf } = await import('../signature/key-directory.ts');
        const view = viewOf(image);
        const set = await readKeys(resolve(options.keys));
        for (const { message } of set.problems) context.output.warn(message);
        const { first: sidecar, views, skipped } = await findSidecars(client, image, trustedOf(set), signal);
        for (const { reason } of skipped) context.output.note(reason);
        view.sidecars = views;
        if (sidecar !== undefined) {
          const [{ SpanTable }, { checkFlat }] = await Promise.all([
            import('../image/span-table.ts'),
            import('../image/erofs-check.ts'),
          ]);
          const flat = await sidecar.flat(signal);
          const checked = checkFlat(flat);
          view.sidecar = {
            digest: sidecar.descriptor.digest,
            size: sidecar.size,
            flat: flat.length,
            files: checked.inodes,
            devices: checked.devices.length,
          };
          for (const [index, layer] of view.layers.entries()) {
            const table = SpanTable.decode(await sidecar.spans(index, signal));
            layer.compression = table.compression;
            layer.rawSize = table.rawSize;
            layer.blocks = table.blockCount;
            layer.spans = table.spanCount;
          }
        }
        context.output.data(view, () => render(view));
      } finally {
        await client.close();
      }
    });
  examples(command, [
    ['cofa inspect debian:12', ''],
    ["cofa inspect --json 127.0.0.1:5000/app:1.4 | jq '.sidecar.size'", ''],
  ]);
}

function viewOf(image: ResolvedImage): ImageView {
  const config = JSON.parse(image.config.toString('utf8')) as Record<string, unknown>;
  const text = (name: string) => (typeof config[name] === 'string' ? config[name] : '');
  const platform = [text('os'), text('architecture'), text('variant')]
    .filter((part) => part !== '')
    .join('/');
  return {
    ref: image.reference.text,
    manifest: image.descriptor.digest,
    mediaType: image.descriptor.mediaType,
    platform,
    created: text('created') || null,
    config: image.configDescriptor.digest,
    size: image.layers.reduce((sum, layer) => sum + layer.blob.size, 0),
    layers: image.layers.map(({ blob, diffId }) => ({
      blob: blob.digest,
      diffId,
      mediaType: blob.mediaType,
      size: blob.size,
      compression: null,
      rawSize: null,
      blocks: null,
      spans: null,
    })),
    sidecar: null,
    sidecars: [],
  };
}

export function render(view: ImageView): string {
  const raw = view.layers.reduce((sum, layer) => sum + (layer.rawSize ?? 0), 0);
  const { sidecar, sidecars } = view;
  const [first] = sidecars;
  const pairs = renderPairs([
    ['image', view.ref],
    ['manifest', `${view.manifest} (${view.mediaType})`],
    ['config', view.config],
    ['platform', view.platform || '-'],
    ['created', view.created ?? '-'],
    ['size', `${formatBytes(view.size)} compressed${sidecar === null ? '' : `, ${formatBytes(raw)} raw`}`],
    [
      'sidecar',
      sidecar === null
        ? 'none: a node that mounts it indexes it by itself; prepare it: cofa index'
        : `${sidecar.digest}, ${formatBytes(sidecar.size)} = ${formatShare(sidecar.size, view.size)} of the image`,
    ],
    ...(first === undefined ? [] : [['vouched for by', vouchedText(first)] as const]),
    ...(sidecar === null
      ? []
      : [
          [
            'flat image',
            `${formatBytes(sidecar.flat)}, ${sidecar.files} files, data in ${sidecar.devices} layers`,
          ] as const,
        ]),
  ]);
  const table = renderTable(
    ['#', 'BLOB', 'DIFFID', 'TYPE', 'SIZE', 'RAW', 'BLOCKS', 'SPANS'],
    view.layers.map((layer, index) => [
      String(index),
      shortDigest(layer.blob),
      shortDigest(layer.diffId),
      layer.compression ?? layer.mediaType.replace(/^application\/vnd\./, ''),
      formatBytes(layer.size),
      layer.rawSize === null ? '-' : formatBytes(layer.rawSize),
      layer.blocks === null ? '-' : String(layer.blocks),
      layer.spans === null ? '-' : String(layer.spans),
    ]),
    ['#', 'SIZE', 'RAW', 'BLOCKS', 'SPANS'],
  );
  return `${pairs}\n${table}${sidecars.length > 1 ? `\n${renderSidecars(sidecars)}` : ''}`;
}
