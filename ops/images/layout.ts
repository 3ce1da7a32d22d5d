/**
 * Images on disk and on their way to a registry, for demos, tests and benchmarks: an OCI image layout
 * (image-spec, image-layout.md) written and pushed without any container tool, so that layers arrive in the
 * registry byte for byte as they were made.
 */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';

/** A layer whose blob lies in a file. */
export interface LayerFile {
  file: string;
  /** `gzip`, `zstd` or `none`; its media type follows from this and the manifest's kind. */
  compression: 'gzip' | 'zstd' | 'none';
  digest: string;
  /** Bytes of the blob. */
  size: number;
  /** Digest of the uncompressed tar. */
  diffId: string;
  /** The command that made it, for the image's history. */
  createdBy: string;
}

export interface ImageConfig {
  Entrypoint?: string[];
  Cmd?: string[];
  Env?: string[];
  WorkingDir?: string;
  User?: string;
}

export interface ImageSpec {
  kind: 'oci' | 'docker';
  layers: LayerFile[];
  config: ImageConfig;
  /** ISO time that the image carries. */
  created: string;
  /** Debian's name of the processor; this machine's by default. */
  architecture?: string;
  /** Its name in the index; `image` by default. */
  name?: string;
  /** The whole name under which containerd and docker import it. */
  fullName?: string;
}

/** An image layout that holds one image. */
export interface ImageLayout {
  directory: string;
  manifest: { mediaType: string; digest: string; size: number };
}

interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
}

const MEDIA_TYPES = {
  oci: {
    manifest: 'application/vnd.oci.image.manifest.v1+json',
    config: 'application/vnd.oci.image.config.v1+json',
    gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
    zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
    none: 'application/vnd.oci.image.layer.v1.tar',
  },
  docker: {
    manifest: 'application/vnd.docker.distribution.manifest.v2+json',
    config: 'application/vnd.docker.container.image.v1+json',
    gzip: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
    zstd: 'application/vnd.docker.image.rootfs.diff.tar.zstd',
    none: 'application/vnd.docker.image.rootfs.diff.tar',
  },
} as const;

/** Writes an image into `directory`; layers are copied in. The index is written last: with it the layout is whole. */
export async function writeLayout(directory: string, spec: ImageSpec): Promise<ImageLayout> {
  const types = MEDIA_TYPES[spec.kind];
  await mkdir(join(directory, 'blobs/sha256'), { recursive: true });
  const layers: Descriptor[] = [];
  for (const layer of spec.layers) {
    const target = blobPath(directory, layer.digest);
    if (!existsSync(target)) await copyFile(layer.file, target);
    layers.push({ mediaType: types[layer.compression], digest: layer.digest, size: layer.size });
  }
  const config = await writeJson(directory, types.config, {
    created: spec.created,
    architecture:
      spec.architecture ?? { x64: 'amd64', arm64: 'arm64' }[process.arch as 'x64' | 'arm64'] ?? process.arch,
    os: 'linux',
    config: spec.config,
    rootfs: { type: 'layers', diff_ids: spec.layers.map(({ diffId }) => diffId) },
    history: spec.layers.map(({ createdBy }) => ({ created: spec.created, created_by: createdBy })),
  });
  const manifest = await writeJson(directory, types.manifest, {
    schemaVersion: 2,
    mediaType: types.manifest,
    config,
    layers,
  });
  await writeFile(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  const annotations = {
    'org.opencontainers.image.ref.name': spec.name ?? 'image',
    ...(spec.fullName === undefined ? {} : { 'io.containerd.image.name': spec.fullName }),
  };
  const index = { schemaVersion: 2, manifests: [{ ...manifest, annotations }] };
  await writeFile(join(directory, 'index.json.new'), JSON.stringify(index));
  await rename(join(directory, 'index.json.new'), join(directory, 'index.json'));
  return { directory, manifest };
}

/** Opens a layout that `writeLayout` made; undefined where there is none. */
export async function openLayout(directory: string): Promise<ImageLayout | undefined> {
  if (!existsSync(join(directory, 'index.json'))) return undefined;
  const index = JSON.parse(await readFile(join(directory, 'index.json'), 'utf8')) as {
    manifests: Descriptor[];
  };
  const [manifest] = index.manifests;
  if (manifest === undefined) return undefined;
  return {
    directory,
    manifest: { mediaType: manifest.mediaType, digest: manifest.digest, size: manifest.size },
  };
}

/** The layers of a layout's image, lowest first. */
export async function layoutLayers(layout: ImageLayout): Promise<Descriptor[]> {
  const manifest = JSON.parse(await readFile(blobPath(layout.directory, layout.manifest.digest), 'utf8')) as {
    layers: Descriptor[];
  };
  return manifest.layers;
}

/** Path of a blob in a layout. */
export function blobPath(directory: string, digest: string): string {
  return join(directory, 'blobs', digest.replace(':', '/'));
}

/** Learns a layer's digest and sizes while writing it. */
export async function describeLayer(
  file: string,
  compression: LayerFile['compression'],
  diffId: string,
  createdBy: string,
): Promise<LayerFile> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return {
    file,
    compression,
    digest: `sha256:${hash.digest('hex')}`,
    size: (await stat(file)).size,
    diffId,
    createdBy,
  };
}

