/** Mirrors of hosts.toml between a client and its registry: what they are asked, what is believed, and what they cost. */
import { randomBytes } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { digestOf } from '../../src/digest/digest.ts';
import { RegistryClient, type RegistryClientOptions, type Right } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import {
  type FaultRegistry,
  type FaultRegistryOptions,
  startFaultRegistry,
} from '../support/fault-registry.ts';
import { freePort } from '../support/ports.ts';
import { makeCertificates } from '../support/registry-server.ts';
import { collect } from './sample-image.ts';

const BYTES = randomBytes(300_000);
const BLOB = { digest: digestOf(BYTES), size: BYTES.length };
const CONFIG = Buffer.from('{}');
const MANIFEST = Buffer.from(
  JSON.stringify({
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.ociManifest,
    config: { mediaType: MEDIA_TYPES.ociConfig, digest: digestOf(CONFIG), size: CONFIG.length },
    layers: [],
  }),
);

let folder: string;
let now: number;
let warnings: Array<{ fields: object; message: string }>;
let running: FaultRegistry[];
let clients: RegistryClient[];
let origin: FaultRegistry;

/** A host that has all that the tests ask for. */
async function start(options: FaultRegistryOptions = {}): Promise<FaultRegistry> {
  const registry = await startFaultRegistry(options);
  running.push(registry);
  registry.addBlob(BYTES);
  registry.addManifest('team/app', MANIFEST, MEDIA_TYPES.ociManifest, '1');
  return registry;
}

/** Puts a hosts.toml for the origin, or for `name`. */
function hosts(toml: string, name = origin.host): string {
  mkdirSync(join(folder, 'hosts', name), { recursive: true });
  const file = join(folder, 'hosts', name, 'hosts.toml');
  writeFileSync(file, toml);
  return file;
}

const mirrorOf = (host: FaultRegistry, more = '') => `[host."${host.origin}"]\n${more}\n`;

function open(options: RegistryClientOptions = {}): RegistryClient {
  const client = new RegistryClient({
    dockerConfig: join(folder, 'docker'),
    certDirs: [join(folder, 'certs.d')],
    hostDirs: [join(folder, 'hosts')],
    environment: {},
    retry: { attempts: 3, baseMs: 1, maxMs: 1 },
    ambient: { now: () => now, sleep: async () => {}, random: () => 0.5 },
    log: {
      debug: () => {},
      warn: (fields, message) => void warnings.push({ fields, message }),
    },
    ...options,
  });
  clients.push(client);
  return client;
}

const source = () => ({ registry: origin.host, repository: 'team/app' });
const range = (client: RegistryClient, start: number, end: number) =>
  collect(client.blobRange(source(), BLOB, start, end));
const asked = ({ requests }: FaultRegistry) =>
  requests.map(({ method, url }) => `${method} ${url.split('?')[0]}`);

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cofa-mirrors-'));
  [now, warnings, running, clients] = [1_000_000, [], [], []];
  origin = await start();
});

afterEach(async () => {
  for (const client of clients) await client.close();
  for (const one of running) await one.stop();
  rmSync(folder, { recursive: true, force: true });
});

