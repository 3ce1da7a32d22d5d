/** Who vouches for a sidecar: an engine of the default policy, the operator's keys, and references that name a digest. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { Mount } from '../../schemas/api.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { type FaultImage, pushImage } from '../faults/fault-image.ts';
import { noise } from '../images/nasty.ts';
import { attachBundle, ISSUER, signKeyless, startSigstore } from '../signature/sigstore.ts';
import { type Engine, imageOf, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let directory = '';
let registry: RegistryServer;
let engine: Engine;
let count = 0;
vi.setConfig({ testTimeout: 120_000 });

beforeAll(async () => {
  directory = await cleanup.tempDir('signed');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  // The policy is that of `cofa up` without a word about it.
  engine = await startEngine({
    root: join(directory, 'root'),
    args: ['--trust', 'signed', '--keys', join(directory, 'keys')],
  });
  cleanup.defer(() => engine.stop());
  await cofa('key', 'create', '--out', join(directory, 'release'), '--quiet');
});
afterAll(() => cleanup.run());

async function cofa(...args: string[]): Promise<string> {
  const result = await engine.cli(args);
  if (result.code !== 0) throw new Error(`cofa ${args.join(' ')}: ${result.stdout}${result.stderr}`);
  return result.stdout;
}

const keysDir = () => join(directory, 'keys');
const trustKey = () => cofa('trust', 'add', join(directory, 'release.pub'), '--keys', keysDir());
const distrustKey = () => cofa('trust', 'rm', 'release', '--keys', keysDir());
const push = (name: string) =>
  pushImage(
    join(directory, name),
    registry.host,
    name,
    [{ 'app/tool': noise(70_000, ++count) }, { 'app/data': noise(300_000, ++count) }],
    'gzip',
  );
const newDir = () => join(directory, `mnt-${count++}`);

async function mount(ref: string, ...more: string[]): Promise<Mount> {
  return JSON.parse(await cofa('mount', '--json', ...more, ref, newDir())) as Mount;
}
const expectRight = async (dir: string, image: FaultImage) =>
  expect(await readInParallel({ root: dir, expected: image.expected, readers: 2 })).toMatchObject({
    failures: [],
  });
const reasons = async (ref: string) => (await imageOf(engine, ref)).passed?.map(({ reason }) => reason) ?? [];

describe('policy signed', () => {
  it('passes over what no key has signed, says the way out, and the node indexes the image', async () => {
    const image = await push('unsigned');
    await cofa('index', image.ref);
    const mounted = await mount(image.ref);
    expect(mounted.origin).toBe('node');
    expect(await reasons(image.ref)).toEqual([expect.stringContaining('cofa trust add')]);
    await expectRight(mounted.dir, image);
  });

  it('takes what a key of the operator has signed, as long as the key is there; mounts that are there stay', async () => {
    const image = await push('signed');
    await cofa('index', '--sign', join(directory, 'release.key'), image.ref);
    await trustKey();
    const first = await mount(image.ref, '--no-prefetch');
    expect(first).toMatchObject({ origin: 'sidecar', trust: 'unproven' });
    await distrustKey();
    const second = await mount(image.ref);
    expect(second.origin).toBe('node');
    await expectRight(first.dir, image);
    await expectRight(second.dir, image);
  });

  it('takes what an identity has signed without a key, as long as its rule is there', async () => {
    const image = await push('keyless');
    await cofa('index', image.ref);
    const sigstore = await startSigstore();
    const client = new RegistryClient({ environment: {}, dockerConfig: join(directory, 'none') });
    cleanup.defer(() => client.close());
    const reference = parseReference(image.ref);
    const [found] = JSON.parse(await cofa('inspect', '--json', image.ref)).sidecars as Array<{
      digest: string;
    }>;
    const { descriptor } = await client.manifest(reference, found?.digest ?? '');
    await attachBundle(client, reference, descriptor, await signKeyless(sigstore, descriptor.digest));
    const root = join(directory, 'trusted_root.json');
    await writeFile(root, JSON.stringify(sigstore.root));
    const rule = ['--issuer', ISSUER, '--identity-pattern', 'https://code\\.example/team/.*'];
    await cofa('trust', 'add', root, '--name', 'ci', ...rule, '--keys', keysDir());
    const first = await mount(image.ref, '--no-prefetch');
    expect(first).toMatchObject({ origin: 'sidecar', trust: 'unproven' });
    await cofa('trust', 'rm', 'ci', '--keys', keysDir());
    expect((await mount(image.ref)).origin).toBe('node');
    await expectRight(first.dir, image);
  });

  it('takes a sidecar that the manifest of the image names, without a key', async () => {
    const image = await push('plain');
    const copy = image.ref.replace('/plain:', '/plain:cofa-');
    await cofa('index', '--as', copy, image.ref);
    const mounted = await mount(copy);
    expect(mounted).toMatchObject({ origin: 'sidecar' });
    await expectRight(mounted.dir, image);
    // The image that names none is as before.
    expect((await mount(image.ref)).origin).toBe('node');
  });

  it('passes over what another key has signed, and what this key may not vouch for', async () => {
    const image = await push('foreign');
    await cofa('key', 'create', '--out', join(directory, 'foreign'), '--quiet');
    await cofa('index', '--sign', join(directory, 'foreign.key'), image.ref);
    await trustKey();
    expect((await mount(image.ref)).origin).toBe('node');
    expect(await reasons(image.ref)).toEqual([expect.stringContaining('no key of this node has signed it')]);
    await distrustKey();
    const elsewhere = await push('elsewhere');
    await cofa('index', '--sign', join(directory, 'release.key'), elsewhere.ref);
    const scope = ['--scope', `${registry.host}/other`, '--keys', keysDir()];
    await cofa('trust', 'add', join(directory, 'release.pub'), ...scope);
    expect((await mount(elsewhere.ref)).origin).toBe('node');
    await distrustKey();
  });
});

describe('policy registry', () => {
  it('takes an unsigned sidecar by tag; a reference that names a digest gets no byte on the word of one who may push', async () => {
    const own = await startEngine({ args: ['--keys', keysDir()] });
    cleanup.defer(() => own.stop());
    const image = await push('pinned');
    await cofa('index', image.ref);
    const dirs = [newDir(), newDir()];
    const mounts: Mount[] = [];
    const pinned = `${image.ref}@${image.layout.manifest.digest}`;
    for (const [at, ref] of [pinned, image.ref].entries()) {
      const result = await own.cli(['mount', '--json', ref, dirs[at] as string]);
      expect(result.code, result.stdout).toBe(0);
      mounts.push(JSON.parse(result.stdout) as Mount);
    }
    expect(mounts[0]?.origin).toBe('node');
    for (const { dir } of mounts) await expectRight(dir, image);
    const other = await push('by-tag');
    await cofa('index', other.ref);
    const byTag = await own.cli(['mount', '--json', other.ref, newDir()]);
    expect(JSON.parse(byTag.stdout)).toMatchObject({ origin: 'sidecar' });
  });
});
