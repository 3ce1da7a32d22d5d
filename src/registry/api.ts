/**
 * Requests to the API of a registry (OCI distribution-spec v1.1): where it is reached, as whom, and what a status
 * means. One call is one attempt, apart from the answer to a challenge; retry.ts repeats it.
 */
import { CofaError } from '../../schemas/errors.ts';
import { Authenticator, type Renewal, type Scope } from './auth.ts';
import { readCertificates } from './certificates.ts';
import type { CookieJar } from './cookies.ts';
import type { CredentialSources } from './credential-sources.ts';
import { RequestFailure, statusFailure } from './failure.ts';
import { isLoopback } from './reference.ts';
import {
  type Ambient,
  parseRetryAfter,
  type RetryContext,
  type RetrySettings,
  retrying,
  waitFor,
} from './retry.ts';
import { discard, header, readText, type Reply, Transport, type TransportSettings } from './transport.ts';

/** A repository and where it is. */
export interface Source {
  /** `HOST[:PORT]` */
  registry: string;
  repository: string;
}

/** Receives notes about requests; pino's loggers fit. No secret ever reaches it. */
export interface RegistryLog {
  debug(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface ApiRequest {
  registry: string;
  method: 'GET' | 'HEAD' | 'POST' | 'PUT';
  /** Path and query below the registry, or an address that the registry gave (an upload's Location, a next page). */
  target: string | URL;
  scope?: Scope | undefined;
  headers?: Record<string, string>;
  body?: Buffer | undefined;
  cookies?: CookieJar | undefined;
  /** As a client that has no credentials. */
  anonymous?: boolean;
  headersTimeoutMs?: number | undefined;
  /** Statuses that the caller handles (401 and 403 only after an answered challenge); others are thrown as failures. */
  expect: readonly number[];
  /** What the request is for, in words for errors: "blob sha256:…". */
  what: string;
  signal?: AbortSignal | undefined;
}

export interface ApiReply extends Reply {
  /** The answer was given to a request without credentials. */
  isAnonymous: boolean;
}

export interface ApiSettings {
  transport: TransportSettings;
  credentials: CredentialSources;
  retry: RetrySettings;
  ambient: Ambient;
  log: RegistryLog;
  /** Told of each token or password that was asked for. */
  onRenewal?: ((outcome: Renewal) => void) | undefined;
}

/** Refusals of one request that get an answer: each answer may be other credentials. */
const MAX_REFUSALS = 6;

export class RegistryApi {
  readonly settings: ApiSettings;
  readonly #transport: Transport;
  readonly #auth: Authenticator;
  readonly #anonymous: Authenticator;
  readonly #origins = new Map<string, Promise<URL>>();

  constructor(settings: ApiSettings) {
    this.settings = settings;
    this.#transport = new Transport(settings.transport);
    this.#auth = new Authenticator(
      this.#transport,
      settings.credentials,
      settings.ambient,
      settings.onRenewal,
    );
    const none = { ...settings.credentials, none: true };
    this.#anonymous = new Authenticator(this.#transport, none, settings.ambient);
  }

  /** Sends one request and answers the registry's challenge where it makes one. The reply has an expected status. */
  async request(request: ApiRequest): Promise<ApiReply> {
    const { registry, scope, signal, target } = request;
    const auth = request.anonymous === true ? this.#anonymous : this.#auth;
    const origin = await this.#origin(registry, signal);
    const url = typeof target === 'string' ? new URL(target, origin) : target;
    const send = (authorization: string | undefined) =>
      this.#transport.send({
        method: request.method,
        url,
        ...(request.headers === undefined ? {} : { headers: request.headers }),
        // An upload may continue on another host, which must not learn our credentials.
        authorization: url.origin === origin.origin ? authorization : undefined,
        body: request.body,
        cookies: request.cookies,
        headersTimeoutMs: request.headersTimeoutMs,
        signal,
      });
    let sent = await auth.current(registry, origin, scope, signal);
    let reply = await send(sent);
    for (const refused: Array<string | undefined> = []; refused.length < MAX_REFUSALS; ) {
      const isRefusal = reply.status === 401 || (reply.status === 403 && sent !== undefined);
      const isOurs = !reply.crossed && url.origin === origin.origin;
      if (!isRefusal || !isOurs || request.expect.includes(reply.status)) break;
      refused.push(sent);
      const { body } = reply;
      const better = await auth
        .renewed(registry, origin, scope, reply, refused, signal)
        .catch((error: unknown) => {
          body.destroy();
          throw error;
        });
      if (better === undefined) break;
      await discard(body);
      sent = better;
      reply = await send(better);
    }
    if (request.expect.includes(reply.status))
      return { ...reply, isAnonymous: auth.isAnonymous(registry, sent) };
    throw await this.#failure(request, reply, auth);
  }

  /** Requests an address from an earlier redirect, such as that of a blob on another host, without authorization. */
  async requestDirect(
    url: URL,
    headers: Record<string, string>,
    signal: AbortSignal | undefined,
  ): Promise<Reply> {
    return await this.#transport.send({ method: 'GET', url, headers, signal });
  }

  /** What `retrying` needs to repeat a request for `what`. */
  retryContext(what: string, signal: AbortSignal | undefined): RetryContext {
    const { retry, ambient, log } = this.settings;
    return {
      settings: retry,
      ambient,
      signal,
      onRetry: (failure, attempt, waitMs) =>
        log.debug(
          { what, attempt, waitMs, reason: failure.message },
          'registry request failed, trying again',
        ),
    };
  }

  /** Repeats `work` as the retry settings allow. */
  async retry<T>(what: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    return await retrying(this.retryContext(what, signal), work);
  }

  async close(): Promise<void> {
    await this.#transport.close();
  }

  async #failure(request: ApiRequest, reply: Reply, auth: Authenticator): Promise<RequestFailure> {
    const { status } = reply;
    const body = request.method === 'HEAD' ? '' : await readText(reply);
    reply.body.destroy();
    const refused = status === 401 || status === 403;
    const failure = statusFailure({
      status,
      host: reply.url.host,
      what: request.what,
      body,
      retryAfterMs: parseRetryAfter(header(reply, 'retry-after'), this.settings.ambient.now()),
      ...(refused && !reply.crossed ? { refused: auth.refusal(request.registry) } : {}),
    });
    if (!refused || !reply.crossed) return failure;
    // The registry sent us there with an address that was valid for a moment; a new one may be better.
    return new RequestFailure('unavailable', failure.message, { cause: failure, retryable: true, status });
  }

  /** The address of a registry: `https://HOST` or `http://HOST`. */
  #origin(registry: string, signal: AbortSignal | undefined): Promise<URL> {
    let origin = this.#origins.get(registry);
    if (origin === undefined) {
      origin = this.#findOrigin(registry);
      this.#origins.set(registry, origin);
      origin.catch(() => this.#origins.delete(registry));
    }
    return waitFor(origin, signal);
  }

  /**
   * Registries on loopback speak plain HTTP, all others HTTPS, as with docker. Where that is not certain (a loopback
   * registry with certificates, one that is listed as insecure) this tries HTTPS first, without any credentials.
   */
  async #findOrigin(registry: string): Promise<URL> {
    const { certDirs, insecure } = this.settings.transport;
    const https = parseOrigin('https', registry);
    const loopback = isLoopback(registry);
    const listed = insecure.includes(registry);
    if (!loopback && !listed) return https;
    const http = parseOrigin('http', registry);
    if (loopback && !listed) {
      const { fingerprint } = await readCertificates(certDirs, [registry]);
      if (fingerprint === '') return http;
    }
    try {
      const reply = await this.#transport.send({
        method: 'GET',
        url: new URL('/v2/', https),
        redirects: 'none',
      });
      reply.body.destroy();
      return https;
    } catch (error) {
      if (!(error instanceof RequestFailure)) throw error;
      const noTls = error.reason === 'plain-http' || (error.reason === 'refused' && https.port === '');
      if (!noTls) throw error;
      return http;
    }
  }
}

function parseOrigin(scheme: 'http' | 'https', registry: string): URL {
  try {
    return new URL(`${scheme}://${registry}`);
  } catch (cause) {
    throw new CofaError('invalid-argument', `"${registry}" is not the address of a registry`, { cause });
  }
}
