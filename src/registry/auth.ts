/**
 * Authorization for registries, by their challenge (RFC 9110; distribution's "Token Authentication Specification"
 * and "OAuth2 Token Authentication"):
 *
 *     request ──401, WWW-Authenticate──▶ Basic:  user and password from docker's configuration
 *                                        Bearer: a token of the named service for the scope, kept until it expires
 *
 * Nothing is sent before a registry asks for it. Credentials are read from the configuration each time a registry
 * refuses what it got, so a changed password takes effect at once.
 */
import { CofaError } from '../../schemas/errors.ts';
import { type Challenge, chooseChallenge } from './challenge.ts';
import { type CredentialSettings, type Credentials, readCredentials } from './credentials.ts';
import { RequestFailure, statusFailure } from './failure.ts';
import { isLoopback } from './reference.ts';
import { type Ambient, parseRetryAfter, waitFor } from './retry.ts';
import { discard, header, readBody, readText, type Reply, type Transport } from './transport.ts';

/** What a token has to allow. */
export interface Scope {
  repository: string;
  push: boolean;
}

/** A token service may lie on any host; without a limit one that hangs would hold everybody who waits for it. */
const TOKEN_TIMEOUT_MS = 60_000;
const MAX_TOKEN_ANSWER = 1024 * 1024;
const MAX_TOKENS = 256;
/** Lifetime of a token whose answer names none (Token Authentication Specification), in seconds. */
const DEFAULT_LIFETIME_S = 60;
/** No token is trusted to live longer than this without another look at the configuration. */
const MAX_LIFETIME_S = 3600;

interface Token {
  authorization: string;
  /** In ms since 1970, some seconds before it really ends. */
  expiresAt: number;
}

interface RegistryState {
  challenge: Challenge | undefined;
  basic: string | undefined;
  /** By scope, oldest first. */
  tokens: Map<string, Token>;
  /** Token requests under way, by scope: who comes later shares them. */
  pending: Map<string, Promise<Token>>;
  /** A refresh token that the service gave in exchange for the configured one. */
  refresh: { from: string; token: string } | undefined;
  /** Who we were at the last answer to a challenge. */
  who: string;
}

export class Authenticator {
  readonly #transport: Transport;
  readonly #credentials: CredentialSettings;
  readonly #ambient: Ambient;
  readonly #states = new Map<string, RegistryState>();

  constructor(transport: Transport, credentials: CredentialSettings, ambient: Ambient) {
    this.#transport = transport;
    this.#credentials = credentials;
    this.#ambient = ambient;
  }

  /**
   * The Authorization header to begin with, from what earlier answers taught; undefined for a registry that never
   * asked. `registry` is the name in references, `origin` where it is reached.
   */
  async current(
    registry: string,
    origin: URL,
    scope: Scope | undefined,
    signal?: AbortSignal,
  ): Promise<string | undefined> {
    const state = this.#state(registry);
    if (state.challenge?.scheme === 'basic') return state.basic;
    if (state.challenge?.scheme !== 'bearer') return undefined;
    const known = state.tokens.get(scopeText(scope));
    if (known !== undefined && known.expiresAt > this.#ambient.now()) return known.authorization;
    return (await this.#token(registry, state, state.challenge, origin, scope, signal)).authorization;
  }

  /**
   * The header to answer a refusal with; undefined where nothing better than `refused` can be had.
   * A reply without a challenge (some registries answer 403 to an expired token) is taken as the last one.
   */
  async renewed(
    registry: string,
    origin: URL,
    scope: Scope | undefined,
    reply: Pick<Reply, 'headers'>,
    refused: string | undefined,
    signal?: AbortSignal,
  ): Promise<string | undefined> {
    const state = this.#state(registry);
    const challenge = chooseChallenge(reply.headers['www-authenticate']) ?? state.challenge;
    if (challenge === undefined) return undefined;
    state.challenge = challenge;
    if (challenge.scheme === 'basic') {
      const credentials = await readCredentials(registry, this.#credentials, signal);
      state.who = whoIs(credentials);
      state.basic =
        credentials === undefined ? undefined : basicHeader(credentials.username, credentials.password);
      return state.basic === refused ? undefined : state.basic;
    }
    const key = scopeText(scope);
    const known = state.tokens.get(key);
    // Somebody else got a new one while this request was on its way with the old.
    if (known !== undefined && known.authorization !== refused && known.expiresAt > this.#ambient.now()) {
      return known.authorization;
    }
    state.tokens.delete(key);
    const token = await this.#token(registry, state, challenge, origin, scope, signal);
    return token.authorization === refused ? undefined : token.authorization;
  }

  /** Who was refused, and what to do, in words for an error message. */
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

  #state(registry: string): RegistryState {
    let state = this.#states.get(registry);
    if (state === undefined) {
      state = {
        challenge: undefined,
        basic: undefined,
        tokens: new Map(),
        pending: new Map(),
        refresh: undefined,
        who: '',
      };
      this.#states.set(registry, state);
    }
    return state;
  }

  #token(
    registry: string,
    state: RegistryState,
    challenge: Challenge & { scheme: 'bearer' },
    origin: URL,
    scope: Scope | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Token> {
    const key = scopeText(scope);
    let pending = state.pending.get(key);
    if (pending === undefined) {
      pending = this.#requestToken(registry, state, challenge, origin, key).finally(() =>
        state.pending.delete(key),
      );
      state.pending.set(key, pending);
      // Those who wait see the error; when all of them have left nobody does, and that is no crash.
      pending.catch(() => {});
    }
    return waitFor(pending, signal);
  }

  async #requestToken(
    registry: string,
    state: RegistryState,
    challenge: Challenge & { scheme: 'bearer' },
    origin: URL,
    scope: string,
  ): Promise<Token> {
    const realm = checkRealm(challenge.realm, origin);
    const signal = AbortSignal.timeout(TOKEN_TIMEOUT_MS);
    const credentials = await readCredentials(registry, this.#credentials, signal);
    state.who = whoIs(credentials);
    let token: Token;
    if (credentials?.registryToken !== undefined) {
      token = {
        authorization: bearerHeader(credentials.registryToken, realm.host),
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

  /** With an identity token by OAuth2's POST, else (and where the service knows no POST) by GET. */
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
        // The body is the secret: it must not travel on to wherever a redirect points.
        redirects: 'none',
        signal,
      });
      // Services without POST say so in various ways; those with a user name take the token as its password.
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
        // A service that calls a wrong password a bad request (OAuth2's invalid_grant) means the same.
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
    // Counted from now, not from the service's issued_at, whose clock may differ; a tenth is left for the way.
    const lasts = Math.min(seconds, MAX_LIFETIME_S) * 900;
    return { authorization: bearerHeader(text, host), expiresAt: this.#ambient.now() + lasts };
  }
}

const ANONYMOUS = 'without credentials';

/**
 * The address of the token service. Plain http, over which the password would go readable, is taken only from a
 * registry that is itself reached by plain http, or within this machine.
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
  // What does not fit a header line is no token (RFC 6750, 2.1), and could forge one.
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
