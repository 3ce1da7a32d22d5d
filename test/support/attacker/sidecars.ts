/** Sidecars, packs and hints of an attacker: well-formed, of his own making, around what he forges. */
import { buildFlat } from '../../../src/image/erofs.ts';
import { encodeHints, type Hints } from '../../../src/image/hints/hints.ts';
import type { SpanTable } from '../../../src/image/span-table.ts';
import { BLOCK_SIZE } from '../../../src/image/span-table.ts';
import type { Toc } from '../../../src/image/toc.ts';
import { encodeToc } from '../../../src/image/toc-codec.ts';
import { encodePack } from '../../../src/pack/format.ts';
import type { Descriptor, RegistryClient, Source } from '../../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../../src/registry/manifest.ts';
import type { Sidecar } from '../../../src/registry/sidecars.ts';
import type { Random } from '../random.ts';
import type { GenuineLayer } from './layer.ts';

/** What `cofa index` pushes beside an image of these layers, lowest first. */
export function honestSidecar(layers: readonly GenuineLayer[]): Sidecar {
  return {
    flat: flatOf(
      layers,
      layers.map(({ toc }) => toc),
    ),
    layers: layers.map(({ diffId, blobDigest, spans, toc }) => ({
      diffId,
      blobDigest,
      spans: spans.encode(),
      toc: encodeToc(toc),
    })),
  };
}

/** The same with other tables, by the index of their layer. */
export function withTables(sidecar: Sidecar, tables: ReadonlyMap<number, SpanTable>): Sidecar {
  const layers = sidecar.layers.map((layer, index) => {
    const spans = tables.get(index)?.encode();
    return spans === undefined ? layer : { ...layer, spans };
  });
  return { ...sidecar, layers };
}

/**
 * Flat metadata of other sizes of layers, as a forged table has them: `sizes` by the index of the layer. What of a layer's
 * files would lie behind its end is left out.
 */
export function flatOfSizes(layers: readonly GenuineLayer[], sizes: ReadonlyMap<number, number>): Buffer {
  const tocs = layers.map(({ toc, rawSize }, index) => {
    const size = sizes.get(index) ?? rawSize;
    const isInside = ({ extents }: Toc['entries'][number]) =>
      extents.every(({ deviceOffset, length }) => deviceOffset + length <= size);
    return { entries: toc.entries.filter(isInside) };
  });
  return flatOf(layers, tocs, sizes);
}

/** Flat metadata in which the first two files of a layer have each other's bytes; the first one is setuid. */
export function flatWithSwapped(layers: readonly GenuineLayer[], layer: number): Buffer {
  const tocs = layers.map(({ toc }) => ({ entries: toc.entries.map((entry) => ({ ...entry })) }));
  const [first, second] = tocs[layer]?.entries.filter(({ type }) => type === 'file') ?? [];
  if (first === undefined || second === undefined) throw new Error('the layer has no two files');
  [first.extents, second.extents] = [second.extents, first.extents];
  [first.size, second.size] = [second.size, first.size];
  first.mode = 0o4777;
  return flatOf(layers, tocs);
}

function flatOf(
  layers: readonly GenuineLayer[],
  tocs: readonly Toc[],
  sizes: ReadonlyMap<number, number> = new Map(),
): Buffer {
  const devices = layers.map(({ diffId, rawSize }, index) => ({ diffId, size: sizes.get(index) ?? rawSize }));
  return buildFlat(tocs, devices).metadata;
}

/**
 * A signature of one manifest beside another one: the bundle is the operator's own, and genuine. `signature`: the manifest
 * that carries it.
 */
export async function replaySignature(
  registry: RegistryClient,
  source: Source,
  signature: Buffer,
  subject: Descriptor,
): Promise<void> {
  const { mediaType, digest, size } = subject;
  const manifest = JSON.parse(signature.toString()) as object;
  const bytes = Buffer.from(JSON.stringify({ ...manifest, subject: { mediaType, digest, size } }));
  await registry.pushManifest(source, bytes, MEDIA_TYPES.ociManifest);
}

/** Hints that name blocks of these layers, some of which no layer has, and a layer of another image. */
export function forgedHints(diffIds: readonly string[], random: Random): Buffer {
  const devices = [...diffIds, `sha256:${'5'.repeat(64)}`];
  const runs = Array.from({ length: random.int(1, 20) }, () => {
    const first = random.chance(0.3) ? random.int(0, 2 ** 31) : random.int(0, 60);
    return [random.int(0, devices.length - 1), first, random.int(1, 40)] as const;
  });
  const hints: Hints = { devices, sections: [{ program: '', isAlways: random.chance(0.5), runs }] };
  return encodeHints(hints);
}

/** A startup pack of an image with all blocks of a layer, whose bytes are those of `content`. */
export async function packOf(
  manifest: string,
  layer: Pick<GenuineLayer, 'diffId' | 'rawSize'>,
  content: Buffer,
): Promise<Buffer> {
  const blocks = Math.ceil(layer.rawSize / BLOCK_SIZE);
  const header = {
    manifest,
    blockSize: BLOCK_SIZE,
    devices: [layer.diffId],
    sizes: [layer.rawSize],
    runs: Array.from({ length: blocks }, (_, block) => [0, block, 1] as const),
  };
  const pieces: Buffer[] = [];
  const read = (_: number, block: number, length: number) =>
    content.subarray(block * BLOCK_SIZE, block * BLOCK_SIZE + length);
  for await (const piece of encodePack(header, read)) pieces.push(piece);
  return Buffer.concat(pieces);
}
