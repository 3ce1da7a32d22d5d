/** `cofa images`: what this node knows. */
import type { Command } from 'commander';
import type { Status } from '../../schemas/api.ts';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';
import { formatBytes, formatShare, renderTable, shortDigest } from '../terminal/table.ts';

export function define(command: Command, context: Context): void {
  command.description('List the images that this node knows, mounted or not.').action(async () => {
    const options = { timeoutMs: 10_000, signal: context.signal() };
    const status = await withEngine(context, ({ call }) => call('status', {}, options));
    context.output.data(imageList(status), () => renderImages(status));
  });
  examples(command, [
    ['cofa images', ''],
    ["cofa images --json | jq -r '.[] | select(.mounts == 0) | .ref'", 'those that nothing mounts'],
  ]);
}

export interface ImageLine {
  ref: string;
  manifest: string;
  state: string;
  origin: string | null;
  /** proven, unproven or refuted: docs/trust.md; null while there is no flat image. */
  trust: string | null;
  /** Directories that it is mounted at. */
  mounts: number;
  /** Uncompressed bytes, and those that are on this node; layers in common count for each image. */
  totalBytes: number;
  presentBytes: number;
}

export function imageList(status: Status): ImageLine[] {
  return status.images.map(({ ref, manifest, state, origin, trust, bytes }) => ({
    ref,
    manifest,
    state,
    origin: origin ?? null,
    trust: trust ?? null,
    mounts: status.mounts.filter((mount) => mount.manifest === manifest).length,
    totalBytes: bytes.total,
    presentBytes: bytes.present,
  }));
}

export function renderImages(status: Status): string {
  const images = imageList(status);
  if (images.length === 0) return 'no images\n';
  return renderTable(
    ['IMAGE', 'DIGEST', 'STATE', 'INDEX', 'TRUST', 'SIZE', 'PRESENT', 'MOUNTS'],
    images.map((image) => [
      image.ref,
      shortDigest(image.manifest),
      image.state,
      image.origin ?? '-',
      image.trust ?? '-',
      formatBytes(image.totalBytes),
      formatShare(image.presentBytes, image.totalBytes),
      String(image.mounts),
    ]),
    ['SIZE', 'PRESENT', 'MOUNTS'],
  );
}
