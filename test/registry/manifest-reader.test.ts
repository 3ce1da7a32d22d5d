import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { RegistryClient } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { indexOf, type SampleImage, sampleImage } from './sample-image.ts';

const AMD64 = sampleImage([100, 200], { platform: { os: 'linux', architecture: 'amd64' } });
const ARM64 = sampleImage([100], { platform: { os: 'linux', architecture: 'arm64' } });
const ARMV7 = sampleImage([100], { platform: { os: 'linux', architecture: 'arm', variant: 'v7' } });

let registry: FaultRegistry;
let client: RegistryClient;

function add(image: SampleImage, tag?: string): void {
  for (const { bytes } of image.layers) registry.addBlob(bytes);
  registry.addBlob(image.config);
  registry.addManifest('team/app', image.manifest, image.manifestType, tag);
}
const addBytes = (content: unknown, mediaType: string, tag = 'v1') =>
  registry.addManifest(
    'team/app',
    Buffer.from(typeof content === 'string' ? content : JSON.stringify(content)),
    mediaType,
    tag,
  );
const ref = (rest: string) => parseReference(`${registry.host}/team/app${rest}`);
const resolve = (rest: string, platform?: string) =>
  client.resolve(ref(rest), platform === undefined ? {} : { platform });
const parsed = (image: SampleImage) => JSON.parse(image.manifest.toString()) as Record<string, unknown>;

function flipped(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  copy[copy.length >> 1]! ^= 1;
  return copy;
}

beforeEach(async () => {
  registry = await startFaultRegistry();
  client = new RegistryClient({
    environment: {},
    dockerConfig: '/nonexistent',
    retry: { attempts: 2 },
    ambient: { now: () => 0, sleep: async () => {}, random: () => 0 },
  });
});

afterEach(async () => {
  await client.close();
  await registry.stop();
});

describe('an image', () => {
  test.each([false, true])('is resolved with every digest (docker types: %s)', async (docker) => {
    const image = sampleImage([100, 200], { docker, platform: { os: 'linux', architecture: 'amd64' } });
    add(image, 'v1');
    const resolved = await resolve(':v1', 'linux/amd64');
    expect(resolved.descriptor).toEqual({
      mediaType: image.manifestType,
      digest: image.digest,
      size: image.manifest.length,
    });
    expect(resolved.manifestBytes.equals(image.manifest)).toBe(true);
    expect(resolved.config.equals(image.config)).toBe(true);
    expect(resolved.layers).toEqual(
      image.layers.map(({ descriptor, diffId }) => ({ blob: descriptor, diffId })),
    );
    expect(resolved.reference.text).toBe(`${registry.host}/team/app:v1`);
  });

  test('whose configuration is known is resolved by its manifest alone, and its platform looked at all the same', async () => {
    add(ARM64, 'v1');
    const asked: string[] = [];
    const knownConfig = (digest: string) => {
      asked.push(digest);
      return ARM64.config;
    };
    const resolved = await client.resolve(ref(':v1'), { platform: 'linux/arm64', knownConfig });
    expect(asked).toEqual([(parsed(ARM64).config as { digest: string }).digest]);
    expect(resolved.layers.map(({ diffId }) => diffId)).toEqual(ARM64.layers.map(({ diffId }) => diffId));
    expect(registry.requests.filter(({ url }) => url.includes('/blobs/'))).toEqual([]);
    const other = client.resolve(ref(':v1'), { platform: 'linux/amd64', knownConfig });
    await expect(other).rejects.toThrow('no image for linux/amd64');
  });

  test('by digest, also of another platform when none is asked for', async () => {
    add(ARM64);
    const s390x = sampleImage([1], { platform: { os: 'linux', architecture: 's390x' } });
    add(s390x);
    expect((await resolve(`@${s390x.digest}`)).descriptor.digest).toBe(s390x.digest);
    await expect(resolve(`@${ARM64.digest}`, 'linux/amd64')).rejects.toMatchObject({ code: 'not-found' });
  });

  test('under a tag, of another platform: refused with the one that it has', async () => {
    add(ARM64, 'v1');
    await expect(resolve(':v1', 'linux/amd64')).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('it has linux/arm64'),
      hint: expect.stringContaining('--platform'),
    });
  });

  test('without layers is an image too', async () => {
    const image = sampleImage([], { platform: { os: 'linux', architecture: 'amd64' } });
    add(image, 'v1');
    expect((await resolve(':v1', 'linux/amd64')).layers).toEqual([]);
  });

  test('whose configuration names no platform is taken', async () => {
    const config = Buffer.from(JSON.stringify({ rootfs: { type: 'layers', diff_ids: [] } }));
    registry.addBlob(config);
    const { digest, size } = registry.addBlob(config);
    addBytes(
      { schemaVersion: 2, config: { mediaType: MEDIA_TYPES.ociConfig, digest, size }, layers: [] },
      MEDIA_TYPES.ociManifest,
    );
    expect((await resolve(':v1')).layers).toEqual([]);
  });
});

