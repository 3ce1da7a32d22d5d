/**
 * Authorization for registries, by their challenge (RFC 9110; distribution's "Token Authentication Specification" and
 * "OAuth2 Token Authentication"):
 *
 *     request ──401, WWW-Authenticate──▶ Basic:  user and password from docker's configuration
 *                                        Bearer: a token of the named service for the scope, kept until it expires
 *
 * No credentials are sent before a registry asks for them. Each refusal looks for credentials again
 * (credential-sources.ts), so a changed password takes effect at once. Where several are known, they are tried one
 * after the other.
 */
import { CofaError } from '../../schemas/errors.ts';
import { type Challenge, chooseChallenge } from './challenge.ts';
import { type CredentialSources, findCredentials } from './credential-sources.ts';
import type { Credentials } from './credentials.ts';
import { RequestFailure, statusFailure } from './failure.ts';
import { shapeProblem } from './json-shape.ts';
import { isLoopback } from './reference.ts';
import { type Ambient, parseRetryAfter, waitFor } from './retry.ts';
import { discard, header, readBody, readText, type Reply, type Transport } from './transport.ts';

/** The rights that a token must give. */
export interface Scope {
  repository: string;
  push: boolean;
}

/**
 * A token service may lie on any host. Without a limit a service that hangs would hold every request that waits for it.
 */
const TOKEN_TIMEOUT_MS = 60_000;
const MAX_TOKEN_ANSWER = 1024 * 1024;
const MAX_TOKENS = 256;
/** Lifetime of a token whose answer names none (Token Authentication Specification), in seconds. */
const DEFAULT_LIFETIME_S = 60;
/** After this time a token is renewed, and the configuration read again, even if the token claims to live longer. */
const MAX_LIFETIME_S = 3600;

interface Token {
  authorization: string;
  /** It was had without credentials. */
  isAnonymous: boolean;
  /** In ms since 1970, some seconds before it really ends. */
  expiresAt: number;
}

interface RegistryState {
  challenge: Challenge | undefined;
  /** By repository; those for the whole registry under the empty name. */
  basic: Map<string, string>;
  /** By scope, oldest first. */
  tokens: Map<string, Token>;
  /** Token requests in flight, by scope and number of skipped credentials: later callers share them. */
  pending: Map<string, Promise<Token | undefined>>;
  /** A refresh token that the service gave in exchange for the configured one. */
  refresh: { from: string; token: string } | undefined;
  /** The account of the last answer to a challenge. */
  who: string;
}

/** How asking for a token or a password ended; `refused`: there is no other one. */
export type Renewal = 'done' | 'refused' | 'failed';

/** A token that is handed over is valid for so long at least, ms. */
const HAND_OVER_MS = 5_000;

export class Authenticator {
  readonly #transport: Transport;
  readonly #sources: CredentialSources;
  readonly #ambient: Ambient;
  readonly #onRenewal: ((outcome: Renewal) => void) | undefined;
  readonly #states = new Map<string, RegistryState>();

  constructor(
    transport: Transport,
    sources: CredentialSources,
    ambient: Ambient,
    onRenewal?: (outcome: Renewal) => void,
  ) {
    this.#onRenewal = onRenewal;
    this.#transport = transport;
    this.#sources = sources;
    this.#ambient = ambient;
  }

