/** A client that may push puts any number of sidecars beside an image. */
import { join } from 'node:path';
import { rm, writeFile } from 'node:fs/promises';
import pino from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Conditions } from '../../src/process/conditions.ts';
import { type Descriptor, RegistryClient, type ResolvedImage } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { pushSidecar, type SidecarHandle } from '../../src/registry/sidecars.ts';
import { attachSignature } from '../../src/signature/sign.ts';
import { LaterSync } from '../../src/store/later-sync.ts';
import { Layout } from '../../src/store/layout.ts';
import { Keys } from '../../src/supervisor/images/keys.ts';
import {
  type Check,
  chooseSidecar,
  hasUsableSidecar,
  type PreparedEvent,
} from '../../src/supervisor/images/sidecar-choice.ts';
import { pushImage, sampleImage } from '../registry/sample-image.ts';
import { attachBundle, ISSUER, signKeyless, startSigstore, SUBJECT } from '../signature/sigstore.ts';
import { digest, pair } from '../signature/support.ts';
import { startFaultRegistry } from '../support/fault-registry.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
const ours = pair('ours');
const foreign = pair('foreign');
const log = pino({ level: 'silent' });

/** Believes what a sidecar holds, where it is vouched for. */
const take = async (sidecar: SidecarHandle, check: Check): Promise<PreparedEvent> => {
  const vouched = await check({ flat: digest('f'), roots: [] });
  const { digest: name } = sidecar.descriptor;
  return {
    type: 'image.prepared',
    origin: 'sidecar',
    sidecar: name,
    flat: digest('f'),
    devices: [],
    ...(vouched === undefined ? {} : { vouched }),
  };
};

describe.each([
  ['the referrers API', 100],
  ['the fallback tag', undefined],
])('40 foreign sidecars of a higher revision, by %s', (_, page) => {
  let client: RegistryClient;
  let image: ResolvedImage;
  let signed: Descriptor;
  let folder: string;
  let asked: readonly { url: string }[];

  beforeAll(async () => {
    folder = await cleanup.tempDir('crowded');
    await new Layout(folder).prepare();
    await writeFile(join(folder, 'ours.pub'), ours.publicPem);
    const registry = await startFaultRegistry(page === undefined ? {} : { referrersPage: page });
    cleanup.defer(() => registry.stop());
    asked = registry.requests;
    client = new RegistryClient({ environment: {}, dockerConfig: '/nonexistent', retry: { attempts: 1 } });
    cleanup.defer(() => client.close());
    const source = { registry: registry.host, repository: 'team/app' };
    await pushImage(
      client,
      source,
      sampleImage([100], { platform: { os: 'linux', architecture: 'amd64' } }),
      'v1',
    );
    const reference = parseReference(`${registry.host}/team/app:v1`);
    image = await client.resolve(reference, { platform: 'linux/amd64' });
    signed = await pushSidecar(client, image, {
      flat: Buffer.from('flat'),
      layers: image.layers.map(({ blob, diffId }) => ({
        diffId,
        blobDigest: blob.digest,
        spans: Buffer.from('spans'),
        toc: Buffer.from('toc'),
      })),
    });
    await attachSignature(client, reference, signed, ours.signing, { now: new Date(0) });
    const stored = registry.manifests.get(`team/app@${signed.digest}`);
    const manifest = JSON.parse(stored?.bytes.toString() ?? '');
    for (let n = 0; n < 40; n++) {
      manifest.annotations['io.cofa.revision'] = `${900 + n}`;
      const bytes = Buffer.from(JSON.stringify(manifest));
      const other = await client.pushManifest(reference, bytes, MEDIA_TYPES.ociManifest);
      if (n < 5) await attachSignature(client, reference, other, foreign.signing, { now: new Date(0) });
    }
  });

  async function options(directory = folder) {
    const keys = new Keys({ directory, registry: client, conditions: new Conditions(log), log });
    await keys.refresh();
    return {
      layout: new Layout(folder),
      files: new LaterSync(),
      registry: client,
      manifest: image.descriptor.digest,
      image,
      policy: 'signed' as const,
      known: undefined,
      roots: new Map(),
      signers: keys,
      refuted: { flat: undefined, sidecars: new Set<string>() },
      onPassed: () => {},
    };
  }

  it('do not hide the one that is signed', async () => {
    const choice = await chooseSidecar(await options(), take);
    expect(choice.prepared).toMatchObject({
      sidecar: signed.digest,
      vouched: `key:${ours.trusted.fingerprint}`,
    });
    // None of the others was fetched.
    expect(choice.passed).toEqual([]);
    expect(await hasUsableSidecar(await options())).toBe(true);
    expect(asked.length).toBeLessThan(1_000);
  });

  it('hide one that is so far behind that its signature is not asked for; the reason says so, and what to do', async () => {
    const given = await options();
    const signersAmong = async (_: unknown, digests: readonly string[]) =>
      new Map(digests.slice(0, 30).map((name) => [name, false] as const));
    const { prepared, passed } = await chooseSidecar(
      { ...given, signers: { signerOf: async () => undefined, signersAmong } },
      take,
    );
    expect(prepared).toBeUndefined();
    expect(passed.at(-1)?.reason).toBe(
      'who has signed it was not asked: the image has 41 sidecars, and 11 were left out. Delete what others have pushed, or let the image name its own (cofa index --as)',
    );
    // All that are known to be unsigned have other reasons.
    const everyone = async (_: unknown, digests: readonly string[]) =>
      new Map(digests.map((name) => [name, false] as const));
    const known = { signerOf: async () => undefined, signersAmong: everyone };
    const { passed: others } = await chooseSidecar({ ...given, signers: known }, take);
    expect(others.some(({ reason }) => reason.includes('was not asked'))).toBe(false);
    expect(others.at(-1)?.reason).toBe('only 16 of 41 candidates are looked at');
  });

  it('nor one that an identity has signed, as long as its rule is there', async () => {
    const sigstore = await startSigstore();
    const rules = await cleanup.tempDir('rules');
    await writeFile(join(rules, 'trusted_root.json'), JSON.stringify(sigstore.root));
    await writeFile(join(rules, 'ci.identity'), JSON.stringify({ issuer: ISSUER, subject: SUBJECT }));
    const bundle = await signKeyless(sigstore, signed.digest);
    await attachBundle(client, image.reference, signed, bundle);
    const given = await options(rules);
    const { prepared } = await chooseSidecar(given, take);
    expect(prepared).toMatchObject({ sidecar: signed.digest, vouched: expect.stringMatching(/^identity:/) });
    const { registry, repository } = image.reference;
    const now = () => [...given.signers.namesFor({ registry, repository })];
    expect(now()).toEqual([prepared?.vouched]);
    await rm(join(rules, 'ci.identity'));
    await given.signers.refresh();
    expect(now()).toEqual([]);
    expect((await chooseSidecar(await options(rules), take)).prepared).toBeUndefined();
  });
});
