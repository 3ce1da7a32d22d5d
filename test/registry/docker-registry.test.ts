/** The client against Debian's docker-registry, and beside skopeo on the same repositories. */
import { execFile } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { RegistryClient, type RegistryClientOptions } from '../../src/registry/client.ts';
import { digestOf } from '../../src/digest/digest.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { findSidecar, pushSidecar, SIDECAR_TYPES } from '../../src/registry/sidecars.ts';
import { freePort } from '../support/ports.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { collect, indexOf, pushImage, sampleImage } from './sample-image.ts';

const AMD64 = sampleImage([3_000_000, 50_000, 0], { platform: { os: 'linux', architecture: 'amd64' } });
const ARM64 = sampleImage([1000], { platform: { os: 'linux', architecture: 'arm64' } });

let folder: string;
let registry: RegistryServer;
let clients: RegistryClient[];

const run = promisify(execFile);
const skopeo = async (...args: string[]) =>
  (await run('skopeo', args, { timeout: 100_000, maxBuffer: 64 * 1024 * 1024 })).stdout;

const source = (repository: string) => ({ registry: registry.host, repository });
/** The registry writes a request into its log when the answer has left, so the last line may be late. */
const getsOf = (repository: string, { digest }: { digest: string }) =>
  registry
    .requests()
    .filter(({ method, path }) => method === 'GET' && path.endsWith(`/${repository}/blobs/${digest}`));

function open(options: RegistryClientOptions = {}): RegistryClient {
  const client = new RegistryClient({ environment: {}, dockerConfig: folder, ...options });
  clients.push(client);
  return client;
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cofa-docker-registry-'));
  clients = [];
});
afterEach(async () => {
  for (const client of clients) await client.close();
  rmSync(folder, { recursive: true, force: true });
});

