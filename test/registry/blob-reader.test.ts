import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { Readable } from 'node:stream';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { RegistryClient, type RegistryClientOptions } from '../../src/registry/client.ts';
import { type FaultCall, type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { collect } from './sample-image.ts';

const SIZE = 1_000_000;
const BYTES = randomBytes(SIZE);

let registry: FaultRegistry;
let client: RegistryClient;
let waits: number[];
let blob: { digest: string; size: number };

function makeClient(options: RegistryClientOptions = {}): RegistryClient {
  waits = [];
  return new RegistryClient({
    ambient: {
      now: () => Date.now(),
      sleep: async (ms) => void waits.push(ms),
      random: () => 0.5,
    },
    ...options,
  });
}

const source = () => ({ registry: registry.host, repository: 'team/app' });
const range = (start: number, end: number) => collect(client.blobRange(source(), blob, start, end));
const isBlob = ({ method, path }: FaultCall) => method === 'GET' && path.includes('/blobs/');
const ranges = () =>
  registry.requests.filter(({ method }) => method === 'GET').map(({ headers }) => headers.range);

function* endless(bytes: Buffer): Generator<Buffer> {
  for (;;) yield bytes;
}

/** Sends `count` bytes of the honest answer, then breaks the connection. */
function cutAfter(call: FaultCall, bytes: Buffer, count: number): 'handled' {
  const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(call.request.headers.range ?? '') ?? [];
  const first = Number(from ?? 0);
  const last = Number(to ?? bytes.length - 1);
  call.response.writeHead(from === undefined ? 200 : 206, {
    'content-length': last - first + 1,
    ...(from === undefined ? {} : { 'content-range': `bytes ${first}-${last}/${bytes.length}` }),
  });
  call.response.write(bytes.subarray(first, first + count), () => call.response.socket?.destroy());
  return 'handled';
}

/** The first `times` requests get this status. */
function answering(status: number, headers: Record<string, string>, times: number): void {
  registry.fault = ({ response, seen }) => {
    if (seen >= times) return 'pass';
    response.writeHead(status, headers).end('busy');
    return 'handled';
  };
}

/** Every request gets this answer. */
function answer(status: number, headers: Record<string, string>, body: Buffer): void {
  registry.fault = ({ response }) => {
    response.writeHead(status, { 'content-length': body.length, ...headers }).end(body);
    return 'handled';
  };
}

beforeEach(async () => {
  registry = await startFaultRegistry();
  client = makeClient();
  blob = registry.addBlob(BYTES);
});

afterEach(async () => {
  await client.close();
  await registry.stop();
});

describe('ranges', () => {
  test('any range of a blob is exactly its bytes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(SIZE), fc.nat(SIZE), async (a, b) => {
        const [start, end] = [Math.min(a, b), Math.max(a, b)];
        expect((await range(start, end)).equals(BYTES.subarray(start, end))).toBe(true);
      }),
      { numRuns: 30 },
    );
  });

  test('an empty range and an empty blob ask for nothing', async () => {
    expect(await range(7, 7)).toHaveLength(0);
    const empty = {
      digest: 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
      size: 0,
    };
    expect(await collect(client.blobStream(source(), empty))).toHaveLength(0);
    expect(registry.requests).toHaveLength(0);
  });

  test.each([
    [-1, 5],
    [5, 4],
    [0, SIZE + 1],
    [0.5, 4],
    [Number.NaN, 4],
  ])('a range outside the blob is refused before anything is sent: %d to %d', async (start, end) => {
    await expect(range(start, end)).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(registry.requests).toHaveLength(0);
  });

  test('64 ranges at once use few connections and keep them', async () => {
    await client.close();
    client = makeClient({ connections: 4 });
    const sockets = new Set<Socket>();
    registry.fault = ({ request }) => {
      sockets.add(request.socket);
      return 'pass';
    };
    const parts = await Promise.all(Array.from({ length: 64 }, (_, i) => range(i * 1000, (i + 1) * 1000)));
    expect(Buffer.concat(parts).equals(BYTES.subarray(0, 64_000))).toBe(true);
    await range(0, 1000);
    expect(sockets.size).toBeLessThanOrEqual(4);
  });

  test('a registry that ignores Range still gives the right bytes, and it is said once', async () => {
    const warnings: string[] = [];
    await client.close();
    client = makeClient({ log: { debug: () => {}, warn: (_, message) => void warnings.push(message) } });
    registry.fault = (call) => {
      delete call.request.headers.range;
      return 'pass';
    };
    expect((await range(500_000, 500_010)).equals(BYTES.subarray(500_000, 500_010))).toBe(true);
    expect((await range(SIZE - 3, SIZE)).equals(BYTES.subarray(SIZE - 3))).toBe(true);
    expect((await range(0, 10)).equals(BYTES.subarray(0, 10))).toBe(true);
    expect(warnings).toEqual([expect.stringContaining('ignores range')]);
  });

  test('a body without end is left when its part has been read', async () => {
    const left = Promise.withResolvers<void>();
    registry.fault = ({ response }) => {
      response.writeHead(200);
      response.once('close', () => left.resolve());
      Readable.from(endless(BYTES)).pipe(response);
      return 'handled';
    };
    expect((await range(10, 20)).equals(BYTES.subarray(10, 20))).toBe(true);
    await left.promise;
  });

  test('a whole body that is cut while its start is skipped is taken up again', async () => {
    registry.fault = (call) => {
      delete call.request.headers.range;
      return isBlob(call) && call.seen < 2 ? cutAfter(call, BYTES, 300_000 * (call.seen + 1)) : 'pass';
    };
    expect((await range(400_000, 900_000)).equals(BYTES.subarray(400_000, 900_000))).toBe(true);
  });

  test('answers in smaller pieces than asked for are joined', async () => {
    registry.fault = (call) => {
      const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(call.request.headers.range ?? '') ?? [];
      call.request.headers.range = `bytes=${from}-${Math.min(Number(to), Number(from) + 99_999)}`;
      return 'pass';
    };
    expect((await range(1, 350_001)).equals(BYTES.subarray(1, 350_001))).toBe(true);
    expect(ranges()).toHaveLength(4);
    expect(waits).toEqual([]);
  });

  test('a registry that answers byte by byte is given up', async () => {
    registry.fault = (call) => {
      const [, from] = /^bytes=(\d+)-/.exec(call.request.headers.range ?? '') ?? [];
      call.request.headers.range = `bytes=${from}-${from}`;
      return 'pass';
    };
    await expect(range(0, 1000)).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining('crumbs'),
    });
    expect(registry.requests).toHaveLength(5);
  });
});

