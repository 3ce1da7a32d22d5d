/**
 * One HTTP exchange: connection pools per origin, TLS by certs.d, proxies by the environment, time limits. It follows
 * redirects by hand, since what another host may receive is a question of trust:
 *
 * - `Authorization` stays with the origin (scheme, host and port) that it was meant for. Once a redirect has left that
 *   origin the header is dropped, also where a later redirect leads back. Cookies return to the origin that set them.
 * - https never becomes http.
 * - Each hop applies TLS settings, proxy and limits anew.
 *
 * Authentication, retries and the meaning of a status are the callers' (api.ts).
 */
import { Buffer } from 'node:buffer';
import type { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';
import { CofaError } from '../../schemas/errors.ts';
import { addCertificates, readCertificates, secureContext } from './certificates.ts';
import type { CookieJar } from './cookies.ts';
import { networkFailure, RequestFailure } from './failure.ts';
import { nameLookups } from './name-lookups.ts';
import { printable } from './printable.ts';
import { isLoopback } from './reference.ts';
import { abortError, throwIfAborted, waitFor } from './retry.ts';
import { Pool, proxyAgent } from './undici-parts.ts';

export interface TransportSettings {
  /** Folders in the layout of docker's certs.d, in the order of search. */
  certDirs: readonly string[];
  /** Hosts (`HOST[:PORT]`) whose certificate is not checked. */
  insecure: readonly string[];
  /** Connections to one origin at most; further requests wait. */
  connections: number;
  connectTimeoutMs: number;
  /** From the request to the first byte of the answer. */
  headersTimeoutMs: number;
  /** Between two pieces of a body. */
  bodyTimeoutMs: number;
  /** `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are read from here, in upper or lower case. */
  environment: Readonly<Record<string, string | undefined>>;
  /** An answer began after so many seconds, with this status; `error`: none came. */
  onAnswer?: ((code: string, seconds: number) => void) | undefined;
}

export interface SendRequest {
  method: 'GET' | 'HEAD' | 'POST' | 'PUT';
  url: URL;
  headers?: Record<string, string>;
  authorization?: string | undefined;
  body?: Buffer | undefined;
  cookies?: CookieJar | undefined;
  /** `none` hands redirects to the caller as they are. */
  redirects?: 'follow' | 'none';
  /** Replaces the setting, such as for an upload that the registry takes a while to store. */
  headersTimeoutMs?: number | undefined;
  /** How this host is reached; the hosts of a redirect are reached as any other. */
  reach?: Reach | undefined;
  signal?: AbortSignal | undefined;
}

/** How one host is reached, where a configuration says so (hosts-toml.ts). */
export interface Reach {
  /** Of two with the same origin and key, connections are shared. */
  key: string;
  ca: readonly string[];
  client: ReadonlyArray<readonly [certificate: string, key: string]>;
  skipVerify: boolean;
  connectTimeoutMs: number | undefined;
  /** Sent to this host alone. */
  headers: Readonly<Record<string, string>>;
}

export interface Reply {
  status: number;
  headers: Readonly<Record<string, string | string[] | undefined>>;
  /** Read or destroy it, or its connection stays taken. Its iteration throws network errors, unmapped. */
  body: Readable;
  /** Where the answer came from in the end. */
  url: URL;
  /** A redirect left the origin that was asked. */
  crossed: boolean;
}

const MAX_REDIRECTS = 10;
/** Origins with open connections at a time; redirects to ever new hosts must not pile up pools. */
const MAX_ORIGINS = 64;
const KEEP_ALIVE_MS = 30_000;

export class Transport {
  readonly #settings: TransportSettings;
  /** By origin and way to reach it, least recently used first. */
  readonly #lanes = new Map<string, Promise<Lane>>();
  #closed = false;

  constructor(settings: TransportSettings) {
    this.#settings = settings;
  }

  /** Sends a request. Throws RequestFailure where no answer comes, and the signal's reason. */
  async send(request: SendRequest): Promise<Reply> {
    let { url } = request;
    let crossed = false;
    for (let hops = 0; ; hops++) {
      const reach = crossed ? undefined : request.reach;
      const reply = await this.#exchange({ ...request, url, reach }, crossed);
      request.cookies?.store(url, reply.headers['set-cookie']);
      const location = redirectTarget(reply, request);
      if (location === undefined) return { ...reply, url, crossed };
      await discard(reply.body);
      if (hops === MAX_REDIRECTS) {
        throw new RequestFailure(
          'unavailable',
          `${request.url.host} redirects in a circle, or more than ${hops} times`,
        );
      }
      const next = resolveLocation(location, url);
      if (next.origin !== request.url.origin) crossed = true;
      url = next;
    }
  }

  /** Whether a header or a certificate of this machine's configuration comes with what is sent there. Errors: those of `send`. */
  async isPersonal(url: URL, reach: Reach | undefined, signal: AbortSignal | undefined): Promise<boolean> {
    if (Object.keys(reach?.headers ?? {}).length > 0) return true;
    return (await this.#lane(url, reach, signal)).hasCertificate;
  }

  /** Ends idle connections, and the others with their request. Pending requests fail. */
  async close(): Promise<void> {
    this.#closed = true;
    const lanes = [...this.#lanes.values()];
    this.#lanes.clear();
    await Promise.all(
      lanes.map(async (lane) => (await lane).dispatcher.destroy()).map((done) => done.catch(() => {})),
    );
  }

  async #exchange(
    request: SendRequest,
    crossed: boolean,
  ): Promise<Pick<Reply, 'status' | 'headers' | 'body'>> {
    const { url, reach, signal } = request;
    const lane = await this.#lane(url, reach, signal);
    try {
      return await this.#exchangeOn(lane, request, crossed);
    } catch (error) {
      if (!(error instanceof RequestFailure) || error.reason !== 'certificate') throw error;
      // An administrator may just have put the CA there, or renewed it: look again before giving up.
      const current = await certificatesOf(url, reach, this.#settings);
      if (current.fingerprint === lane.fingerprint) throw error;
      this.#drop(laneKey(url, reach), lane);
      return await this.#exchangeOn(await this.#lane(url, reach, signal), request, crossed);
    }
  }

  async #exchangeOn(
    lane: Lane,
    request: SendRequest,
    crossed: boolean,
  ): Promise<Pick<Reply, 'status' | 'headers' | 'body'>> {
    const { url, signal } = request;
    const headers: Record<string, string> = {
      'user-agent': 'cofa',
      ...request.headers,
      ...request.reach?.headers,
    };
    if (!crossed && request.authorization !== undefined) headers['authorization'] = request.authorization;
    const cookies = request.cookies?.header(url);
    if (cookies !== undefined) headers['cookie'] = cookies;
    const since = performance.now();
    try {
      const {
        statusCode,
        headers: answer,
        body,
      } = await lane.dispatcher.request({
        origin: url.origin,
        path: `${url.pathname}${url.search}`,
        method: request.method,
        headers,
        ...(request.body === undefined ? {} : { body: request.body }),
        ...(signal === undefined ? {} : { signal }),
        ...(request.headersTimeoutMs === undefined ? {} : { headersTimeout: request.headersTimeoutMs }),
      });
      // An error of a body that no caller reads any more must not end the process.
      body.on('error', () => {});
      this.#watch(String(statusCode), since);
      return { status: statusCode, headers: answer, body };
    } catch (error) {
      throwIfAborted(signal);
      this.#watch('error', since);
      throw networkFailure(error, url);
    }
  }

  #watch(code: string, since: number): void {
    this.#settings.onAnswer?.(code, (performance.now() - since) / 1000);
  }

  #lane(url: URL, reach: Reach | undefined, signal: AbortSignal | undefined): Promise<Lane> {
    if (this.#closed) throw new CofaError('unavailable', 'the registry client is closed');
    const key = laneKey(url, reach);
    let lane = this.#lanes.get(key);
    if (lane === undefined) {
      lane = openLane(url, reach, this.#settings);
      const opening = lane;
      // A broken certificate file can be mended: do not remember the failure.
      opening.catch(() => {
        if (this.#lanes.get(key) === opening) this.#lanes.delete(key);
      });
    }
    this.#lanes.delete(key);
    this.#lanes.set(key, lane);
    if (this.#lanes.size > MAX_ORIGINS) {
      const [oldest, unused] = this.#lanes.entries().next().value as [string, Promise<Lane>];
      this.#lanes.delete(oldest);
      unused.then(
        ({ dispatcher }) => dispatcher.close(),
        () => {},
      );
    }
    return waitFor(lane, signal);
  }

  #drop(key: string, lane: Lane): void {
    void this.#lanes.get(key)?.then(
      (current) => {
        if (current === lane) this.#lanes.delete(key);
      },
      () => {},
    );
    this.#lanes.delete(key);
    lane.dispatcher.close().catch(() => {});
  }
}

/** Turns an error from reading a reply's body into a failure, or into the meaning of the signal. */
export function bodyFailure(
  error: unknown,
  reply: Pick<Reply, 'url'>,
  signal: AbortSignal | undefined,
): unknown {
  if (signal?.aborted === true) return abortError(signal);
  if (error instanceof CofaError) return error;
  return networkFailure(error, reply.url);
}

/** What a body has to bring in the mean, once `graceMs` have gone. */
export interface Pace {
  graceMs: number;
  bytesPerSecond: number;
}

/** Of documents and answers in words: a link that is slower is of no use, and a server that is slower holds its clients. */
const PACE: Pace = { graceMs: 15_000, bytesPerSecond: 8 * 1024 };

/**
 * The pieces of a body. The body's time limit is one between two pieces: a server that sends a byte a second keeps to it for
 * ever. Error `timeout` where the body is slower than its pace; `what` names it.
 */
export async function* paced(
  body: AsyncIterable<Buffer>,
  what: string,
  pace: Pace = PACE,
): AsyncGenerator<Buffer, void, undefined> {
  const begun = performance.now();
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    const elapsedMs = performance.now() - begun;
    if (elapsedMs > pace.graceMs && size < (elapsedMs / 1000) * pace.bytesPerSecond)
      throw new CofaError(
        'timeout',
        `${what} comes too slowly: ${size} bytes in ${Math.round(elapsedMs / 1000)} s`,
      );
    yield chunk;
  }
}