  /**
   * The Authorization header to begin with, as earlier answers taught; undefined for a registry that never asked.
   * `registry` is the name in references, `origin` its address.
   */
  async current(
    registry: string,
    origin: URL,
    scope: Scope | undefined,
    signal?: AbortSignal,
  ): Promise<string | undefined> {
    const state = this.#state(registry);
    if (state.challenge?.scheme === 'basic')
      return state.basic.get(scope?.repository ?? '') ?? state.basic.get('');
    if (state.challenge?.scheme !== 'bearer') return undefined;
    const known = state.tokens.get(scopeText(scope));
    if (known !== undefined && known.expiresAt > this.#ambient.now()) return known.authorization;
    return (await this.#token(registry, state, state.challenge, origin, scope, 0, signal))?.authorization;
  }

  /**
   * The header with which to answer a refusal; undefined where no better one is to be had. `refused`: the headers sent
   * for this request so far, undefined for a request without authorization. A reply without a challenge (some
   * registries answer 403 to an expired token) counts as the last challenge.
   */
  async renewed(
    registry: string,
    origin: URL,
    scope: Scope | undefined,
    reply: Pick<Reply, 'headers'>,
    refused: ReadonlyArray<string | undefined>,
    signal?: AbortSignal,
  ): Promise<string | undefined> {
    const state = this.#state(registry);
    const challenge = chooseChallenge(reply.headers['www-authenticate']) ?? state.challenge;
    if (challenge === undefined) return undefined;
    state.challenge = challenge;
    if (challenge.scheme === 'basic')
      return await this.#told(this.#basic(registry, state, scope, refused, signal));
    const key = scopeText(scope);
    const known = state.tokens.get(key);
    // Another request got a new one while this request was on its way with the old.
    if (
      known !== undefined &&
      !refused.includes(known.authorization) &&
      known.expiresAt > this.#ambient.now()
    ) {
      return known.authorization;
    }
    state.tokens.delete(key);
    // The first refusal may only mean that a token has expired. A refused new one means that its owner lacks the right.
    const skip = refused.length - 1;
    const token = await this.#token(registry, state, challenge, origin, scope, skip, signal);
    return token === undefined || refused.includes(token.authorization) ? undefined : token.authorization;
  }

  /** Whether a header that was sent shows no account. */
  isAnonymous(registry: string, sent: string | undefined): boolean {
    if (sent === undefined) return true;
    for (const { authorization, isAnonymous } of this.#state(registry).tokens.values())
      if (authorization === sent) return isAnonymous;
    return false;
  }

  /**
   * A token as it stands behind `Bearer`, that a token service gave for this scope and that is valid for a moment yet. No password,
   * and no token that the node's operator configured, which would be valid for long and for more.
   */
  handedOver(registry: string, scope: Scope): string | undefined {
    const known = this.#state(registry).tokens.get(scopeText(scope));
    if (known === undefined || known.expiresAt < this.#ambient.now() + HAND_OVER_MS) return undefined;
    return /^Bearer (.+)$/.exec(known.authorization)?.[1];
  }

  /** Which account was refused, and what to do, in words for an error message. */
  refusal(registry: string): { who: string; hint: string } {
    const { who } = this.#state(registry);
    const name = registry === 'registry-1.docker.io' ? '' : ` ${registry}`;
    return {
      who: who === '' ? '' : `(asked ${who})`,
      hint:
        who === '' || who === ANONYMOUS
          ? `log in: docker login${name}; or the repository does not exist`
          : `log in again: docker login${name}; or the account lacks the right, or the repository does not exist`,
    };
  }

  /** Passes `asked` on, and tells how it ended. */
  async #told<T>(asked: Promise<T | undefined>): Promise<T | undefined> {
    try {
      const found = await asked;
      this.#onRenewal?.(found === undefined ? 'refused' : 'done');
      return found;
    } catch (error) {
      this.#onRenewal?.('failed');
      throw error;
    }
  }

  #state(registry: string): RegistryState {
    let state = this.#states.get(registry);
    if (state === undefined) {
      state = {
        challenge: undefined,
        basic: new Map(),
        tokens: new Map(),
        pending: new Map(),
        refresh: undefined,
        who: '',
      };
      this.#states.set(registry, state);
    }
    return state;
  }

  async #basic(
    registry: string,
    state: RegistryState,
    scope: Scope | undefined,
    refused: ReadonlyArray<string | undefined>,
    signal: AbortSignal | undefined,
  ): Promise<string | undefined> {
    const isRefused = refused.some((one) => one !== undefined);
    const question = { registry, repository: scope?.repository, isRefused };
    const found = await findCredentials(question, this.#sources, signal);
    if (!isRefused) state.who = whoIs(undefined);
    for (const credentials of found) {
      const header = basicHeader(credentials.username, credentials.password);
      if (refused.includes(header)) continue;
      state.who = whoIs(credentials);
      state.basic.delete(credentials.repository ?? '');
      state.basic.set(credentials.repository ?? '', header);
      if (state.basic.size > MAX_TOKENS) state.basic.delete(state.basic.keys().next().value as string);
      return header;
    }
    // Credentials that no source gives any more are not sent again.
    const given = new Set(found.map(({ username, password }) => basicHeader(username, password)));
    for (const name of [scope?.repository ?? '', '']) {
      const header = state.basic.get(name);
      if (header !== undefined && refused.includes(header) && !given.has(header)) state.basic.delete(name);
    }
    return undefined;
  }

  /** `skip`: number of credentials to skip. Undefined where there are no others. */
  #token(
    registry: string,
    state: RegistryState,
    challenge: Challenge & { scheme: 'bearer' },
    origin: URL,
    scope: Scope | undefined,
    skip: number,
    signal: AbortSignal | undefined,
  ): Promise<Token | undefined> {
    const key = `${skip} ${scopeText(scope)}`;
    let pending = state.pending.get(key);
    if (pending === undefined) {
      const asked = this.#told(this.#requestToken(registry, state, challenge, origin, scope, skip));
      pending = asked.finally(() => state.pending.delete(key));
      state.pending.set(key, pending);
      // Waiting callers see the error. When all of them have left, its rejection must not crash the process.
      pending.catch(() => {});
    }
    return waitFor(pending, signal);
  }

  async #requestToken(
    registry: string,
    state: RegistryState,
    challenge: Challenge & { scheme: 'bearer' },
    origin: URL,
    scope: Scope | undefined,
    skip: number,
  ): Promise<Token | undefined> {
    const realm = checkRealm(challenge.realm, origin);
    const signal = AbortSignal.timeout(TOKEN_TIMEOUT_MS);
    const question = { registry, repository: scope?.repository };
    const tried = new Set<string>();
    let refusal: unknown;
    for (const isRefused of [false, true]) {
      const found = await findCredentials({ ...question, isRefused }, this.#sources, signal);
      const candidates = found.length === 0 ? [undefined] : found;
      for (const credentials of candidates.slice(isRefused ? 0 : skip)) {
        const secret = JSON.stringify(credentials ?? null);
        if (tried.has(secret)) continue;
        tried.add(secret);
        state.who = whoIs(credentials);
        try {
          return await this.#tokenFor(credentials, {
            state,
            realm,
            challenge,
            scope: scopeText(scope),
            signal,
          });
        } catch (error) {
          // The token service does not accept these.
          if (!(error instanceof CofaError && error.code === 'unauthorized')) throw error;
          refusal ??= error;
        }
      }
      // The skipped ones have given a token; looking again helps only where none did.
      if (refusal === undefined) return undefined;
    }
    throw refusal;
  }

  async #tokenFor(
    credentials: Credentials | undefined,
    order: {
      state: RegistryState;
      realm: URL;
      challenge: Challenge & { scheme: 'bearer' };
      scope: string;
      signal: AbortSignal;
    },
  ): Promise<Token> {
    const { state, realm, challenge, scope, signal } = order;
    let token: Token;
    if (credentials?.registryToken !== undefined) {
      token = {
        authorization: bearerHeader(credentials.registryToken, realm.host),
        isAnonymous: false,
        expiresAt: this.#ambient.now(),
      };
    } else {
      const reply = await this.#askService(realm, state, challenge.service, scope, credentials, signal);
      token = await this.#readToken(reply, state, credentials, signal);
    }
    state.tokens.delete(scope);
    state.tokens.set(scope, token);
    if (state.tokens.size > MAX_TOKENS) state.tokens.delete(state.tokens.keys().next().value as string);
    return token;
  }

  /** With an identity token by OAuth2's POST; without one, and where the service knows no POST, by GET. */
  async #askService(
    realm: URL,
    state: RegistryState,
    service: string | undefined,
    scope: string,
    credentials: Credentials | undefined,
    signal: AbortSignal,
  ): Promise<Reply> {
    const identity = credentials?.identityToken;
    if (identity !== undefined) {
      const refresh = state.refresh?.from === identity ? state.refresh.token : identity;
      const reply = await this.#transport.send({
        method: 'POST',
        url: realm,
        headers: { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' },
        body: Buffer.from(
          new URLSearchParams({
            grant_type: 'refresh_token',
            refresh_token: refresh,
            client_id: 'cofa',
            ...(service === undefined ? {} : { service }),
            ...(scope === '' ? {} : { scope }),
          }).toString(),
        ),
        // The body is the secret: it must not follow a redirect.
        redirects: 'none',
        signal,
      });
      // Services without POST say so in various ways; the password of those with a user name is the token.
      const noPost = [401, 404, 405, 501].includes(reply.status);
      if (!noPost || credentials === undefined || credentials.username === '') return reply;
      await discard(reply.body);
    }
    const url = new URL(realm);
    if (service !== undefined) url.searchParams.append('service', service);
    if (scope !== '') url.searchParams.append('scope', scope);
    let authorization: string | undefined;
    if (credentials !== undefined && credentials.username !== '') {
      url.searchParams.append('account', credentials.username);
      authorization = basicHeader(credentials.username, identity ?? credentials.password);
    }
    return await this.#transport.send({
      method: 'GET',
      url,
      headers: { accept: 'application/json' },
      authorization,
      signal,
    });
  }

  async #readToken(
    reply: Reply,
    state: RegistryState,
    credentials: Credentials | undefined,
    signal: AbortSignal,
  ): Promise<Token> {
    const { host } = reply.url;
    const what = 'a token';
    if (reply.status !== 200) {
      const now = this.#ambient.now();
      throw statusFailure({
        // A service that calls a wrong password a bad request (OAuth2's invalid_grant) means the same as 401.
        status: reply.status === 400 && credentials !== undefined ? 401 : reply.status,
        host,
        what,
        body: await readText(reply),
        retryAfterMs: parseRetryAfter(header(reply, 'retry-after'), now),
        refused: {
          who: `(asked ${state.who})`,
          hint: 'check user and password: docker login REGISTRY',
        },
      });
    }
    const body = await readBody(reply, MAX_TOKEN_ANSWER, `the token of ${host}`, signal);
    const problem = shapeProblem(body);
    if (problem !== undefined)
      throw new RequestFailure(
        'unsupported',
        `the answer of the token service ${host} is not read: ${problem}`,
      );
    let answer: Record<string, unknown>;
    try {
      answer = JSON.parse(body.toString('utf8')) as Record<string, unknown>;
    } catch {
      // The parser's message would quote the token.
      throw new RequestFailure('unsupported', `the token service ${host} answers something that is not JSON`);
    }
    const text = answer?.['token'] || answer?.['access_token'];
    if (typeof text !== 'string')
      throw new RequestFailure('unsupported', `the answer of the token service ${host} has no token`);
    const { expires_in: lifetime, refresh_token: refresh } = answer;
    if (typeof refresh === 'string' && credentials?.identityToken !== undefined) {
      state.refresh = { from: credentials.identityToken, token: refresh };
    }
    const seconds = typeof lifetime === 'number' && lifetime > 0 ? lifetime : DEFAULT_LIFETIME_S;
    // Counted from now, not from the service's issued_at, whose clock may differ; a tenth is left for the transfer.
    const lasts = Math.min(seconds, MAX_LIFETIME_S) * 900;
    const authorization = bearerHeader(text, host);
    const isAnonymous = credentials === undefined;
    return { authorization, isAnonymous, expiresAt: this.#ambient.now() + lasts };
  }
}