describe('cuts', () => {
  test('a body cut three times is resumed from the first missing byte', async () => {
    registry.fault = (call) => (isBlob(call) && call.seen < 3 ? cutAfter(call, BYTES, 200_000) : 'pass');
    expect((await range(100, 900_100)).equals(BYTES.subarray(100, 900_100))).toBe(true);
    expect(ranges()).toEqual([
      'bytes=100-900099',
      'bytes=200100-900099',
      'bytes=400100-900099',
      'bytes=600100-900099',
    ]);
  });

  test('a stream cut in its middle is resumed and its digest is right', async () => {
    registry.fault = (call) => (isBlob(call) && call.seen === 0 ? cutAfter(call, BYTES, 333_333) : 'pass');
    expect((await collect(client.blobStream(source(), blob))).equals(BYTES)).toBe(true);
    expect(ranges()).toEqual([undefined, `bytes=333333-${SIZE - 1}`]);
  });

  test('cuts that bring nothing are given up after the attempts allowed, with growing waits', async () => {
    registry.fault = ({ response }) => {
      response.socket?.destroy();
      return 'handled';
    };
    await expect(range(0, 1000)).rejects.toMatchObject({ code: 'unavailable' });
    expect(registry.requests).toHaveLength(5);
    // The first time at once: an idle connection may have been closed just then.
    expect(waits).toEqual([0, 300, 600, 1200]);
  });

  test('many cuts are no reason to give up as long as it gets on', async () => {
    registry.fault = (call) => (call.seen < 9 ? cutAfter(call, BYTES, 100_000) : 'pass');
    expect((await range(0, SIZE)).equals(BYTES)).toBe(true);
    expect(registry.requests).toHaveLength(10);
  });

  test('a registry that is gone is named', async () => {
    const { host } = registry;
    await registry.stop();
    await expect(
      collect(client.blobRange({ registry: host, repository: 'x' }, blob, 0, 10)),
    ).rejects.toMatchObject({
      code: 'unavailable',
      message: `${host} refuses connections`,
    });
  });

  test('a registry that falls silent in the middle of a body is left, and the rest read again', async () => {
    await client.close();
    client = makeClient({ timeouts: { bodyMs: 300 } });
    registry.fault = (call) => {
      if (call.seen > 0) return 'pass';
      call.response.writeHead(206, { 'content-length': 200_000, 'content-range': `bytes 0-199999/${SIZE}` });
      call.response.write(BYTES.subarray(0, 70_000));
      return 'handled';
    };
    expect((await range(0, 200_000)).equals(BYTES.subarray(0, 200_000))).toBe(true);
    expect(ranges()).toEqual(['bytes=0-199999', 'bytes=70000-199999']);
  });

  test('a registry that never answers is a timeout', async () => {
    await client.close();
    client = makeClient({ timeouts: { headersMs: 200 }, retry: { attempts: 2 } });
    registry.fault = () => 'handled';
    await expect(range(0, 10)).rejects.toMatchObject({ code: 'timeout' });
    expect(registry.requests).toHaveLength(2);
  });
});

