/**
 * Requests to the API of a registry (OCI distribution-spec v1.1): where it is asked, as whom, and what a status
 * means. One call is one attempt, apart from the answer to a challenge; retry.ts repeats it.
 */
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { Authenticator, type Renewal, type Scope } from './auth.ts';
import type { CookieJar } from './cookies.ts';
import type { CredentialSources } from './credential-sources.ts';
import { type Endpoint, Endpoints, urlAt } from './endpoints.ts';
import { isRetryableStatus, RequestFailure, statusFailure } from './failure.ts';
import type { Capability } from './hosts-toml.ts';
import {
  type Ambient,
  parseRetryAfter,
  type RetryContext,
  type RetrySettings,
  retrying,
  throwIfAborted,
} from './retry.ts';
import { discard, header, readText, type Reply, Transport, type TransportSettings } from './transport.ts';

/** A repository and where it is. */
export interface Source {
  /** Only the registry itself may answer, none of its mirrors: where the answer says who may read. */
  direct?: true;
  /** No reader waits for what is read. */
  isPrefetch?: boolean;
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
  /**
   * For others: no host is asked to which headers or a certificate of this machine's configuration open the door. Error
   * `unauthorized` where that would be asked next, a mirror or the registry.
   */
  asStranger?: boolean;
  /** Sent as it is, to the registry itself, in the place of what this client would send: the right of another client. */
  authorization?: string | undefined;
  headersTimeoutMs?: number | undefined;
  /**
   * What a host must be allowed to be asked for this, by hosts.toml; mirrors are asked only for requests that say it. Without it
   * the registry itself answers: whether an account has a right, uploads.
   */
  need?: readonly Capability[] | undefined;
  /** Statuses of a mirror that the caller takes; after any other the next host is asked. 200 and 206 by default. */
  mirrorExpect?: readonly number[];
  /** Statuses that the caller handles (401 and 403 only after an answered challenge); others are thrown as failures. */
  expect: readonly number[];
  /** What the request is for, in words for errors: "blob sha256:…". */
  what: string;
  signal?: AbortSignal | undefined;
}

export interface ApiReply extends Reply {
  /** The answer was given to a request without credentials. */
  isAnonymous: boolean;
  /** The mirror that gave it; undefined: the registry. */
  mirror: string | undefined;
}

export interface ApiSettings {
  transport: TransportSettings;
  /** Folders with `hosts.toml`s. */
  hostDirs: readonly string[];
  credentials: CredentialSources;
  retry: RetrySettings;
  ambient: Ambient;
  log: RegistryLog;
  /** Told of each token or password that was asked for. */
  onRenewal?: ((outcome: Renewal) => void) | undefined;
}

/** Refusals of one request that get an answer: each answer may be other credentials. */
const MAX_REFUSALS = 6;
const MIRROR_EXPECT: readonly number[] = [200, 206];

export class RegistryApi {
  readonly settings: ApiSettings;
  readonly #transport: Transport;
  readonly #auth: Authenticator;
  readonly #anonymous: Authenticator;
  readonly #endpoints: Endpoints;

