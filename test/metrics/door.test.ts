/** The door for Prometheus: what it answers, and that a client who means harm gets nothing else, costs little, and keeps no other client waiting for long. */
import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, statSync, writeFileSync } from 'node:fs';
import { request as ask, type RequestOptions } from 'node:http';
import { request as askSecurely } from 'node:https';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Counts } from '../../actors/counts.ts';
import { metricsChoice } from '../../src/cli/metrics-options.ts';
import type { MetricsSettings } from '../../src/metrics/address.ts';
import { type MetricsDoor, openMetricsDoor } from '../../src/metrics/door.ts';
import { Exemplars } from '../../src/metrics/exemplars.ts';
import { MetricsText } from '../../src/metrics/text.ts';
import { freePort } from '../support/ports.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

const all = new Cleanup();
/** Shorter than an engine's: the tests are about the end of a time, not about its length. */
const TIMES = { request: 1_000, answer: 2_000 };
const TEXT = 'cofa_engine_ready 1\n';
const OPEN_TEXT = `${TEXT}# EOF\n`;
let folder: string;
let port: number;
let door: MetricsDoor | undefined;
let made: number;
let holds: Promise<void> | undefined;

beforeAll(async () => {
  folder = await all.tempDir('door');
});
beforeEach(async () => {
  made = 0;
  holds = undefined;
  port = await freePort();
});
afterEach(async () => {
  await door?.close();
  door = undefined;
});
afterAll(() => all.run());

async function open(more: Partial<MetricsSettings> = {}): Promise<void> {
  const settings = { address: { host: '127.0.0.1', port }, images: 0, ...more };
  door = await openMetricsDoor(
    settings,
    {
      isHealthy: () => true,
      metrics: async (format) => {
        made += 1;
        await holds;
        return { type: 'text/plain; version=0.0.4', text: format === 'open' ? OPEN_TEXT : TEXT };
      },
    },
    TIMES,
  );
}

interface Answer {
  status: number;
  text: string;
}

const get = (path: string, options: RequestOptions & { ca?: string; body?: string } = {}): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const send = options.ca === undefined ? ask : askSecurely;
    const request = send({ host: '127.0.0.1', port, path, agent: false, ...options }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part) => (text += part));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(options.body);
  });

/** Sends bytes as they are; resolves with what comes back when the connection is closed. */
function raw(bytes: string | Buffer): Promise<string> {
  return new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1');
    let got = '';
    socket.setEncoding('latin1');
    socket.on('data', (part) => (got += part));
    socket.on('error', () => {});
    socket.on('close', () => resolve(got));
    socket.end(bytes);
  });
}

/** What a request is made of, and what it should not be made of. */
const WORDS = [
  'GET ,POST ,/metrics,/healthz, HTTP/1.1, HTTP/1.0, HTTP/2.0,Host: localhost,Host:,Authorization: Basic ,: '.split(
    ',',
  ),
  'Content-Length: ,-1,99999999999,Transfer-Encoding: chunked,Upgrade: h2c,Connection: Upgrade,%00,/../,*'.split(
    ',',
  ),
  ['\r\n', '\r\n\r\n', '\n', '0\r\n\r\n', 'ffffffff\r\n', 'Expect: 100-continue', '\0', 'é'],
  ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'http://localhost/metrics'],
].flat();

const closed = (socket: Socket): Promise<void> =>
  new Promise((resolve) => socket.once('close', () => resolve()));

test('metrics and health are there, and nothing else', async () => {
  await open();
  expect(await get('/metrics')).toEqual({ status: 200, text: TEXT });
  expect(await get('/metrics?name[]=x')).toMatchObject({ status: 200 });
  expect(await get('/healthz')).toEqual({ status: 200, text: 'ok\n' });
  expect(await get('/metrics', { method: 'HEAD' })).toEqual({ status: 200, text: '' });
  for (const path of ['/', '/metrics/', '/Metrics', '/../metrics', '/debug/pprof', '/healthz/x', '//metrics'])
    expect([path, (await get(path)).status]).toEqual([path, 404]);
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'PROPFIND'])
    expect([method, (await get('/metrics', { method })).status]).toEqual([method, 405]);
  expect((await get('/metrics', { method: 'GET', body: 'x', headers: { 'content-length': 1 } })).status).toBe(
    413,
  );
});

test('a page of a browser whose name leads here reads nothing', async () => {
  await open();
  expect((await get('/metrics', { headers: { host: 'evil.example' } })).status).toBe(421);
  expect((await get('/metrics', { headers: { host: '127.0.0.1.evil.example:9464' } })).status).toBe(421);
  for (const host of ['localhost:9464', '127.0.0.1', '[::1]:9464'])
    expect((await get('/metrics', { headers: { host } })).status).toBe(200);
});

