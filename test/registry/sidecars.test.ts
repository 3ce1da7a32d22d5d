import { randomBytes } from 'node:crypto';
import { zstdCompressSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Descriptor, RegistryClient, type ResolvedImage } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { parseReference } from '../../src/registry/reference.ts';
import {
  findSidecar,
  pushSidecar,
  SIDECAR_TYPES,
  type Sidecar,
  type SkippedSidecar,
  sidecarsOf,
} from '../../src/registry/sidecars.ts';
import { startReferrers } from '../../src/registry/start-referrers.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { pushImage, sampleImage } from './sample-image.ts';

const PLATFORM = { os: 'linux', architecture: 'amd64' };

interface Artifact {
  artifactType: string;
  layers: Array<Descriptor & { annotations: Record<string, string> }>;
  subject?: { digest: string; size: number; mediaType: string };
  annotations: Record<string, string>;
  [field: string]: unknown;
}

let registry: FaultRegistry;
let client: RegistryClient;
let image: ResolvedImage;
let skipped: SkippedSidecar[];
let template: Artifact;

const sidecarFor = (resolved: ResolvedImage, flat = 'flat'): Sidecar => ({
  flat: Buffer.alloc(300_000, flat),
  layers: resolved.layers.map(({ blob, diffId }, i) => ({
    diffId,
    blobDigest: blob.digest,
    spans: Buffer.from(`spans of layer ${i}`),
    toc: Buffer.alloc(10_000 * i, `toc of layer ${i}`),
  })),
});
/** None of its blobs is small. */
const largeSidecarFor = (resolved: ResolvedImage): Sidecar => ({
  flat: randomBytes(4_000),
  layers: sidecarFor(resolved).layers.map((layer) => ({ ...layer, spans: randomBytes(2_000) })),
});
const find = () => findSidecar(client, image, undefined, (one) => skipped.push(one));
const stored = (digest: string) =>
  JSON.parse(registry.manifests.get(`team/app@${digest}`)!.bytes.toString()) as Artifact;

async function start(referrersPage?: number): Promise<void> {
  registry = await startFaultRegistry(referrersPage === undefined ? {} : { referrersPage });
  client = new RegistryClient({
    environment: {},
    dockerConfig: '/nonexistent',
    retry: { attempts: 2 },
    ambient: { now: () => 0, sleep: async () => {}, random: () => 0 },
  });
  await pushImage(
    client,
    { registry: registry.host, repository: 'team/app' },
    sampleImage([100, 200, 300], { platform: PLATFORM }),
    'v1',
  );
  image = await client.resolve(parseReference(`${registry.host}/team/app:v1`), { platform: 'linux/amd64' });
  skipped = [];
  // A good one to make bad ones of; only its blobs stay.
  const { digest } = await pushSidecar(client, image, sidecarFor(image));
  template = stored(digest);
  // As larger ones are, which come from their blobs alone.
  for (const layer of template.layers) delete layer.data;
  registry.manifests.delete(`team/app@${digest}`);
  registry.manifests.delete(`team/app:${image.descriptor.digest.replace(':', '-')}`);
}

/** Pushes what `change` makes of a good sidecar's manifest. */
async function pushChanged(change: (artifact: Artifact) => void): Promise<Descriptor> {
  const artifact = structuredClone(template);
  change(artifact);
  return await client.pushManifest(
    image.reference,
    Buffer.from(JSON.stringify(artifact)),
    MEDIA_TYPES.ociManifest,
  );
}

const part = (artifact: Artifact, type: string, layer = 0) =>
  artifact.layers.filter(({ mediaType }) => mediaType === type)[layer]!;

afterEach(async () => {
  await client.close();
  await registry.stop();
});