  constructor(settings: ApiSettings) {
    this.settings = settings;
    this.#transport = new Transport(settings.transport);
    this.#endpoints = new Endpoints(this.#transport, settings);
    this.#auth = new Authenticator(
      this.#transport,
      settings.credentials,
      settings.ambient,
      settings.onRenewal,
    );
    const none = { ...settings.credentials, none: true };
    this.#anonymous = new Authenticator(this.#transport, none, settings.ambient);
  }

  /**
   * Sends one request, to the mirrors that may answer it and then to the registry, and answers challenges. The reply has an
   * expected status.
   */
  async request(request: ApiRequest): Promise<ApiReply> {
    const { registry, signal, need = [] } = request;
    const auth = this.#authOf(request);
    const answer = need.length === 0 ? undefined : await this.#ofMirrors(request, need);
    if (answer !== undefined) return answer;
    const endpoint = await this.#endpoints.ofRegistry(registry, need, signal);
    await this.#refuseStranger(request, endpoint);
    const { reply, sent } = await this.#ask(endpoint, request, auth);
    if (request.expect.includes(reply.status))
      return { ...reply, isAnonymous: auth.isAnonymous(endpoint.registry, sent), mirror: undefined };
    throw await this.#failure(request, reply, endpoint, auth);
  }

  /** A mirror sent bytes that are not what their digest says, or broke off: it is not asked for a while. */
  blame(mirror: string, reason: 'wrong' | 'broken'): void {
    const { health } = this.#endpoints;
    if (reason === 'wrong') health.lied(mirror);
    else if (!health.failed(mirror)) return;
    this.settings.log.warn({ mirror, reason }, 'a mirror is left out for a while');
  }

  /** What is wrong with mirrors at the moment, a sentence each. */
  leftOut(): string[] {
    return this.#endpoints.health.leftOut();
  }

  /** The answer of the first mirror that has one; undefined where none has. Error `unavailable` for an address of a mirror that has none. */
  async #ofMirrors(request: ApiRequest, need: readonly Capability[]): Promise<ApiReply | undefined> {
    const { registry, signal, target } = request;
    const { health } = this.#endpoints;
    const all = await this.#endpoints.mirrorsOf(registry, need);
    // An address that a host gave is that host's.
    const given = typeof target === 'string' ? undefined : target.origin;
    const mirrors = given === undefined ? all : all.filter(({ origin }) => origin.origin === given);
    const asked = String(target);
    for (const endpoint of mirrors) {
      const mirror = endpoint.origin.origin;
      if (!health.isAsked(mirror, asked)) continue;
      await this.#refuseStranger(request, endpoint);
      try {
        const { reply } = await this.#ask(endpoint, request, this.#authOf(request));
        if ((request.mirrorExpect ?? MIRROR_EXPECT).includes(reply.status)) {
          health.worked(mirror);
          // What a mirror gives to all is not for that public in the registry.
          return { ...reply, isAnonymous: false, mirror };
        }
        await discard(reply.body);
        if (isRetryableStatus(reply.status)) this.blame(mirror, 'broken');
        else health.lacks(mirror, asked);
      } catch (error) {
        throwIfAborted(signal);
        const { code, message } = toErrorRecord(error);
        this.settings.log.debug({ mirror, code, reason: message }, 'a mirror does not answer');
        if (code === 'unauthorized') health.lacks(mirror, asked);
        else this.blame(mirror, 'broken');
      }
    }
    // `given` is an address that this mirror has sent: no other host can go on with it.
    if (given !== undefined && mirrors.length > 0)
      throw new RequestFailure('unavailable', `the mirror ${given} does not go on with ${request.what}`);
    return undefined;
  }

  async #refuseStranger({ asStranger, signal }: ApiRequest, { origin, reach }: Endpoint): Promise<void> {
    // What is wrong with certificates the request itself says.
    const isPersonal = () => this.#transport.isPersonal(origin, reach, signal).catch(() => false);
    if (asStranger !== true || !(await isPersonal())) return;
    throw new CofaError(
      'unauthorized',
      `${origin.host} is asked with a certificate or headers of this machine: what it gives then is for no other one`,
    );
  }

  /** Sends one request to one host and answers its challenges, whatever the reply. */
  async #ask(
    endpoint: Endpoint,
    request: ApiRequest,
    auth: Authenticator,
  ): Promise<{ reply: Reply; sent: string | undefined }> {
    const { scope, signal, target } = request;
    const { registry, origin, reach } = endpoint;
    const url = typeof target === 'string' ? urlAt(endpoint, target) : target;
    const isOwn = url.origin === origin.origin;
    const send = (authorization: string | undefined) =>
      this.#transport.send({
        method: request.method,
        url,
        ...(request.headers === undefined ? {} : { headers: request.headers }),
        // An upload may continue on another host, which must not learn our credentials.
        authorization: isOwn ? authorization : undefined,
        reach: isOwn ? reach : undefined,
        body: request.body,
        cookies: request.cookies,
        headersTimeoutMs: request.headersTimeoutMs ?? endpoint.headersTimeoutMs,
        signal,
      });
    if (request.authorization !== undefined)
      return { reply: await send(request.authorization), sent: request.authorization };
    let sent = await auth.current(registry, origin, scope, signal);
    let reply = await send(sent);
    for (const refused: Array<string | undefined> = []; refused.length < MAX_REFUSALS; ) {
      const isRefusal = reply.status === 401 || (reply.status === 403 && sent !== undefined);
      if (!isRefusal || reply.crossed || !isOwn || request.expect.includes(reply.status)) break;
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
    return { reply, sent };
  }

  /** Requests an address from an earlier redirect, such as that of a blob on another host, without authorization. */
  async requestDirect(
    url: URL,
    headers: Record<string, string>,
    signal: AbortSignal | undefined,
  ): Promise<Reply> {
    return await this.#transport.send({ method: 'GET', url, headers, signal });
  }

  readonly #authOf = ({ anonymous }: ApiRequest): Authenticator =>
    anonymous === true ? this.#anonymous : this.#auth;

  /**
   * A token for reading the repository that may be handed to another client: one that the registry's token service gave for a
   * while. Undefined where none is known; a request to the registry may bring one.
   */
  async pullToken({ registry, repository }: Source, signal?: AbortSignal): Promise<string | undefined> {
    const endpoint = await this.#endpoints.ofRegistry(registry, ['pull'], signal);
    return this.#auth.handedOver(endpoint.registry, { repository, push: false });
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

  async #failure(
    request: ApiRequest,
    reply: Reply,
    endpoint: Endpoint,
    auth: Authenticator,
  ): Promise<RequestFailure> {
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
      ...(refused && !reply.crossed ? { refused: auth.refusal(endpoint.registry) } : {}),
    });
    if (!refused || !reply.crossed) return failure;
    // The registry sent us there with an address that was valid for a moment; a new one may be better.
    return new RequestFailure('unavailable', failure.message, { cause: failure, retryable: true, status });
  }
}
