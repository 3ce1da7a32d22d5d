/** The console's server: who gets in, and that a client who means harm gets nothing, changes nothing and costs little. */
import { chmodSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { request as ask, type RequestOptions } from 'node:http';
import { request as askSecurely } from 'node:https';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { z } from 'zod';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { byToken, judge } from '../../src/console/access.ts';
import { listenSettings, type ListenSettings } from '../../src/console/address.ts';
import { consoleApp } from '../../src/console/app.ts';
import { decodeEvents, encodeEvents } from '../../src/console/columns-codec.ts';
import { IncidentLogs } from '../../src/console/incident-logs.ts';
import type { PageFile } from '../../src/console/page.ts';
import { number, route } from '../../src/console/route.ts';
import { ROUTES } from '../../src/console/routes.ts';
import { type ConsoleServer, openConsole } from '../../src/console/server.ts';
import { Source } from '../../src/console/source.ts';
import { Turns } from '../../src/console/turns.ts';
import { LogFileWriter } from '../../src/replay/log-file.ts';
import { decodeRecord } from '../../src/replay/record.ts';
import { describeState } from '../../src/replay/state-document.ts';
import { logOf, sampleRecords } from '../replay/sample-log.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let folder = '';
let server: ConsoleServer | undefined;
beforeAll(async () => {
  folder = await cleanup.tempDir('console');
});
afterEach(async () => {
  await server?.close();
  server = undefined;
});
afterAll(() => cleanup.run());

const file = (type: string, text: string): PageFile => ({ type, bytes: new TextEncoder().encode(text) });
const PAGE = new Map([
  ['/index.html', file('text/html; charset=utf-8', '<!doctype html><title>cofa</title>')],
  ['/assets/index-1.js', file('text/javascript; charset=utf-8', 'export {}')],
]);

const sourceOf = () => {
  const log = logOf(sampleRecords());
  return new Source({
    loaded: { log, title: 'a log', checked: [], follow: undefined, close: async () => {} },
  });
};

async function open(settings: Partial<ListenSettings> = {}): Promise<URL> {
  server = await openConsole({ host: '127.0.0.1', port: 0, ...settings }, sourceOf(), PAGE);
  return new URL(server.url);
}

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

const get = (url: URL, path: string, options: RequestOptions & { ca?: string } = {}): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const send = url.protocol === 'https:' ? askSecurely : ask;
    const to = { host: url.hostname, port: url.port, path, agent: false, ...options };
    const request = send(to, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part) => (text += part));
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text }),
      );
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end();
  });

const withCookie = async (url: URL): Promise<{ headers: { cookie: string } }> => {
  const { headers } = await get(url, `/${url.search}`);
  const [cookie = ''] = String(headers['set-cookie']).split(';');
  return { headers: { cookie } };
};