describe('an index', () => {
  const platforms = [
    { image: ARM64, platform: { os: 'linux', architecture: 'arm64', variant: 'v8' } },
    { image: AMD64, platform: { os: 'linux', architecture: 'amd64' } },
    { image: ARMV7, platform: { os: 'linux', architecture: 'arm', variant: 'v7' } },
    { image: sampleImage([1]), platform: { os: 'unknown', architecture: 'unknown' } },
  ];
  beforeEach(() => {
    for (const { image } of platforms) add(image);
  });

  test.each([
    ['linux/amd64', AMD64],
    ['linux/arm64', ARM64],
    ['linux/arm/v7', ARMV7],
    ['linux/arm/v8', ARMV7],
  ])('gives the image for %s', async (platform, image) => {
    addBytes(indexOf(platforms).toString(), MEDIA_TYPES.ociIndex);
    const resolved = await resolve(':v1', platform);
    expect(resolved.descriptor.digest).toBe(image.digest);
    expect(resolved.descriptor.mediaType).toBe(image.manifestType);
  });

  test("docker's list of manifests serves as well", async () => {
    addBytes(indexOf(platforms, MEDIA_TYPES.dockerList).toString(), MEDIA_TYPES.dockerList);
    expect((await resolve(':v1', 'linux/amd64')).descriptor.digest).toBe(AMD64.digest);
  });

  test('one without the platform lists those that it has, without attestations', async () => {
    addBytes(indexOf(platforms).toString(), MEDIA_TYPES.ociIndex);
    const error = await resolve(':v1', 'linux/s390x').catch((error: unknown) => error);
    expect(error).toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('it has linux/arm64/v8, linux/amd64, linux/arm/v7'),
    });
    expect(String(error)).not.toContain('unknown');
  });

  test('entries without a platform are judged by their configuration', async () => {
    addBytes(indexOf([{ image: ARM64 }, { image: AMD64 }]).toString(), MEDIA_TYPES.ociIndex);
    expect((await resolve(':v1', 'linux/amd64')).descriptor.digest).toBe(AMD64.digest);
    await expect(resolve(':v1', 'linux/s390x')).rejects.toMatchObject({
      message: expect.stringContaining('linux/arm64, linux/amd64'),
    });
  });

  test('an index within an index is followed, but not without end', async () => {
    let digest = addBytes(indexOf(platforms).toString(), MEDIA_TYPES.ociIndex, 'd1');
    for (let depth = 2; depth <= 4; depth++) {
      const size = registry.manifests.get(`team/app:d${depth - 1}`)!.bytes.length;
      const manifests = [{ mediaType: MEDIA_TYPES.ociIndex, digest, size }];
      digest = addBytes(
        { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests },
        MEDIA_TYPES.ociIndex,
        `d${depth}`,
      );
    }
    expect((await resolve(':d3', 'linux/amd64')).descriptor.digest).toBe(AMD64.digest);
    await expect(resolve(':d4', 'linux/amd64')).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('nested'),
    });
  });

  test('an empty one says so', async () => {
    addBytes({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [] }, MEDIA_TYPES.ociIndex);
    await expect(resolve(':v1')).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('no image at all'),
    });
  });

  test('an entry whose size is not the one of its manifest is refused', async () => {
    const index = JSON.parse(indexOf(platforms).toString());
    for (const entry of index.manifests) entry.size++;
    addBytes(index, MEDIA_TYPES.ociIndex);
    await expect(resolve(':v1', 'linux/amd64')).rejects.toMatchObject({ code: 'integrity' });
  });
});

