/**
 * The kubelet's credential provider plugins (Kubernetes, "Configure a kubelet image credential provider"), run by the
 * engine itself. A plugin is a program that gets an image's name and answers with credentials, such as those of a
 * cloud's registry, which are valid for some hours. The configuration is the very file that the kubelet reads.
 *
 *     question   {"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"…"}
 *     answer     {"kind":"CredentialProviderResponse", …, "cacheKeyType":"Registry","cacheDuration":"6h",
 *                 "auth":{"*.example.com":{"username":"…","password":"…"}}}
 *
 * The engine keeps an answer in memory for as long as the plugin says, and asks again when a registry refuses it.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import type { Credentials } from './credentials.ts';
import type { CredentialQuestion } from './credential-sources.ts';
import { runHelper } from './helper-process.ts';
import { parseYaml, type YamlValue } from './yaml.ts';

export interface ProviderSettings {
  /** The kubelet's `--image-credential-provider-config`. */
  config: string;
  /** The kubelet's `--image-credential-provider-bin-dir`. */
  programs: string;
}

interface Provider {
  name: string;
  matchImages: string[];
  apiVersion: string;
  args: string[];
  env: Array<[string, string]>;
  defaultCacheMs: number;
}

interface Answer {
  auth: Array<{ pattern: string; username: string; password: string }>;
  /** ms since 1970. */
  until: number;
  askedAt: number;
}

/** A program has this long, ms, as with the kubelet. */
const PROGRAM_MS = 60_000;
/** An answer this young, ms, is not requested again although a registry refused it: the new one would be the same. */
const YOUNG_MS = 5_000;
const MOST_ANSWERS = 1_000;
const API = /^credentialprovider\.kubelet\.k8s\.io\/v1(?:alpha1|beta1)?$/;

export class CredentialProviders {
  readonly #providers: readonly Provider[];
  readonly #programs: string;
  readonly #now: () => number;
  readonly #environment: Readonly<Record<string, string | undefined>>;
  /** By provider, and by the range of images for which the answer says that it holds. */
  readonly #answers = new Map<string, Answer>();
  readonly #asked = new Map<string, Promise<Answer>>();

  constructor(
    providers: readonly Provider[],
    programs: string,
    options: { now: () => number; environment: Readonly<Record<string, string | undefined>> },
  ) {
    this.#providers = providers;
    this.#programs = programs;
    this.#now = options.now;
    this.#environment = options.environment;
  }

  /**
   * Errors: `invalid-argument` for a file that cannot be read or used, `unsupported` for what only a kubelet can do.
   */
  static async load(
    { config, programs }: ProviderSettings,
    options: { now: () => number; environment: Readonly<Record<string, string | undefined>> },
  ): Promise<CredentialProviders> {
    const text = await readFile(config, 'utf8').catch((cause: unknown) => {
      const { code } = cause as NodeJS.ErrnoException;
      throw new CofaError('invalid-argument', `${config} cannot be read (${code})`, { cause });
    });
    return new CredentialProviders(providersOf(await parseYaml(text, config), config), programs, options);
  }