describe('on loopback', () => {
  test('the token of the address becomes a cookie that scripts do not see, and leaves the address', async () => {
    const url = await open();
    const entered = await get(url, `/${url.search}`);
    expect(entered.status).toBe(303);
    expect(entered.headers.location).toBe('./');
    expect(String(entered.headers['set-cookie'])).toMatch(/; HttpOnly; SameSite=Strict$/);
    const page = await get(url, '/', await withCookie(url));
    expect(page).toMatchObject({ status: 200, text: expect.stringContaining('<title>cofa') });
    const node = await get(url, '/api/node', await withCookie(url));
    expect(JSON.parse(node.text)).toMatchObject({ node: 'node-1', isLive: false });
  });

  test('over TLS the cookie is for TLS alone: those of a host lead to all of its ports', async () => {
    const access = byToken(1);
    const app = consoleApp({ source: sourceOf(), routes: [], page: PAGE, access, isOwnHost: undefined });
    const token = access.kind === 'token' ? access.token : '';
    const cookieOf = async (scheme: string) =>
      (await app.fetch(new Request(`${scheme}://127.0.0.1/?token=${token}`))).headers.get('set-cookie');
    expect(await cookieOf('http')).not.toContain('Secure');
    expect(await cookieOf('https')).toContain('; Secure');
    app.close();
  });

  test('two consoles of a host do not end each other’s session', async () => {
    const first = await open();
    const other = await openConsole({ host: '127.0.0.1', port: 0 }, sourceOf(), PAGE);
    try {
      const second = new URL(other.url);
      // A browser sends the cookies of a host to all of its ports, of two with one name the later one.
      const jar = new Map<string, string>();
      for (const url of [first, second]) {
        const [name = '', value = ''] = (await withCookie(url)).headers.cookie.split('=');
        jar.set(name, value);
      }
      const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ');
      for (const url of [first, second])
        expect((await get(url, '/api/node', { headers: { cookie } })).status).toBe(200);
      const wrong = `cofa-console-${first.port}=1; x=2`;
      expect((await get(first, '/api/node', { headers: { cookie: wrong } })).status).toBe(401);
    } finally {
      await other.close();
    }
  });

  test.each([
    ['without a token', '/', {}],
    ['with another token', '/?token=AAAA', {}],
    ['with an empty token', '/?token=', {}],
    ['with a cookie of another value', '/api/node', { cookie: 'cofa-console=1; x=2' }],
    ['to the stream', '/api/stream', {}],
    ['to a part of the page', '/assets/index-1.js', {}],
  ])('a client %s gets nothing', async (_, path, headers) => {
    const url = await open();
    const answer = await get(url, path, { headers });
    expect(answer.status).toBe(401);
    expect(answer.headers['set-cookie']).toBeUndefined();
    expect(answer.text).not.toMatch(/node-1|<title>/);
  });

  test('a page elsewhere whose name leads here gets nothing, and neither do its scripts', async () => {
    const url = await open();
    const { headers } = await withCookie(url);
    expect((await get(url, '/api/node', { headers: { ...headers, host: 'evil.example' } })).status).toBe(421);
    for (const site of ['cross-site', 'same-site'])
      expect((await get(url, '/api/node', { headers: { ...headers, 'sec-fetch-site': site } })).status).toBe(
        403,
      );
    expect(
      (await get(url, '/api/node', { headers: { ...headers, 'sec-fetch-site': 'same-origin' } })).status,
    ).toBe(200);
  });

  test('every answer forbids scripts of others, frames and sniffing', async () => {
    const url = await open();
    for (const path of ['/', '/api/node', '/none', '/assets/index-1.js']) {
      const { headers } = await get(url, path, await withCookie(url));
      const policy = String(headers['content-security-policy']);
      expect(policy).toContain("default-src 'none'; script-src 'self';");
      expect(policy).toContain("frame-ancestors 'none'");
      expect(policy).not.toMatch(/unsafe|https?:|\*/);
      expect(headers['x-content-type-options']).toBe('nosniff');
      expect(headers['access-control-allow-origin']).toBeUndefined();
    }
  });

  test.each([
    '/../../../../etc/passwd',
    '/assets/../../package.json',
    '/assets/%2e%2e/%2e%2e/package.json',
    '/assets/..%2f..%2fpackage.json',
    '//etc/passwd',
    '/sources.json',
    '/api/../../package.json',
  ])('no path leads to the disk: %s', async (path) => {
    const url = await open();
    const answer = await get(url, path, await withCookie(url));
    expect([400, 404]).toContain(answer.status);
    expect(answer.text).not.toMatch(/root:|"name"/);
  });

  test('only GET and HEAD, and no bodies', async () => {
    const url = await open();
    const { headers } = await withCookie(url);
    for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])
      expect((await get(url, '/api/node', { method, headers })).status).toBe(405);
    expect((await get(url, '/api/node', { method: 'HEAD', headers })).text).toBe('');
    const body = { ...headers, 'content-length': '5' };
    expect((await get(url, '/api/node', { headers: body }).catch(() => ({ status: 413 }))).status).toBe(413);
  });

  test('of bytes that are no request the server thinks nothing, and answers on', async () => {
    const url = await open();
    for (const bytes of [
      '\0\x01\x02\r\n\r\n',
      'GET / HTTP/9\r\n\r\n',
      `GET /${'a'.repeat(60_000)} HTTP/1.1\r\n\r\n`,
    ]) {
      await new Promise<void>((resolve) => {
        const socket = createConnection(Number(url.port), '127.0.0.1');
        socket.on('close', () => resolve());
        socket.on('error', () => resolve());
        socket.resume();
        socket.end(bytes);
      });
    }
    expect((await get(url, '/api/node', await withCookie(url))).status).toBe(200);
  });

  test('a query is as its schema says, or refused with the reason', async () => {
    const url = await open();
    const { headers } = await withCookie(url);
    const answer = await get(url, '/api/node?what=1', { headers });
    expect(answer.status).toBe(400);
    expect(JSON.parse(answer.text)).toMatchObject({ code: 'invalid-argument' });
    const words = route('x', z.strictObject({ count: number(1, 5) }), ({ title }, { count }) => ({
      title,
      count,
    }));
    await expect(words.answer(sourceOf(), { count: '3' }, { signal: AbortSignal.abort() })).resolves.toEqual({
      title: 'a log',
      count: 3,
    });
    for (const count of ['0', '6', '-1', '1e3', '', ' 3', '0x3', '9'.repeat(20)])
      await expect(words.answer(sourceOf(), { count }, { signal: AbortSignal.abort() })).rejects.toThrow();
  });

  test('pages beyond the sixteenth get no stream, until one has left', async () => {
    const url = await open();
    const { headers } = await withCookie(url);
    const hear = () =>
      new Promise<{ status: number; leave: () => void }>((resolve, reject) => {
        const request = ask({
          host: url.hostname,
          port: url.port,
          path: '/api/stream',
          agent: false,
          headers,
        });
        request.on('response', (response) => {
          response.resume();
          resolve({ status: response.statusCode ?? 0, leave: () => request.destroy() });
        });
        request.on('error', reject);
        request.end();
      });
    const open16 = await Promise.all(Array.from({ length: 16 }, hear));
    expect(open16.map(({ status }) => status)).toEqual(open16.map(() => 200));
    expect((await hear()).status).toBe(503);
    open16[0]?.leave();
    await expect.poll(async () => (await hear()).status).toBe(200);
  });

  test('a HEAD of the stream takes no place', async () => {
    const access = byToken(1);
    const cookie = access.kind === 'token' ? `${access.cookie}=${access.token}` : '';
    const app = consoleApp({ source: sourceOf(), routes: [], page: PAGE, access, isOwnHost: undefined });
    const stop = new AbortController();
    const hear = async (method: string) =>
      await app.fetch(
        new Request('http://127.0.0.1/api/stream', { method, headers: { cookie }, signal: stop.signal }),
      );
    for (let count = 0; count < 20; count++) expect((await hear('HEAD')).status).toBe(200);
    const heard = await hear('GET');
    expect(heard.status).toBe(200);
    expect(heard.headers.get('content-type')).toBe('text/event-stream');
    stop.abort();
    await heard.body?.cancel();
    app.close();
  });
});

