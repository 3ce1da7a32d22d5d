/**
 * The credentials that pulls brought to this node, and the kubelet's credential providers. The desk keeps the
 * credentials of a successful pull in memory, and in root's keyring in the kernel for the next supervisor: a kubelet
 * does not pull again what the node has, and its containers continue to read. It writes none to a disk, and the next
 * boot forgets them. When a registry asks an engine's process who it is, the process asks the desk, on a unix socket
 * for root alone (src/registry/credential-sources.ts).
 *
 *     offer   {"registry","repository","credentials"}  → {"pull": id}   a pull begins with these
 *     settle  {"pull", "isPulled"}                      → {}             it has ended
 *     find    {"registry","repository","isRefused"}     → [credentials]
 *
 * Credentials of a successful pull count as right for its repository, and are tried first from then on. While a pull
 * runs its credentials are tried after those; when it fails the desk forgets them, unless it knew them before.
 */
import type { Logger } from 'pino';
import { z } from 'zod';
import { Keyring } from '../kernel/keyring.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { type LocalHandler, serveLocal } from '../bus/local-socket.ts';
import { CredentialProviders, type ProviderSettings } from './credential-providers.ts';
import type { CredentialQuestion } from './credential-sources.ts';
import type { Credentials } from './credentials.ts';

/** Accounts kept for one repository, the newest ones. */
const MOST_OF_ONE = 8;
/** Repositories kept; beyond, the desk forgets those whose last pull is longest ago. */
const MOST_REPOSITORIES = 2_000;

/** Time in the kernel's keyring after the last pull with them, seconds. */
const KEEP_S = 30 * 86_400;

const secret = z.string().max(16_384);
const Place = { registry: z.string().min(1).max(300), repository: z.string().min(1).max(300) };
const Offer = z.strictObject({
  ...Place,
  credentials: z.strictObject({
    username: secret,
    password: secret,
    identityToken: secret.optional(),
    registryToken: secret.optional(),
  }),
});
const Settle = z.strictObject({ pull: z.int(), isPulled: z.boolean() });
const Find = z.strictObject({
  registry: Place.registry,
  repository: Place.repository.optional(),
  isRefused: z.boolean(),
});

const Kept = z.object({ ...Place, accounts: z.array(Offer.shape.credentials) });

export type CredentialOffer = z.output<typeof Offer>;
type Secrets = CredentialOffer['credentials'];

interface Account {
  credentials: Credentials;
  /** A pull has succeeded with it. */
  isProven: boolean;
  /** Pulls that run with it. */
  pulls: Set<number>;
}

/** Returns a function that closes the desk. Errors: those of `CredentialProviders.load`. */
export async function openDesk(
  path: string,
  options: {
    providers: ProviderSettings | undefined;
    /** Name of the kernel's keyring that has what earlier engines of this root learned from pulls. */
    keyring: string;
    now: () => number;
    log: Logger;
  },
): Promise<() => void> {
  const { providers: settings, now, log, keyring } = options;
  const ambient = { now, environment: process.env };
  const providers = settings && (await CredentialProviders.load(settings, ambient));
  let kept: Keyring | undefined;
  try {
    kept = Keyring.open(keyring);
  } catch (error) {
    log.warn(
      { error: toErrorRecord(error) },
      'credentials of pulls are forgotten when the engine ends: no kernel keys',
    );
  }
  return await new CredentialDesk({ providers, kept, log }).serve(path);
}

/** Where the accounts of repositories outlive the supervisor. */
export type Keeper = Pick<Keyring, 'put' | 'remove' | 'all'>;

export class CredentialDesk {
  /** By repository, the one that was used last at the end; accounts best first. */
  readonly #accounts = new Map<string, Account[]>();
  readonly #providers: CredentialProviders | undefined;
  readonly #kept: Keeper | undefined;
  readonly #log: Logger;
  #lastPull = 0;

  constructor(options: {
    providers: CredentialProviders | undefined;
    kept: Keeper | undefined;
    log: Logger;
  }) {
    this.#providers = options.providers;
    this.#kept = options.kept;
    this.#log = options.log;
    for (const bytes of options.kept?.all() ?? []) {
      const data = keptOf(bytes);
      if (data === undefined) continue;
      const accounts = data.accounts.map((one) => account(one, data.repository, true));
      this.#accounts.set(`${data.registry}/${data.repository}`, accounts);
    }
  }

