/** Which images may use what the node has of a layer, asked of registries that keep tenants apart and of one that lies. */
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { RegistryClient } from '../../src/registry/client.ts';
import { Access, type Claim } from '../../src/supervisor/images/access.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { claimEverything, dockerConfigOf, keepApart, sha256 } from '../support/private-registry.ts';
import { Cleanup } from '../support/temp.ts';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const TAR = Buffer.from('a layer that only its readers know '.repeat(2_000));
const diffId = sha256(TAR);

const cleanup = new Cleanup();
let honest: FaultRegistry;
let evil: FaultRegistry;
let client: RegistryClient;
let claims: Claim[];
let clock: number;
let access: Access;

beforeEach(async () => {
  honest = await startFaultRegistry();
  evil = await startFaultRegistry();
  cleanup.defer(() => honest.stop());
  cleanup.defer(() => evil.stop());
  const account = { username: 'a', password: 'secret', repositories: ['a/app', 'a/other'] };
  const stranger = { username: 'b', password: 'other', repositories: ['b/app'] };
  keepApart(honest, [account, stranger]);
  claimEverything(evil);
  const folder = await cleanup.tempDir('access');
  await writeFile(join(folder, 'config.json'), dockerConfigOf({ [honest.host]: account }));
  client = new RegistryClient({ dockerConfig: folder, retry: { attempts: 1 } });
  cleanup.defer(() => client.close());
  claims = [];
  clock = 1_000;
  const quiet = { debug: () => {}, info: () => {} };
  access = new Access({
    registry: client,
    claims: () => claims,
    rawSize: () => TAR.length,
    now: () => clock,
    log: quiet,
  });
});
afterEach(() => cleanup.run());

/** An image of one layer in a repository; the registry has `bytes` for it. */
function image(registry: FaultRegistry, repository: string, bytes: Buffer, claimed = diffId): Claim {
  const blob = registry.addBlob(bytes);
  return named(registry, repository, blob, claimed);
}

function named(
  registry: FaultRegistry,
  repository: string,
  blob: { digest: string; size: number },
  claimed = diffId,
): Claim {
  const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest: diffId, size: 1 };
  const layers = [{ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', ...blob }];
  const bytes = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST, config, layers, repository }),
  );
  const manifest = registry.addManifest(repository, bytes, MANIFEST, '1');
  const { digest, size } = blob;
  return {
    registry: registry.host,
    repository,
    manifest,
    layers: [{ diffId: claimed, blob: digest, blobSize: size }],
  };
}

const asked = () => [...honest.requests, ...evil.requests].map(({ method }) => method);

describe('a layer that the node has from another repository', () => {
  test('is asked about by no image of that repository, and by none that shares nothing', async () => {
    claims = [image(honest, 'a/app', gzipSync(TAR))];
    await access.admit(image(honest, 'a/app', gzipSync(TAR)));
    await access.admit(image(evil, 'x', Buffer.from('other'), sha256('other')));
    expect(asked()).toEqual([]);
  });

  test('is for every image that names it, where the other repository is public: one question, and none if known', async () => {
    const base = image(honest, 'open/base', gzipSync(TAR));
    claims = [base];
    const mine = image(evil, 'x', Buffer.from('of other content'));
    await access.admit(mine);
    await access.admit(mine);
    expect(asked()).toEqual(['HEAD']);
    clock += 3_600_000;
    access.notePublic(base);
    await access.admit(mine);
    expect(asked()).toEqual(['HEAD']);
  });

  test('is for an image of the same registry that gives its blob from there, too', async () => {
    claims = [image(honest, 'b/app', gzipSync(TAR))];
    await access.admit(image(honest, 'a/other', gzipSync(TAR)));
    expect(honest.requests.every(({ method }) => method === 'HEAD')).toBe(true);
  });

  test.each<[string, (genuine: { digest: string; size: number }) => Claim]>([
    [
      'names its blob in a repository that does not have it',
      (genuine) => {
        const forged = named(honest, 'a/other', genuine);
        // This registry takes manifests without their blobs.
        for (const [key, { bytes }] of honest.manifests)
          if (key.startsWith('a/other@'))
            honest.manifests.set(key, {
              bytes: Buffer.from(bytes.toString().replaceAll(genuine.digest, 'x')),
              mediaType: MANIFEST,
            });
        return forged;
      },
    ],
    ['names its diffID over a blob of its own', () => image(honest, 'a/other', gzipSync('mine'))],
    ['names its diffID over no gzip', () => image(honest, 'a/other', Buffer.from([0x1f, 0x8b, 1, 2, 3]))],
    [
      'names its diffID over a bomb',
      () => image(honest, 'a/other', zstdCompressSync(Buffer.alloc(20_000_000))),
    ],
    ['names its blob as another layer', (genuine) => named(honest, 'a/other', genuine, sha256('another'))],
    ['comes from a registry that claims to have everything', (genuine) => named(evil, 'x', genuine)],
    ['comes from there with a blob of its own', () => image(evil, 'x', gzipSync('mine'))],
    [
      'has even the same manifest',
      (genuine) => ({
        ...(claims[0] as Claim),
        registry: evil.host,
        layers: [{ diffId, blob: genuine.digest, blobSize: genuine.size }],
      }),
    ],
  ])('is not for one that %s', async (_, forge) => {
    const secret = image(honest, 'b/app', gzipSync(TAR));
    claims = [secret];
    const [{ blob: digest, blobSize: size } = { blob: '', blobSize: 0 }] = secret.layers;
    const forged = forge({ digest, size });
    await expect(access.admit(forged)).rejects.toMatchObject({ code: 'unauthorized' });
    // The image that came first does not become less secret by that.
    claims = [forged, secret];
    await expect(access.admit(forged)).rejects.toMatchObject({ code: 'unauthorized' });
  });

  test.each([
    ['gzip', gzipSync(TAR, { level: 1 })],
    ['zstd', zstdCompressSync(TAR)],
    ['plain tar', TAR],
  ])('is for an image whose registry once gives the whole layer, as %s', async (_, bytes) => {
    claims = [image(honest, 'b/app', gzipSync(TAR))];
    const mine = image(evil, 'x', bytes);
    await access.admit(mine);
    const before = evil.requests.length;
    clock += 100_000_000;
    await access.admit(mine);
    expect(evil.requests).toHaveLength(before);
  });

  test('is as secret where the image is known by a pull alone', async () => {
    access.notePulled(image(honest, 'b/app', gzipSync(TAR)));
    const forged = image(evil, 'x', gzipSync('mine'));
    await expect(access.admit(forged)).rejects.toMatchObject({ code: 'unauthorized' });
    await access.admit(image(honest, 'b/app', gzipSync(TAR)));
  });

  test('is not held to be public because its registry is away', async () => {
    claims = [image(honest, 'open/base', gzipSync(TAR))];
    await honest.stop();
    await expect(access.admit(image(evil, 'x', gzipSync('mine')))).rejects.toMatchObject({
      code: 'unauthorized',
    });
    await access.admit(image(evil, 'y', gzipSync(TAR)));
  });

  test('cannot be judged while the image’s own registry is away: that is no refusal', async () => {
    claims = [image(honest, 'b/app', gzipSync(TAR))];
    const mine = image(evil, 'x', gzipSync(TAR));
    evil.fault = ({ response }) => {
      response.writeHead(503).end();
      return 'handled';
    };
    await expect(access.admit(mine)).rejects.toMatchObject({ code: 'unavailable' });
    evil.fault = () => 'pass';
    await access.admit(mine);
  });
});