/**
 * Pushes a layout's image to a plain-HTTP registry (`127.0.0.1:5000`) and returns the manifest's digest. Skips blobs
 * that the repository has already.
 */
export async function pushLayout(
  layout: ImageLayout,
  registry: string,
  repository: string,
  tag: string,
  onBlob: (digest: string, size: number) => void = () => {},
): Promise<string> {
  const bytes = await readFile(blobPath(layout.directory, layout.manifest.digest));
  const manifest = JSON.parse(bytes.toString()) as { config: Descriptor; layers: Descriptor[] };
  for (const blob of [manifest.config, ...manifest.layers]) {
    const there = await send(registry, 'HEAD', `/v2/${repository}/blobs/${blob.digest}`);
    if (there.statusCode === 200) continue;
    const upload = await send(registry, 'POST', `/v2/${repository}/blobs/uploads/`);
    const location = upload.headers.location;
    if (upload.statusCode !== 202 || location === undefined)
      throw new Error(`${registry} took no upload to ${repository}: status ${upload.statusCode}`);
    const target = new URL(location, `http://${registry}`);
    target.searchParams.set('digest', blob.digest);
    const put = await send(registry, 'PUT', `${target.pathname}${target.search}`, {
      file: blobPath(layout.directory, blob.digest),
      size: blob.size,
      type: 'application/octet-stream',
    });
    if (put.statusCode !== 201)
      throw new Error(`${registry} refused blob ${blob.digest}: status ${put.statusCode}`);
    onBlob(blob.digest, blob.size);
  }
  const put = await send(registry, 'PUT', `/v2/${repository}/manifests/${tag}`, {
    bytes,
    size: bytes.length,
    type: layout.manifest.mediaType,
  });
  if (put.statusCode !== 201)
    throw new Error(`${registry} refused the manifest of ${repository}:${tag}: status ${put.statusCode}`);
  return layout.manifest.digest;
}

interface Body {
  file?: string;
  bytes?: Buffer;
  size: number;
  type: string;
}

function send(registry: string, method: string, path: string, body?: Body): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const headers: Record<string, string | number> =
      body === undefined
        ? { 'content-length': 0 }
        : { 'content-length': body.size, 'content-type': body.type };
    const call = request(`http://${registry}${path}`, { method, headers, timeout: 120_000 }, (response) => {
      response.resume();
      response.once('end', () => resolve(response));
      response.once('error', reject);
    });
    call.once('timeout', () => call.destroy(new Error(`${registry} did not answer ${method} ${path}`)));
    call.once('error', reject);
    if (body?.file !== undefined) pipeline(createReadStream(body.file), call).catch(reject);
    else call.end(body?.bytes);
  });
}

async function writeJson(directory: string, mediaType: string, value: unknown): Promise<Descriptor> {
  const bytes = Buffer.from(JSON.stringify(value));
  const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
  await writeFile(blobPath(directory, digest), bytes);
  return { mediaType, digest, size: bytes.length };
}
