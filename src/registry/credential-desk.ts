/**
 * The credentials that pulls brought to this node, and the kubelet's credential providers. The desk keeps the
 * credentials of a successful pull in memory, and in sealed memory that the service manager holds for the next
 * supervisor: a kubelet does not pull again what the node has, and its containers continue to read. It writes none to a
 * disk or a keyring, and the next boot forgets them. When a registry asks an engine's process who it is, the process asks the desk, on a unix socket
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
import { forgetKeyring } from '../kernel/keyring.ts';
import { hasServiceManager } from '../kernel/service-manager.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { type LocalHandler, serveLocal } from '../bus/local-socket.ts';
import { CredentialProviders, type ProviderSettings } from './credential-providers.ts';
import type { CredentialQuestion } from './credential-sources.ts';
import type { Credentials } from './credentials.ts';
import { type Keeper, KeptSecrets } from './kept-secrets.ts';

/** Accounts kept for one repository, the newest ones. */
const MOST_OF_ONE = 8;
/** Repositories kept; beyond, the desk forgets those whose last pull is longest ago. */
const MOST_REPOSITORIES = 2_000;

/** How long they are kept for later lives after the last pull with them, ms. */
const KEEP_MS = 30 * 86_400_000;

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

/** `at`: when a pull last succeeded with them, ms since the epoch. Repositories that were pulled last stand at the end. */
const KeptAccount = z.object({ at: z.number(), credentials: Offer.shape.credentials });
const KeptRepository = z.object({ ...Place, accounts: z.array(KeptAccount) });
const Kept = z.object({ v: z.literal(1), repositories: z.array(KeptRepository) });

export type CredentialOffer = z.output<typeof Offer>;
type Secrets = CredentialOffer['credentials'];

interface Account {
  credentials: Credentials;
  /** When a pull last succeeded with it, ms since the epoch; undefined: none has. */
  provenAt: number | undefined;
  /** Pulls that run with it. */
  pulls: Set<number>;
}

/** Returns a function that closes the desk. Errors: those of `CredentialProviders.load`. */
export async function openDesk(
  path: string,
  options: {
    providers: ProviderSettings | undefined;
    /** Name of the keyring in which cofa 0.1.0 has kept them. */
    oldKeyring: string;
    now: () => number;
    log: Logger;
  },
): Promise<() => void> {
  const { providers: settings, now, log, oldKeyring } = options;
  const ambient = { now, environment: process.env };
  const providers = settings && (await CredentialProviders.load(settings, ambient));
  try {
    // They are not taken over: containers could write there as well as read.
    if (forgetKeyring(oldKeyring)) log.info('credentials that cofa 0.1.0 left in a keyring are removed');
  } catch (error) {
    log.info({ error: toErrorRecord(error) }, 'no kernel keys, so none were left there');
  }
  const kept = hasServiceManager() ? new KeptSecrets('cofa-credentials') : undefined;
  if (kept === undefined)
    log.info('credentials of pulls are forgotten when the engine ends: no service manager holds them');
  return await new CredentialDesk({ providers, kept, now, log }).serve(path);
}

export class CredentialDesk {
  /** By repository, the one that was used last at the end; accounts best first. */
  readonly #accounts = new Map<string, Account[]>();
  readonly #providers: CredentialProviders | undefined;
  readonly #kept: Keeper | undefined;
  readonly #now: () => number;
  readonly #log: Logger;
  #lastPull = 0;

  constructor(options: {
    providers: CredentialProviders | undefined;
    /** Undefined: they are forgotten with this process. */
    kept: Keeper | undefined;
    /** ms since the epoch */
    now: () => number;
    log: Logger;
  }) {
    this.#providers = options.providers;
    this.#kept = options.kept;
    this.#now = options.now;
    this.#log = options.log;
    for (const { registry, repository, accounts } of keptOf(options.kept?.load())) {
      const good = accounts.filter(({ at }) => this.#isKept(at));
      const known = good.map(({ at, credentials }) => account(credentials, repository, at));
      if (known.length > 0) this.#accounts.set(`${registry}/${repository}`, known);
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
      mine = account(credentials, repository, undefined);
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
        account.provenAt = this.#now();
        this.#keep(key, [account, ...others]);
        this.#store();
      } else if (account.provenAt === undefined && account.pulls.size === 0) {
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

  /** Gives what pulls have succeeded with to the keeper, for the next supervisor; the newest ones where it is too much. */
  #store(): void {
    const kept = this.#kept;
    if (kept === undefined) return;
    const texts: string[] = [];
    let room = kept.most - 100;
    for (const [key, accounts] of [...this.#accounts].toReversed()) {
      const text = this.#textOf(key, accounts);
      if (text === undefined) continue;
      room -= Buffer.byteLength(text) + 1;
      if (room < 0) break;
      texts.push(text);
    }
    try {
      kept.save(Buffer.from(`{"v":1,"repositories":[${texts.toReversed().join(',')}]}`));
    } catch (error) {
      this.#log.warn({ error: toErrorRecord(error) }, 'credentials of pulls are not kept');
    }
  }

  /** A `KeptRepository`; undefined where there is nothing to keep. */
  #textOf(key: string, accounts: readonly Account[]): string | undefined {
    const slash = key.indexOf('/');
    const proven = accounts.flatMap(({ provenAt: at, credentials }) => {
      if (at === undefined || !this.#isKept(at)) return [];
      const { username, password, identityToken, registryToken } = credentials;
      return [{ at, credentials: { username, password, identityToken, registryToken } }];
    });
    if (proven.length === 0) return undefined;
    const place = { registry: key.slice(0, slash), repository: key.slice(slash + 1) };
    return JSON.stringify({ ...place, accounts: proven });
  }

  #isKept(at: number): boolean {
    return at > this.#now() - KEEP_MS;
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
    }
  }
}

function account(secrets: Secrets, repository: string, provenAt: number | undefined): Account {
  const { username, password, identityToken, registryToken } = secrets;
  const credentials = { username, password, identityToken, registryToken, source: 'a pull', repository };
  return { credentials, provenAt, pulls: new Set() };
}

/** None for bytes that this program did not write. */
function keptOf(bytes: Buffer | undefined): Array<z.output<typeof KeptRepository>> {
  if (bytes === undefined) return [];
  try {
    return Kept.parse(JSON.parse(bytes.toString())).repositories;
  } catch {
    return [];
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
