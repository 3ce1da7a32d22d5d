/**
 * A registry, its token service and a local socket that answer anything: what asked them gets a result or an error that says what
 * is wrong, soon, and never one of its own.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createSocket, type Server as SocketServer } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { askLocal } from '../../src/bus/local-socket.ts';
import { digestOf } from '../../src/digest/digest.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { findPack, PACK_TYPES } from '../../src/registry/packs.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { findSidecar, SIDECAR_TYPES } from '../../src/registry/sidecars.ts';
import { almost, almostJson } from '../support/almost.ts';
import { anything } from '../support/anything.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

// ── What an honest registry has ──

const json = (value: unknown) => Buffer.from(JSON.stringify(value));
const diffId = `sha256:${'ab'.repeat(32)}`;
const config = json({ os: 'linux', architecture: 'amd64', rootfs: { type: 'layers', diff_ids: [diffId] } });
const described = (bytes: Buffer, mediaType: string) => ({
  mediaType,
  digest: digestOf(bytes),
  size: bytes.length,
});
const layer = Buffer.from('the bytes of a layer');
const image = json({
  schemaVersion: 2,
  mediaType: MEDIA_TYPES.ociManifest,
  config: described(config, MEDIA_TYPES.ociConfig),
  layers: [described(layer, 'application/vnd.oci.image.layer.v1.tar')],
});
const empty = described(Buffer.from('{}'), MEDIA_TYPES.ociEmpty);
const part = (mediaType: string) => ({
  ...described(layer, mediaType),
  annotations: {
    'io.cofa.size': '100',
    'io.cofa.layer.diffid': diffId,
    'io.cofa.layer.blob': digestOf(layer),
  },
});
const sidecar = {
  schemaVersion: 2,
  mediaType: MEDIA_TYPES.ociManifest,
  artifactType: SIDECAR_TYPES.artifact,
  config: empty,
  layers: [part(SIDECAR_TYPES.flat), part(SIDECAR_TYPES.spans), part(SIDECAR_TYPES.toc)],
  subject: described(image, MEDIA_TYPES.ociManifest),
  annotations: { 'io.cofa.revision': '1' },
};
const START = { 'io.cofa.pack.start': 'default' };
const pack = {
  ...sidecar,
  artifactType: PACK_TYPES.artifact,
  layers: [part(PACK_TYPES.pack)],
  annotations: START,
};
/** Digests are right: what is drawn is what they stand for. */
const listed = (sidecarBytes: Buffer, packBytes: Buffer) => ({
  schemaVersion: 2,
  mediaType: MEDIA_TYPES.ociIndex,
  manifests: [
    { ...described(sidecarBytes, MEDIA_TYPES.ociManifest), artifactType: SIDECAR_TYPES.artifact },
    {
      ...described(packBytes, MEDIA_TYPES.ociManifest),
      artifactType: PACK_TYPES.artifact,
      annotations: START,
    },
  ],
});
const token = { token: 'abc', expires_in: 300, issued_at: '2026-01-01T00:00:00Z', refresh_token: 'def' };
const refusal = { errors: [{ code: 'DENIED', message: 'no', detail: {} }] };

// ── What this one answers ──

interface Answer {
  status: number;
  headers: Record<string, string>;
  body: Buffer;
}
interface World {
  image: Buffer;
  sidecar: Buffer;
  pack: Buffer;
  referrers: Buffer;
  token: Answer;
  /** Instead of what is right, by the number of the request. */
  odd: Map<number, Answer>;
  wantsToken: boolean;
}

const drawnJson = (value: object) =>
  fc.oneof(
    { weight: 2, arbitrary: fc.constant(json(value)) },
    { weight: 3, arbitrary: almostJson(value).map(json) },
    { weight: 2, arbitrary: almost(json(value)) },
  );
const headers = fc.dictionary(
  fc.constantFrom(
    'www-authenticate',
    'link',
    'content-range',
    'content-type',
    'docker-content-digest',
    'location',
    'retry-after',
    'set-cookie',
    'oci-filters-applied',
  ),
  fc.oneof(
    fc.constantFrom(
      'Bearer realm="http://[::1", service=x',
      'Basic realm=x, Bearer realm=//',
      'bytes 0-19/20',
      'bytes 5-2/*',
      `bytes 0-${2 ** 60}/${2 ** 61}`,
      '</v2/team/app/referrers/x?n=1>; rel="next"',
      '<http://[>; rel=next',
      'http://127.0.0.1:1/x',
      'ftp://127.0.0.1/x',
      '//',
      'multipart/byteranges; boundary=x',
      'multipart/byteranges; boundary=',
      'application/json',
      '1e99',
      '-1',
      'Fri, 99 Foo 2026',
      'a=b; Max-Age=1e400; Domain=.',
      digestOf(layer),
    ),
    fc.string({ maxLength: 40 }).map((text) => text.replace(/[^\x20-\x7e]/g, '?')),
  ),
  { maxKeys: 3 },
);
const odd: fc.Arbitrary<Answer> = fc.record({
  status: fc.constantFrom(200, 201, 204, 206, 301, 307, 400, 401, 403, 404, 416, 429, 500, 503),
  headers,
  body: fc.oneof(
    drawnJson(refusal),
    drawnJson(token),
    fc.uint8Array({ maxLength: 60 }).map((b) => Buffer.from(b)),
  ),
});
const worlds: fc.Arbitrary<World> = fc
  .record({
    image: drawnJson(JSON.parse(image.toString()) as object),
    sidecar: drawnJson(sidecar),
    pack: drawnJson(pack),
  })
  .chain((made) =>
    fc.record({
      image: fc.constantFrom(image, made.image),
      sidecar: fc.constant(made.sidecar),
      pack: fc.constant(made.pack),
      referrers: drawnJson(listed(made.sidecar, made.pack)),
      token: fc.record({
        status: fc.constantFrom(200, 200, 401, 500),
        headers: fc.constant({}),
        body: drawnJson(token),
      }),
      odd: fc.array(fc.tuple(fc.nat(8), odd), { maxLength: 3 }).map((entries) => new Map(entries)),
      wantsToken: fc.boolean(),
    }),
  );

