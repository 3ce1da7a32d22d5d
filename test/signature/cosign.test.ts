/** cosign as the judge, in both directions, in both of its formats, on registries with and without the referrers API. */
import { execFile } from 'node:child_process';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BUILD_MS, builtCosign } from '../../ops/images/cosign.ts';
import { main } from '../../src/cli/program.ts';
import { parsePublicKey, type TrustedKey } from '../../src/signature/keys.ts';
import { signaturesOf, stateOf } from '../../src/signature/find.ts';
import { type Descriptor, RegistryClient } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { parseReference, type Reference } from '../../src/registry/reference.ts';
import { attachSignature } from '../../src/signature/sign.ts';
import { pushSmallImage } from '../index/small-image.ts';
import { startFaultRegistry } from '../support/fault-registry.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { type Pair, pair } from './support.ts';

const cleanup = new Cleanup();
const run = promisify(execFile);
const program = await builtCosign({ onProgress: (line) => console.error(line) });
const [ours, edward, foreign] = [pair('ours'), pair('edward', 'ed25519'), pair('foreign')];

let folder: string;
let client: RegistryClient;
let theirs: TrustedKey;
const at = (name: string) => join(folder, name);

async function cosign(...args: string[]): Promise<string> {
  const env = { PATH: process.env.PATH, HOME: folder, TUF_ROOT: at('tuf'), COSIGN_PASSWORD: 'secret' };
  const { stdout } = await run(program as string, args, { env, cwd: folder, timeout: 60_000 });
  return stdout;
}

/** The new format, without a log; and the old one. */
const NEW = ['--signing-config', 'sc.json'];
const OLD = ['--use-signing-config=false', '--tlog-upload=false', '--new-bundle-format=false'];

beforeAll(async () => {
  if (program === undefined) return;
  folder = await cleanup.tempDir('cosign');
  client = new RegistryClient({ environment: {}, dockerConfig: at('none') });
  cleanup.defer(() => client.close());
  await cosign('generate-key-pair');
  await cosign('signing-config', 'create', '--out', 'sc.json');
  for (const { trusted, publicPem, privatePem } of [ours, edward, foreign]) {
    await writeFile(at(`${trusted.name}.pub`), publicPem);
    await writeFile(at(`${trusted.name}.key`), privatePem, { mode: 0o600 });
  }
  const { stdout: pem } = await run('cat', [at('cosign.pub')]);
  theirs = { ...parsePublicKey(pem, 'cosign.pub'), name: 'theirs', scope: undefined };
}, BUILD_MS);
afterAll(() => cleanup.run());

