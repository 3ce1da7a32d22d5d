/** Registries of several tenants: an honest one that keeps their repositories apart, and one that says yes to everything. */
import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import type { FaultRegistry } from './fault-registry.ts';

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG = 'application/vnd.oci.image.config.v1+json';
const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip';

export const sha256 = (bytes: Buffer | string): string =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

export interface Account {
  username: string;
  password: string;
  /** What only it may read. */
  repositories: readonly string[];
}

const repositoryOf = (path: string): string | undefined =>
  /^\/v2\/(.+?)\/(?:blobs|manifests|referrers|tags)\//.exec(path)?.[1];

/**
 * Basic authentication: a repository of an account is read with that account alone, the others by everyone. A repository has
 * the blobs that its manifests name. Pushes pass.
 */
export function keepApart(registry: FaultRegistry, accounts: readonly Account[]): void {
  const named = (repository: string, digest: string) =>
    [...registry.manifests].some(
      ([key, { bytes }]) => key.startsWith(`${repository}@`) && bytes.includes(digest),
    );
  registry.fault = ({ request, response, method, path }) => {
    const repository = repositoryOf(path);
    const owner = accounts.find(({ repositories }) => repositories.includes(repository ?? ''));
    if (repository === undefined || !['GET', 'HEAD'].includes(method)) return 'pass';
    if (owner !== undefined && request.headers.authorization !== basic(owner)) {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="test"' }).end();
      return 'handled';
    }
    const blob = /\/blobs\/(sha256:\w+)$/.exec(path)?.[1];
    if (blob === undefined || named(repository, blob)) return 'pass';
    response.writeHead(404).end();
    return 'handled';
  };
}

/** Claims to have every blob and manifest, under the digest that is asked for; `sizes`: of what others have, bytes. */
export function claimEverything(registry: FaultRegistry, sizes: Readonly<Record<string, number>> = {}): void {
  registry.fault = ({ response, method, path }) => {
    const name = path.split('/').at(-1) ?? '';
    if (method !== 'HEAD' || !name.startsWith('sha256:')) return 'pass';
    const bytes =
      registry.blobs.get(name) ??
      [...registry.manifests.values()].find((one) => sha256(one.bytes) === name)?.bytes;
    response.writeHead(200, {
      'docker-content-digest': name,
      'content-type': path.includes('/manifests/') ? MANIFEST : 'application/octet-stream',
      'content-length': bytes?.length ?? sizes[name] ?? 1_000,
    });
    response.end();
    return 'handled';
  };
}

const basic = ({ username, password }: Account): string =>
  `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;

/** docker's config.json with these accounts. */
export const dockerConfigOf = (hosts: Readonly<Record<string, Account>>): string =>
  JSON.stringify({
    auths: Object.fromEntries(
      Object.entries(hosts).map(([host, account]) => [host, { auth: basic(account).slice('Basic '.length) }]),
    ),
  });

export interface ForgedLayer {
  diffId: string;
  /** The genuine blob's name; undefined: a blob of its own, of other content. */
  blob?: { digest: string; size: number };
}

/** An image that names layers which its registry does not have; returns its manifest's digest. */
export function forgeImage(
  registry: FaultRegistry,
  repository: string,
  layers: readonly ForgedLayer[],
): string {
  const config = registry.addBlob(
    Buffer.from(
      JSON.stringify({
        architecture: { x64: 'amd64', arm64: 'arm64' }[process.arch as 'x64' | 'arm64'],
        os: 'linux',
        config: { Env: ['PATH=/bin'], Cmd: ['/bin/say'] },
        rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
      }),
    ),
  );
  const blobs = layers.map(
    ({ blob }, at) => blob ?? registry.addBlob(gzipSync(Buffer.alloc(10_240, at + 1))),
  );
  const manifest = {
    schemaVersion: 2,
    mediaType: MANIFEST,
    config: { mediaType: CONFIG, ...config },
    layers: blobs.map((blob) => ({ mediaType: LAYER, ...blob })),
  };
  return registry.addManifest(repository, Buffer.from(JSON.stringify(manifest)), MANIFEST, '1');
}
