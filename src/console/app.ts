/**
 * What the console answers, whatever it listens on:
 *
 *     /                the page; with ?token=… first a cookie for it
 *     /assets/…        its parts, from memory: no path leads to the disk
 *     /api/NAME        a document (routes.ts)
 *     /api/stream      what changes, as server-sent events (stream.ts)
 *     …?incident=NAME  the same of the stretch of the log that is kept of an incident (incident-logs.ts)
 *
 * Only GET and HEAD, no bodies, and none of it writes anything. The page may load scripts and styles of this console alone.
 */
import type { HttpBindings } from '@hono/node-server';
import { Hono, type Context as Ask } from 'hono';
import { ZodError } from 'zod';
import { CofaError, ERROR_KINDS, toErrorRecord } from '../../schemas/errors.ts';
import { type Access, judge } from './access.ts';
import type { IncidentLogs } from './incident-logs.ts';
import type { PageFile } from './page.ts';
import type { Route } from './route.ts';
import type { Source } from './source.ts';
import { Streams } from './stream.ts';

/** Documents that are made at once; further ones are refused. */
const MOST_ANSWERS = 32;
/** Characters of an address. */
const LONGEST_URL = 4_096;
/** A wrong login is answered after this, ms. */
const REFUSAL_MS = 300;

export interface AppOptions {
  source: Source;
  routes: readonly Route[];
  /** By path, `/index.html` among them. */
  page: ReadonlyMap<string, PageFile>;
  access: Access;
  /** Names by which a client may call it: a page elsewhere could have its own name lead to loopback. Undefined: any. */
  isOwnHost: ((host: string) => boolean) | undefined;
}

type Bindings = { Bindings: HttpBindings };

export interface ConsoleApp {
  fetch: Hono<Bindings>['fetch'];
  close(): void;
}

/** The HTTP application of a console, without a socket: who may ask, documents, the live stream, the page. `close` ends the streams. */
export function consoleApp({ source, routes, page, access, isOwnHost }: AppOptions): ConsoleApp {
  const app = new Hono<Bindings>({ strict: true });
  const streams = new Streams(source);
  let answers = 0;

  app.use('*', async (ask, next) => {
    for (const [name, value] of SAFE_HEADERS) ask.header(name, value);
    const flaw = flawOf(ask, isOwnHost);
    if (flaw !== undefined) return ask.text(flaw[1], flaw[0]);
    const verdict = judge(access, {
      token: ask.req.query('token'),
      cookie: ask.req.header('cookie'),
      authorization: ask.req.header('authorization'),
    });
    if (verdict === 'entering' && access.kind === 'token') {
      const { cookie, token } = access;
      // Cookies know no ports: without it each server of this host would get it by plain HTTP.
      const secure = new URL(ask.req.url).protocol === 'https:' ? '; Secure' : '';
      ask.header('set-cookie', `${cookie}=${token}; Path=/; HttpOnly; SameSite=Strict${secure}`);
      // Relative: behind a forwarded port the address is another one. What follows # stays.
      return ask.redirect('./', 303);
    }
    if (verdict === 'allowed') return await next();
    return await refuse(ask, access);
  });

  app.get('/api/stream', async (ask) => {
    ask.header('content-type', 'text/event-stream');
    ask.header('x-accel-buffering', 'no');
    // Its answer has no body: a stream that no client reads would keep its place.
    if (ask.req.method === 'HEAD') return ask.body(null);
    const stretch = await stretchOf(source, ask.req.query('incident'));
    const { signal } = ask.req.raw;
    const stream = (stretch?.streams ?? streams).open(signal);
    if (stretch !== undefined) {
      if (stream === undefined || signal.aborted) stretch.leave();
      else signal.addEventListener('abort', stretch.leave, { once: true });
    }
    if (stream === undefined)
      return ask.json(record('busy', 'too many pages are open', 'close one of them'), 503);
    return ask.body(stream);
  });

  for (const { path, answer } of routes) {
    app.get(`/api/${path}`, async (ask) => {
      if (answers >= MOST_ANSWERS) return ask.json(record('busy', 'too much is asked at once'), 503);
      answers += 1;
      let stretch: Stretch;
      try {
        const { incident, ...words } = ask.req.query();
        stretch = await stretchOf(source, incident);
        const document = await answer(stretch?.source ?? source, words, { signal: ask.req.raw.signal });
        if (document instanceof Uint8Array)
          return ask.body(document, 200, { 'content-type': 'application/octet-stream' });
        return ask.json(document);
      } finally {
        stretch?.leave();
        answers -= 1;
      }
    });
  }

  app.get('*', (ask) => {
    const path = ask.req.path === '/' ? '/index.html' : ask.req.path;
    const file = page.get(path);
    if (file === undefined) return ask.notFound();
    ask.header('content-type', file.type);
    // Their names change with what they hold; index.html's does not.
    if (path.startsWith('/assets/')) ask.header('cache-control', 'private, max-age=31536000, immutable');
    return ask.body(file.bytes);
  });

  app.notFound((ask) =>
    ask.req.path.startsWith('/api/')
      ? ask.json(record('not-found', `there is no ${ask.req.path}`), 404)
      : ask.text('not found\n', 404),
  );
  app.onError((error, ask) => {
    const failure = error instanceof ZodError ? queryFlaw(error) : toErrorRecord(error);
    return ask.json(failure, STATUS[failure.code] ?? 500);
  });
  return { fetch: app.fetch, close: () => streams.close() };
}