describe('what is not there', () => {
  test('the tag: named, with those that are', async () => {
    add(AMD64, 'v2');
    add(ARM64, 'v3');
    await expect(resolve(':v1')).rejects.toMatchObject({
      code: 'not-found',
      message: `${registry.host}/team/app has no tag "v1"`,
      hint: 'it has v2, v3',
    });
  });

  test('the repository', async () => {
    await expect(resolve(':v1')).rejects.toMatchObject({
      code: 'not-found',
      message: `${registry.host} has no repository team/app`,
    });
  });

  test('the digest', async () => {
    add(AMD64, 'v2');
    await expect(resolve(`@sha256:${'0'.repeat(64)}`)).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('has no manifest sha256:000'),
    });
  });

  test('a registry that does not list tags gives its own words', async () => {
    add(AMD64, 'v2');
    registry.fault = ({ response, path }) => {
      if (!path.endsWith('/tags/list')) return 'pass';
      response.writeHead(403).end();
      return 'handled';
    };
    await expect(resolve(':v1')).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('manifest unknown'),
    });
  });

  test('a list of tags whose form is a bomb is not parsed: the registry’s own words', async () => {
    add(AMD64, 'v2');
    registry.fault = ({ response, path }) => {
      if (!path.endsWith('/tags/list')) return 'pass';
      const bomb = '['.repeat(1_000_000) + ']'.repeat(1_000_000);
      response.writeHead(200).end(`{"tags":["v2"],"more":${bomb}}`);
      return 'handled';
    };
    await expect(resolve(':v1')).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('manifest unknown'),
    });
  });

  test('the configuration', async () => {
    add(AMD64, 'v1');
    registry.blobs.clear();
    await expect(resolve(':v1', 'linux/amd64')).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('blob'),
    });
  });
});