describe('what a mirror is asked', () => {
  test('blobs and manifests by digest, told whose they are, with headers that no other host sees', async () => {
    const mirror = await start();
    hosts(mirrorOf(mirror, `capabilities = ["pull"]\n[host."${mirror.origin}".header]\nx-key = "secret"`));
    const client = open();
    expect(await range(client, 10, 20)).toEqual(BYTES.subarray(10, 20));
    await client.manifest(source(), digestOf(MANIFEST));
    expect(mirror.requests.map(({ url }) => new URL(url, 'http://x').searchParams.get('ns'))).toEqual([
      origin.host,
      origin.host,
    ]);
    expect(mirror.requests.map(({ headers }) => headers['x-key'])).toEqual(['secret', 'secret']);
    expect(origin.requests).toEqual([]);
    // A tag is what the registry says: the mirror may not.
    await client.manifest(source(), '1');
    expect(asked(origin)).toEqual(['GET /v2/team/app/manifests/1']);
    expect(origin.requests[0]?.headers['x-key']).toBeUndefined();
    expect(origin.requests[0]?.url).not.toContain('ns=');
  });

  test('nothing for everyone by a header or a certificate of this machine, nor is the registry; by the token of another one the registry alone', async () => {
    const mirror = await start();
    hosts(mirrorOf(mirror, `[host."${mirror.origin}".header]\nx-key = "secret"`));
    const part = (right: Right) => open().part(source(), BLOB, [10, 20], right, AbortSignal.timeout(60_000));
    await expect(part('everyone')).rejects.toMatchObject({ code: 'unauthorized' });
    expect([mirror.requests, origin.requests]).toEqual([[], []]);

    hosts(`server = "${origin.origin}"\n[header]\nx-key = "secret"\n`);
    now += 60_000;
    await expect(part('everyone')).rejects.toMatchObject({ code: 'unauthorized' });
    expect(await open().isBlobGiven(source(), BLOB.digest, 'everyone', AbortSignal.timeout(60_000))).toBe(
      false,
    );
    expect(origin.requests).toEqual([]);
    expect(await part({ token: 'of-another' })).toEqual(BYTES.subarray(10, 20));

    const certificates = mkdtempSync(join(folder, 'tls-'));
    await makeCertificates(certificates);
    const closed = await start({ certificates, clientCertificates: true });
    mkdirSync(join(folder, 'certs.d', closed.host), { recursive: true });
    for (const name of ['ca.crt', 'client.cert', 'client.key'])
      copyFileSync(join(certificates, name), join(folder, 'certs.d', closed.host, name));
    const there = { registry: closed.host, repository: 'team/app' };
    await expect(
      open().part(there, BLOB, [10, 20], 'everyone', AbortSignal.timeout(60_000)),
    ).rejects.toMatchObject({ code: 'unauthorized' });
  });

  test('headers stay with the mirror where it redirects', async () => {
    const [mirror, storage] = [await start(), await start()];
    mirror.fault = ({ response, path }) => {
      response.writeHead(307, { location: `${storage.origin}${path}` }).end();
      return 'handled';
    };
    hosts(mirrorOf(mirror, `[host."${mirror.origin}".header]\nauthorization = "Bearer of-the-mirror"`));
    expect(await range(open(), 0, 5)).toEqual(BYTES.subarray(0, 5));
    expect(mirror.requests[0]?.headers.authorization).toBe('Bearer of-the-mirror');
    expect(storage.requests[0]?.headers.authorization).toBeUndefined();
  });

  test('in the order of the file, each with its own path', async () => {
    const [empty, second] = [await start(), await start()];
    empty.blobs.clear();
    second.fault = ({ request, path }) => {
      expect(path).toMatch(/^\/cache\/x\//);
      request.url = path.replace('/cache/x', '/v2');
      return 'pass';
    };
    hosts(
      `[host."${empty.origin}"]\n[host."${second.origin}/cache/x"]\noverride_path = true\ncapabilities = ["pull", "resolve"]\n`,
    );
    // The test's registry routes by the path of `call`, so it answers 404 itself: what counts is who was asked what.
    await range(open(), 0, 5);
    expect(asked(empty)).toEqual([`GET /v2/team/app/blobs/${BLOB.digest}`]);
    expect(asked(second)).toEqual([`GET /cache/x/team/app/blobs/${BLOB.digest}`]);
    expect(asked(origin)).toEqual([`GET /v2/team/app/blobs/${BLOB.digest}`]);
  });

  test('never who may read what, nor an upload; what it gives to all is not for that public', async () => {
    const mirror = await start();
    hosts(mirrorOf(mirror));
    // The registry gives nothing to clients without credentials.
    origin.fault = ({ response }) => {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      return 'handled';
    };
    const client = open();
    const signal = AbortSignal.timeout(60_000);
    expect((await client.manifest(source(), digestOf(MANIFEST))).isPublic).toBe(false);
    const before = mirror.requests.length;
    expect(await client.isPublic(source(), digestOf(MANIFEST), signal)).toBe(false);
    expect(await client.hasBlob(source(), BLOB.digest, signal)).toBe(false);
    await expect(client.ping(origin.host)).rejects.toMatchObject({ code: 'unauthorized' });
    await expect(client.pushBlob(source(), BYTES, 'x')).rejects.toMatchObject({ code: 'unauthorized' });
    await expect(collect(client.blobStream({ ...source(), direct: true }, BLOB))).rejects.toMatchObject({
      code: 'unauthorized',
    });
    expect(mirror.requests.length).toBe(before);
  });

  test('a mirror that wants credentials gets its own, never those of the registry', async () => {
    const mirror = await start();
    mirror.fault = ({ request, response }) => {
      const wants = `Basic ${Buffer.from('m:mirror').toString('base64')}`;
      if (request.headers.authorization === wants) return 'pass';
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      return 'handled';
    };
    hosts(mirrorOf(mirror));
    mkdirSync(join(folder, 'docker'));
    const auths = { [origin.host]: { auth: Buffer.from('o:origin').toString('base64') } };
    const config = join(folder, 'docker/config.json');
    writeFileSync(config, JSON.stringify({ auths }));
    expect(await range(open(), 0, 5)).toEqual(BYTES.subarray(0, 5));
    expect(mirror.requests.map(({ headers }) => headers.authorization)).toEqual([undefined]);
    expect(asked(origin)).toHaveLength(1);
    writeFileSync(
      config,
      JSON.stringify({
        auths: { ...auths, [mirror.host]: { auth: Buffer.from('m:mirror').toString('base64') } },
      }),
    );
    expect(await range(open(), 0, 5)).toEqual(BYTES.subarray(0, 5));
    expect(asked(origin)).toHaveLength(1);
  });
});

describe('a mirror that does not serve', () => {
  test('that is gone costs one attempt, and is asked again after a while', async () => {
    const port = await freePort();
    hosts(`[host."http://127.0.0.1:${port}"]\n`);
    const client = open();
    for (let at = 0; at < 3; at++) expect(await range(client, at, at + 5)).toHaveLength(5);
    expect(warnings.map(({ message }) => message)).toEqual(['a mirror is left out for a while']);
    const mirror = await start();
    hosts(mirrorOf(mirror));
    now += 60_000;
    await range(client, 0, 5);
    expect(mirror.requests).toHaveLength(1);
  });

  test('that lacks a blob is asked once for all its ranges', async () => {
    const mirror = await start();
    mirror.blobs.clear();
    hosts(mirrorOf(mirror));
    const client = open();
    for (let at = 0; at < 5; at++) await range(client, at * 10, at * 10 + 5);
    expect(mirror.requests).toHaveLength(1);
    expect(origin.requests).toHaveLength(5);
    // A pull-through cache may have it by now; and it is not left out for other blobs.
    mirror.addBlob(BYTES);
    now += 60_000;
    await range(client, 0, 5);
    expect(origin.requests).toHaveLength(5);
  });

  test.each([
    ['500', 500],
    ['429', 429],
    ['403', 403],
  ])('that answers %s is passed over', async (_, status) => {
    const mirror = await start();
    mirror.fault = ({ response }) => {
      response.writeHead(status).end('no');
      return 'handled';
    };
    hosts(mirrorOf(mirror));
    expect(await open().blob(source(), BLOB)).toEqual(BYTES);
  });

  test('that breaks off in the middle: the registry goes on where it ended', async () => {
    const mirror = await start();
    mirror.fault = ({ response }) => {
      response.writeHead(200, { 'content-length': BYTES.length });
      response.write(BYTES.subarray(0, 100_000), () => response.socket?.destroy());
      return 'handled';
    };
    hosts(mirrorOf(mirror));
    expect(await collect(open().blobRange(source(), BLOB, 0, BLOB.size))).toEqual(BYTES);
    expect(mirror.requests).toHaveLength(1);
    expect(origin.requests[0]?.headers.range).toMatch(/^bytes=\d+-299999$/);
  });

  test('that takes a connection and says nothing holds a reader for seconds, not for the registry’s limit', async () => {
    const mirror = await start();
    mirror.fault = () => 'handled';
    hosts(mirrorOf(mirror));
    const client = open({ timeouts: { headersMs: 300 } });
    expect(await range(client, 0, 5)).toEqual(BYTES.subarray(0, 5));
  });
});

describe('a manifest', () => {
  const PAGE = '<!doctype html><title>Log in</title>';
  const answering = async (status: number, headers: Record<string, string>, body: string | Buffer) => {
    const mirror = await start();
    mirror.fault = ({ response, path }) => {
      if (!path.includes('/manifests/')) return 'pass';
      response.writeHead(status, headers).end(body);
      return 'handled';
    };
    return mirror;
  };
  const json = { 'content-type': 'application/json' };

  test.each<[string, Record<string, string>, string | Buffer]>([
    ['a page', { 'content-type': 'text/html; charset=utf-8' }, PAGE],
    ['an error of a proxy', json, '{"errors":[{"code":"DENIED"}]}'],
    ['more than a manifest can be', json, Buffer.alloc(5 << 20, ' ')],
    ['nothing', json, ''],
  ])('of a tag for which a mirror has %s: that of the registry', async (_, headers, body) => {
    const mirrors = [await answering(200, headers, body), await answering(200, headers, body)];
    hosts(mirrors.map((mirror) => mirrorOf(mirror)).join(''));
    const client = open();
    expect((await client.manifest(source(), '1')).descriptor.digest).toBe(digestOf(MANIFEST));
    expect(asked(origin)).toEqual(['GET /v2/team/app/manifests/1']);
    // They are left out for a while, and asked again later.
    await client.manifest(source(), '1');
    expect(mirrors.map(({ requests }) => requests.length)).toEqual([1, 1]);
    expect(client.leftOut()).toHaveLength(2);
    now += 60_000;
    mirrors[0]!.fault = () => 'pass';
    expect((await client.manifest(source(), '1')).descriptor.digest).toBe(digestOf(MANIFEST));
    expect(asked(origin)).toHaveLength(2);
  });

  test('of a digest for which a mirror has a page: that of the registry, and the mirror sent wrong bytes', async () => {
    hosts(mirrorOf(await answering(200, { 'content-type': 'text/html' }, PAGE)));
    const client = open();
    expect((await client.manifest(source(), digestOf(MANIFEST))).bytes).toEqual(MANIFEST);
    expect(client.leftOut()).toEqual([expect.stringContaining('sent wrong bytes')]);
  });

  test('that is no image, or a page of the registry itself, is still an error', async () => {
    const artifact = Buffer.from('{"schemaVersion":2,"mediaType":"application/vnd.example.chart"}');
    const mirror = await start();
    mirror.addManifest('team/app', artifact, 'application/vnd.example.chart', '1');
    hosts(mirrorOf(mirror));
    const client = open();
    await expect(client.manifest(source(), '1')).rejects.toMatchObject({ code: 'unsupported' });
    expect([asked(origin), client.leftOut()]).toEqual([[], []]);
    origin.fault = ({ response }) => {
      response.writeHead(200, { 'content-type': 'text/html' }).end(PAGE);
      return 'handled';
    };
    await expect(client.manifest({ ...source(), direct: true }, '1')).rejects.toMatchObject({
      code: 'integrity',
    });
  });
});

describe('a list of referrers', () => {
  const NOTES = ['one', 'two', 'three'].map((note) =>
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: MEDIA_TYPES.ociManifest,
        artifactType: 'application/vnd.example.note',
        config: { mediaType: MEDIA_TYPES.ociEmpty, digest: digestOf(CONFIG), size: CONFIG.length },
        layers: [],
        subject: { mediaType: MEDIA_TYPES.ociManifest, digest: digestOf(MANIFEST), size: MANIFEST.length },
        annotations: { note },
      }),
    ),
  );
  const listing = async (referrersPage: number) => {
    const host = await start({ referrersPage });
    for (const note of NOTES) host.addManifest('team/app', note, MEDIA_TYPES.ociManifest);
    return host;
  };
  const listed = (host: FaultRegistry) => asked(host).filter((one) => one.includes('/referrers/'));
  const list = async (client = open()) =>
    (await client.referrers(source(), digestOf(MANIFEST))).map(({ digest }) => digest);

  test('of a mirror comes from there to its last page, with its headers', async () => {
    const mirror = await listing(1);
    mirror.fault = ({ request, response }) => {
      if (request.headers['x-key'] === 'secret') return 'pass';
      response.writeHead(403).end();
      return 'handled';
    };
    hosts(mirrorOf(mirror, `[host."${mirror.origin}".header]\nx-key = "secret"`));
    expect(await list()).toEqual(NOTES.map(digestOf));
    expect(listed(mirror)).toHaveLength(3);
    expect(listed(origin)).toEqual([]);
  });

  test.each([
    ['refuses its second page', 1, (at: number) => at > 0, 403, 'no'],
    ['breaks at its second page', 1, (at: number) => at > 0, 503, 'no'],
    ['answers something else', 3, () => true, 200, '{"schemaVersion":2,'],
  ])('of a mirror that %s: that of the registry', async (_, pages, isOdd, status, body) => {
    origin = await listing(3);
    const mirror = await listing(pages);
    let at = 0;
    mirror.fault = ({ response, path }) => {
      if (!path.includes('/referrers/') || !isOdd(at++)) return 'pass';
      response.writeHead(status, { 'content-type': MEDIA_TYPES.ociIndex }).end(body);
      return 'handled';
    };
    hosts(mirrorOf(mirror));
    expect(await list()).toEqual(NOTES.map(digestOf));
    expect(listed(origin)).toHaveLength(1);
  });

  test('of a registry that is none is still an error', async () => {
    origin = await listing(3);
    origin.fault = ({ response, path }) => {
      if (!path.includes('/referrers/')) return 'pass';
      response.writeHead(200, { 'content-type': MEDIA_TYPES.ociIndex }).end('{"schemaVersion":2,');
      return 'handled';
    };
    hosts(mirrorOf(await start()));
    await expect(list()).rejects.toMatchObject({ code: 'integrity' });
  });
});