const ANONYMOUS = 'without credentials';

/**
 * The address of the token service. Over plain http the password would be readable, so this takes a plain address only
 * from a registry that itself speaks plain http, or within this machine.
 */
function checkRealm(realm: string, origin: URL): URL {
  let url: URL;
  try {
    url = new URL(realm);
  } catch (cause) {
    throw new CofaError('unsupported', `${origin.host} names a token service that is no address`, { cause });
  }
  const allowed =
    url.protocol === 'https:' ||
    (url.protocol === 'http:' &&
      (origin.protocol === 'http:' || (isLoopback(origin.host) && isLoopback(url.host))));
  if (!allowed) {
    throw new CofaError(
      'unsupported',
      `${origin.host} names the token service ${url.host}, which is not on https: refused`,
      {
        hint: 'a password sent there could be read on the way; the registry has to name an https address',
      },
    );
  }
  return url;
}

function scopeText(scope: Scope | undefined): string {
  return scope === undefined ? '' : `repository:${scope.repository}:${scope.push ? 'pull,push' : 'pull'}`;
}

function basicHeader(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`, 'utf8').toString('base64')}`;
}

function bearerHeader(token: string, host: string): string {
  // A text that does not fit a header line is no token (RFC 6750, 2.1), and could forge one.
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new RequestFailure('unsupported', `the token of ${host} has characters that a token cannot have`);
  }
  return `Bearer ${token}`;
}

function whoIs(credentials: Credentials | undefined): string {
  if (credentials === undefined) return ANONYMOUS;
  const { username, source } = credentials;
  return username === '' ? `with the token from ${source}` : `as ${JSON.stringify(username)} from ${source}`;
}