describe.each([
  ['the referrers API', 2],
  ['the fallback tag', undefined],
])('a sidecar by %s', (_, page) => {
  beforeEach(() => start(page));

  test('is found and gives back every byte', async () => {
    expect(await find()).toBeUndefined();
    const sidecar = sidecarFor(image);
    const pushed = await pushSidecar(client, image, sidecar);
    const found = await find();
    expect(found?.descriptor).toMatchObject({
      digest: pushed.digest,
      size: pushed.size,
      artifactType: SIDECAR_TYPES.artifact,
    });
    expect((await found!.flat()).equals(sidecar.flat)).toBe(true);
    for (const [i, layer] of sidecar.layers.entries()) {
      expect((await found!.spans(i)).equals(layer.spans)).toBe(true);
      expect((await found!.toc(i)).equals(layer.toc)).toBe(true);
    }
    await expect(found!.toc(3)).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(found!.size).toBe(stored(pushed.digest).layers.reduce((sum, { size }) => sum + size, 0));
    expect(skipped).toEqual([]);
  });

  test('the image is not touched, and the same sidecar again is the same bytes', async () => {
    const before = registry.manifests.get('team/app:v1')!.bytes;
    const first = await pushSidecar(client, image, sidecarFor(image));
    const puts = registry.requests.filter(({ method }) => method === 'PUT').length;
    const second = await pushSidecar(client, image, sidecarFor(image));
    expect(second).toEqual(first);
    // Only the manifest itself is sent again: to be sure that it is there.
    expect(registry.requests.filter(({ method }) => method === 'PUT')).toHaveLength(puts + 1);
    expect(registry.manifests.get('team/app:v1')!.bytes).toBe(before);
    expect(
      (await client.referrers(image.reference, image.descriptor.digest)).map(({ digest }) => digest),
    ).toEqual([first.digest]);
  });

  test('with hints gives them back, is preferred to one without, and is one without where they are too large', async () => {
    const plain = await pushSidecar(client, image, sidecarFor(image));
    expect(await (await find())!.hints()).toBeUndefined();
    const hints = Buffer.alloc(5_000, 'hints');
    const pushed = await pushSidecar(client, image, { ...sidecarFor(image), hints });
    expect(pushed.digest).not.toBe(plain.digest);
    const found = await find();
    expect(found?.descriptor.digest).toBe(pushed.digest);
    expect((await found!.hints())!.equals(hints)).toBe(true);
    const changed = await pushChanged((one) => {
      one.layers.push({
        ...part(one, SIDECAR_TYPES.flat),
        mediaType: SIDECAR_TYPES.hints,
        annotations: { 'io.cofa.size': `${2 ** 30}` },
      });
      one.annotations['io.cofa.revision'] = '7';
      one.annotations['io.cofa.hints'] = '1';
    });
    const large = await find();
    expect(large?.descriptor.digest).toBe(changed.digest);
    await expect(large!.hints()).rejects.toMatchObject({ code: 'integrity' });
    expect((await large!.flat()).length).toBe(300_000);
    expect(skipped).toEqual([]);
  });

  test('of several the highest revision is taken, then the lowest digest', async () => {
    const [a, b] = [await pushChanged((one) => (one['x'] = 1)), await pushChanged((one) => (one['x'] = 2))];
    const lowest = a.digest < b.digest ? a : b;
    expect((await find())?.descriptor.digest).toBe(lowest.digest);
    const c = await pushChanged((one) => (one.annotations['io.cofa.revision'] = '7'));
    expect((await find())?.descriptor.digest).toBe(c.digest);
    const all = [];
    for await (const { descriptor } of sidecarsOf(client, image)) all.push(descriptor.digest);
    expect(all).toContain(a.digest);
    expect(all[0]).toBe(c.digest);
  });

  test('malformed ones are passed over, with the reason', async () => {
    const good = await pushSidecar(client, image, sidecarFor(image, 'good'));
    const bad = await pushChanged((one) => {
      one.annotations['io.cofa.revision'] = '9';
      one.layers = one.layers.filter(({ mediaType }) => mediaType !== SIDECAR_TYPES.flat);
    });
    expect((await find())?.descriptor.digest).toBe(good.digest);
    expect(skipped).toEqual([
      {
        descriptor: expect.objectContaining({ digest: bad.digest }),
        reason: expect.stringContaining('0 flat images'),
      },
    ]);
  });
});

describe('in the fallback list', () => {
  beforeEach(() => start());

  test('a push replaces the sidecars of its own revision, and leaves newer ones and those of others', async () => {
    const foreign = await pushChanged((one) => (one.artifactType = 'application/x-other'));
    const newer = await pushChanged((one) => (one.annotations['io.cofa.revision'] = '9'));
    const unmarked = await pushChanged((one) => (one.annotations = {}));
    const old = await pushSidecar(client, image, sidecarFor(image, 'old'));
    const now = await pushSidecar(client, image, sidecarFor(image, 'now'));
    const list = (await client.referrers(image.reference, image.descriptor.digest)).map(
      ({ digest }) => digest,
    );
    expect(list).toEqual(expect.arrayContaining([foreign.digest, newer.digest, unmarked.digest, now.digest]));
    expect(list).not.toContain(old.digest);
  });
});