/**
 * Reads a whole body of at most `limit` bytes. `what` names it in errors; larger ones are `integrity` errors, and `timeout` those
 * that are slower than their pace.
 */
export async function readBody(
  reply: Pick<Reply, 'body' | 'headers' | 'url'>,
  limit: number,
  what: string,
  signal?: AbortSignal,
  pace?: Pace,
): Promise<Buffer> {
  const tooLarge = () =>
    new CofaError('integrity', `${what}: ${reply.url.host} sends more than ${limit} bytes`);
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    if (Number(header(reply, 'content-length') ?? 0) > limit) throw tooLarge();
    for await (const chunk of paced(reply.body, `${what} of ${reply.url.host}`, pace)) {
      size += chunk.length;
      if (size > limit) throw tooLarge();
      chunks.push(chunk);
    }
  } catch (error) {
    throw bodyFailure(error, reply, signal);
  } finally {
    reply.body.destroy();
  }
  return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, size);
}

/** The start of a body as text, for error messages; never throws. */
export async function readText(reply: Pick<Reply, 'body'>, limit = 16 * 1024, pace?: Pace): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of paced(reply.body, 'the message', pace)) {
      chunks.push(chunk);
      size += chunk.length;
      if (size >= limit) break;
    }
  } catch {
    // A message that is cut short is still worth showing.
  }
  return Buffer.concat(chunks).toString('utf8').slice(0, limit);
}

