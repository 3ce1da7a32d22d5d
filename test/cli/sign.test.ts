import { execFile } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { copyFile, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { main } from '../../src/cli/program.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { pushSidecar } from '../../src/registry/sidecars.ts';
import type { Sink } from '../../src/terminal/output.ts';
import { halfRandom, pushSmallImage, type SmallImage } from '../index/small-image.ts';
import { attachBundle, ISSUER, signKeyless, startSigstore, SUBJECT } from '../signature/sigstore.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const run = promisify(execFile);
const cleanup = new Cleanup();
let registry: RegistryServer;
let folder: string;
let keys: string;
let image: SmallImage;

beforeAll(async () => {
  folder = await cleanup.tempDir('cli-sign');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
});
afterAll(() => cleanup.run());

let out = '';
let err = '';
const sink: Sink = { out: (text) => (out += text), err: (text) => (err += text), errIsTerminal: false };
beforeEach(() => {
  out = '';
  err = '';
});
const variables = ['COFA_KEY_PASSWORD', 'RELEASE_KEY'];
afterEach(() => {
  for (const name of variables) delete process.env[name];
});

const cofa = (...argv: string[]) => {
  out = '';
  err = '';
  return main(argv, sink);
};
/** The JSON document that a command prints; it has to end well. */
async function json(...argv: string[]) {
  expect(await cofa(...argv, '--json'), err + out).toBe(0);
  return JSON.parse(out);
}
const at = (name: string) => join(folder, name);
const create = (name: string) => json('key', 'create', '--out', at(name));
const inspect = async () => (await json('inspect', '--keys', keys, image.ref)).sidecars;
const blobReads = () => {
  const digests = image.layers.map(({ digest }) => digest);
  return registry.requests().filter(({ path }) => digests.some((digest) => path.includes(digest))).length;
};
let number = 0;
beforeEach(async () => {
  number += 1;
  keys = at(`keys-${number}`);
  image = await pushSmallImage(folder, registry.host, `team/app-${number}`, [
    { compression: 'gzip', files: { 'data/large': halfRandom(1 << 20), 'bin/tool': 'x' } },
  ]);
});

describe('cofa key and cofa trust', () => {
  it('makes a pair that only its owner can read, and overwrites nothing', async () => {
    const made = await create('plain');
    expect(made).toMatchObject({ privateKey: at('plain.key'), publicKey: at('plain.pub'), encrypted: false });
    expect(statSync(at('plain.key')).mode & 0o777).toBe(0o600);
    const before = readFileSync(at('plain.key'), 'utf8');
    expect(await cofa('key', 'create', '--out', at('plain'))).toBe(7);
    expect(err).toMatch(/^cofa: .*plain\.key exists already; a key is never overwritten\n {2}hint: .*--out/);
    await rm(at('plain.key'));
    expect(await cofa('key', 'create', '--out', at('plain'))).toBe(7);
    expect(await readdir(folder)).not.toContain('plain.key');
    await writeFile(at('plain.key'), before, { mode: 0o600 });
  });

  it('encrypts the private key by $COFA_KEY_PASSWORD, which signing then needs', async () => {
    process.env.COFA_KEY_PASSWORD = 'secret';
    expect(await create('locked')).toMatchObject({ encrypted: true });
    delete process.env.COFA_KEY_PASSWORD;
    expect(await cofa('index', '--sign', at('locked.key'), image.ref)).toBe(2);
    expect(err).toMatch(
      /locked\.key is encrypted, and there is no passphrase\n {2}hint: set COFA_KEY_PASSWORD\n/,
    );
    process.env.COFA_KEY_PASSWORD = 'wrong';
    expect(await cofa('index', '--sign', at('locked.key'), image.ref)).toBe(2);
    process.env.COFA_KEY_PASSWORD = 'secret';
    expect((await json('index', '--sign', at('locked.key'), image.ref)).signature).toMatch(/^sha256:/);
  });

  it('adds, lists and removes keys, each with its scope', async () => {
    const { fingerprint } = await create('team');
    const scope = [`${registry.host}/team`, 'docker.io/library'];
    const options = scope.flatMap((one) => ['--scope', one]);
    const entry = { name: 'team', kind: 'ECDSA P-256', fingerprint, scope };
    expect(await json('trust', 'add', at('team.pub'), ...options, '--keys', keys)).toEqual(entry);
    expect(await json('trust', 'ls', '--keys', keys)).toEqual({
      keys: [entry],
      identities: [],
      problems: [],
    });
    expect(await cofa('trust', 'add', at('team.pub'), '--name', 'again', '--keys', keys)).toBe(7);
    expect(err).toMatch(/trusted already, as team/);
    await create('other');
    expect(await cofa('trust', 'add', at('other.pub'), '--name', 'team', '--keys', keys)).toBe(7);
    const { pairs } = await json('key', 'ls', folder, '--keys', keys);
    expect(pairs.find((pair: { name: string }) => pair.name === 'team')).toMatchObject({
      privateKey: 'plain',
      fingerprint,
      trustedAs: 'team',
    });
    expect(await cofa('trust', 'rm', 'team', '--keys', keys)).toBe(0);
    expect(await readdir(keys)).toEqual([]);
    expect(await cofa('trust', 'rm', 'team', '--keys', keys)).toBe(3);
    expect(await cofa('trust', 'rm', '../team', '--keys', keys)).toBe(3);
  });

  it('adds an identity with its trust root, says who has signed without a key, and takes it away', async () => {
    const sigstore = await startSigstore();
    await writeFile(at('root.json'), JSON.stringify(sigstore.root));
    const options = ['--issuer', ISSUER, '--identity', SUBJECT, '--keys', keys];
    expect(await cofa('trust', 'add', ...options, '--name', 'ci')).toBe(3);
    expect(err).toMatch(/there is no trust root .*trusted_root\.json/);
    expect(await cofa('trust', 'add', at('root.json'), ...options)).toBe(2);
    const entry = await json('trust', 'add', at('root.json'), ...options, '--name', 'ci');
    expect(entry).toMatchObject({ name: 'ci', kind: 'identity', issuer: ISSUER, subject: SUBJECT });
    expect((await json('trust', 'ls', '--keys', keys)).identities).toEqual([entry]);
    expect(await cofa('trust', 'add', at('root.json'), ...options, '--name', 'ci')).toBe(7);

    await cofa('index', image.ref);
    const { digest } = (await json('inspect', image.ref, '--keys', keys)).sidecars[0];
    const client = new RegistryClient({ environment: {}, dockerConfig: at('none') });
    cleanup.defer(() => client.close());
    const reference = parseReference(image.ref);
    const { descriptor } = await client.manifest(reference, digest);
    await attachBundle(client, reference, descriptor, await signKeyless(sigstore, digest));
    expect((await json('inspect', image.ref, '--keys', keys)).sidecars[0]).toMatchObject({
      signed: 'signed',
      keys: [],
      identities: [{ name: 'ci', issuer: ISSUER, subject: SUBJECT }],
    });
    expect(await cofa('trust', 'rm', 'ci', '--keys', keys)).toBe(0);
    expect(await readdir(keys)).toEqual([]);
    expect((await json('inspect', image.ref, '--keys', keys)).sidecars[0].signed).toBe('unknown-identity');
  });

  it('never trusts a private key, nor a file that is none', async () => {
    await create('mine');
    expect(await cofa('trust', 'add', at('mine.key'), '--keys', keys)).toBe(2);
    expect(err).toMatch(/holds a private key/);
    expect(await cofa('trust', 'add', at('none.pub'), '--keys', keys)).toBe(3);
    expect(await json('trust', 'ls', '--keys', keys)).toEqual({
      keys: [],
      identities: [],
      problems: [],
    });
    await writeFile(at('bad.pub'), 'hello');
    expect(await cofa('trust', 'add', at('bad.pub'), '--keys', keys)).toBe(2);
  });
});

describe('cofa index --sign and cofa inspect', () => {
  it('signs what it has indexed; inspect says who vouches, before and after the key is trusted, and without it again', async () => {
    const { fingerprint } = await create('release');
    expect(await json('index', image.ref)).toMatchObject({ signedBy: null, signature: null });
    expect(await inspect()).toMatchObject([{ signed: 'unsigned', keys: [] }]);
    const signed = await json('index', '--sign', at('release.key'), '--keys', keys, image.ref);
    expect(signed).toMatchObject({ indexed: true, signedBy: fingerprint });
    expect(await inspect()).toMatchObject([{ digest: signed.sidecar, signed: 'unknown-key', keys: [] }]);
    await cofa('trust', 'add', at('release.pub'), '--keys', keys);
    expect(await inspect()).toMatchObject([{ signed: 'signed', keys: ['release'] }]);
    expect(await cofa('inspect', '--keys', keys, image.ref)).toBe(0);
    expect(out).toMatch(/^vouched for by +release$/m);
    await cofa('trust', 'rm', 'release', '--keys', keys);
    expect(await cofa('inspect', '--keys', keys, image.ref)).toBe(0);
    expect(out).toMatch(/^vouched for by +no key: signed by an unknown key$/m);
  });

  it('a second time it reads no layer and signs nothing; a new key signs what the old one vouches for', async () => {
    await create('old');
    const first = await json('index', '--sign', at('old.key'), '--keys', keys, image.ref);
    const reads = blobReads();
    const again = await json('index', '--sign', at('old.key'), '--keys', keys, image.ref);
    expect(again).toMatchObject({ indexed: false, sidecar: first.sidecar, signature: null });
    await create('new');
    await cofa('trust', 'add', at('old.pub'), '--keys', keys);
    process.env.RELEASE_KEY = readFileSync(at('new.key'), 'utf8');
    const rotated = await json('index', '--sign', 'env:RELEASE_KEY', '--keys', keys, image.ref);
    expect(rotated).toMatchObject({ indexed: false, sidecar: first.sidecar });
    expect(blobReads()).toBe(reads);
    await cofa('trust', 'add', at('new.pub'), '--keys', keys);
    expect((await inspect())[0].keys.toSorted()).toEqual(['new', 'old']);
    await cofa('trust', 'rm', 'old', '--keys', keys);
    expect(await inspect()).toMatchObject([{ keys: ['new'] }]);
  });

  it('never signs a sidecar that another pushed: it reads the image itself', async () => {
    const client = new RegistryClient();
    const resolved = await client.resolve(parseReference(image.ref));
    const layers = resolved.layers.map(({ blob, diffId }) => ({
      diffId,
      blobDigest: blob.digest,
      spans: Buffer.from('forged'),
      toc: Buffer.from('forged'),
    }));
    const forged = await pushSidecar(client, resolved, { flat: Buffer.from('forged'), layers });
    await client.close();
    await create('careful');
    await cofa('trust', 'add', at('careful.pub'), '--keys', keys);
    const result = await json('index', '--sign', at('careful.key'), '--keys', keys, image.ref);
    expect(result.indexed).toBe(true);
    expect(result.sidecar).not.toBe(forged.digest);
    const byDigest = new Map((await inspectAll()).map(({ digest, keys }) => [digest, keys]));
    expect(byDigest.get(result.sidecar)).toEqual(['careful']);
    expect(byDigest.get(forged.digest) ?? []).toEqual([]);
  });

  it('signs the sidecar that the user names, as it is', async () => {
    const { sidecar } = await json('index', image.ref);
    const reads = blobReads();
    await create('named');
    const signed = await json('index', '--sign', at('named.key'), '--sidecar', sidecar, image.ref);
    expect(signed).toMatchObject({ indexed: false, sidecar });
    expect(signed.signature).toMatch(/^sha256:/);
    expect(blobReads()).toBe(reads);
    const other = `sha256:${'0'.repeat(64)}`;
    expect(await cofa('index', '--sign', at('named.key'), '--sidecar', other, image.ref)).toBe(3);
    expect(await cofa('index', '--sidecar', other, image.ref)).toBe(2);
  });

  it('without the key it does nothing at all', async () => {
    const before = registry.requests().length;
    for (const [key, exit] of [
      [at('nokey.key'), 3],
      ['env:NO_SUCH_KEY', 3],
      [at('public.pub'), 2],
    ] as const) {
      await create('public').catch(() => {});
      expect(await cofa('index', '--sign', key, image.ref)).toBe(exit);
    }
    await copyFile(at('public.key'), at('cosign.key'));
    await writeFile(at('cosign.key'), '-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n');
    expect(await cofa('index', '--sign', at('cosign.key'), image.ref)).toBe(6);
    expect(err).toMatch(/cosign's own way\n {2}hint: .*cosign sign --key/);
    expect(registry.requests().length).toBe(before);
  });
});

describe('cofa index --as', () => {
  it('writes a copy that names its sidecar, and leaves the image alone', async () => {
    const before = await json('inspect', '--keys', keys, image.ref);
    const as = `${image.ref}-named`;
    const result = await json('index', '--as', as, image.ref);
    expect(result).toMatchObject({ indexed: true, as: { ref: as } });
    const copy = await json('inspect', '--keys', keys, as);
    expect(copy).toMatchObject({ manifest: result.as.manifest, config: before.config });
    expect(copy.layers.map((layer: { blob: string }) => layer.blob)).toEqual(
      before.layers.map((layer: { blob: string }) => layer.blob),
    );
    expect(copy.sidecars).toMatchObject([{ digest: result.sidecar, signed: 'unsigned' }]);
    expect(await json('inspect', '--keys', keys, image.ref)).toEqual(before);
    expect(await json('index', as)).toMatchObject({ indexed: false, sidecar: result.sidecar });
    // Other clients take it as any image.
    const target = at(`copy-${number}`);
    await run('skopeo', ['copy', '--src-tls-verify=false', `docker://${as}`, `oci:${target}:copied`]);
    const { manifests } = JSON.parse(readFileSync(join(target, 'index.json'), 'utf8'));
    expect(manifests).toMatchObject([{ digest: result.as.manifest }]);
  });

  it.each([
    ['another repository', (ref: string) => ref.replace('team/', 'other/')],
    ['the image itself', (ref: string) => ref],
    ['a digest', (ref: string) => `${ref}@sha256:${'0'.repeat(64)}`],
  ])('refuses %s before it reads anything', async (_, change) => {
    const reads = blobReads();
    expect(await cofa('index', '--as', change(image.ref), image.ref)).toBe(2);
    expect(err).toMatch(/^cofa: --as .*\n {2}hint: /);
    expect(blobReads()).toBe(reads);
  });
});

/** As `inspect`; a forged sidecar of the preferred rank cannot be shown whole. */
async function inspectAll(): Promise<Array<{ digest: string; keys: string[] }>> {
  await cofa('inspect', '--json', '--keys', keys, image.ref);
  return JSON.parse(out).sidecars;
}