test('a client gets OpenMetrics where it takes that as gladly as the plain text', async () => {
  await open();
  const texts = async (accept: string) => (await get('/metrics', { headers: { accept } })).text;
  // Of Prometheus 2.42.
  const both =
    'application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1';
  expect(await texts(both)).toBe(OPEN_TEXT);
  expect(await texts('application/openmetrics-text')).toBe(OPEN_TEXT);
  for (const accept of [
    '*/*',
    'text/plain',
    'application/openmetrics-text;version=0.0.1',
    'application/openmetrics-text;q=0.3,text/plain;q=0.9',
    'application/openmetrics-text;q=0',
    'application/openmetrics-text;q=x',
    ',;,;q=',
  ])
    expect([accept, await texts(accept)]).toEqual([accept, TEXT]);
  // One of each format in a second, and not one for each client.
  expect(made).toBe(2);
});

test('OpenMetrics has exemplars, counters without their suffix in the head, and an end', async () => {
  const exemplars = new Exemplars();
  const labels = ['prepare', 'sidecar'];
  exemplars.set('start_phase_seconds', labels, { labels: { trace_id: 'ab12' }, value: 0.07, at: 1_700 });
  const counts = new Counts();
  counts.observe('start_phase_seconds', 0.07, ...labels);
  counts.add('scrubs_total');
  const [plain, open] = [new MetricsText('plain', exemplars), new MetricsText('open', exemplars)];
  const text = await open.render(counts.samples());
  const bucket =
    'cofa_start_phase_seconds_bucket{phase="prepare",prepared="sidecar",le="0.1"} 1 # {trace_id="ab12"} 0.07 1700';
  expect(text.split('\n').filter((line) => line.includes('trace_id'))).toEqual([bucket]);
  expect(text).toContain('# TYPE cofa_scrubs counter\ncofa_scrubs_total 1\n');
  expect(text).toMatch(/\n# EOF\n$/);
  // Again: a text leaves nothing behind for the next one.
  expect(await open.render(counts.samples())).toBe(text);
  const old = await plain.render(counts.samples());
  expect(old).toContain('# TYPE cofa_scrubs_total counter\ncofa_scrubs_total 1\n');
  expect(old).not.toMatch(/trace_id|EOF/);
});

test('clients that come while a text is made, or in the second after, get that one', async () => {
  await open();
  const { promise, resolve } = Promise.withResolvers<void>();
  holds = promise;
  const asked = Array.from({ length: 10 }, () => get('/metrics'));
  await expect.poll(() => made).toBe(1);
  resolve();
  for (const { text } of await Promise.all(asked)) expect(text).toBe(TEXT);
  const began = performance.now();
  for (let i = 0; i < 50; i++) await get('/metrics');
  // One a second.
  expect(made).toBeLessThan(4 + (performance.now() - began) / 1_000);
});

test('a hundred connections that say nothing are no more than sixteen, and go', {
  timeout: 60_000,
}, async () => {
  await open();
  const idle = Array.from({ length: 100 }, () => createConnection(port, '127.0.0.1'));
  for (const socket of idle) socket.on('error', () => {});
  let gone = 0;
  for (const socket of idle) void closed(socket).then(() => (gone += 1));
  await expect.poll(() => gone).toBeGreaterThanOrEqual(84);
  // Their time is over at last, and Prometheus gets its turn.
  await expect
    .poll(
      () =>
        get('/metrics').then(
          ({ status }) => status,
          () => 0,
        ),
      { timeout: 80_000 },
    )
    .toBe(200);
  for (const socket of idle) socket.destroy();
});

test('heads that are too long, and requests that drip, end', { timeout: 60_000 }, async () => {
  await open();
  expect(
    await raw(`GET /metrics HTTP/1.1\r\nhost: localhost\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`),
  ).not.toContain(TEXT);
  const dripping = createConnection(port, '127.0.0.1');
  dripping.on('error', () => {});
  dripping.write('GET /metrics HTTP/1.1\r\nhost: localhost\r\n');
  const drip = setInterval(() => dripping.write('x: y\r\n'), 200);
  dripping.once('close', () => clearInterval(drip));
  await closed(dripping);
  expect((await get('/metrics')).status).toBe(200);
});

test('clients that take their answers a byte at a time do not keep the door for ever', {
  timeout: 60_000,
}, async () => {
  const large = 'x'.repeat(8 << 20);
  door = await openMetricsDoor(
    { address: { host: '127.0.0.1', port }, images: 0 },
    { isHealthy: () => true, metrics: async () => ({ type: 'text/plain', text: large }) },
    TIMES,
  );
  const slow = Array.from({ length: 16 }, () => {
    const socket = createConnection(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.pause();
    socket.write('GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n');
    return socket;
  });
  const sip = setInterval(() => slow.map((socket) => void socket.read(1)), 100);
  // They have every connection, until their time is over.
  const status = () =>
    get('/healthz').then(
      (answer) => answer.status,
      () => 0,
    );
  await expect.poll(status).toBe(0);
  await expect.poll(status, { timeout: 80_000 }).toBe(200);
  clearInterval(sip);
  for (const socket of slow) socket.destroy();
});

test('any bytes at all: the door stands, and says its text to none of them', {
  timeout: 120_000,
}, async () => {
  await open({ auth: loginFile('prom:a password') });
  const words = fc.constantFrom(...WORDS);
  const bytes = fc.oneof(
    fc.array(words, { maxLength: 20 }).map((parts) => Buffer.from(parts.join(''))),
    fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array)),
  );
  await fc.assert(
    fc.asyncProperty(bytes, async (sent) => {
      expect(await raw(sent)).not.toContain(TEXT.trim());
    }),
    { numRuns: 200 },
  );
  expect(await get('/metrics', { auth: 'prom:a password' })).toMatchObject({ status: 200 });
});