describe('an open registry', () => {
  beforeAll(async () => {
    registry = await startRegistry();
  });
  afterAll(() => registry.stop());

  test('what the client pushes skopeo reads, and the other way round', async () => {
    const client = open();
    await client.ping(registry.host);
    await pushImage(client, source('from/cofa'), AMD64, 'v1');
    const seen = JSON.parse(
      await skopeo('inspect', '--tls-verify=false', `docker://${registry.host}/from/cofa:v1`),
    );
    expect(seen).toMatchObject({
      Digest: AMD64.digest,
      Layers: AMD64.layers.map(({ descriptor }) => descriptor.digest),
      RepoTags: ['v1'],
    });

    await skopeo(
      'copy',
      '--src-tls-verify=false',
      '--dest-tls-verify=false',
      `docker://${registry.host}/from/cofa:v1`,
      `docker://${registry.host}/from/skopeo:v2`,
    );
    const image = await client.resolve(parseReference(`${registry.host}/from/skopeo:v2`), {
      platform: 'linux/amd64',
    });
    expect(image.descriptor.digest).toBe(AMD64.digest);
    for (const [i, { blob }] of image.layers.entries()) {
      expect((await collect(client.blobStream(image.reference, blob))).equals(AMD64.layers[i]!.bytes)).toBe(
        true,
      );
    }
  });

  test("skopeo's conversion to docker's own format is read too", async () => {
    const client = open();
    await pushImage(client, source('convert'), AMD64, 'oci');
    await skopeo(
      'copy',
      '--format=v2s2',
      '--src-tls-verify=false',
      '--dest-tls-verify=false',
      `docker://${registry.host}/convert:oci`,
      `docker://${registry.host}/convert:docker`,
    );
    const image = await client.resolve(parseReference(`${registry.host}/convert:docker`), {
      platform: 'linux/amd64',
    });
    expect(image.manifest.mediaType).toBe(MEDIA_TYPES.dockerManifest);
    expect(image.layers.map(({ diffId }) => diffId)).toEqual(AMD64.layers.map(({ diffId }) => diffId));
  });

  test('an index: each platform its image, for us and for skopeo', async () => {
    const client = open();
    await pushImage(client, source('multi'), AMD64);
    await pushImage(client, source('multi'), ARM64);
    const index = indexOf([
      { image: AMD64, platform: { os: 'linux', architecture: 'amd64' } },
      { image: ARM64, platform: { os: 'linux', architecture: 'arm64' } },
    ]);
    await client.pushManifest(source('multi'), index, MEDIA_TYPES.ociIndex, 'v1');
    const reference = parseReference(`${registry.host}/multi:v1`);
    for (const [platform, image] of [
      ['linux/amd64', AMD64],
      ['linux/arm64', ARM64],
    ] as const) {
      expect((await client.resolve(reference, { platform })).descriptor.digest).toBe(image.digest);
      const override = `--override-arch=${platform.slice(6)}`;
      const raw = await skopeo(
        override,
        'inspect',
        '--config',
        '--tls-verify=false',
        `docker://${registry.host}/multi:v1`,
      );
      expect(JSON.parse(raw).rootfs.diff_ids).toEqual(image.layers.map(({ diffId }) => diffId));
    }
    await expect(client.resolve(reference, { platform: 'linux/s390x' })).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('linux/amd64, linux/arm64'),
    });
  });

  test('a sidecar stands beside the image: found by the fallback tag, the image as it was', async () => {
    const client = open();
    await pushImage(client, source('beside'), AMD64, 'v1');
    const name = `docker://${registry.host}/beside:v1`;
    const before = await skopeo('inspect', '--raw', '--tls-verify=false', name);
    const image = await client.resolve(parseReference(`${registry.host}/beside:v1`), {
      platform: 'linux/amd64',
    });
    const sidecar = {
      flat: Buffer.alloc(200_000, 'flat metadata'),
      layers: image.layers.map(({ blob, diffId }, i) => ({
        diffId,
        blobDigest: blob.digest,
        spans: Buffer.alloc(5000, `spans ${i}`),
        toc: Buffer.alloc(50_000, `toc ${i}`),
      })),
    };
    const pushed = await pushSidecar(client, image, sidecar);

    const found = await findSidecar(open(), image);
    expect(found?.descriptor.digest).toBe(pushed.digest);
    expect((await found!.flat()).equals(sidecar.flat)).toBe(true);
    expect((await found!.toc(2)).equals(sidecar.layers[2]!.toc)).toBe(true);

    expect(await skopeo('inspect', '--raw', '--tls-verify=false', name)).toBe(before);
    expect(digestOf(Buffer.from(before))).toBe(AMD64.digest);
    const tag = image.descriptor.digest.replace(':', '-');
    const list = JSON.parse(
      await skopeo('inspect', '--raw', '--tls-verify=false', `docker://${registry.host}/beside:${tag}`),
    );
    expect(list.manifests).toEqual([
      expect.objectContaining({ digest: pushed.digest, artifactType: SIDECAR_TYPES.artifact }),
    ]);
    const raw = await skopeo(
      'inspect',
      '--raw',
      '--tls-verify=false',
      `docker://${registry.host}/beside@${pushed.digest}`,
    );
    expect(JSON.parse(raw)).toMatchObject({
      artifactType: SIDECAR_TYPES.artifact,
      subject: { digest: AMD64.digest },
    });

    // A copy of the image by a client that knows nothing of sidecars still is the image.
    mkdirSync(join(folder, 'copy'));
    await skopeo('copy', '--src-tls-verify=false', name, `dir:${join(folder, 'copy')}`);
    for (const { bytes, descriptor } of AMD64.layers) {
      expect(readFileSync(join(folder, 'copy', descriptor.digest.slice(7))).equals(bytes)).toBe(true);
    }
  });

  test('each range is one request for exactly its bytes', async () => {
    const client = open();
    await pushImage(client, source('ranges'), AMD64, 'v1');
    const { bytes, descriptor } = AMD64.layers[0]!;
    for (let i = 0; i < 20; i++) {
      const start = i * 131_072;
      const part = await collect(client.blobRange(source('ranges'), descriptor, start, start + 131_072));
      expect(part.equals(bytes.subarray(start, start + 131_072))).toBe(true);
    }
    const gets = () => getsOf('ranges', descriptor);
    await expect.poll(gets).toHaveLength(20);
    expect(gets().every(({ status, bytes: sent }) => status === 206 && sent === 131_072)).toBe(true);
  });

  test('several ranges are one request for exactly their bytes', async () => {
    const client = open();
    await pushImage(client, source('several'), AMD64, 'v1');
    const { bytes, descriptor } = AMD64.layers[0]!;
    const ranges = Array.from({ length: 16 }, (_, at) => [at * 131_072, at * 131_072 + 50_000] as const);
    const parts = await collect(client.blobRanges(source('several'), descriptor, ranges));
    expect(parts.equals(Buffer.concat(ranges.map(([start, end]) => bytes.subarray(start, end))))).toBe(true);
    const gets = () => getsOf('several', descriptor);
    await expect.poll(gets).toHaveLength(1);
    expect(gets()[0]).toMatchObject({ status: 206 });
  });

  test.each([
    ['a tag', 'tags:v9', 'not-found', 'no tag "v9"'],
    ['a repository', 'nobody/here:v1', 'not-found', 'no repository nobody/here'],
    ['a digest', `tags@sha256:${'7'.repeat(64)}`, 'not-found', 'no manifest sha256:777'],
  ])('%s that is not there is named', async (_, name, code, text) => {
    const client = open();
    await pushImage(client, source('tags'), ARM64, 'v1');
    await expect(client.resolve(parseReference(`${registry.host}/${name}`))).rejects.toMatchObject({
      code,
      message: expect.stringContaining(text),
    });
  });
});