describe('for others', () => {
  test('an address that others reach takes TLS and a login', async () => {
    expect(() => listenSettings({ listen: '0.0.0.0:8443' })).toThrow(/other machines reach this address/);
    expect(() => listenSettings({ listen: '[::]:8443' })).toThrow(/other machines/);
    expect(() => listenSettings({ listen: 'example.org:80' })).toThrow(/is no address/);
    expect(() => listenSettings({ listen: 'unix:/tmp/x' })).toThrow(/opens no socket/);
    expect(() => listenSettings({ cert: '/none' })).toThrow(/go together/);
    expect(listenSettings({ listen: '8080' })).toEqual({ host: '127.0.0.1', port: 8080 });
  });

  test('by TLS, to those who log in; a key that others can read is refused', async () => {
    const [cert, key, auth] = ['cert.pem', 'key.pem', 'login'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    const made = [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-days',
      '2',
    ];
    await runCommand('openssl', [
      ...made,
      '-subj',
      '/CN=localhost',
      '-addext',
      'subjectAltName=IP:127.0.0.1',
      '-keyout',
      key,
      '-out',
      cert,
    ]);
    writeFileSync(auth, 'ann:correct horse\n', { mode: 0o600 });
    chmodSync(key, 0o644);
    expect(() => listenSettings({ cert, key, auth })).toThrow(/--key .* can be read by others/);
    chmodSync(key, 0o600);
    const settings = listenSettings({ cert, key, auth });
    const url = await open(settings);
    expect(url.protocol).toBe('https:');
    expect(url.search).toBe('');
    const ca = settings.tls?.cert ?? '';
    const login = (text: string) => ({ authorization: `Basic ${Buffer.from(text).toString('base64')}` });
    const refused = await get(url, '/', { ca });
    expect(refused.status).toBe(401);
    expect(refused.headers['www-authenticate']).toMatch(/^Basic /);
    expect((await get(url, '/api/node', { ca, headers: login('ann:wrong horse') })).status).toBe(401);
    const right = await get(url, '/api/node', { ca, headers: login('ann:correct horse') });
    expect(JSON.parse(right.text)).toMatchObject({ node: 'node-1' });
    const plain = get(new URL(`http://127.0.0.1:${url.port}/`), '/', { headers: login('ann:correct horse') });
    await expect(plain).rejects.toThrow();
  });
});

test('tokens have 256 bits, and are told apart whatever their length', () => {
  const access = byToken(1);
  const other = byToken(1);
  if (access.kind !== 'token' || other.kind !== 'token') throw new Error('no tokens');
  expect(Buffer.from(access.token, 'base64url')).toHaveLength(32);
  expect(access.token).not.toBe(other.token);
  const shown = (token: string) => judge(access, { token, cookie: undefined, authorization: undefined });
  expect(shown(access.token)).toBe('entering');
  for (const wrong of [access.token.slice(1), `${access.token}A`, '', other.token])
    expect(shown(wrong)).toBe('refused');
});

describe('documents of the log', () => {
  const source = sourceOf();
  const { log } = source;
  const ask = async (
    path: string,
    query: Record<string, string | number>,
    signal = new AbortController().signal,
  ) => {
    const words = Object.fromEntries(Object.entries(query).map(([name, value]) => [name, String(value)]));
    return (await ROUTES.find((one) => one.path === path)?.answer(source, words, { signal })) as never;
  };
  const find = (
    kind: string,
    text: string,
    from: number,
    to: number,
  ): Promise<{ index: number | null; what: string }> => ask('log/find', { kind, text, from, to });

  test('columns hold what the log holds', async () => {
    const bytes: Uint8Array<ArrayBuffer> = await ask('log/events', { from: 3, count: 5 });
    const { seq, at, subject: subjects } = decodeEvents(bytes.buffer);
    expect(seq).toHaveLength(5);
    const words: { types: string[]; subjects: Array<[string, string]> } = await ask('log/words', {
      types: 0,
      subjects: 0,
      count: 100,
    });
    for (const place of [0, 4]) {
      const event = log.timeline.eventAt(3 + place);
      expect([seq[place], at[place]]).toEqual([event.seq, event.at]);
      expect(words.subjects[subjects[place] ?? 0]).toEqual([event.kind, event.id]);
    }
    // Behind the end there is nothing.
    const none: Uint8Array<ArrayBuffer> = await ask('log/events', { from: log.count + 9, count: 5 });
    expect(decodeEvents(none.buffer).seq).toHaveLength(0);
  });

  test('columns of any values come back as they were', () => {
    const event = fc.record({
      seq: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 2 ** 34 }), fc.maxSafeInteger().map(Math.abs)),
      at: fc.oneof(fc.constantFrom(1.7e12, 1.7e12 + 5), fc.double({ min: 0, max: 8e15, noNaN: true })),
      subject: fc.oneof(fc.nat(9), fc.nat(2 ** 31)),
      type: fc.oneof(fc.nat(9), fc.nat(0xffff)),
    });
    fc.assert(
      fc.property(fc.array(event, { maxLength: 40 }), fc.boolean(), (events, isRow) => {
        // The sequences of most logs follow one another.
        const told = isRow ? events.map((one, place) => ({ ...one, seq: 7 + place })) : events;
        const of = (field: keyof (typeof told)[number]) => (index: number) => told[index]?.[field] ?? -1;
        const timeline = {
          seqAt: of('seq'),
          timeAt: of('at'),
          subjectNumberAt: of('subject'),
          typeNumberAt: of('type'),
        };
        const traces = { count: 0, at: () => ({ index: 0, from: 0, to: 0, longest: 0 }) };
        const { buffer } = encodeEvents({ count: told.length, timeline, traces }, 0, 1_000);
        const { seq, at, subject, type } = decodeEvents(buffer);
        expect(
          Array.from(seq, (one, place) => ({
            seq: one,
            at: at[place],
            subject: subject[place],
            type: type[place],
          })),
        ).toEqual(told);
      }),
    );
  });

  test('a search goes both ways, by text and by any of several conditions', async () => {
    const condition = await find('conditions', 'event no.such\nevent mount.mounted', 0, log.count);
    expect(log.timeline.typeAt(condition.index ?? -1)).toBe('mount.mounted');
    expect(condition.what).toBe('breakpoint: event mount.mounted');
    expect(await find('conditions', 'event mount.mounted', log.count - 1, -1)).toEqual(
      await find('conditions', 'event mount.mounted', 0, log.count),
    );
    expect(await find('conditions', 'event mount.mounted', 0, condition.index ?? 0)).toEqual({
      index: null,
      what: '',
    });
    expect((await find('text', 'team/app', 0, log.count)).index).toBe(1);
    await expect(find('conditions', 'blok 3', 0, 5)).rejects.toThrow(/is no term/);
  });

  test('a search whose client has left ends, and gives its place to others', async () => {
    for (let count = 0; count < 10; count++) {
      const gone = ask(
        'log/find',
        { kind: 'text', text: 'no such', from: 0, to: log.count },
        AbortSignal.abort(),
      );
      await gone.catch(() => {});
    }
    expect((await find('text', 'team/app', 0, log.count)).index).toBe(1);
  });

  test('a read in an explanation opens, and says what it waited for', async () => {
    const { index } = await find('conditions', 'event layer.trace', 0, log.count);
    const at = { position: (index ?? 0) + 1, clock: log.timeline.timeAt(index ?? 0) };
    const list: { lines: Array<{ text: string; opens: boolean }> } = await ask('log/why', at);
    const line = list.lines.findIndex(({ opens }) => opens);
    const read: typeof list = await ask('log/why', { ...at, open: String(line) });
    expect(read.lines.map(({ text }) => text).join('\n')).toContain("request to the registry's first byt");
    await expect(ask('log/why', { ...at, open: '999' })).rejects.toThrow(/nothing waits/);
    await expect(ask('log/why', { ...at, open: '1.x' })).rejects.toThrow();
  });

  test('a moment is what the terminal says it is', async () => {
    const text = { seq: 'sequence 10', mark: '#12' };
    expect(await ask('log/moment', { text: text.mark })).toEqual({ position: 12, clock: log.timeOf(12) });
    await expect(ask('log/moment', { text: text.seq })).rejects.toThrow(/is no moment/);
    const state: { digest: string; changes: string[] } = await ask('log/state', { position: 2 });
    const { digest } = describeState(log, 2);
    expect(state.digest).toBe(digest);
    expect(state.changes.join()).toContain('image   +');
    await expect(ask('log/event', { index: log.count })).rejects.toThrow(/has no event/);
  });
});

