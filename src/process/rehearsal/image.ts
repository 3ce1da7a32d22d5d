/**
 * A small image for rehearsals, with sidecar and startup pack, in a registry of this very process: a server on loopback that
 * lives as long as the rehearsal. It has nothing of any real image, and nothing of it outlives the process.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { zstdCompressSync } from 'node:zlib';
import { digestOf } from '../../digest/digest.ts';
import { BLOCK_SIZE, type SpanTable } from '../../image/span-table.ts';
import { encodePack } from '../../pack/format.ts';
import { DEFAULT_START } from '../../pack/pack-store.ts';
import { RegistryClient } from '../../registry/client.ts';
import { MEDIA_TYPES } from '../../registry/manifest.ts';
import { PACK_TYPES } from '../../registry/packs.ts';
import { hostPlatform } from '../../registry/platform.ts';
import { SIDECAR_REVISION, SIDECAR_TYPES } from '../../registry/sidecars.ts';
import type { Layout } from '../../store/layout.ts';
import { rehearsalFlat } from './flat.ts';
import { rehearsalLayer } from './layer.ts';

/** Blocks of its one layer. */
const BLOCKS = 4;

export interface RehearsalImage {
  /** As for `cofa run`. */
  ref: string;
  registry: string;
  repository: string;
  client: RegistryClient;
  /** Digest of its manifest. */
  manifest: string;
  table: SpanTable;
  /** Raw bytes of its layer. */
  layer: Buffer;
  layerDigest: string;
  pack: { digest: string; size: number };
  close(): Promise<void>;
}

/** Puts the image together and serves it. `layout`: of the rehearsal. */
export async function serveRehearsalImage(layout: Layout): Promise<RehearsalImage> {
  const blobs = new Map<string, Buffer>();
  const manifests = new Map<string, { type: string; bytes: Buffer }>();
  const add = (bytes: Buffer, mediaType: string, annotations?: Record<string, string>) => {
    const digest = digestOf(bytes);
    blobs.set(digest, bytes);
    return { mediaType, digest, size: bytes.length, ...(annotations === undefined ? {} : { annotations }) };
  };
  const addManifest = (value: object, type: string) => {
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: type, ...value }));
    const digest = digestOf(bytes);
    manifests.set(digest, { type, bytes });
    return { mediaType: type, digest, size: bytes.length };
  };
  const { bytes: layer, table } = rehearsalLayer(BLOCKS);
  const tar = add(layer, 'application/vnd.oci.image.layer.v1.tar');
  const metadata = rehearsalFlat(tar.digest, layer.length);
  const platform = hostPlatform();
  const config = Buffer.from(
    JSON.stringify({ ...platform, config: {}, rootfs: { type: 'layers', diff_ids: [tar.digest] } }),
  );
  const image = addManifest(
    { config: add(config, MEDIA_TYPES.ociConfig), layers: [tar] },
    MEDIA_TYPES.ociManifest,
  );
  const empty = add(Buffer.from('{}'), MEDIA_TYPES.ociEmpty);
  const ofLayer = { 'io.cofa.layer.diffid': tar.digest, 'io.cofa.layer.blob': tar.digest };
  const packed = (bytes: Buffer, type: string, annotations: Record<string, string>) =>
    add(zstdCompressSync(bytes), type, { ...annotations, 'io.cofa.size': `${bytes.length}` });
  const sidecar = addManifest(
    {
      artifactType: SIDECAR_TYPES.artifact,
      config: empty,
      layers: [
        packed(metadata, SIDECAR_TYPES.flat, {}),
        packed(table.encode(), SIDECAR_TYPES.spans, ofLayer),
        packed(Buffer.alloc(16), SIDECAR_TYPES.toc, ofLayer),
      ],
      subject: image,
      annotations: { 'io.cofa.revision': `${SIDECAR_REVISION}` },
    },
    MEDIA_TYPES.ociManifest,
  );
  const pack = add(await packOf(image.digest, table, layer), PACK_TYPES.pack);
  const start = { 'io.cofa.pack.start': DEFAULT_START };
  const packManifest = addManifest(
    {
      artifactType: PACK_TYPES.artifact,
      config: empty,
      layers: [pack],
      subject: image,
      annotations: start,
    },
    MEDIA_TYPES.ociManifest,
  );
  const referrers = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociIndex,
      manifests: [
        { ...sidecar, artifactType: SIDECAR_TYPES.artifact },
        { ...packManifest, artifactType: PACK_TYPES.artifact, annotations: start },
      ],
    }),
  );
  manifests.set('latest', manifests.get(image.digest) as { type: string; bytes: Buffer });

  const server = createServer((request, response) => {
    const [kind, name = ''] = (request.url ?? '').split('?')[0]?.split('/').slice(-2) ?? [];
    const manifest = kind === 'manifests' ? manifests.get(name) : undefined;
    const body =
      kind === 'referrers' ? referrers : kind === 'blobs' ? blobs.get(name) : (manifest?.bytes ?? undefined);
    if (body === undefined) {
      response.writeHead(404).end();
      return;
    }
    const type = kind === 'referrers' ? MEDIA_TYPES.ociIndex : (manifest?.type ?? 'application/octet-stream');
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    if (from === undefined || to === undefined) {
      response.writeHead(200, { 'content-type': type, 'content-length': body.length }).end(body);
      return;
    }
    const part = body.subarray(Number(from), Number(to) + 1);
    response
      .writeHead(206, {
        'content-type': type,
        'content-length': part.length,
        'content-range': `bytes ${from}-${Number(from) + part.length - 1}/${body.length}`,
      })
      .end(part);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const registry = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  // Nobody's credentials, helpers and proxies have to do with it.
  const client = new RegistryClient({
    dockerConfig: layout.in('none'),
    certDirs: [],
    hostDirs: [],
    environment: {},
  });
  return {
    ref: `${registry}/rehearsal:latest`,
    registry,
    repository: 'rehearsal',
    client,
    manifest: image.digest,
    table,
    layer,
    layerDigest: tar.digest,
    pack: { digest: pack.digest, size: pack.size },
    close: async () => {
      await client.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function packOf(manifest: string, table: SpanTable, layer: Buffer): Promise<Buffer> {
  const header = {
    manifest,
    blockSize: BLOCK_SIZE,
    devices: [table.diffId],
    sizes: [layer.length],
    runs: Array.from({ length: table.blockCount }, (_, block) => [0, block, 1] as const),
  };
  const pieces: Buffer[] = [];
  const read = (_: number, block: number, length: number) =>
    layer.subarray(block * BLOCK_SIZE, block * BLOCK_SIZE + length);
  for await (const piece of encodePack(header, read)) pieces.push(piece);
  return Buffer.concat(pieces);
}