test('user and password: from the configuration, wrong, corrected', async () => {
  const auth = { user: 'joe', password: 'p:ä s' };
  const server = await startRegistry({ auth });
  try {
    const source = { registry: server.host, repository: 'a' };
    const login = (password: string) =>
      writeFileSync(
        join(folder, 'config.json'),
        JSON.stringify({
          auths: { [server.host]: { auth: Buffer.from(`joe:${password}`).toString('base64') } },
        }),
      );
    const client = open();
    await expect(pushImage(client, source, ARM64, 'v1')).rejects.toMatchObject({
      code: 'unauthorized',
      hint: expect.stringContaining(`docker login ${server.host}`),
    });
    login('wrong');
    await expect(client.ping(server.host)).rejects.toMatchObject({
      code: 'unauthorized',
      message: expect.stringContaining('"joe"'),
    });
    login(auth.password);
    await pushImage(client, source, ARM64, 'v1');
    expect(
      JSON.parse(
        await skopeo(
          'inspect',
          '--tls-verify=false',
          `--authfile=${join(folder, 'config.json')}`,
          '--override-arch=arm64',
          `docker://${server.host}/a:v1`,
        ),
      ),
    ).toMatchObject({ Digest: ARM64.digest });
  } finally {
    await server.stop();
  }
});

test('TLS under a CA of its own, by certs.d; a sidecar and a range over it', async () => {
  const server = await startRegistry({ tls: true });
  try {
    const client = open({ certDirs: [server.certDir!] });
    const source = { registry: server.host, repository: 'a' };
    await pushImage(client, source, AMD64, 'v1');
    const { bytes, descriptor } = AMD64.layers[0]!;
    expect(
      (await collect(client.blobRange(source, descriptor, 7, 777_777))).equals(bytes.subarray(7, 777_777)),
    ).toBe(true);
    await expect(open({ certDirs: [] }).ping(server.host)).rejects.toMatchObject({
      code: 'unavailable',
      message: `${server.host} speaks HTTPS alone`,
      hint: expect.stringContaining('ca.crt'),
    });
  } finally {
    await server.stop();
  }
});

test('a registry that is killed in the middle of a stream and comes back: the stream goes on', async () => {
  const image = sampleImage([60_000_000], { platform: { os: 'linux', architecture: 'amd64' } });
  const storage = join(folder, 'storage');
  const port = await freePort();
  let server = await startRegistry({ storage, port });
  try {
    const client = open();
    const source = { registry: server.host, repository: 'a' };
    await pushImage(client, source, image, 'v1');
    const { bytes, descriptor } = image.layers[0]!;
    const parts: Buffer[] = [];
    let size = 0;
    let killed = false;
    for await (const part of client.blobStream(source, descriptor)) {
      parts.push(part);
      size += part.length;
      if (!killed && size > 5_000_000) {
        killed = true;
        server.kill();
        await server.stop();
        server = await startRegistry({ storage, port });
      }
    }
    expect(Buffer.concat(parts).equals(bytes)).toBe(true);
    await expect.poll(() => server.requests().filter(({ status }) => status === 206)).toHaveLength(1);

    server.kill();
    await server.stop();
    const gone = open({ retry: { attempts: 2, baseMs: 10 } });
    await expect(collect(gone.blobRange(source, descriptor, 0, 10))).rejects.toMatchObject({
      code: 'unavailable',
      message: `${server.host} refuses connections`,
    });
  } finally {
    await server.stop();
  }
});

test('a layer cut short or changed in the storage is an integrity error', async () => {
  const storage = join(folder, 'storage');
  const server = await startRegistry({ storage });
  try {
    const source = { registry: server.host, repository: 'a' };
    const client = open();
    await pushImage(client, source, AMD64, 'v1');
    const [{ descriptor: cut }, { descriptor: flipped }] = [AMD64.layers[0]!, AMD64.layers[1]!];
    const file = (digest: string) => {
      const name = readdirSync(storage, { recursive: true, encoding: 'utf8' }).find((path) =>
        path.endsWith(`${digest.slice(7)}/data`),
      );
      return join(storage, name!);
    };
    truncateSync(file(cut.digest), 1_000_000);
    const bytes = readFileSync(file(flipped.digest));
    bytes[30_000]! ^= 0x10;
    writeFileSync(file(flipped.digest), bytes);
    // This registry announces the layer's whole size and hangs up where the file ends.
    const quick = open({ retry: { baseMs: 10 } });
    await expect(collect(quick.blobStream(source, cut))).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining(`at byte 1000000 of ${cut.size} of blob ${cut.digest}`),
      hint: expect.stringContaining('push the image again'),
    });
    await expect(collect(client.blobStream(source, flipped))).rejects.toMatchObject({ code: 'integrity' });
  } finally {
    await server.stop();
  }
});