  /** Serves until the returned function is called. */
  async serve(path: string): Promise<() => void> {
    const handlers: Record<string, LocalHandler> = {
      offer: (request) => ({ pull: this.offer(parse(Offer, request)) }),
      settle: (request) => this.settle(parse(Settle, request)),
      find: (request) => this.find(parse(Find, request)),
    };
    const server = await serveLocal(path, handlers);
    return () => void server.close();
  }

  /** Returns the number of the pull, for `settle`. */
  offer({ registry, repository, credentials }: CredentialOffer): number {
    const key = `${registry}/${repository}`;
    const accounts = this.#accounts.get(key) ?? [];
    let mine = accounts.find((one) => isSame(one.credentials, credentials));
    if (mine === undefined) {
      mine = account(credentials, repository, false);
      accounts.push(mine);
    }
    const pull = ++this.#lastPull;
    mine.pulls.add(pull);
    this.#keep(key, accounts);
    return pull;
  }

  settle({ pull, isPulled }: z.output<typeof Settle>): void {
    for (const [key, accounts] of this.#accounts) {
      const account = accounts.find(({ pulls }) => pulls.has(pull));
      if (account === undefined) continue;
      account.pulls.delete(pull);
      const others = accounts.filter((one) => one !== account);
      if (isPulled) {
        account.isProven = true;
        this.#keep(key, [account, ...others]);
        this.#store(key);
      } else if (!account.isProven && account.pulls.size === 0) {
        this.#keep(key, others);
      }
      return;
    }
  }

  async find(question: CredentialQuestion): Promise<Credentials[]> {
    const { registry, repository } = question;
    const accounts = repository === undefined ? [] : (this.#accounts.get(`${registry}/${repository}`) ?? []);
    const known = accounts.map(({ credentials }) => credentials);
    const provided = await this.#providers?.find(question, (error) => {
      this.#log.warn({ error: toErrorRecord(error) }, 'a credential provider failed');
    });
    return [...known, ...(provided ?? [])];
  }

  /** Writes the repository's accounts to the keyring, for the next supervisor. */
  #store(key: string): void {
    const accounts = (this.#accounts.get(key) ?? []).filter(({ isProven }) => isProven);
    const slash = key.indexOf('/');
    const secrets = accounts.map(({ credentials: { username, password, identityToken, registryToken } }) => ({
      username,
      password,
      identityToken,
      registryToken,
    }));
    const kept = { registry: key.slice(0, slash), repository: key.slice(slash + 1), accounts: secrets };
    try {
      this.#kept?.put(key, Buffer.from(JSON.stringify(kept)), KEEP_S);
    } catch (error) {
      this.#log.warn({ error: toErrorRecord(error), repository: key }, 'credentials of a pull are not kept');
    }
  }

  #keep(key: string, accounts: Account[]): void {
    this.#accounts.delete(key);
    if (accounts.length === 0) return;
    // Drops the least useful: those at the end that no running pull uses.
    const kept = accounts.filter((one, at) => at < MOST_OF_ONE || one.pulls.size > 0);
    this.#accounts.set(key, kept);
    if (this.#accounts.size > MOST_REPOSITORIES) {
      const oldest = this.#accounts.keys().next().value as string;
      this.#accounts.delete(oldest);
      this.#kept?.remove(oldest);
    }
  }
}

function account(secrets: Secrets, repository: string, isProven: boolean): Account {
  const { username, password, identityToken, registryToken } = secrets;
  const credentials = { username, password, identityToken, registryToken, source: 'a pull', repository };
  return { credentials, isProven, pulls: new Set() };
}

/** Undefined for bytes that this program did not write. */
function keptOf(bytes: Buffer): z.output<typeof Kept> | undefined {
  try {
    return Kept.parse(JSON.parse(bytes.toString()));
  } catch {
    return undefined;
  }
}

const isSame = (a: Credentials, b: Secrets): boolean =>
  a.username === b.username &&
  a.password === b.password &&
  a.identityToken === b.identityToken &&
  a.registryToken === b.registryToken;

/** The schema's message would quote the request; its path is enough. */
function parse<T extends z.ZodType>(schema: T, request: unknown): z.output<T> {
  const { data, error } = schema.safeParse(request);
  if (error === undefined) return data as z.output<T>;
  const path = error.issues[0]?.path.join('.') ?? '';
  throw new CofaError(
    'invalid-argument',
    `the request is not as it should be${path === '' ? '' : `: ${path}`}`,
  );
}
