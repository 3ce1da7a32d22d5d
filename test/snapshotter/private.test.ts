/**
 * Private images stay private: what the node has of one is given to no client that merely knows its digests. The node's
 * account reads the secret image; an image elsewhere names the secret one's layers without having them.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Mount } from '../../src/containerd/generated/containerd/types/mount_pb.ts';
import { type FaultImage, type Files, pushImage } from '../faults/fault-image.ts';
import { noise, prose } from '../images/nasty.ts';
import { type Engine, eventually, runCofa, startEngine } from '../support/engine.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { claimEverything, dockerConfigOf, forgeImage, keepApart } from '../support/private-registry.ts';
import { Cleanup } from '../support/temp.ts';
import { untilServed } from './served.ts';
import { inside, refused, type SnapshotClient } from './test-bed.ts';

const BASE: Files = { 'lib/base': noise(60_000, 1) };
const SECRET: Files = { 'app/secret': prose(50_000, 2) };
const OWN: Files = { 'app/own': prose(20_000, 3) };

const cleanup = new Cleanup();
let work: string;
let honest: FaultRegistry;
let evil: FaultRegistry;
let open: FaultRegistry;
let engine: Engine;
let client: SnapshotClient;
/** The secret image, another one on its base in a repository of the same account, and one on that base for everyone. */
let secret: FaultImage;
let sister: FaultImage;
let elsewhere: FaultImage;

beforeAll(async () => {
  work = await cleanup.tempDir('private');
  [honest, evil, open] = await Promise.all([
    startFaultRegistry(),
    startFaultRegistry(),
    startFaultRegistry(),
  ]);
  for (const registry of [honest, evil, open]) cleanup.defer(() => registry.stop());
  secret = await pushImage(join(work, 'secret'), honest.host, 'a/secret', [BASE, SECRET]);
  sister = await pushImage(join(work, 'sister'), honest.host, 'a/sister', [BASE, OWN]);
  elsewhere = await pushImage(join(work, 'elsewhere'), open.host, 'app', [BASE, OWN]);
  for (const { ref } of [secret, sister, elsewhere]) {
    const indexed = await runCofa(['index', ref]);
    if (indexed.code !== 0) throw new Error(indexed.stderr);
  }
  const account = { username: 'a', password: 'of-a', repositories: ['a/secret', 'a/sister'] };
  keepApart(honest, [account]);
  claimEverything(evil);
  const dockerConfig = join(work, 'docker');
  await mkdir(dockerConfig);
  await writeFile(join(dockerConfig, 'config.json'), dockerConfigOf({ [honest.host]: account }));
  engine = await startEngine({ workers: 1, args: ['--snapshotter', '--docker-config', dockerConfig] });
  cleanup.defer(() => engine.stop());
  client = await untilServed(join(engine.root, 'run/snapshotter.sock'));
  cleanup.defer(() => client.close());
  // A first pull of the secret image, with the right account, and all of its bytes.
  await pulled(secret);
  await inside(await client.view('first', chainsOf(secret)[1]), work, async (root) => {
    await showsSecret(root);
    // What comes later would be taken for what a pull asks for.
    await eventually('the rest is here', async () =>
      (await engine.status()).images.every(({ blocks }) => blocks.absent + blocks.fetching === 0),
    );
  });
  await client.remove('first');
}, 120_000);
afterAll(() => cleanup.run());

const sha256 = (bytes: Buffer | string) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const diffIdsOf = ({ tars }: FaultImage) => tars.map(sha256);

function chainsOf(image: FaultImage): string[] {
  const chains: string[] = [];
  for (const diffId of diffIdsOf(image)) {
    const below = chains.at(-1);
    chains.push(below === undefined ? diffId : sha256(`${below} ${diffId}`));
  }
  return chains;
}

const labels = (chain: string, ref: string, manifest: string): Record<string, string> => ({
  'containerd.io/snapshot.ref': chain,
  'containerd.io/snapshot/cri.image-ref': ref,
  'containerd.io/snapshot/cri.manifest-digest': manifest,
});

async function showsSecret(root: string): Promise<void> {
  // The registries are in this process.
  const bytes = await readFile(join(root, 'app/secret'));
  expect(bytes.equals(SECRET['app/secret'] as Buffer)).toBe(true);
}

/** Asks for each layer as an unpacker does, and is told that it is there. */
async function pulled(image: FaultImage): Promise<void> {
  let parent = '';
  for (const chain of chainsOf(image)) {
    const asked = client.prepare(
      `pull ${chain}`,
      parent,
      labels(chain, image.ref, image.layout.manifest.digest),
    );
    await refused(asked, Code.AlreadyExists);
    const [info] = await client.walk(
      `labels."containerd.io/snapshot.ref"==${chain},parent==${JSON.stringify(parent)}`,
    );
    parent = info?.name as string;
  }
}