describe('overload', () => {
  test.each([429, 500, 502, 503, 504])('%d is tried again with backoff', async (status) => {
    answering(status, {}, 2);
    expect((await range(0, 10)).equals(BYTES.subarray(0, 10))).toBe(true);
    expect(waits).toEqual([150, 300]);
  });

  test('Retry-After in seconds is waited for', async () => {
    answering(429, { 'retry-after': '7' }, 1);
    await range(0, 10);
    expect(waits).toEqual([7000]);
  });

  test('Retry-After as a date is waited for', async () => {
    await client.close();
    client = makeClient({
      ambient: {
        now: () => Date.parse('2031-01-01T00:00:00Z'),
        sleep: async (ms) => void waits.push(ms),
        random: () => 0.5,
      },
    });
    answering(503, { 'retry-after': 'Wed, 01 Jan 2031 00:00:12 GMT' }, 1);
    await range(0, 10);
    expect(waits).toEqual([12_000]);
  });

  test('a Retry-After beyond the limit is an error at once, which says how long', async () => {
    answering(429, { 'retry-after': '3600' }, 99);
    await expect(range(0, 10)).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringMatching(/429.*3600 s/),
    });
    expect(waits).toEqual([]);
    expect(registry.requests).toHaveLength(1);
  });

  test.each([
    [404, 'not-found'],
    [403, 'unauthorized'],
    [400, 'unsupported'],
    [501, 'unavailable'],
  ])('%d is not tried again: %s', async (status, code) => {
    answering(status, {}, 99);
    await expect(range(0, 10)).rejects.toMatchObject({ code });
    expect(registry.requests).toHaveLength(1);
  });
});

describe('answers that do not fit the question', () => {
  test.each([
    ['another place', `bytes 0-9/${SIZE}`],
    ['more than asked', `bytes 10-20/${SIZE}`],
    ['an end before its start', `bytes 10-9/${SIZE}`],
    ['no numbers', 'bytes a-b/c'],
    ['several parts', `bytes 10-12,14-16/${SIZE}`],
    ['nothing', ''],
  ])('a 206 for %s is refused, also after trying again', async (_, contentRange) => {
    answer(206, { 'content-range': contentRange }, BYTES.subarray(10, 20));
    await expect(range(10, 20)).rejects.toMatchObject({ code: 'integrity' });
    expect(registry.requests).toHaveLength(5);
  });

  test('a wrong Content-Range once is asked again', async () => {
    registry.fault = ({ response, seen }) => {
      if (seen > 0) return 'pass';
      response.writeHead(206, { 'content-range': `bytes 0-9/${SIZE}` }).end(BYTES.subarray(0, 10));
      return 'handled';
    };
    expect((await range(10, 20)).equals(BYTES.subarray(10, 20))).toBe(true);
  });

  test('more bytes than the answer announced are not passed on', async () => {
    registry.fault = ({ response }) => {
      response.writeHead(206, { 'content-range': `bytes 10-19/${SIZE}` });
      response.write(BYTES.subarray(10, 20));
      response.end(randomBytes(500_000));
      return 'handled';
    };
    expect((await range(10, 20)).equals(BYTES.subarray(10, 20))).toBe(true);
  });

  test('a layer cut short in the registry is an integrity error, by range and as a stream', async () => {
    registry.blobs.set(blob.digest, BYTES.subarray(0, 600_000));
    await expect(range(700_000, 700_010)).rejects.toMatchObject({
      code: 'integrity',
      message: expect.stringContaining('416'),
    });
    await expect(range(599_990, 600_010)).rejects.toMatchObject({ code: 'integrity' });
    await expect(collect(client.blobStream(source(), blob))).rejects.toMatchObject({
      code: 'integrity',
      message: expect.stringContaining('600000'),
    });
    expect(registry.requests).toHaveLength(3);
  });

  test('one flipped bit in a streamed blob is an integrity error at its end', async () => {
    const flipped = Buffer.from(BYTES);
    flipped[123_456]! ^= 1;
    registry.blobs.set(blob.digest, flipped);
    await expect(collect(client.blobStream(source(), blob))).rejects.toMatchObject({ code: 'integrity' });
    await expect(client.blob(source(), blob)).rejects.toMatchObject({ code: 'integrity' });
  });

  test('a blob larger than the limit is refused before it is asked for', async () => {
    await expect(client.blob(source(), { ...blob, size: 10 }, undefined, 9)).rejects.toMatchObject({
      code: 'unsupported',
    });
    expect(registry.requests).toHaveLength(0);
  });
});