describe('an image with the same layer twice', () => {
  test('is described once, and each layer finds its part', async () => {
    await start();
    const sample = sampleImage([100], { platform: PLATFORM });
    const document = JSON.parse(sample.manifest.toString());
    const config = JSON.parse(sample.config.toString());
    config.rootfs.diff_ids.push(config.rootfs.diff_ids[0]);
    const configBytes = Buffer.from(JSON.stringify(config));
    document.layers.push(document.layers[0]);
    document.config = { ...document.config, ...registry.addBlob(configBytes) };
    registry.addBlob(sample.layers[0]!.bytes);
    registry.addManifest('team/app', Buffer.from(JSON.stringify(document)), MEDIA_TYPES.ociManifest, 'twice');
    image = await client.resolve(parseReference(`${registry.host}/team/app:twice`), {
      platform: 'linux/amd64',
    });
    const sidecar = sidecarFor(image);
    sidecar.layers[1] = sidecar.layers[0]!;
    const { digest } = await pushSidecar(client, image, sidecar);
    expect(stored(digest).layers).toHaveLength(3);
    const found = await find();
    expect((await found!.spans(1)).equals(sidecar.layers[0]!.spans)).toBe(true);
  });
});

describe('hostile sidecars', () => {
  beforeEach(() => start());

  test.each<[string, (artifact: Artifact) => void, string]>([
    ['for another image', (one) => (one.subject!.digest = `sha256:${'0'.repeat(64)}`), 'subject'],
    ['whose subject has another size', (one) => one.subject!.size++, 'subject'],
    ['with two flat images', (one) => one.layers.push(part(one, SIDECAR_TYPES.flat)), '2 flat images'],
    [
      'without the spans of a layer',
      (one) => one.layers.splice(one.layers.indexOf(part(one, SIDECAR_TYPES.spans, 2)), 1),
      'no application/vnd.cofa.spans',
    ],
    ['with a layer twice', (one) => one.layers.push(part(one, SIDECAR_TYPES.toc)), 'twice'],
    [
      'for another blob of a layer',
      (one) => (part(one, SIDECAR_TYPES.spans).annotations['io.cofa.layer.blob'] = 'x'),
      'spans',
    ],
    ['without sizes', (one) => delete part(one, SIDECAR_TYPES.flat).annotations?.['io.cofa.size'], 'size'],
    [
      'with a huge size',
      (one) => (part(one, SIDECAR_TYPES.toc).annotations['io.cofa.size'] = '99999999999'),
      'size',
    ],
    [
      'with a negative size',
      (one) => (part(one, SIDECAR_TYPES.toc).annotations['io.cofa.size'] = '-1'),
      'size',
    ],
    [
      'with a span table of 64 MiB, 2 KB with zstd, for a layer of some hundred bytes',
      (one) => {
        const spans = part(one, SIDECAR_TYPES.spans);
        Object.assign(spans, registry.addBlob(zstdCompressSync(Buffer.alloc(64 << 20))));
        spans.annotations['io.cofa.size'] = `${64 << 20}`;
      },
      'it has at most',
    ],
    [
      'with flat metadata of 20 MiB in a few KB',
      (one) => {
        const flat = part(one, SIDECAR_TYPES.flat);
        Object.assign(flat, registry.addBlob(zstdCompressSync(Buffer.alloc(20 << 20))));
        flat.annotations['io.cofa.size'] = `${20 << 20}`;
      },
      'which none does',
    ],
    ['with a huge blob', (one) => (part(one, SIDECAR_TYPES.spans).size = 1e12), '1000000000000 bytes'],
  ])('%s is not used', async (_, change, reason) => {
    const { digest } = await pushChanged(change);
    // The fallback list names it, as anybody could.
    const entry = {
      mediaType: MEDIA_TYPES.ociManifest,
      digest,
      size: 1,
      artifactType: SIDECAR_TYPES.artifact,
    };
    const list = { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [entry] };
    const tag = image.descriptor.digest.replace(':', '-');
    registry.addManifest('team/app', Buffer.from(JSON.stringify(list)), MEDIA_TYPES.ociIndex, tag);
    expect(await find()).toBeUndefined();
    expect(skipped).toEqual([{ descriptor: entry, reason: expect.stringContaining(reason) }]);
  });

  test('is fetched by none: `cofa index` pushes no part that readers refuse', async () => {
    const sidecar = sidecarFor(image);
    sidecar.layers[1]!.spans = Buffer.alloc(64 << 20);
    await expect(pushSidecar(client, image, sidecar)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('no node would take'),
    });
  });

  test('a manifest that is missing or changed is passed over', async () => {
    const { digest } = await pushSidecar(client, image, sidecarFor(image));
    const manifest = registry.manifests.get(`team/app@${digest}`)!;
    manifest.bytes = Buffer.concat([manifest.bytes, Buffer.from(' ')]);
    expect(await find()).toBeUndefined();
    registry.manifests.delete(`team/app@${digest}`);
    expect(await find()).toBeUndefined();
    expect(skipped.map(({ reason }) => reason)).toEqual([
      expect.stringContaining('digest'),
      expect.stringContaining('does not have'),
    ]);
  });

  test('more candidates than are looked at: the rest is named', async () => {
    const tag = image.descriptor.digest.replace(':', '-');
    const manifests = Array.from({ length: 40 }, (_, i) => ({
      mediaType: MEDIA_TYPES.ociManifest,
      digest: `sha256:${String(i).padStart(64, '0')}`,
      size: 1,
      artifactType: SIDECAR_TYPES.artifact,
    }));
    const list = { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests };
    registry.addManifest('team/app', Buffer.from(JSON.stringify(list)), MEDIA_TYPES.ociIndex, tag);
    expect(await find()).toBeUndefined();
    expect(skipped).toHaveLength(17);
  });

  test.each<[string, (body: Buffer) => Buffer, string | undefined]>([
    ['a bomb', () => zstdCompressSync(Buffer.alloc(50_000_000)), 'more than 300000 bytes'],
    ['one byte more', () => zstdCompressSync(Buffer.alloc(300_001)), '300001'],
    ['one byte less', () => zstdCompressSync(Buffer.alloc(299_999)), '299999'],
    ['no zstd', () => Buffer.from('plain'), 'not valid zstd'],
    ['cut zstd', (body) => body.subarray(0, body.length - 3), 'not valid zstd'],
  ])('a flat image that is %s is an integrity error', async (_, make, reason) => {
    const { digest } = await pushChanged((artifact) => {
      const flat = part(artifact, SIDECAR_TYPES.flat);
      Object.assign(flat, registry.addBlob(make(registry.blobs.get(flat.digest)!)));
    });
    const found = await find();
    expect(found?.descriptor.digest).toBe(digest);
    await expect(found!.flat()).rejects.toMatchObject({
      code: 'integrity',
      message: expect.stringContaining(reason!),
    });
  });

  test('one flipped byte in each of its blobs is an integrity error of that blob', async () => {
    const { digest } = await pushChanged(() => {});
    for (const { digest: blob } of stored(digest).layers) {
      const bytes = Buffer.from(registry.blobs.get(blob)!);
      if (bytes.length > 0) bytes[bytes.length >> 1]! ^= 1;
      registry.blobs.set(blob, bytes);
    }
    const found = await find();
    await expect(found!.flat()).rejects.toMatchObject({ code: 'integrity' });
    await expect(found!.spans(0)).rejects.toMatchObject({ code: 'integrity' });
    await expect(found!.toc(1)).rejects.toMatchObject({ code: 'integrity' });
  });
});