test('addresses of documents are told apart', () => {
  const paths = ROUTES.map(({ path }) => path);
  expect(new Set(paths).size).toBe(paths.length);
});

describe('long computations', () => {
  function* endless(): Generator<void, never> {
    for (;;) yield;
  }
  const never = new AbortController().signal;

  test('one runs at a time; a client that leaves gives the turn to the next, and too many are refused', async () => {
    const turns = new Turns(1);
    const order: string[] = [];
    const first = new AbortController();
    const second = new AbortController();
    const running = turns.take(endless, 60_000, first.signal).catch(() => order.push('first left'));
    const waiting = turns.take(endless, 60_000, second.signal).catch(() => order.push('second left'));
    await expect(turns.take(endless, 60_000, never)).rejects.toThrow('others compute and wait');
    second.abort();
    await waiting;
    const third = turns.take(
      function* () {
        order.push('third runs');
        yield;
        return 7;
      },
      60_000,
      never,
    );
    first.abort();
    await running;
    expect(await third).toBe(7);
    expect(order).toEqual(['second left', 'first left', 'third runs']);
  });

  test('one that takes too long is given up', async () => {
    const turns = new Turns(1);
    await expect(turns.take(endless, 20, never)).rejects.toThrow('more than 0.02 s');
    expect(
      await turns.take(
        function* () {
          yield;
          return 1;
        },
        20,
        never,
      ),
    ).toBe(1);
  });
});