/** Reads a body to its end if the end is near, so that the connection can be used again. */
export async function discard(body: Readable): Promise<void> {
  await readText({ body });
  body.destroy();
}

/** The one value of a header; of repeated ones the first. */
export function header(reply: Pick<Reply, 'headers'>, name: string): string | undefined {
  const value = reply.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** Resolves a Location header; refuses addresses where it must not lead. */
export function resolveLocation(location: string, base: URL): URL {
  let url: URL;
  try {
    url = new URL(location, base);
  } catch (cause) {
    throw new CofaError(
      'unsupported',
      `${base.host} redirects to "${printable(location)}", which is no address`,
      {
        cause,
      },
    );
  }
  if (url.protocol !== 'https:' && url.protocol !== 'http:') {
    throw new CofaError(
      'unsupported',
      `${base.host} redirects to ${printable(url.protocol)}, not to http or https`,
    );
  }
  if (base.protocol === 'https:' && url.protocol === 'http:') {
    throw new CofaError('unsupported', `${base.host} redirects from https to http (${url.host}): refused`, {
      hint: 'a proxy before the registry has to tell it that it is reached by https (X-Forwarded-Proto)',
    });
  }
  // A user and password in the address are not used: only the origin and the path are.
  return url;
}

/** The connections to one origin. */
interface Lane {
  dispatcher: Dispatcher;
  fingerprint: string;
  /** A client's. */
  hasCertificate: boolean;
}

const laneKey = (url: URL, reach: Reach | undefined): string =>
  reach === undefined ? url.origin : `${url.origin} ${reach.key}`;

async function certificatesOf(url: URL, reach: Reach | undefined, settings: TransportSettings) {
  const certificates = await readCertificates(settings.certDirs, hostNames(url));
  if (reach !== undefined) await addCertificates(certificates, reach);
  return certificates;
}

async function openLane(url: URL, reach: Reach | undefined, settings: TransportSettings): Promise<Lane> {
  const { host, protocol, origin } = url;
  const proxy = proxyFor(url, settings.environment);
  const common = {
    connections: settings.connections,
    headersTimeout: settings.headersTimeoutMs,
    bodyTimeout: settings.bodyTimeoutMs,
    keepAliveTimeout: KEEP_ALIVE_MS,
    // Several connections carry more than one, and every registry that cofa was tested with speaks HTTP/1.1.
    allowH2: false,
  };
  let fingerprint = '';
  let hasCertificate = false;
  let security = {};
  if (protocol === 'https:') {
    const certificates = await certificatesOf(url, reach, settings);
    fingerprint = certificates.fingerprint;
    hasCertificate = certificates.clients.length > 0;
    const isUnchecked =
      reach?.skipVerify === true || hostNames(url).some((name) => settings.insecure.includes(name));
    security = { secureContext: secureContext(certificates), rejectUnauthorized: !isUnchecked };
  }
  const timeout = reach?.connectTimeoutMs ?? settings.connectTimeoutMs;
  if (proxy !== undefined) {
    const requestTls = { ...security, timeout };
    return { dispatcher: proxyAgent({ ...common, uri: proxy, requestTls }), fingerprint, hasCertificate };
  }
  const connect = { ...security, timeout, allowH2: false, lookup: nameLookups.lookup };
  if (host === '') throw new CofaError('invalid-argument', `${origin} has no host`);
  return { dispatcher: new Pool(origin, { ...common, connect }), fingerprint, hasCertificate };
}

/** How certs.d and the insecure list may spell an origin: with the port, and without it where it is the default one. */
function hostNames(url: URL): string[] {
  if (url.port !== '') return [url.host];
  return [url.host, `${url.host}:${url.protocol === 'https:' ? 443 : 80}`];
}

/** The proxy that the environment names for an address, by the conventions of curl; loopback is always direct. */
export function proxyFor(url: URL, environment: TransportSettings['environment']): string | undefined {
  if (isLoopback(url.host)) return undefined;
  const read = (name: string) => environment[name.toLowerCase()] || environment[name];
  const proxy = url.protocol === 'https:' ? read('HTTPS_PROXY') : read('HTTP_PROXY');
  if (proxy === undefined || proxy === '') return undefined;
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  for (const entry of (read('NO_PROXY') ?? '').toLowerCase().split(/[\s,]+/)) {
    if (entry === '*') return undefined;
    const [, name, onlyPort] = /^\*?\.?(.+?)(?::(\d+))?$/.exec(entry) ?? [];
    if (name === undefined || (onlyPort !== undefined && onlyPort !== port)) continue;
    if (url.hostname === name || url.hostname.endsWith(`.${name}`)) return undefined;
  }
  return proxy.includes('://') ? proxy : `http://${proxy}`;
}

function redirectTarget(reply: Pick<Reply, 'status' | 'headers'>, request: SendRequest): string | undefined {
  if (request.redirects === 'none') return undefined;
  const isRead = request.method === 'GET' || request.method === 'HEAD';
  // After a POST or PUT the other statuses turn the request into a GET, which a registry cannot mean (RFC 9110, 15.4).
  const followed = isRead ? [301, 302, 303, 307, 308] : [307, 308];
  return followed.includes(reply.status) ? header(reply, 'location') : undefined;
}