let world: World;
let requests = 0;
let server: Server;
let host: string;

function answer(request: IncomingMessage): Answer {
  const [path = ''] = (request.url ?? '').split('?');
  const as = (status: number, body: Buffer, type: string = MEDIA_TYPES.ociManifest) => ({
    status,
    headers: { 'content-type': type },
    body,
  });
  if (path === '/token') return world.token;
  const drawn = world.odd.get(requests++);
  if (drawn !== undefined) return drawn;
  if (world.wantsToken && request.headers.authorization === undefined) {
    const challenge = `Bearer realm="http://${host}/token",service="s",scope="repository:team/app:pull"`;
    return { status: 401, headers: { 'www-authenticate': challenge }, body: json(refusal) };
  }
  const known = [world.image, world.sidecar, world.pack, config, layer];
  const found = known.find((bytes) => path.endsWith(digestOf(bytes)));
  if (path.includes('/referrers/')) return as(200, world.referrers, MEDIA_TYPES.ociIndex);
  if (path.endsWith('/manifests/1')) return as(200, world.image);
  return found === undefined ? as(404, json(refusal)) : as(200, found);
}

beforeAll(async () => {
  server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const { status, headers, body } = answer(request);
    response.on('error', () => {});
    response.writeHead(status, { ...headers, 'content-length': body.length }).end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});

/** What a start asks of a registry. */
async function start(client: RegistryClient): Promise<void> {
  const resolved = await client.resolve(parseReference(`${host}/team/app:1`), { referrers: true });
  const [blob] = resolved.layers;
  if (blob !== undefined)
    for await (const _ of client.blobRange(resolved.reference, blob.blob, 0, Math.min(blob.blob.size, 10)));
  await findPack(client, resolved, ['default']);
  const found = await findSidecar(client, resolved);
  await found?.use({ kind: 'spans', layer: 0 }, async () => {});
}

/** A failure that was printed, again. */
function again(): { seed?: number; path?: string } {
  const [seed, path] = process.env['COFA_ANSWERS']?.split(',') ?? [];
  return seed === undefined || path === undefined ? {} : { seed: Number(seed), path };
}

test('whatever a registry answers, a start has its parts or an error that says why, and soon', async () => {
  let whole = 0;
  const { failed, seed, counterexamplePath, errorInstance } = await fc.check(
    fc.asyncProperty(worlds, async (drawn) => {
      world = drawn;
      requests = 0;
      const client = new RegistryClient({
        dockerConfig: '/nonexistent',
        certDirs: [],
        environment: {},
        retry: { attempts: 2 },
        ambient: { now: () => Date.now(), sleep: async () => {}, random: () => 0.5 },
        timeouts: { connectMs: 2_000, headersMs: 2_000, bodyMs: 2_000, helperMs: 2_000 },
      });
      const began = performance.now();
      try {
        await start(client);
        whole += 1;
      } catch (error) {
        if (!(error instanceof CofaError)) throw error;
        expect(error.code, error.message).not.toBe('internal');
        // Nothing that moves the cursor of a terminal.
        expect(error.message).not.toMatch(/\p{Cc}/u);
      } finally {
        await client.close();
      }
      expect(performance.now() - began).toBeLessThan(5_000);
    }),
    { numRuns: 200, ...again() },
  );
  // The worlds themselves are pages of bytes.
  if (failed)
    throw new Error(`COFA_ANSWERS=${seed},${counterexamplePath} vitest run test/budgets/answers`, {
      cause: errorInstance,
    });
  // One that is never right would prove nothing.
  expect(whole).toBeGreaterThan(0);
}, 120_000);

test('whatever a local socket answers, its caller has a result or an error with a code', async () => {
  const path = join(await cleanup.tempDir('answers'), 's.sock');
  let given = Buffer.alloc(0);
  const socket: SocketServer = createSocket({ allowHalfOpen: true }, (one) => {
    one.on('error', () => {});
    one.once('data', () => one.end(given));
  });
  await new Promise<void>((resolve) => socket.listen(path, resolve));
  cleanup.defer(() => void socket.close());
  const sound = Buffer.from(
    `${JSON.stringify({ progress: { phase: 'index' } })}\n${JSON.stringify({ ok: true, result: {} })}`,
  );
  const wrong = { ok: false, error: { code: 'busy', message: 'no', hint: 'later' } };
  await fc.assert(
    fc.asyncProperty(fc.oneof(almost(sound), drawnJson(wrong)), fc.boolean(), async (bytes, isCall) => {
      given = Buffer.from(bytes);
      const call = isCall ? { request: {}, onProgress: () => {} } : {};
      try {
        await askLocal(path, 'mount', 5_000, anything, call);
      } catch (error) {
        if (!(error instanceof CofaError)) throw error;
        expect(error.code).not.toBe('timeout');
      }
    }),
    { numRuns: 200 },
  );
}, 60_000);