test('incidents: a stretch that was kept anew is read anew', async () => {
  const root = await cleanup.tempDir('console-kept-anew');
  const dir = join(root, 'incidents');
  mkdirSync(dir);
  const name = '20261201T041226Z-7';
  const path = join(dir, `${name}.cofa-log`);
  const cause = { kind: 'crash', of: 'fetcher-0', detail: 'killed', times: 1, seq: 7, lastSeq: 7, at: 0 };
  const incident = { seq: 7, at: 0, lastAt: 0, kind: 'crash', from: 1, to: 2, more: 0, moreAt: null };
  const facts = { v: 1, node: 'node-1', cofa: '1', log: null };
  const causes = [{ ...cause, lastAt: 0 }];
  writeFileSync(join(dir, `${name}.json`), JSON.stringify({ ...facts, incident: { ...incident, causes } }));
  const incidents = new IncidentLogs(root, dir);
  const look = async () => {
    const { source, leave } = await incidents.enter(name);
    leave();
    return [source.log.count, source.generation] as const;
  };
  const all = sampleRecords();
  await writeStretch(path, all.slice(0, 9));
  const [count, generation] = await look();
  expect(count).toBe(9);
  expect(await look()).toEqual([9, generation]);
  // As the black box does: another file takes its name.
  await writeStretch(`${path}.new`, all);
  renameSync(`${path}.new`, path);
  const [more, later] = await look();
  expect(more).toBe(all.length);
  expect(later).toBeGreaterThan(generation);
  await incidents.close();
});