describe('login and TLS', () => {
  test('a wrong password, none, and one that is longer are refused; health needs none', async () => {
    await open({ auth: loginFile('prom:a password') });
    for (const auth of [undefined, 'prom:', 'prom:a passwor', 'prom:a password1', 'other:a password'])
      expect((await get('/metrics', auth === undefined ? {} : { auth })).status).toBe(401);
    expect(made).toBe(0);
    expect((await get('/metrics', { auth: 'prom:a password' })).status).toBe(200);
    expect((await get('/healthz')).status).toBe(200);
  });

  test('by HTTPS with its certificate, and not without TLS', async () => {
    const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
    const subject = ['-subj', '/CN=metrics', '-addext', 'subjectAltName=IP:127.0.0.1'];
    const made = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2'.split(' ');
    await runCommand('openssl', [...made, '-keyout', key, '-out', cert, ...subject]);
    chmodSync(key, 0o600);
    await open({ tls: { cert, key } });
    const { readFileSync } = await import('node:fs');
    expect((await get('/metrics', { ca: readFileSync(cert, 'utf8') })).status).toBe(200);
    expect(await raw('GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n')).not.toContain(TEXT);
  });

  const choice = (metrics: string, more: object = {}) =>
    metricsChoice({ metrics, metricsImages: 0, ...more });

  test('an address that other machines reach takes both', () => {
    for (const address of ['0.0.0.0:9464', '10.0.0.5:9464', '[::]:9464', '[2001:db8::1]:9464']) {
      expect(() => choice(address)).toThrow(/other machines/);
      expect(() => choice(address, { metricsAuth: loginFile('prom:a password') })).toThrow(/other machines/);
    }
    expect(choice('9464')).toMatchObject({ address: { host: '127.0.0.1', port: 9464 } });
    expect(choice('localhost:9464')).toMatchObject({ address: { host: '127.0.0.1', port: 9464 } });
    expect(choice('[::1]:9464')).toMatchObject({ address: { host: '::1', port: 9464 } });
    expect(choice('unix:/run/m.sock')).toMatchObject({ address: { socket: '/run/m.sock' } });
    for (const address of ['', 'x', ':0', '0', '65536', 'example.com:9464', 'unix:relative', '127.0.0.1'])
      expect(() => choice(address)).toThrow(/no address/);
    expect(() => metricsChoice({ metricsAuth: '/x', metricsImages: 0 })).toThrow(/go with --metrics/);
  });

  test('a file of a password that others can read is refused, as is one without', () => {
    const open = loginFile('prom:a password');
    chmodSync(open, 0o644);
    expect(() => choice('9464', { metricsAuth: open })).toThrow(/read by others/);
    for (const line of ['', 'prom', 'prom:', ':a password', 'prom:short'])
      expect(() => choice('9464', { metricsAuth: loginFile(line) })).toThrow(/USER:PASSWORD/);
  });
});

test('a socket is for its owner alone, and a file that is none stays', async () => {
  const socket = join(folder, 'metrics.sock');
  await open({ address: { socket } });
  expect(statSync(socket).mode & 0o777).toBe(0o600);
  expect((await get('/metrics', { socketPath: socket })).status).toBe(200);
  await door?.close();
  const file = join(folder, 'a-file');
  writeFileSync(file, 'mine');
  await expect(open({ address: { socket: file } })).rejects.toThrow(/no socket/);
  expect(existsSync(file)).toBe(true);
});

test('a label says what it is, whatever an image is called', async () => {
  const text = await new MetricsText().render([['image_size_bytes', ['a"b\\c\nd{}'], [1]]]);
  expect(text).toContain('cofa_image_size_bytes{image="a\\"b\\\\c\\nd{}"} 1\n');
});

function loginFile(line: string): string {
  const path = join(folder, `login-${randomBytes(4).toString('hex')}`);
  writeFileSync(path, `${line}\n`, { mode: 0o600 });
  return path;
}