describe('a mirror that lies', () => {
  const flipped = Buffer.from(BYTES);
  flipped[150_000] = (flipped[150_000] as number) ^ 1;
  const lying = async () => {
    const mirror = await start();
    mirror.blobs.set(BLOB.digest, flipped);
    hosts(mirrorOf(mirror));
    return mirror;
  };

  test('a whole blob: the registry is asked, and the mirror left out for an hour', async () => {
    const mirror = await lying();
    const client = open();
    expect(await client.blob(source(), BLOB)).toEqual(BYTES);
    now += 1_800_000;
    await client.blob(source(), BLOB);
    expect(mirror.requests).toHaveLength(1);
    expect(warnings).toMatchObject([{ fields: { mirror: mirror.origin, reason: 'wrong' } }]);
  });

  test('stays left out when it ends an answer that it had begun before', async () => {
    const mirror = await lying();
    const other = Buffer.from('another blob');
    mirror.addBlob(other);
    const [asks, answers] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    mirror.fault = async ({ path }): Promise<'pass'> => {
      if (!path.endsWith(digestOf(other))) return 'pass';
      asks.resolve();
      await answers.promise;
      return 'pass';
    };
    const client = open();
    const begun = client.blob(source(), { digest: digestOf(other), size: other.length });
    await asks.promise;
    expect(await client.blob(source(), BLOB)).toEqual(BYTES);
    answers.resolve();
    expect(await begun).toEqual(other);
    await client.blob(source(), BLOB);
    expect(asked(mirror).filter((one) => one.endsWith(BLOB.digest))).toHaveLength(1);
    expect(client.leftOut()).toEqual([expect.stringContaining('sent wrong bytes')]);
    // A later hour is another one.
    now += 3_700_000;
    await range(client, 0, 5);
    expect(client.leftOut()).toEqual([]);
  });

  test('several of them: each is left out, and the registry has the last word', async () => {
    const mirrors = [await start(), await start(), await start()];
    for (const mirror of mirrors) mirror.blobs.set(BLOB.digest, flipped);
    hosts(mirrors.map((mirror) => mirrorOf(mirror)).join(''));
    const client = open();
    expect(await client.blob(source(), BLOB)).toEqual(BYTES);
    expect(client.leftOut()).toHaveLength(3);
    // The registry is at fault where it is the only one left.
    origin.blobs.set(BLOB.digest, flipped);
    await expect(client.blob(source(), BLOB)).rejects.toMatchObject({ code: 'integrity' });
  });

  test('to two readers at once: neither takes that for what the registry has', async () => {
    const mirror = await lying();
    const both = Promise.withResolvers<void>();
    mirror.fault = async ({ seen }): Promise<'pass'> => {
      if (seen === 1) both.resolve();
      await both.promise;
      return 'pass';
    };
    const client = open();
    const reads = [client.blob(source(), BLOB), client.blob(source(), BLOB)];
    expect(await Promise.all(reads)).toEqual([BYTES, BYTES]);
    expect(mirror.requests).toHaveLength(2);
    origin.blobs.set(BLOB.digest, flipped);
    await expect(client.blob(source(), BLOB)).rejects.toMatchObject({ code: 'integrity' });
  });

  test('a part, which its reader finds wrong: no mirror brings the next one', async () => {
    const mirror = await lying();
    const client = open();
    expect(await range(client, 149_999, 150_001)).not.toEqual(BYTES.subarray(149_999, 150_001));
    expect(client.doubt(source(), BLOB)).toBe(true);
    expect(await range(client, 149_999, 150_001)).toEqual(BYTES.subarray(149_999, 150_001));
    expect(mirror.requests).toHaveLength(1);
    // The registry's own bytes are wrong for good.
    expect(client.doubt(source(), BLOB)).toBe(false);
  });

  test('another size, another range, another manifest', async () => {
    const mirror = await start();
    mirror.fault = ({ response, path }) => {
      if (path.includes('/manifests/'))
        response.writeHead(200, { 'content-type': MEDIA_TYPES.ociManifest }).end('{}');
      else
        response
          .writeHead(206, { 'content-range': `bytes 0-4/${BYTES.length - 1}`, 'content-length': 5 })
          .end('wrong');
      return 'handled';
    };
    hosts(mirrorOf(mirror));
    expect(await range(open(), 10, 15)).toEqual(BYTES.subarray(10, 15));
    expect((await open().manifest(source(), digestOf(MANIFEST))).bytes).toEqual(MANIFEST);
  });
});

