/** Startup packs as referrers, with the referrers API and with the fallback tag, beside a sidecar. */
import { afterEach, describe, expect, test } from 'vitest';
import { RegistryClient, type ResolvedImage } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { findPack, PACK_TYPES, pushPack } from '../../src/registry/packs.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { findSidecar, pushSidecar } from '../../src/registry/sidecars.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { pushImage, sampleImage } from './sample-image.ts';

let registry: FaultRegistry | undefined;
let client: RegistryClient | undefined;

async function start(referrersPage?: number): Promise<{ client: RegistryClient; image: ResolvedImage }> {
  registry = await startFaultRegistry(referrersPage === undefined ? {} : { referrersPage });
  client = new RegistryClient({
    environment: {},
    dockerConfig: '/nonexistent',
    retry: { attempts: 2 },
    ambient: { now: () => 0, sleep: async () => {}, random: () => 0 },
  });
  const platform = { os: 'linux', architecture: 'amd64' };
  const source = { registry: registry.host, repository: 'team/app' };
  await pushImage(client, source, sampleImage([100], { platform }), 'v1');
  const image = await client.resolve(parseReference(`${registry.host}/team/app:v1`), {
    platform: 'linux/amd64',
  });
  return { client, image };
}

afterEach(async () => {
  await client?.close();
  await registry?.stop();
});

describe.each([
  ['the fallback tag', undefined],
  ['the referrers API', 2],
])('startup packs in a registry with %s', (_, page) => {
  test('are found by their start, the first wanted one first, and leave the sidecar alone', async () => {
    const { client, image } = await start(page);
    const layers = image.layers.map(({ blob, diffId }) => ({
      diffId,
      blobDigest: blob.digest,
      spans: Buffer.from('spans'),
      toc: Buffer.from('toc'),
    }));
    await pushSidecar(client, image, { flat: Buffer.from('flat'), layers });
    expect(await findPack(client, image, ['default'])).toBeUndefined();
    await pushPack(client, image, 'default', Buffer.from('one'));
    await pushPack(client, image, 'abc', Buffer.from('three'));
    expect(await findPack(client, image, ['abc', 'default'])).toMatchObject({
      start: 'abc',
      blob: { size: 5 },
    });
    const found = await findPack(client, image, ['none', 'default']);
    expect(found).toMatchObject({ start: 'default', blob: { size: 3 } });
    expect((await client.blob(image.reference, found!.blob)).toString()).toBe('one');
    expect(await findPack(client, image, ['none'])).toBeUndefined();
    expect(await findSidecar(client, image)).toBeDefined();
  });

  test('give way to a newer one of the same start', async () => {
    const { client, image } = await start(page);
    await pushPack(client, image, 'default', Buffer.from('old'));
    await pushPack(client, image, 'default', Buffer.from('newer'));
    expect(await findPack(client, image, ['default'])).toMatchObject({ blob: { size: 5 } });
  });

  test('are found by the list alone; those whose entry does not say where they lie by their manifest', async () => {
    const { client, image } = await start(page);
    const gets = (digest: string) =>
      registry!.requests.filter(({ method, url }) => method === 'GET' && url.endsWith(digest)).length;
    const told = await pushPack(client, image, 'default', Buffer.from('told'));
    expect(await findPack(client, image, ['default'])).toMatchObject({ blob: { size: 4 } });
    expect(gets(told.digest)).toBe(0);
    const stored = registry!.manifests.get(`team/app@${told.digest}`)!.bytes.toString();
    const { annotations, ...rest } = JSON.parse(stored) as { annotations: Record<string, string> };
    expect(Object.keys(annotations)).toHaveLength(3);
    for (const [n, more] of [
      {},
      { 'io.cofa.pack.size': '4' },
      { ...annotations, 'io.cofa.pack.size': '1e9' },
    ].entries()) {
      const start = `older-${n}`;
      const older = await client.pushManifest(
        image.reference,
        Buffer.from(JSON.stringify({ ...rest, annotations: { ...more, 'io.cofa.pack.start': start } })),
        MEDIA_TYPES.ociManifest,
      );
      expect(await findPack(client, image, [start])).toMatchObject({ start, blob: { size: 4 } });
      expect(gets(older.digest)).toBe(1);
    }
  });

  test('that are malformed, or another image’s, are passed over', async () => {
    const { client, image } = await start(page);
    const good = await pushPack(client, image, 'default', Buffer.from('good'));
    const { digest, size, mediaType } = image.descriptor;
    const config = await client.pushBlob(image.reference, Buffer.from('{}'), MEDIA_TYPES.ociEmpty);
    const bad = {
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociManifest,
      artifactType: PACK_TYPES.artifact,
      config,
      layers: [config],
      subject: { mediaType, digest, size },
      annotations: { 'io.cofa.pack.start': 'default' },
    };
    await client.pushManifest(image.reference, Buffer.from(JSON.stringify(bad)), MEDIA_TYPES.ociManifest);
    const huge = { ...bad, layers: [{ ...config, mediaType: PACK_TYPES.pack, size: 2 ** 40 }] };
    await client
      .pushManifest(image.reference, Buffer.from(JSON.stringify(huge)), MEDIA_TYPES.ociManifest)
      .catch(() => {});
    expect((await findPack(client, image, ['default']))?.descriptor.digest).toBe(good.digest);
  });
});
