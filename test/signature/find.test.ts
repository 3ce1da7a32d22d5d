import { sign } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Descriptor, RegistryClient } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { parseReference, type Reference } from '../../src/registry/reference.ts';
import { type FindOptions, signaturesOf, stateOf } from '../../src/signature/find.ts';
import { BUNDLE, SIMPLE, SIMPLE_SIGNATURE } from '../../src/signature/formats.ts';
import type { TrustedKey } from '../../src/signature/keys.ts';
import type { SigningKey } from '../../src/signature/private-key.ts';
import { attachSignature, makeBundle } from '../../src/signature/sign.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { digest, pair } from './support.ts';

const ours = pair('ours');
const second = pair('second', 'ed25519');
const foreign = pair('foreign');
const NOW = new Date('2026-01-02T03:04:05.678Z');

let registry: FaultRegistry;
let client: RegistryClient;
let reference: Reference;
let sidecar: Descriptor;

async function start(referrersPage?: number): Promise<void> {
  registry = await startFaultRegistry(referrersPage === undefined ? {} : { referrersPage });
  client = new RegistryClient({
    environment: {},
    dockerConfig: '/nonexistent',
    retry: { attempts: 1 },
    ambient: { now: () => 0, sleep: async () => {}, random: () => 0 },
  });
  reference = parseReference(`${registry.host}/team/app:v1`);
  sidecar = await push({ artifactType: 'application/vnd.cofa.sidecar.v1', layers: [] });
}

async function push(manifest: object, tag?: string): Promise<Descriptor> {
  const config = await client.pushBlob(reference, Buffer.from('{}'), MEDIA_TYPES.ociEmpty);
  const whole = { schemaVersion: 2, mediaType: MEDIA_TYPES.ociManifest, config, ...manifest };
  return await client.pushManifest(reference, Buffer.from(JSON.stringify(whole)), whole.mediaType, tag);
}

const attach = (key: SigningKey) => attachSignature(client, reference, sidecar, key, { now: NOW });

/** A signature as cosign v3 pushes it: its list of referrers does not carry it. */
async function pushBundle(bytes: Buffer, subject: Descriptor = sidecar): Promise<Descriptor> {
  const { mediaType, digest, size } = subject;
  const layer = await client.pushBlob(reference, bytes, BUNDLE);
  return await push({ artifactType: BUNDLE, layers: [layer], subject: { mediaType, digest, size } });
}

async function pushOld(...signed: Array<{ digest: string; key: SigningKey }>): Promise<void> {
  const layers = signed.map(async ({ digest, key }, index) => {
    const claim = Buffer.from(
      JSON.stringify({
        critical: {
          identity: {},
          image: { 'docker-manifest-digest': digest },
          type: 'cosign container image signature',
        },
        optional: { index },
      }),
    );
    const signature = sign('sha256', claim, key.privateKey).toString('base64');
    return {
      ...(await client.pushBlob(reference, claim, SIMPLE)),
      annotations: { [SIMPLE_SIGNATURE]: signature },
    };
  });
  await push({ layers: await Promise.all(layers) }, `${sidecar.digest.replace(':', '-')}.sig`);
}

const find = async (keys: TrustedKey[] = [ours.trusted, second.trusted], options?: FindOptions) => {
  registry.requests.length = 0;
  const found = await signaturesOf(client, reference, sidecar.digest, keys, options);
  return { names: found.signers.map(({ by }) => by.name), state: stateOf(found), refused: found.refused };
};

afterEach(async () => {
  await client.close();
  await registry.stop();
});

describe.each([
  ['the referrers API', 2],
  ['the fallback tag', undefined],
])('signatures by %s', (_, page) => {
  beforeEach(() => start(page));

  it('one that cofa wrote is found in one round trip', async () => {
    await attach(ours.signing);
    expect(await find()).toEqual({ names: ['ours'], state: 'signed', refused: [] });
    expect(registry.requests.map(({ url }) => url).sort()).toEqual([
      `/v2/team/app/manifests/${sidecar.digest.replace(':', '-')}`,
      `/v2/team/app/referrers/${sidecar.digest}`,
    ]);
  });

  it('one of cosign is found, and one in the old format', async () => {
    await pushBundle(makeBundle(sidecar.digest, second.signing));
    expect(await find()).toMatchObject({ names: ['second'], state: 'signed' });
    await pushOld({ digest: sidecar.digest, key: ours.signing });
    expect(await find([ours.trusted])).toMatchObject({ names: ['ours'] });
    expect(await find(undefined, { all: true })).toMatchObject({ names: ['second', 'ours'] });
  });

  it('without one it is unsigned; without keys the registry is not asked', async () => {
    expect(await find()).toMatchObject({ names: [], state: 'unsigned' });
    expect(await find([])).toMatchObject({ names: [] });
    expect(registry.requests).toEqual([]);
  });

  it('foreign, broken and misplaced ones hide none that is valid', async () => {
    await attach(foreign.signing);
    await pushBundle(Buffer.from('{}'));
    await pushBundle(makeBundle(digest('b'), ours.signing));
    await push({ artifactType: BUNDLE, layers: [], subject: sidecar });
    const gone = await pushBundle(makeBundle(sidecar.digest, foreign.signing));
    registry.manifests.delete(`team/app@${gone.digest}`);
    expect(await find()).toMatchObject({ names: [], state: 'unknown-key' });
    await pushBundle(makeBundle(sidecar.digest, ours.signing));
    expect(await find()).toMatchObject({ names: ['ours'], state: 'signed' });
  });

  it('those of another manifest vouch for nothing here, however they are listed', async () => {
    const other = await push({
      artifactType: 'application/vnd.cofa.sidecar.v1',
      layers: [],
      annotations: { a: 'b' },
    });
    const theirs = await attachSignature(client, reference, other, ours.signing, { now: NOW });
    const copy = JSON.parse(registry.manifests.get(`team/app@${theirs.digest}`)!.bytes.toString());
    await push({
      ...copy,
      subject: { mediaType: sidecar.mediaType, digest: sidecar.digest, size: sidecar.size },
    });
    await pushOld({ digest: other.digest, key: ours.signing });
    const found = await find();
    expect(found).toMatchObject({ names: [], state: 'unsigned' });
    expect(found.refused.map(({ refusal }) => refusal)).toEqual(['other', 'other']);
  });

  it('a key vouches inside its scope alone', async () => {
    await attach(ours.signing);
    const within = { ...ours.trusted, scope: [`${registry.host}/team`] };
    const outside = { ...ours.trusted, name: 'ours-elsewhere', scope: [`${registry.host}/other`] };
    expect(await find([outside])).toMatchObject({ names: [], state: 'out-of-scope' });
    expect(await find([outside, within])).toMatchObject({ names: ['ours'] });
  });
});

