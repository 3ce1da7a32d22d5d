/** Images for the registry tests: real tars, gzipped, with a configuration that fits. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Descriptor, RegistryClient, Source } from '../../src/registry/client.ts';
import { digestOf } from '../../src/digest/digest.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';

export interface SampleImage {
  manifest: Buffer;
  manifestType: string;
  digest: string;
  config: Buffer;
  layers: Array<{ bytes: Buffer; raw: Buffer; diffId: string; descriptor: Descriptor }>;
}

/** An image whose i-th layer holds a random file of `sizes[i]` bytes. */
export function sampleImage(
  sizes: readonly number[],
  options: { docker?: boolean; platform?: { os: string; architecture: string; variant?: string } } = {},
): SampleImage {
  const layers = sizes.map((size, i) => {
    const raw = tarOf(`file-${i}`, randomBytes(size));
    const bytes = gzipSync(raw, { level: 1 });
    const mediaType = options.docker
      ? 'application/vnd.docker.image.rootfs.diff.tar.gzip'
      : 'application/vnd.oci.image.layer.v1.tar+gzip';
    return {
      bytes,
      raw,
      diffId: digestOf(raw),
      descriptor: { mediaType, digest: digestOf(bytes), size: bytes.length },
    };
  });
  const config = Buffer.from(
    JSON.stringify({
      ...(options.platform ?? { os: 'linux', architecture: 'amd64' }),
      config: { Cmd: ['/file-0'] },
      rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
      history: layers.map(() => ({ created_by: 'test' })),
    }),
  );
  const manifestType = options.docker ? MEDIA_TYPES.dockerManifest : MEDIA_TYPES.ociManifest;
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: manifestType,
      config: {
        mediaType: options.docker ? MEDIA_TYPES.dockerConfig : MEDIA_TYPES.ociConfig,
        digest: digestOf(config),
        size: config.length,
      },
      layers: layers.map(({ descriptor }) => descriptor),
    }),
  );
  return { manifest, manifestType, digest: digestOf(manifest), config, layers };
}

/** Pushes it with the client under test. */
export async function pushImage(
  client: RegistryClient,
  source: Source,
  image: SampleImage,
  tag?: string,
): Promise<Descriptor> {
  for (const { bytes, descriptor } of image.layers)
    await client.pushBlob(source, bytes, descriptor.mediaType);
  await client.pushBlob(source, image.config, MEDIA_TYPES.ociConfig);
  return await client.pushManifest(source, image.manifest, image.manifestType, tag);
}

/** An index of manifests, each for a platform. */
export function indexOf(
  entries: ReadonlyArray<{
    image: SampleImage;
    platform?: { os: string; architecture: string; variant?: string };
  }>,
  mediaType: string = MEDIA_TYPES.ociIndex,
): Buffer {
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType,
      manifests: entries.map(({ image, platform }) => ({
        mediaType: image.manifestType,
        digest: image.digest,
        size: image.manifest.length,
        ...(platform === undefined ? {} : { platform }),
      })),
    }),
  );
}

export async function collect(chunks: AsyncIterable<Buffer>): Promise<Buffer> {
  const all: Buffer[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return Buffer.concat(all);
}

function tarOf(name: string, content: Buffer): Buffer {
  const folder = mkdtempSync(join(tmpdir(), 'cofa-sample-'));
  try {
    mkdirSync(join(folder, 'root'));
    writeFileSync(join(folder, 'root', name), content);
    execFileSync('tar', ['-cf', join(folder, 'layer.tar'), '-C', join(folder, 'root'), '.']);
    return readFileSync(join(folder, 'layer.tar'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