  /**
   * The credentials of the providers that match an image. Reports failures to `onFailure`: the other providers still
   * count.
   */
  async find(
    { registry, repository, isRefused }: CredentialQuestion,
    onFailure: (error: CofaError) => void,
  ): Promise<Credentials[]> {
    if (repository === undefined) return [];
    const image = `${registry === 'registry-1.docker.io' ? 'docker.io' : registry}/${repository}`;
    const mine = this.#providers.filter(({ matchImages }) =>
      matchImages.some((one) => matchesImage(one, image)),
    );
    const found = await Promise.all(
      mine.map((provider) =>
        this.#answerOf(provider, image, isRefused).catch((error: unknown) => {
          onFailure(error as CofaError);
        }),
      ),
    );
    return found.flatMap((answer, at) => {
      // The longest pattern counts, as with the kubelet.
      const auth = answer?.auth.filter(({ pattern }) => matchesImage(pattern, image)) ?? [];
      const { name } = mine[at] as Provider;
      return auth
        .toSorted((a, b) => (a.pattern < b.pattern ? 1 : -1))
        .map(({ username, password }) => ({
          username,
          password,
          identityToken: undefined,
          registryToken: undefined,
          source: `the credential provider ${name}`,
          repository,
        }));
    });
  }

  async #answerOf(provider: Provider, image: string, isRefused: boolean): Promise<Answer> {
    const host = image.slice(0, image.indexOf('/'));
    const now = this.#now();
    for (const key of [image, host, '']) {
      const known = this.#answers.get(`${provider.name} ${key}`);
      const isGood =
        known !== undefined && known.until > now && (!isRefused || now - known.askedAt < YOUNG_MS);
      if (isGood) return known;
    }
    const key = `${provider.name} ${image}`;
    let asked = this.#asked.get(key);
    if (asked === undefined) {
      asked = this.#ask(provider, image, host).finally(() => this.#asked.delete(key));
      this.#asked.set(key, asked);
    }
    return await asked;
  }

  async #ask(provider: Provider, image: string, host: string): Promise<Answer> {
    const fail = (why: string) =>
      new CofaError('unauthorized', `the credential provider ${provider.name} ${why}`, {
        hint: `see its configuration, and whether ${join(this.#programs, provider.name)} works by itself`,
      });
    const { apiVersion } = provider;
    const { code, output } = await runHelper({
      program: join(this.#programs, provider.name),
      args: provider.args,
      input: JSON.stringify({ kind: 'CredentialProviderRequest', apiVersion, image }),
      environment: { ...this.#environment, ...Object.fromEntries(provider.env) },
      timeoutMs: PROGRAM_MS,
      fail,
    });
    if (code !== 0) throw fail(`failed (exit code ${code})`);
    let body: unknown;
    try {
      body = JSON.parse(output);
    } catch {
      // The parser's message would quote a password.
      throw fail('answered something that is not JSON');
    }
    const { kind, cacheKeyType, cacheDuration, auth } = isMap(body) ? body : {};
    if (kind !== 'CredentialProviderResponse')
      throw fail('answered something else than a CredentialProviderResponse');
    const now = this.#now();
    const lasts = cacheDuration === undefined ? provider.defaultCacheMs : durationMs(cacheDuration);
    if (lasts === undefined) throw fail('answered with a cacheDuration that is none');
    const entries = Object.entries(isMap(auth) ? auth : {}).flatMap(([pattern, value]) => {
      const { username, password } = isMap(value) ? value : {};
      return typeof username === 'string' && typeof password === 'string'
        ? [{ pattern, username, password }]
        : [];
    });
    const answer = { auth: entries, until: now + lasts, askedAt: now };
    const holdsFor = cacheKeyType === 'Global' ? '' : cacheKeyType === 'Registry' ? host : image;
    this.#answers.delete(`${provider.name} ${holdsFor}`);
    this.#answers.set(`${provider.name} ${holdsFor}`, answer);
    if (this.#answers.size > MOST_ANSWERS) this.#answers.delete(this.#answers.keys().next().value as string);
    return answer;
  }
}

function providersOf(config: YamlValue, name: string): Provider[] {
  const refuse = (why: string) => new CofaError('invalid-argument', `${name}: ${why}`);
  if (!isMap(config) || config['kind'] !== 'CredentialProviderConfig') {
    throw refuse('it is no CredentialProviderConfig');
  }
  const providers = config['providers'];
  if (!Array.isArray(providers)) throw refuse('it has no list of providers');
  return providers.map((one) => {
    const entry = isMap(one) ? one : {};
    const { name: program, matchImages, apiVersion, args = [], env = [], tokenAttributes } = entry;
    if (typeof program !== 'string' || !/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(program)) {
      throw refuse('a provider has no name that a program could have');
    }
    if (tokenAttributes !== undefined && tokenAttributes !== null) {
      throw new CofaError(
        'unsupported',
        `${name}: ${program} wants tokens of service accounts (tokenAttributes)`,
        {
          hint: 'only a kubelet has them: give cofa a file without this provider, and use cofa up --image-service',
        },
      );
    }
    if (typeof apiVersion !== 'string' || !API.test(apiVersion))
      throw refuse(`${program} has no known apiVersion`);
    const lasts = durationMs(entry['defaultCacheDuration'] ?? '0s');
    if (lasts === undefined) throw refuse(`the defaultCacheDuration of ${program} is no duration`);
    if (!isStrings(matchImages) || matchImages.length === 0) throw refuse(`${program} has no matchImages`);
    if (!isStrings(args)) throw refuse(`the args of ${program} are no list of texts`);
    const pairs = (Array.isArray(env) ? env : []).map((pair): [string, string] => {
      const { name: variable, value } = isMap(pair) ? pair : {};
      if (typeof variable !== 'string') throw refuse(`the env of ${program} has an entry without a name`);
      return [variable, String(value ?? '')];
    });
    return { name: program, matchImages, apiVersion, args, env: pairs, defaultCacheMs: lasts };
  });
}

/**
 * Whether a pattern matches an image, by the kubelet's rules: as many parts of the host, each of which may have `*`,
 * the same port, and a path that begins like the pattern's.
 */
export function matchesImage(pattern: string, image: string): boolean {
  const [theirs, ours] = [partsOf(pattern), partsOf(image)];
  if (theirs.port !== ours.port || theirs.host.length !== ours.host.length) return false;
  if (!ours.path.startsWith(theirs.path)) return false;
  return theirs.host.every((part, at) => globOf(part).test(ours.host[at] as string));
}

function partsOf(text: string): { host: string[]; port: string; path: string } {
  const bare = text.replace(/^https?:\/\//, '');
  const slash = bare.indexOf('/');
  const authority = slash < 0 ? bare : bare.slice(0, slash);
  const [, host = '', port = ''] = /^(.*?)(?::(\d+))?$/.exec(authority) ?? [];
  return { host: host.split('.'), port, path: slash < 0 ? '' : bare.slice(slash) };
}

const globOf = (part: string): RegExp =>
  new RegExp(
    `^${part
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll('*', '.*')
      .replaceAll('?', '.')}$`,
  );

/** A duration as Go writes it, such as `12h0m0s`, in ms; undefined for anything else. */
export function durationMs(text: unknown): number | undefined {
  if (typeof text !== 'string' && typeof text !== 'number') return undefined;
  const words = String(text);
  if (words === '0') return 0;
  if (!/^(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+$/.test(words)) return undefined;
  const units: Record<string, number> = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1e3, m: 6e4, h: 36e5 };
  let sum = 0;
  for (const [, digits, unit] of words.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g)) {
    sum += Number(digits) * (units[unit as string] as number);
  }
  return sum;
}

const isMap = (value: unknown): value is Record<string, YamlValue> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isStrings = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((one) => typeof one === 'string');