describe('small parts', () => {
  beforeEach(() => start(2));
  const small = (): Sidecar => ({ ...largeSidecarFor(image), hints: Buffer.from('hints'), ...smallSpans() });
  const smallSpans = () => ({
    layers: sidecarFor(image).layers.map((layer, i) => ({ ...layer, spans: Buffer.from(`spans ${i}`) })),
  });
  const blobsAsked = () =>
    registry.requests.filter(({ method, url }) => method === 'GET' && url.includes('/blobs/')).length;

  test('that a start needs come with the manifest, and are blobs of the registry as well', async () => {
    const sidecar = small();
    const { digest } = await pushSidecar(client, image, sidecar);
    const { layers } = stored(digest);
    expect(layers.filter(({ data }) => data !== undefined).map(({ mediaType }) => mediaType)).toEqual([
      ...Array(3).fill(SIDECAR_TYPES.spans),
      SIDECAR_TYPES.hints,
    ]);
    for (const { digest: blob } of layers) expect(registry.blobs.has(blob)).toBe(true);
    registry.requests.length = 0;
    const found = (await find())!;
    for (const [i, { spans }] of sidecar.layers.entries())
      expect((await found.spans(i)).equals(spans)).toBe(true);
    expect((await found.hints())!.equals(sidecar.hints!)).toBe(true);
    expect(blobsAsked()).toBe(0);
    expect((await found.flat()).equals(sidecar.flat)).toBe(true);
    expect(blobsAsked()).toBe(1);
  });

  test.each<[string, (data: string) => string]>([
    ['other bytes', (data) => Buffer.from(data, 'base64').fill(7).toString('base64')],
    ['fewer bytes', (data) => data.slice(4)],
    ['more bytes', (data) => `AAAA${data}`],
    ['no base64', (data) => `${data.slice(0, -1)}*`],
    ['nothing', () => ''],
  ])('with %s instead of their content are an integrity error', async (_, change) => {
    const { digest } = await pushSidecar(client, image, small());
    const artifact = stored(digest);
    const spans = part(artifact, SIDECAR_TYPES.spans);
    spans.data = change(spans.data!);
    registry.manifests.delete(`team/app@${digest}`);
    template = artifact;
    await pushChanged((one) => (one.annotations['io.cofa.revision'] = '9'));
    await expect((await find())!.spans(0)).rejects.toMatchObject({ code: 'integrity' });
    expect((await (await find())!.spans(1)).toString()).toBe('spans 1');
  });
});