describe('of a flood', () => {
  beforeEach(() => start(100));

  it('some are looked at, and the search ends; 60 foreign ones hide none', async () => {
    const flood = async (from: number, to: number) => {
      for (let i = from; i < to; i++) await pushBundle(Buffer.from(JSON.stringify({ i })));
    };
    await flood(0, 60);
    await pushBundle(makeBundle(sidecar.digest, ours.signing));
    expect(await find()).toMatchObject({ names: ['ours'] });
    registry.manifests.clear();
    await flood(60, 70);
    expect(await find()).toMatchObject({ names: [] });
    await flood(70, 140);
    const { refused, names } = await find();
    expect(names).toEqual([]);
    expect(refused.length).toBe(65);
    expect(registry.requests.length).toBeLessThan(200);
  });

  it('in the list itself some are looked at, without a request', async () => {
    const { mediaType, digest, size } = sidecar;
    for (let i = 0; i < 270; i++)
      await push({
        artifactType: BUNDLE,
        layers: [],
        subject: { mediaType, digest, size },
        annotations: { 'io.cofa.bundle': `${i}` },
      });
    const { refused, names } = await find();
    expect(names).toEqual([]);
    expect(refused.length).toBe(257);
    expect(registry.requests.filter(({ url }) => /manifests.sha256:/.test(url))).toEqual([]);
  });
});

describe('a registry that fails', () => {
  beforeEach(() => start());
  const down = (part: string) => {
    registry.fault = ({ path, response }) => {
      if (!path.includes(part)) return 'pass';
      response.writeHead(503).end();
      return 'handled';
    };
  };

  it('on one signature: another one counts', async () => {
    const { digest } = await pushBundle(makeBundle(sidecar.digest, foreign.signing));
    await pushBundle(makeBundle(sidecar.digest, ours.signing));
    down(digest);
    expect(await find()).toMatchObject({ names: ['ours'] });
  });

  it('on the list: that is no answer', async () => {
    await attach(ours.signing);
    down(sidecar.digest.replace(':', '-'));
    await expect(find()).rejects.toMatchObject({ code: 'unavailable' });
  });

  it('and never ends: the signal ends the search', async () => {
    registry.fault = () => new Promise(() => {});
    const reason = new Error('late');
    await expect(find(undefined, { signal: AbortSignal.timeout(50) })).rejects.toThrow();
    await expect(find(undefined, { limitMs: 50 })).rejects.toMatchObject({ code: 'timeout' });
    await expect(find(undefined, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe('what is pushed', () => {
  beforeEach(() => start());
  it('is what cosign v3 pushes, and carries the bundle', async () => {
    const { digest } = await attach(ours.signing);
    const manifest = JSON.parse(registry.manifests.get(`team/app@${digest}`)!.bytes.toString());
    const [layer] = manifest.layers;
    const bundle = registry.blobs.get(layer.digest)!;
    expect(manifest).toEqual({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociManifest,
      artifactType: BUNDLE,
      config: { mediaType: MEDIA_TYPES.ociEmpty, artifactType: BUNDLE, digest: expect.any(String), size: 2 },
      layers: [
        { mediaType: BUNDLE, digest: layer.digest, size: bundle.length, data: bundle.toString('base64') },
      ],
      subject: { mediaType: sidecar.mediaType, digest: sidecar.digest, size: sidecar.size },
      annotations: {
        'dev.sigstore.bundle.content': 'dsse-envelope',
        'dev.sigstore.bundle.predicateType': 'https://sigstore.dev/cosign/sign/v1',
        'org.opencontainers.image.created': '2026-01-02T03:04:05Z',
        'io.cofa.bundle': bundle.toString(),
      },
    });
  });
});
