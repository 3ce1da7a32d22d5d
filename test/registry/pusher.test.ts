import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RegistryClient } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';

const BYTES = randomBytes(100_000);

let registry: FaultRegistry;
let client: RegistryClient;
let folder: string;

const source = () => ({ registry: registry.host, repository: 'team/app' });
const push = () => client.pushBlob(source(), BYTES, 'application/octet-stream');
const calls = () =>
  registry.requests.map(({ method, url }) => `${method} ${url.replace(/sha256(:|%3A)[0-9a-f]{64}/g, 'D')}`);

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cofa-pusher-'));
  registry = await startFaultRegistry();
  client = new RegistryClient({
    environment: {},
    dockerConfig: folder,
    ambient: { now: () => 0, sleep: async () => {}, random: () => 0 },
  });
});

afterEach(async () => {
  await client.close();
  await registry.stop();
  rmSync(folder, { recursive: true, force: true });
});

test('a blob is pushed whole by POST and PUT; the query of a relative Location stays as it is', async () => {
  const descriptor = await push();
  expect(registry.blobs.get(descriptor.digest)?.equals(BYTES)).toBe(true);
  expect(descriptor.size).toBe(BYTES.length);
  expect(calls()).toEqual([
    'HEAD /v2/team/app/blobs/D',
    'POST /v2/team/app/blobs/uploads/',
    'PUT /v2/team/app/blobs/uploads/1?state=a%2Bb&digest=D',
  ]);
});

test('a blob that is there is not sent again', async () => {
  await push();
  await push();
  expect(calls().filter((call) => !call.startsWith('HEAD'))).toHaveLength(2);
});

test('an empty blob is pushed', async () => {
  const { digest } = await client.pushBlob(source(), Buffer.alloc(0), 'application/octet-stream');
  expect(registry.blobs.get(digest)).toHaveLength(0);
});

test('a Location without a query gets one, relative to the address that answered', async () => {
  registry.fault = ({ response, method, path, body }) => {
    if (method === 'POST') response.writeHead(202, { location: 'here/7' }).end();
    else if (path.endsWith('/here/7')) {
      registry.addBlob(body);
      response.writeHead(201).end();
    } else return 'pass';
    return 'handled';
  };
  await push();
  expect(calls().at(-1)).toBe('PUT /v2/team/app/blobs/uploads/here/7?digest=D');
});

test('cookies of an upload are sent with the rest of it, and with nothing else', async () => {
  registry.fault = ({ request, response, method }) => {
    if (method === 'POST') {
      response.setHeader('set-cookie', ['server=b7; Path=/; HttpOnly', 'empty=', 'bad', 'x=y=z; Secure']);
    } else if (method === 'PUT' && !request.headers.cookie?.includes('server=b7')) {
      response.writeHead(404).end();
      return 'handled';
    }
    return 'pass';
  };
  await push();
  await client.pushBlob(source(), Buffer.from('other'), 'application/octet-stream');
  const byMethod = (method: string) =>
    registry.requests.filter((r) => r.method === method).map((r) => r.headers.cookie);
  expect(byMethod('PUT')).toEqual(['server=b7; empty=; x=y=z', 'server=b7; empty=; x=y=z']);
  expect([...byMethod('HEAD'), ...byMethod('POST')]).toEqual([undefined, undefined, undefined, undefined]);
});

test('an upload that continues on another host takes no cookie and no password there', async () => {
  const other = await startFaultRegistry();
  try {
    other.fault = ({ response }) => {
      response.writeHead(201).end();
      return 'handled';
    };
    writeFileSync(
      join(folder, 'config.json'),
      JSON.stringify({ auths: { [registry.host]: { username: 'joe', password: 'p' } } }),
    );
    registry.fault = ({ request, response, method }) => {
      if (request.headers.authorization === undefined) {
        response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
        return 'handled';
      }
      if (method !== 'POST') return 'pass';
      response.writeHead(202, { location: `${other.origin}/up?a=1`, 'set-cookie': 'server=b7' }).end();
      return 'handled';
    };
    await push();
    expect(other.requests).toHaveLength(1);
    expect(other.requests[0]!.url).toMatch(/^\/up\?a=1&digest=sha256%3A/);
    expect(other.requests[0]!.headers.cookie).toBeUndefined();
    expect(other.requests[0]!.headers.authorization).toBeUndefined();
    expect(other.requests[0]!.body.equals(BYTES)).toBe(true);
  } finally {
    await other.stop();
  }
});

test('an upload that breaks off is begun again', async () => {
  registry.fault = ({ response, path }) => {
    if (!path.endsWith('/uploads/1')) return 'pass';
    response.socket?.destroy();
    return 'handled';
  };
  const { digest } = await push();
  expect(registry.blobs.has(digest)).toBe(true);
  expect(calls().filter((call) => call.startsWith('POST'))).toHaveLength(2);
});

test('a registry that receives other bytes than were sent refuses, and so do we', async () => {
  registry.fault = (call) => {
    if (call.method === 'PUT') call.body[0]! ^= 1;
    return 'pass';
  };
  await expect(push()).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringContaining('DIGEST_INVALID'),
  });
});

test.each([
  [413, 'unsupported', 'at once'],
  [403, 'unauthorized', 'denies'],
  [507, 'unavailable', '507'],
])('%d to an upload is %s', async (status, code, text) => {
  registry.fault = ({ response, method }) => {
    if (method !== 'PUT') return 'pass';
    response.writeHead(status).end();
    return 'handled';
  };
  await expect(push()).rejects.toMatchObject({ code, message: expect.stringContaining(text) });
});

test('a registry that starts an upload without saying where is named', async () => {
  registry.fault = ({ response, method }) => {
    if (method !== 'POST') return 'pass';
    response.writeHead(202).end();
    return 'handled';
  };
  await expect(push()).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringContaining('Location'),
  });
});

test('a manifest is pushed under its tag, with its type', async () => {
  const bytes = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [] }),
  );
  const { digest } = await client.pushManifest(source(), bytes, MEDIA_TYPES.ociIndex, 'v1');
  expect(registry.manifests.get('team/app:v1')).toEqual({ bytes, mediaType: MEDIA_TYPES.ociIndex });
  expect((await client.manifest(source(), 'v1')).descriptor.digest).toBe(digest);
});

test('a manifest of another type than it says, or with a bad tag, is not sent', async () => {
  const bytes = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [] }),
  );
  await expect(client.pushManifest(source(), bytes, MEDIA_TYPES.dockerList, 'v1')).rejects.toMatchObject({
    code: 'invalid-argument',
  });
  await expect(client.pushManifest(source(), bytes, MEDIA_TYPES.ociIndex, 'a/b')).rejects.toMatchObject({
    code: 'invalid-argument',
  });
  expect(registry.requests).toHaveLength(0);
});