test('a sidecar of other layers is not pushed', async () => {
  await start();
  const sidecar = sidecarFor(image);
  sidecar.layers.reverse();
  const before = registry.requests.length;
  await expect(pushSidecar(client, image, sidecar)).rejects.toMatchObject({ code: 'invalid-argument' });
  expect(registry.requests).toHaveLength(before);
});

test('a registry that is away is an error, not a missing sidecar', async () => {
  await start();
  await pushSidecar(client, image, sidecarFor(image));
  await registry.stop();
  await expect(find()).rejects.toMatchObject({ code: 'unavailable' });
});

describe('a sidecar that is fetched ahead', () => {
  beforeEach(() => start(2));
  const reference = () => parseReference(`${registry.host}/team/app:v1`);
  const resolve = async (wanted = true) => {
    const referrers = { wanted: () => wanted, blobsOf: startReferrers };
    return await client.resolve(reference(), { platform: 'linux/amd64', referrers });
  };
  const asked = () => registry.requests.filter(({ method }) => method === 'GET').map(({ url }) => url);
  const use = async (resolved: ResolvedImage) => {
    const handle = await findSidecar(client, resolved);
    return await Promise.all([handle?.flat(), ...resolved.layers.map((_, layer) => handle?.spans(layer))]);
  };

  test('is there, checked, when it is wanted, and each of its parts was asked for once', async () => {
    const sidecar = largeSidecarFor(image);
    await pushSidecar(client, image, sidecar);
    registry.requests.length = 0;
    const resolved = await resolve();
    expect(await use(resolved)).toEqual([sidecar.flat, ...sidecar.layers.map(({ spans }) => spans)]);
    const urls = asked();
    expect(new Set(urls).size).toBe(urls.length);
    // Taken once; a second caller asks again.
    await use(resolved);
    expect(asked().length).toBeGreaterThan(urls.length);
  });

  test('is not asked for where it is not wanted', async () => {
    await pushSidecar(client, image, sidecarFor(image));
    registry.requests.length = 0;
    const resolved = await resolve(false);
    await client.referrers(resolved.reference, resolved.descriptor.digest);
    expect(asked().filter((url) => url.includes('/blobs/'))).toHaveLength(1);
  });

  test('of two, only the manifests come: which one is taken is not known yet', async () => {
    await pushSidecar(client, image, sidecarFor(image));
    await pushChanged((one) => (one['x'] = 1));
    registry.requests.length = 0;
    const resolved = await resolve();
    await findSidecar(client, resolved);
    expect(asked().filter((url) => url.includes('/blobs/'))).toHaveLength(1);
  });

  test('that could not be had ahead is asked for again', async () => {
    const sidecar = largeSidecarFor(image);
    await pushSidecar(client, image, sidecar);
    const failed = new Set<string>();
    let isAway = true;
    registry.fault = ({ path, response }) => {
      if (!isAway || !path.includes('/blobs/') || path.endsWith(image.configDescriptor.digest)) return 'pass';
      failed.add(path);
      response.writeHead(404).end();
      return 'handled';
    };
    const resolved = await resolve();
    // Its flat image, and the spans of three layers.
    await expect.poll(() => failed.size).toBe(4);
    isAway = false;
    expect(await use(resolved)).toEqual([sidecar.flat, ...sidecar.layers.map(({ spans }) => spans)]);
  });
});