describe('the file', () => {
  test('changes while a client runs, and a broken one is passed over with a warning', async () => {
    const mirror = await start();
    const file = hosts('nonsense = [');
    const client = open();
    await range(client, 0, 5);
    await range(client, 5, 10);
    expect(warnings).toMatchObject([{ fields: { file }, message: 'a hosts.toml is passed over' }]);
    hosts(mirrorOf(mirror));
    utimesSync(file, 1, 1);
    now += 20_000;
    await range(client, 0, 5);
    expect(mirror.requests).toHaveLength(1);
    rmSync(file);
    now += 20_000;
    await range(client, 0, 5);
    expect(mirror.requests).toHaveLength(1);
  });

  test.each([
    ['HOST_PORT_', () => origin.host.replace(/:(\d+)$/, '_$1_')],
    ['_default', () => '_default'],
  ])('is found in %s', async (_, name) => {
    const mirror = await start();
    hosts(mirrorOf(mirror), name());
    await range(open(), 0, 5);
    expect(mirror.requests).toHaveLength(1);
  });

  test('a server of its own stands for the registry, and one without `pull` is not asked', async () => {
    const server = await start();
    hosts(`server = "${server.origin}"\n`);
    await range(open(), 0, 5);
    expect([server.requests.length, origin.requests.length]).toEqual([1, 0]);
    hosts(`server = "${server.origin}"\ncapabilities = ["push"]\n`);
    await expect(range(open(), 0, 5)).rejects.toMatchObject({
      code: 'unavailable',
      hint: expect.stringContaining('capabilities'),
    });
  });

  test('says how TLS is checked: by a CA, a client certificate, or not at all', async () => {
    const certificates = join(folder, 'ca');
    mkdirSync(certificates);
    await makeCertificates(certificates);
    const closed = await start({ certificates, clientCertificates: true });
    const tried = async (settings: string) => {
      const before = closed.requests.length;
      hosts(mirrorOf(closed, settings));
      await range(open(), 0, 5);
      return closed.requests.length - before;
    };
    const client = `client = [["${certificates}/client.cert", "${certificates}/client.key"]]`;
    expect(await tried('')).toBe(0);
    expect(await tried(`ca = "${certificates}/ca.crt"`)).toBe(0);
    expect(await tried(`ca = "../../ca/ca.crt"\n${client}`)).toBe(1);
    expect(await tried(`skip_verify = true\n${client}`)).toBe(1);
    expect(await tried(client)).toBe(0);
  });
});