describe.skipIf(program === undefined).each<[string, () => Promise<{ host: string; stop(): unknown }>]>([
  ['docker-registry, without the referrers API', () => startRegistry()],
  ['a registry with the referrers API', () => startFaultRegistry({ referrersPage: 100 })],
])('cosign v3 with %s', (_, start) => {
  let host: string;
  let number = 0;
  beforeAll(async () => {
    const registry = await start();
    cleanup.defer(() => registry.stop());
    ({ host } = registry);
  });

  /** Something to sign, in a repository of its own. */
  async function subject(): Promise<{ reference: Reference; signed: Descriptor; name: string }> {
    const reference = parseReference(`${host}/team/app-${number++}:v1`);
    const config = await client.pushBlob(reference, Buffer.from('{}'), MEDIA_TYPES.ociEmpty);
    const artifactType = 'application/vnd.cofa.sidecar.v1';
    const manifest = {
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociManifest,
      artifactType,
      config,
      layers: [],
    };
    const signed = await client.pushManifest(
      reference,
      Buffer.from(JSON.stringify(manifest)),
      manifest.mediaType,
    );
    return { reference, signed, name: `${host}/${reference.repository}@${signed.digest}` };
  }

  const verify = (key: string, name: string) =>
    cosign('verify', '--key', key, '--insecure-ignore-tlog=true', '--allow-insecure-registry', name);
  const sign = (name: string, how: string[], key = 'cosign.key', ...more: string[]) =>
    cosign('sign', '--key', key, ...how, ...more, '--allow-insecure-registry', '-y', name);
  const find = async (
    { reference, signed }: { reference: Reference; signed: Descriptor },
    keys: TrustedKey[],
  ) => {
    const found = await signaturesOf(client, reference, signed.digest, keys, { all: true });
    return [stateOf(found), ...found.signers.map(({ by }) => by.name)];
  };
  const attach = ({ reference, signed }: { reference: Reference; signed: Descriptor }, { signing }: Pair) =>
    attachSignature(client, reference, signed, signing, { now: new Date() });

  it.each([ours, edward])('verifies what cofa signed, with this key alone', async (key) => {
    const one = await subject();
    await attach(one, key);
    expect(JSON.parse(await verify(`${key.trusted.name}.pub`, one.name))).toHaveLength(1);
    await expect(verify('foreign.pub', one.name)).rejects.toThrow(
      /no matching attestations|invalid signature/,
    );
    const other = await subject();
    await expect(verify(`${key.trusted.name}.pub`, other.name)).rejects.toThrow();
    await attach(one, foreign);
    expect(await verify(`${key.trusted.name}.pub`, one.name)).toContain(one.signed.digest);
  });

  it.each([
    ['new', NEW],
    ['old', OLD],
  ])('signs in the %s format what cofa accepts, also beside foreign signatures', async (__, how) => {
    const one = await subject();
    await sign(one.name, how);
    expect(await find(one, [ours.trusted, theirs])).toEqual(['signed', 'theirs']);
    expect(await find(one, [ours.trusted])).toEqual(['unknown-key']);
    expect(await find(one, [{ ...theirs, scope: [`${host}/elsewhere`] }])).toEqual(['out-of-scope']);
    await attach(one, foreign);
    expect(await find(one, [theirs])).toEqual(['signed', 'theirs']);
    await attach(one, ours);
    expect(await find(one, [ours.trusted, theirs])).toEqual(['signed', 'ours', 'theirs']);
  });

  it('makes attestations, which vouch for nothing', async () => {
    const one = await subject();
    await writeFile(at('predicate.json'), '{"packages":[]}');
    const what = ['--predicate', 'predicate.json', '--type', 'https://example/list'];
    await cosign(
      'attest',
      '--key',
      'cosign.key',
      ...NEW,
      ...what,
      '--allow-insecure-registry',
      '-y',
      one.name,
    );
    expect(await find(one, [theirs])).toEqual(['unsigned']);
    await sign(one.name, NEW, 'cosign.key', '-a', 'team=cofa');
    expect(await find(one, [theirs])).toEqual(['signed', 'theirs']);
  });

  it('signs with a key of cofa key create, and knows what cofa index --sign pushed', async () => {
    let out = '';
    const sink = { out: (text: string) => (out += text), err: () => {}, errIsTerminal: false };
    const cofa = async (...argv: string[]) => {
      out = '';
      expect(await main([...argv, '--json'], sink), out).toBe(0);
      return JSON.parse(out);
    };
    const prefix = await mkdtemp(at('pair-'));
    await cofa('key', 'create', '--out', prefix);
    const keys = `${prefix}-keys`;
    await cofa('trust', 'add', `${prefix}.pub`, '--name', 'release', '--keys', keys);
    const layers = [{ compression: 'gzip' as const, files: { 'bin/tool': 'x' } }];
    const { ref } = await pushSmallImage(folder, host, `team/image-${number}`, layers);
    const { sidecar } = await cofa('index', '--sign', `${prefix}.key`, ref);
    const { repository } = parseReference(ref);
    expect(await verify(`${prefix}.pub`, `${host}/${repository}@${sidecar}`)).toContain(sidecar);

    await cosign('import-key-pair', '--key', `${prefix}.key`, '--output-key-prefix', `${prefix}-imported`);
    const one = await subject();
    await sign(one.name, NEW, `${prefix}-imported.key`);
    const { readKeys } = await import('../../src/signature/key-directory.ts');
    expect(await find(one, [...(await readKeys(keys)).keys])).toEqual(['signed', 'release']);
  });
});