type Stretch = Awaited<ReturnType<IncidentLogs['enter']>> | undefined;

/** What an address with `incident=NAME` is about; undefined: the log of the console. */
async function stretchOf(source: Source, name: string | undefined): Promise<Stretch> {
  if (name === undefined) return undefined;
  if (source.incidents !== undefined) return await source.incidents.enter(name);
  throw new CofaError('not-found', 'this console has no incidents');
}

const SAFE_HEADERS: ReadonlyArray<readonly [string, string]> = [
  [
    'content-security-policy',
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  ],
  ['x-content-type-options', 'nosniff'],
  ['referrer-policy', 'no-referrer'],
  ['cross-origin-opener-policy', 'same-origin'],
  ['cross-origin-resource-policy', 'same-origin'],
  ['permissions-policy', 'camera=(), geolocation=(), microphone=(), usb=()'],
  ['cache-control', 'no-store'],
];

/** HTTP's word for what a caller can do; 500 for the others. */
const STATUS: Partial<Record<keyof typeof ERROR_KINDS, 400 | 404 | 409 | 422 | 503>> = {
  'invalid-argument': 400,
  'not-found': 404,
  conflict: 409,
  integrity: 422,
  busy: 503,
  'not-running': 503,
  unavailable: 503,
};

const record = (code: keyof typeof ERROR_KINDS, message: string, hint?: string) =>
  toErrorRecord(new CofaError(code, message, hint === undefined ? {} : { hint }));

function queryFlaw(error: ZodError) {
  const [issue] = error.issues;
  const name = issue?.path.join('.') ?? '';
  return record('invalid-argument', `${name === '' ? 'the query' : name}: ${issue?.message ?? 'is wrong'}`);
}

/** Why a request is refused, whatever it asks for. */
function flawOf(
  ask: Ask<Bindings>,
  isOwnHost: AppOptions['isOwnHost'],
): [400 | 403 | 405 | 413 | 414 | 421, string] | undefined {
  const { method, url } = ask.req.raw;
  if (method !== 'GET' && method !== 'HEAD') return [405, 'GET or HEAD\n'];
  const length = ask.req.header('content-length');
  if (ask.req.header('transfer-encoding') !== undefined || (length !== undefined && length !== '0'))
    return [413, 'a request has no body here\n'];
  if (url.length > LONGEST_URL) return [414, 'the address is too long\n'];
  if (isOwnHost !== undefined && !isOwnHost(ask.req.header('host') ?? ''))
    return [421, 'ask by the address that cofa console printed\n'];
  // Other pages may link here, and nothing else.
  const site = ask.req.header('sec-fetch-site');
  const isNavigation = ask.req.header('sec-fetch-mode') === 'navigate';
  if (site !== undefined && site !== 'same-origin' && site !== 'none' && !isNavigation)
    return [403, 'only its own page may ask\n'];
  return undefined;
}

async function refuse(ask: Ask<Bindings>, access: Access): Promise<Response> {
  await new Promise((resolve) => setTimeout(resolve, REFUSAL_MS).unref());
  if (access.kind === 'login') {
    ask.header('www-authenticate', 'Basic realm="cofa console", charset="UTF-8"');
    return ask.text('log in\n', 401);
  }
  return ask.text('Open the address that cofa console has printed: it has a token.\n', 401);
}