/** What a client gets that is to unpack the layer by itself. */
async function unpacks(asked: Promise<Mount[]>, key: string): Promise<void> {
  expect((await asked).map(({ type, options }) => [type, options.includes('rw')])).toEqual([['bind', true]]);
  await client.remove(key);
}

test('the chain of its layers alone gives none of them, whatever names it', async () => {
  const [chain] = chainsOf(secret) as [string];
  await unpacks(client.prepare('bare', '', { 'containerd.io/snapshot.ref': chain }), 'bare');
  // An image that the node cannot read, and one that there is not.
  for (const ref of [`${honest.host}/b/none:1`, `${evil.host}/none:1`]) {
    const asked = client.prepare('stranger', '', labels(chain, ref, sha256('none')));
    await unpacks(asked, 'stranger');
  }
});

test('an image that names its layers and has others in their place gets none of them', async () => {
  const diffIds = diffIdsOf(secret);
  const manifest = forgeImage(
    evil,
    'own',
    diffIds.map((diffId) => ({ diffId })),
  );
  for (const [at, chain] of chainsOf(secret).entries()) {
    const asked = client.prepare(`own-${at}`, '', labels(chain, `${evil.host}/own:1`, manifest));
    await unpacks(asked, `own-${at}`);
  }
  const mounted = await engine.cli(['mount', `${evil.host}/own:1`, join(work, 'own')]);
  expect(mounted).toMatchObject({ code: 4 });
});

test('one that names its very blobs does not either, though its registry says that it has them', async () => {
  const layers = diffIdsOf(secret).map((diffId, at) => ({
    diffId,
    blob: secret.blobs[at] as { digest: string; size: number },
  }));
  const manifest = forgeImage(evil, 'copy', layers);
  const [chain] = chainsOf(secret) as [string];
  await unpacks(client.prepare('copy', '', labels(chain, `${evil.host}/copy:1`, manifest)), 'copy');
  expect(await engine.cli(['mount', `${evil.host}/copy:1`, join(work, 'copy')])).toMatchObject({ code: 4 });
});

test('its manifest’s digest is no key under another name', async () => {
  const { digest } = secret.layout.manifest;
  const [chain] = chainsOf(secret) as [string];
  await unpacks(client.prepare('named', '', labels(chain, `${evil.host}/own:1`, digest)), 'named');
  for (const name of [`${evil.host}/own`, `${open.host}/app`]) {
    const mounted = await engine.cli(['mount', `${name}@${digest}`, join(work, 'named')]);
    expect(mounted.code).not.toBe(0);
  }
});

test('it is lazy again and again for a pull of its own', async () => {
  const before = honest.requests.length;
  await pulled(secret);
  await pulled(secret);
  expect(
    honest.requests.slice(before).filter(({ method, url }) => method === 'GET' && url.includes('/blobs/')),
  ).toEqual([]);
});

test('its base is shared with an image of the same account, for the price of a question', async () => {
  const [base] = secret.blobs;
  const before = honest.requests.length;
  await pulled(sister);
  // The rest of the base may still be on its way, by the first image's name.
  const name = `/a/sister/blobs/${base?.digest}`;
  const asked = honest.requests.slice(before).filter(({ url }) => url.endsWith(name));
  expect(asked.map(({ method }) => method)).toEqual(['HEAD']);
});

test('its base is shared with an image elsewhere once that has given the whole layer', async () => {
  const [base] = elsewhere.blobs;
  const before = open.requests.length;
  await pulled(elsewhere);
  await pulled(elsewhere);
  const asked = open.requests
    .slice(before)
    .filter(({ url, method }) => method === 'GET' && url.endsWith(base?.digest as string));
  expect(asked).toHaveLength(1);
});

test('containers on it start while its registry is away, also after the engine was restarted', async () => {
  await honest.stop();
  const look = async (key: string) => {
    await inside(await client.prepare(key, chainsOf(secret)[1]), work, showsSecret);
    await client.remove(key);
  };
  await look('offline');
  client.close();
  const { root } = engine;
  expect((await engine.cli(['down'])).code).toBe(0);
  await engine.ended;
  const again = await startEngine({ root, workers: 1, args: ['--snapshotter'] });
  cleanup.defer(() => again.stop());
  client = await untilServed(join(root, 'run/snapshotter.sock'));
  await look('restarted');
});
