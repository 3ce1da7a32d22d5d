import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RegistryClient, type ResolvedImage } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { namedSidecar, namingManifest } from '../../src/registry/named-sidecar.ts';
import { parseReference } from '../../src/registry/reference.ts';
import {
  pushNamedSidecar,
  pushSidecar,
  type Sidecar,
  type SkippedSidecar,
  sidecarsOf,
} from '../../src/registry/sidecars.ts';
import { startReferrers } from '../../src/registry/start-referrers.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { pushImage, sampleImage } from './sample-image.ts';

const PLATFORM = { os: 'linux', architecture: 'amd64' };
let registry: FaultRegistry;
let client: RegistryClient;
let skipped: SkippedSidecar[];

beforeEach(async () => {
  registry = await startFaultRegistry({ referrersPage: 10 });
  client = new RegistryClient({ environment: {}, dockerConfig: '/nonexistent', retry: { attempts: 1 } });
  skipped = [];
});
afterEach(async () => {
  await client.close();
  await registry.stop();
});

const resolve = (tag: string, options = {}) =>
  client.resolve(parseReference(`${registry.host}/team/app:${tag}`), { platform: 'linux/amd64', ...options });
async function push(options: { docker?: boolean } = {}): Promise<ResolvedImage> {
  const source = { registry: registry.host, repository: 'team/app' };
  await pushImage(client, source, sampleImage([100, 200], { platform: PLATFORM, ...options }), 'v1');
  return await resolve('v1');
}
const sidecarFor = ({ layers }: ResolvedImage, flat = 'flat'): Sidecar => ({
  flat: Buffer.alloc(4_000, flat),
  layers: layers.map(({ blob, diffId }) => ({
    diffId,
    blobDigest: blob.digest,
    spans: Buffer.from('spans'),
    toc: Buffer.from('toc'),
  })),
});
async function digestsOf(image: ResolvedImage): Promise<string[]> {
  const found: string[] = [];
  for await (const { descriptor } of sidecarsOf(client, image, undefined, (one) => skipped.push(one)))
    found.push(descriptor.digest);
  return found;
}

describe('an image that names its sidecar', () => {
  it.each([
    ['OCI', false],
    ['docker', true],
  ])('is a copy of the same layers, from a manifest of %s', async (_, docker) => {
    const image = await push({ docker });
    const pushed = await pushNamedSidecar(client, image, sidecarFor(image), 'v1-cofa');
    const copy = await resolve('v1-cofa');
    expect(copy.descriptor.digest).toBe(pushed.image.digest);
    expect(namedSidecar(copy.manifest)).toBe(pushed.sidecar.digest);
    const contents = ({ layers, config }: ResolvedImage) => ({
      config: config.toString(),
      layers: layers.map(({ blob, diffId }) => ({ diffId, digest: blob.digest, size: blob.size })),
    });
    expect(contents(copy)).toEqual(contents(image));
    expect(copy.manifest.mediaType).toBe(MEDIA_TYPES.ociManifest);
    expect(copy.layers.map(({ blob }) => blob.mediaType)).toEqual([
      'application/vnd.oci.image.layer.v1.tar+gzip',
      'application/vnd.oci.image.layer.v1.tar+gzip',
    ]);
    // The image itself stays as it was.
    expect((await resolve('v1')).descriptor.digest).toBe(image.descriptor.digest);
    expect(await digestsOf(copy)).toEqual([pushed.sidecar.digest]);
    expect(registry.manifests.has(`team/app:sha256-${copy.descriptor.digest.slice(7)}.cofa`)).toBe(true);
  });

  it('has it before any that an account pushed beside it', async () => {
    const image = await push();
    const pushed = await pushNamedSidecar(client, image, sidecarFor(image), 'v1-cofa');
    const copy = await resolve('v1-cofa');
    const foreign = await pushSidecar(client, copy, sidecarFor(copy, 'evil'));
    expect(await digestsOf(copy)).toEqual([pushed.sidecar.digest, foreign.digest]);
    registry.manifests.delete(`team/app@${pushed.sidecar.digest}`);
    expect(await digestsOf(copy)).toEqual([foreign.digest]);
    expect(skipped[0]?.descriptor.digest).toBe(pushed.sidecar.digest);
  });

  it('names it for its own layers alone, and a sidecar without a subject is of no other image', async () => {
    const image = await push();
    const { sidecar } = await pushNamedSidecar(client, image, sidecarFor(image), 'v1-cofa');
    const naming = namingManifest(await push(), sidecar.digest);
    const reference = parseReference(`${registry.host}/team/app:other`);
    await client.pushManifest(reference, naming.bytes, naming.mediaType, 'other');
    expect(await digestsOf(await resolve('other'))).toEqual([]);
    // Listed as a referrer, though it names no subject.
    const index = {
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociIndex,
      manifests: [{ ...sidecar, artifactType: 'application/vnd.cofa.sidecar.v1' }],
    };
    registry.fault = ({ path, response }) => {
      if (!path.includes('/referrers/')) return 'pass';
      response.writeHead(200, { 'content-type': MEDIA_TYPES.ociIndex }).end(JSON.stringify(index));
      return 'handled';
    };
    expect(await digestsOf(image)).toEqual([]);
    expect(skipped.at(-1)?.reason).toMatch(/its subject is missing/);
  });

  it('is fetched ahead, while the configuration arrives', async () => {
    const image = await push();
    const { sidecar } = await pushNamedSidecar(client, image, sidecarFor(image), 'v1-cofa');
    registry.requests.length = 0;
    const copy = await resolve('v1-cofa', { referrers: { wanted: () => true, blobsOf: startReferrers } });
    for await (const handle of sidecarsOf(client, copy)) {
      expect((await handle.flat()).length).toBe(4_000);
      break;
    }
    const asked = registry.requests.filter(({ url }) => url.includes(sidecar.digest));
    expect(asked.length).toBe(1);
  });
});

describe('a name', () => {
  it.each([
    undefined,
    {},
    { 'io.cofa.sidecar': '' },
    { 'io.cofa.sidecar': 'sha256:1' },
    { 'io.cofa.sidecar': `sha512:${'0'.repeat(64)}` },
  ])('that is no digest is none: %j', (annotations) => {
    expect(namedSidecar(annotations === undefined ? {} : { annotations })).toBeUndefined();
  });
});
