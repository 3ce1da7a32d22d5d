/** cosign as the judge of signatures without a key, in both directions, with a CA and a log of these tests' own. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { fulcioHandler } from '@sigstore/mock/dist/fulcio/index.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BUILD_MS, builtCosign } from '../../ops/images/cosign.ts';
import { type Descriptor, RegistryClient } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { parseReference, type Reference } from '../../src/registry/reference.ts';
import { addIdentity } from '../../src/signature/key-changes.ts';
import { readKeys, trustedOf } from '../../src/signature/key-directory.ts';
import { signaturesOf } from '../../src/signature/find.ts';
import { startFaultRegistry } from '../support/fault-registry.ts';
import { Cleanup } from '../support/temp.ts';
import { attachBundle, ISSUER, signKeyless, type Sigstore, startSigstore, SUBJECT } from './sigstore.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
const run = promisify(execFile);
const program = await builtCosign({ onProgress: (line) => console.error(line) });

describe.skipIf(program === undefined)('cosign v3, without keys', () => {
  let folder: string;
  let client: RegistryClient;
  let host: string;
  let sigstore: Sigstore;
  let number = 0;
  const at = (name: string) => join(folder, name);
  const cosign = async (...args: string[]) => {
    const env = { PATH: process.env.PATH, HOME: folder, TUF_ROOT: at('tuf') };
    return (await run(program as string, args, { env, cwd: folder, timeout: 60_000 })).stdout;
  };

  beforeAll(async () => {
    folder = await cleanup.tempDir('cosign-keyless');
    client = new RegistryClient({ environment: {}, dockerConfig: at('none') });
    cleanup.defer(() => client.close());
    const registry = await startFaultRegistry({ referrersPage: 100 });
    cleanup.defer(() => registry.stop());
    ({ host } = registry);
  }, BUILD_MS);

  async function subject(): Promise<{ reference: Reference; signed: Descriptor; name: string }> {
    const reference = parseReference(`${host}/team/app-${number++}:v1`);
    const config = await client.pushBlob(reference, Buffer.from('{}'), MEDIA_TYPES.ociEmpty);
    const artifactType = 'application/vnd.cofa.sidecar.v1';
    const mediaType = MEDIA_TYPES.ociManifest;
    const manifest = { schemaVersion: 2, mediaType, artifactType, config, layers: [] };
    const signed = await client.pushManifest(reference, Buffer.from(JSON.stringify(manifest)), mediaType);
    return { reference, signed, name: `${host}/${reference.repository}@${signed.digest}` };
  }

  /** Who vouches, by the rules of a folder with one identity. */
  async function find({ reference, signed }: { reference: Reference; signed: Descriptor }, who: object) {
    const directory = await cleanup.tempDir('identities');
    const root = JSON.stringify(sigstore.root);
    await addIdentity(directory, { name: 'ci', root, scope: undefined, ...who });
    const trusted = trustedOf(await readKeys(directory));
    const { signers, refused } = await signaturesOf(client, reference, signed.digest, trusted, { all: true });
    return [...signers.map(({ identity }) => identity?.subject), ...refused.map(({ why }) => why)];
  }

  it('takes the bundles of these tests for its own, from this identity and under this root alone', async () => {
    sigstore = await startSigstore();
    await writeFile(at('root.json'), JSON.stringify(sigstore.root));
    await writeFile(at('other.json'), JSON.stringify((await startSigstore()).root));
    const one = await subject();
    await attachBundle(client, one.reference, one.signed, await signKeyless(sigstore, one.signed.digest));
    const verify = (root: string, who: string, issuer: string) =>
      cosign(
        'verify',
        '--trusted-root',
        root,
        '--certificate-identity',
        who,
        '--certificate-oidc-issuer',
        issuer,
        '--allow-insecure-registry',
        one.name,
      );
    expect(await verify('root.json', SUBJECT, ISSUER)).toContain(one.signed.digest);
    for (const [root, who, issuer] of [
      ['other.json', SUBJECT, ISSUER],
      ['root.json', `${SUBJECT}s`, ISSUER],
      ['root.json', SUBJECT, 'https://other.example'],
    ] as const)
      await expect(verify(root, who, issuer)).rejects.toThrow();
  });

  it('signs by an identity what cofa takes for this identity alone', async () => {
    sigstore = await startSigstore('sigstore.example', new Date());
    await writeFile(at('root.json'), JSON.stringify(sigstore.root));
    const { url, token } = await serveSigstore(sigstore);
    const since = '2020-01-01T00:00:00Z';
    const service = `url=${url},api-version=1,start-time=${since},operator=test`;
    await cosign(
      'signing-config',
      'create',
      '--fulcio',
      service,
      '--rekor',
      service,
      '--rekor-config',
      'ANY',
      '--out',
      'sc.json',
    );
    const one = await subject();
    await cosign(
      'sign',
      '--signing-config',
      'sc.json',
      '--trusted-root',
      'root.json',
      '--identity-token',
      token,
      '--allow-insecure-registry',
      '-y',
      one.name,
    );
    const subjectPattern = 'https://code\\.example/.*';
    expect(await find(one, { issuer: ISSUER, subjectPattern })).toEqual([SUBJECT]);
    expect(await find(one, { issuer: ISSUER, subject: 'https://code.example' })).toEqual([
      expect.stringContaining(`no rule takes ${SUBJECT} of ${ISSUER}`),
    ]);
  });
});

/** Fulcio and Rekor on loopback. `token`: of an identity. */
async function serveSigstore({ ca, tlog }: Sigstore): Promise<{ url: string; token: string }> {
  const fulcio = fulcioHandler(ca);
  const log = async (text: string) => {
    const { proposedContent } = JSON.parse(text).spec;
    const envelope = JSON.parse(proposedContent.envelope);
    const hash = (of: string | Buffer) => ({
      algorithm: 'sha256',
      value: createHash('sha256').update(of).digest('hex'),
    });
    // What Rekor stores of it (its pkg/types/dsse/v0.0.1).
    return await tlog.log({
      apiVersion: '0.0.1',
      kind: 'dsse',
      spec: {
        envelopeHash: hash(proposedContent.envelope),
        payloadHash: hash(Buffer.from(envelope.payload, 'base64')),
        signatures: [{ signature: envelope.signatures[0].sig, verifier: proposedContent.verifiers[0] }],
      },
    });
  };
  const server = createServer(async (request, response) => {
    const text = await bodyOf(request);
    if (request.url === fulcio.path) {
      const { response: certificate } = await fulcio.fn(asked(text, request));
      response.writeHead(200, { 'content-type': 'application/json' }).end(certificate);
      return;
    }
    const entry = await log(text);
    const [etag = ''] = Object.keys(entry);
    const head = { 'content-type': 'application/json', etag, location: `/api/v1/log/entries/${etag}` };
    response.writeHead(201, head).end(JSON.stringify(entry));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup.defer(() => server.close());
  const part = (content: object) => Buffer.from(JSON.stringify(content)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: ISSUER, sub: SUBJECT, aud: 'sigstore', iat: now, exp: now + 600 };
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    token: `${part({ alg: 'RS256', typ: 'JWT' })}.${part(claims)}.${Buffer.alloc(256, 1).toString('base64url')}`,
  };
}

/** The token of the identity stands in the request's head, or in its body. */
const asked = (text: string, { headers }: IncomingMessage): string =>
  JSON.stringify({
    credentials: { oidcIdentityToken: headers.authorization?.replace(/^Bearer /, '') },
    ...JSON.parse(text),
  });

async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request) text += String(chunk);
  return text;
}