test('incidents: only names of incidents lead to files; stretches that nobody looks at make room for others', async () => {
  const root = await cleanup.tempDir('console-incidents');
  const dir = join(root, 'incidents');
  mkdirSync(dir);
  const names: string[] = [];
  for (let seq = 1; seq <= 5; seq++) {
    const name = `20261201T041226Z-${seq}`;
    names.push(name);
    await writeStretch(join(dir, `${name}.cofa-log`));
    const incident = { seq, at: 0, lastAt: 0, kind: 'crash', from: 1, to: 2, more: 0, moreAt: null };
    const cause = {
      kind: 'crash',
      of: 'fetcher-0',
      detail: 'killed by SIGKILL',
      times: 1,
      seq,
      lastSeq: seq,
    };
    const causes = [{ ...cause, at: 0, lastAt: 0 }];
    const facts = { v: 1, node: 'node-1', cofa: '1', incident: { ...incident, causes }, log: null };
    writeFileSync(join(dir, `${name}.json`), JSON.stringify(facts));
  }
  const incidents = new IncidentLogs(root, dir);
  const source = new Source({
    loaded: {
      log: logOf(sampleRecords()),
      title: 'a log',
      checked: [],
      follow: undefined,
      close: async () => {},
    },
    incidents,
  });
  server = await openConsole({ host: '127.0.0.1', port: 0 }, source, PAGE);
  const url = new URL(server.url);
  const cookie = await withCookie(url);
  const list = await get(url, '/api/incidents', cookie);
  const found = (JSON.parse(list.text) as { incidents: Array<{ name: string }> }).incidents;
  expect(found.map(({ name }) => name)).toEqual(names.toReversed());
  for (const name of ['../../etc/passwd', '20261201T041226Z-9', '20261201T041226Z-1/..', ''])
    expect((await get(url, `/api/log?incident=${encodeURIComponent(name)}`, cookie)).status).toBe(404);
  expect((await get(url, '/api/incident?name=../place', cookie)).status).toBe(400);
  for (const name of names) {
    const { text } = await get(url, `/api/log?incident=${name}`, cookie);
    expect(JSON.parse(text)).toMatchObject({
      title: expect.stringMatching(/^incident \d of node-1$/),
      isLive: false,
    });
  }
  // Pages that look at four of them leave no room for a fifth, until one leaves.
  const held = await Promise.all(names.slice(0, 4).map((name) => incidents.enter(name)));
  expect((await get(url, `/api/log?incident=${names[4]}`, cookie)).status).toBe(503);
  held[0]?.leave();
  expect((await get(url, `/api/log?incident=${names[4]}`, cookie)).status).toBe(200);
  await source.close();
});

async function writeStretch(path: string, records = sampleRecords()): Promise<void> {
  const writer = await LogFileWriter.create(path, { node: 'node-1', cofa: '1', exportedAt: 0 });
  for (const record of records) await writer.add(record, decodeRecord(record.bytes).at ?? 0);
  await writer.finish();
}