describe('what is not right', () => {
  test('a manifest by digest with one flipped bit', async () => {
    add(AMD64);
    registry.manifests.get(`team/app@${AMD64.digest}`)!.bytes = flipped(AMD64.manifest);
    await expect(resolve(`@${AMD64.digest}`)).rejects.toMatchObject({ code: 'integrity' });
  });

  test('a manifest by tag that is not what the registry calls it', async () => {
    add(AMD64, 'v1');
    registry.fault = ({ response, path }) => {
      if (!path.includes('/manifests/')) return 'pass';
      response
        .writeHead(200, { 'content-type': AMD64.manifestType, 'docker-content-digest': ARM64.digest })
        .end(AMD64.manifest);
      return 'handled';
    };
    await expect(resolve(':v1')).rejects.toMatchObject({
      code: 'integrity',
      message: expect.stringContaining(AMD64.digest),
    });
  });

  test('a configuration with one flipped bit', async () => {
    add(AMD64, 'v1');
    const digest = JSON.parse(AMD64.manifest.toString()).config.digest as string;
    registry.blobs.set(digest, flipped(AMD64.config));
    await expect(resolve(':v1', 'linux/amd64')).rejects.toMatchObject({ code: 'integrity' });
  });

  test('a manifest larger than 4 MiB, announced or not', async () => {
    for (const announced of [true, false]) {
      registry.fault = ({ response }) => {
        const body = Buffer.alloc(5 * 1024 * 1024, ' ');
        response.writeHead(200, announced ? { 'content-length': body.length } : {}).end(body);
        return 'handled';
      };
      await expect(resolve(':v1')).rejects.toMatchObject({
        code: 'integrity',
        message: expect.stringContaining('4194304'),
      });
    }
  });

  const config = { mediaType: MEDIA_TYPES.ociConfig, digest: `sha256:${'0'.repeat(64)}`, size: 1 };
  const layer = {
    mediaType: 'application/vnd.oci.image.layer.v1.tar',
    digest: `sha256:${'1'.repeat(64)}`,
    size: 1,
  };
  const base = { schemaVersion: 2, mediaType: MEDIA_TYPES.ociManifest, config, layers: [layer] };
  test.each([
    ['not JSON', '{', 'integrity', 'not valid JSON'],
    ['not UTF-8', Buffer.from([0xff, 0xfe]).toString('latin1'), 'integrity', 'not valid JSON'],
    ['a list', '[]', 'integrity', 'not a JSON object'],
    ['null', 'null', 'integrity', 'not a JSON object'],
    ['deeply nested', `${'['.repeat(100_000)}`, 'integrity', 'nests deeper'],
    ['no schemaVersion', { ...base, schemaVersion: undefined }, 'integrity', 'schemaVersion'],
    ['schema 1', { schemaVersion: 1, name: 'x', fsLayers: [] }, 'unsupported', 'schema 1'],
    ['both manifest and index', { ...base, manifests: [] }, 'integrity', 'at once'],
    ['a mediaType that is no string', { ...base, mediaType: 5 }, 'integrity', 'mediaType'],
    [
      'an unknown type',
      { ...base, mediaType: 'application/vnd.other' },
      'unsupported',
      'application/vnd.other',
    ],
    ['no layers', { ...base, layers: undefined }, 'integrity', 'layers'],
    ['no configuration', { ...base, config: undefined }, 'integrity', 'config'],
    [
      'too many layers',
      { ...base, layers: Array.from({ length: 1025 }, () => layer) },
      'unsupported',
      '1025 layers',
    ],
    ['a layer without a digest', { ...base, layers: [{ ...layer, digest: 'x' }] }, 'integrity', 'layer 0'],
    [
      'a layer with sha512',
      { ...base, layers: [{ ...layer, digest: `sha512:${'1'.repeat(128)}` }] },
      'unsupported',
      'sha256',
    ],
    ['a layer of negative size', { ...base, layers: [{ ...layer, size: -1 }] }, 'integrity', 'size'],
    ['a layer of half a byte', { ...base, layers: [{ ...layer, size: 0.5 }] }, 'integrity', 'size'],
    ['a layer of absurd size', { ...base, layers: [{ ...layer, size: 1e300 }] }, 'integrity', 'size'],
    [
      'a configuration of absurd size',
      { ...base, config: { ...config, size: 1e9 } },
      'unsupported',
      '1000000000',
    ],
    [
      'a foreign layer',
      {
        ...base,
        layers: [{ ...layer, mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip' }],
      },
      'unsupported',
      'not in the registry',
    ],
    [
      'a non-distributable layer',
      {
        ...base,
        layers: [{ ...layer, mediaType: 'application/vnd.oci.image.layer.nondistributable.v1.tar' }],
      },
      'unsupported',
      'not in the registry',
    ],
    [
      'an encrypted layer',
      { ...base, layers: [{ ...layer, mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip+encrypted' }] },
      'unsupported',
      'encrypted',
    ],
    [
      'an artifact',
      {
        ...base,
        artifactType: 'application/x-chart',
        config: { ...config, mediaType: MEDIA_TYPES.ociEmpty },
      },
      'unsupported',
      'application/x-chart',
    ],
    [
      'text that steers a terminal',
      { ...base, mediaType: 'application/\u001b[2J\u202e' },
      'unsupported',
      'application/ [2J',
    ],
  ])('a manifest that is %s', async (_, content, code, text) => {
    addBytes(content, MEDIA_TYPES.ociManifest);
    await expect(resolve(':v1')).rejects.toMatchObject({ code, message: expect.stringContaining(text) });
  });

  test.each([
    [
      'one diffID too few',
      { type: 'layers', diff_ids: [AMD64.layers[0]!.diffId] },
      '1 diff_ids, the manifest 2',
    ],
    ['no rootfs', undefined, 'rootfs'],
    ['diffIDs that are none', { type: 'layers', diff_ids: ['x', 'y'] }, 'diff_ids'],
    ['another kind of rootfs', { type: 'other', diff_ids: [] }, 'rootfs'],
  ])('a configuration with %s', async (_, rootfs, text) => {
    const name = registry.addBlob(
      Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs })),
    );
    addBytes(
      { ...parsed(AMD64), config: { mediaType: MEDIA_TYPES.ociConfig, ...name } },
      MEDIA_TYPES.ociManifest,
    );
    await expect(resolve(':v1', 'linux/amd64')).rejects.toMatchObject({
      code: 'integrity',
      message: expect.stringContaining(text),
    });
  });

  test('a schema 1 manifest by its header alone', async () => {
    addBytes({ schemaVersion: 1 }, 'application/vnd.docker.distribution.manifest.v1+prettyjws');
    await expect(resolve(':v1')).rejects.toMatchObject({
      code: 'unsupported',
      hint: expect.stringContaining('docker'),
    });
  });

  test('an OCI manifest without mediaType and with a plain header is recognised by its shape', async () => {
    add(AMD64, 'v0');
    const { mediaType: _, ...untyped } = parsed(AMD64);
    addBytes(untyped, 'application/json; charset=utf-8');
    expect((await resolve(':v1', 'linux/amd64')).manifest.mediaType).toBe(MEDIA_TYPES.ociManifest);
  });
});