describe('abort', () => {
  test('many readers may share one signal', async () => {
    const warnings: Error[] = [];
    const onWarning = (warning: Error) => warnings.push(warning);
    process.on('warning', onWarning);
    const { signal } = new AbortController();
    await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        collect(client.blobRange(source(), blob, i * 1000, i * 1000 + 900_000, signal)),
      ),
    );
    await new Promise((resolve) => setImmediate(resolve));
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
  });

  test('a signal ends a wait for a silent registry with its reason', async () => {
    registry.fault = () => 'handled';
    const controller = new AbortController();
    const reading = collect(client.blobRange(source(), blob, 0, 10, controller.signal));
    setTimeout(() => controller.abort(new Error('enough')), 50);
    await expect(reading).rejects.toThrow('enough');
  });

  test('a signal ends a wait between attempts', async () => {
    await client.close();
    client = new RegistryClient({ retry: { baseMs: 60_000, maxMs: 60_000 } });
    registry.fault = ({ response }) => {
      response.writeHead(503).end();
      return 'handled';
    };
    const controller = new AbortController();
    const reading = collect(client.blobRange(source(), blob, 0, 10, controller.signal));
    setTimeout(() => controller.abort(new Error('enough')), 50);
    await expect(reading).rejects.toThrow('enough');
  });

  test('the signal of a deadline is a timeout error', async () => {
    registry.fault = () => 'handled';
    const reading = collect(client.blobRange(source(), blob, 0, 10, AbortSignal.timeout(50)));
    await expect(reading).rejects.toMatchObject({ code: 'timeout' });
  });

  test('a signal in the middle of a body ends it', async () => {
    const controller = new AbortController();
    registry.fault = ({ response }) => {
      response.writeHead(206, { 'content-range': `bytes 0-199999/${SIZE}` });
      response.write(BYTES.subarray(0, 70_000));
      return 'handled';
    };
    const read = async () => {
      for await (const _ of client.blobRange(source(), blob, 0, 200_000, controller.signal)) {
        controller.abort(new Error('enough'));
      }
    };
    await expect(read()).rejects.toThrow('enough');
    expect(registry.requests).toHaveLength(1);
  });

  test('a reader that stops early leaves no connection busy', async () => {
    await client.close();
    client = makeClient({ connections: 1 });
    for (let i = 0; i < 3; i++) {
      for await (const _ of client.blobRange(source(), blob, 0, SIZE)) break;
    }
    expect((await range(0, 10)).equals(BYTES.subarray(0, 10))).toBe(true);
  });

  test('closing the client fails what is under way', async () => {
    registry.fault = () => 'handled';
    const reading = range(0, 10);
    setTimeout(() => void client.close(), 50);
    await expect(reading).rejects.toMatchObject({ code: 'unavailable' });
  });
});

describe('redirects to a storage service', () => {
  let storage: FaultRegistry;

  beforeEach(async () => {
    storage = await startFaultRegistry();
    storage.blobs.set('x', BYTES);
    registry.fault = (call) => {
      if (!isBlob(call)) return 'pass';
      call.response
        .writeHead(307, { location: `${storage.origin}/v2/s/blobs/x?signature=${call.seen}` })
        .end();
      return 'handled';
    };
  });

  afterEach(() => storage.stop());

  test('the address is kept: the registry is asked once for many ranges', async () => {
    for (let i = 0; i < 5; i++) expect((await range(i, i + 9)).equals(BYTES.subarray(i, i + 9))).toBe(true);
    expect(registry.requests).toHaveLength(1);
    expect(storage.requests.map(({ url }) => url)).toEqual(
      Array.from({ length: 5 }, () => '/v2/s/blobs/x?signature=0'),
    );
  });

  test('an address that has expired is asked for anew, without an error or a wait', async () => {
    storage.fault = ({ response, query, seen }) => {
      if (seen === 0 || query.get('signature') === '1') return 'pass';
      response.writeHead(403).end('expired');
      return 'handled';
    };
    await range(0, 10);
    expect((await range(10, 20)).equals(BYTES.subarray(10, 20))).toBe(true);
    expect(registry.requests).toHaveLength(2);
    expect(waits).toEqual([]);
  });

  test('a cut at the storage service is resumed by way of the registry', async () => {
    storage.fault = (call) => (call.seen === 0 ? cutAfter(call, BYTES, 100_000) : 'pass');
    expect((await range(0, 500_000)).equals(BYTES.subarray(0, 500_000))).toBe(true);
    expect(registry.requests).toHaveLength(2);
  });

  test('a storage service that always refuses ends in an error that names it', async () => {
    storage.fault = ({ response }) => {
      response.writeHead(403).end('AccessDenied');
      return 'handled';
    };
    await expect(range(0, 10)).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining(storage.host),
    });
    expect(storage.requests).toHaveLength(5);
  });
});
