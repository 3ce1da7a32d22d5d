/**
 * Who we are to a registry: docker's config.json and its credential helpers, read afresh at each question, so that a
 * `docker login` or a changed password works without a restart.
 *
 * Order, as docker's: the helper of that registry (`credHelpers`), the general helper (`credsStore`), the file itself
 * (`auths`). Where a helper has nothing, the file counts too.
 */
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { runHelper } from './helper-process.ts';
import { printable } from './printable.ts';

/** Never printed, never part of an error. */
export interface Credentials {
  /** Empty where there is an identity token or registry token alone. */
  username: string;
  password: string;
  /** A refresh token for the token service (OAuth2). */
  identityToken: string | undefined;
  /** A bearer token for the registry itself. */
  registryToken: string | undefined;
  /** Where they come from, for errors: a path, or a helper. */
  source: string;
  /** They were given for this repository; absent: for the whole registry. */
  repository?: string | undefined;
}

export interface CredentialSettings {
  /** Folder of config.json, or the file; by default $DOCKER_CONFIG or ~/.docker. */
  dockerConfig: string | undefined;
  /** How long a helper may take, in ms. */
  helperTimeoutMs: number;
  environment: Readonly<Record<string, string | undefined>>;
}

const MAX_CONFIG_FILE = 4 * 1024 * 1024;

/** Under this key docker keeps the account of docker.io, whose API of version 1 it was. */
const DOCKER_HUB_KEY = 'https://index.docker.io/v1/';

/**
 * The credentials for a registry (`HOST[:PORT]`), or undefined where there are none. Throws CofaError `unauthorized`
 * when the file or a helper cannot be used: otherwise the user would see a missing image later.
 */
export async function readCredentials(
  registry: string,
  settings: CredentialSettings,
  signal?: AbortSignal,
): Promise<Credentials | undefined> {
  const path = configPath(settings);
  const config = await readConfig(path);
  if (config === undefined) return undefined;
  const keys = keysOf(registry);
  const helper = helperFor(config, keys);
  if (helper !== undefined) {
    // Helpers know docker.io by its long key alone.
    const found = await askHelper(helper, keys[0] as string, settings, signal);
    if (found !== undefined) return found;
  }
  return fromFile(config, keys, path);
}

/** The place of config.json. */
export function configPath(settings: Pick<CredentialSettings, 'dockerConfig' | 'environment'>): string {
  const { dockerConfig, environment } = settings;
  if (dockerConfig?.endsWith('.json') === true) return dockerConfig;
  const folder = dockerConfig ?? environment['DOCKER_CONFIG'];
  if (folder !== undefined && folder !== '') return join(folder, 'config.json');
  return join(environment['HOME'] || homedir(), '.docker', 'config.json');
}

async function readConfig(path: string): Promise<Record<string, unknown> | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new CofaError('unauthorized', `the credentials in ${path} cannot be read (${code})`, { cause });
  }
  try {
    if (text.length > MAX_CONFIG_FILE) throw new Error('too large');
    const config: unknown = JSON.parse(text);
    if (isObject(config)) return config;
  } catch {
    // The parser's message quotes the text around the mistake, which may be a password, so it is dropped.
  }
  throw new CofaError('unauthorized', `${path} is not a valid docker configuration`, {
    hint: 'correct it, or log in again: docker login REGISTRY',
  });
}

/** Spellings under which a registry's entry may stand, the usual one first. */
function keysOf(registry: string): string[] {
  return registry === 'registry-1.docker.io'
    ? [DOCKER_HUB_KEY, 'index.docker.io', 'docker.io', 'registry-1.docker.io']
    : [registry];
}

function helperFor(config: Record<string, unknown>, keys: readonly string[]): string | undefined {
  const helpers = isObject(config['credHelpers']) ? config['credHelpers'] : {};
  for (const key of keys) {
    const helper = Object.hasOwn(helpers, key) ? helpers[key] : undefined;
    if (typeof helper === 'string' && helper !== '') return helper;
  }
  const store = config['credsStore'];
  return typeof store === 'string' && store !== '' ? store : undefined;
}

function fromFile(
  config: Record<string, unknown>,
  keys: readonly string[],
  path: string,
): Credentials | undefined {
  const auths = isObject(config['auths']) ? config['auths'] : {};
  for (const key of keys) {
    if (Object.hasOwn(auths, key)) {
      const found = entry(auths[key], path);
      if (found !== undefined) return found;
    }
  }
  // Old clients wrote addresses with a scheme and a path instead of a host.
  for (const [key, value] of Object.entries(auths)) {
    if (keys.includes(hostOf(key))) {
      const found = entry(value, path);
      if (found !== undefined) return found;
    }
  }
  return undefined;
}

function hostOf(key: string): string {
  return key.replace(/^https?:\/\//, '').split('/', 1)[0] ?? '';
}

/** One entry of `auths`: `auth` is base64 of USER:PASSWORD and stands before the plain fields, as in docker. */
function entry(value: unknown, path: string): Credentials | undefined {
  if (!isObject(value)) return undefined;
  const text = (name: string): string => (typeof value[name] === 'string' ? value[name] : '');
  let username = text('username');
  let password = text('password');
  if (text('auth') !== '') {
    const decoded = Buffer.from(text('auth'), 'base64').toString('utf8');
    const colon = decoded.indexOf(':');
    if (colon < 0) {
      throw new CofaError(
        'unauthorized',
        `${path} has an entry whose "auth" is not base64 of USER:PASSWORD`,
        {
          hint: 'log in again: docker login REGISTRY',
        },
      );
    }
    username = decoded.slice(0, colon);
    // Docker pads with zero bytes at times.
    password = decoded.slice(colon + 1).replace(/\0+$/, '');
  }
  const identityToken = text('identitytoken') || undefined;
  const registryToken = text('registrytoken') || undefined;
  if (username === '' && identityToken === undefined && registryToken === undefined) return undefined;
  return { username, password, identityToken, registryToken, source: path };
}

/**
 * Asks `docker-credential-NAME get` (docker-credential-helpers: the registry on standard input, JSON on standard
 * output). Undefined where the helper knows none.
 */
async function askHelper(
  name: string,
  key: string,
  settings: CredentialSettings,
  signal: AbortSignal | undefined,
): Promise<Credentials | undefined> {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) {
    throw new CofaError('unauthorized', `"${printable(name)}" is not the name of a credential helper`);
  }
  const program = `docker-credential-${name}`;
  const fail = (why: string) =>
    new CofaError('unauthorized', `the credential helper ${program} ${why}`, {
      hint: `try it: echo ${key} | ${program} get`,
    });
  const { code, output } = await runHelper({
    program,
    args: ['get'],
    input: key,
    // PATH decides which helper runs, so it must be the environment that the settings name.
    environment: settings.environment,
    timeoutMs: settings.helperTimeoutMs,
    fail,
    signal,
  });
  if (code !== 0) {
    // The helpers' only way to say so; the text is part of their protocol.
    if (/credentials not found in native keychain|credentials not found/i.test(output)) return undefined;
    throw fail(`failed (exit code ${code})`);
  }
  let answer: unknown;
  try {
    answer = JSON.parse(output);
  } catch {
    throw fail('answered something that is not JSON');
  }
  const { Username: username, Secret: secret } = (isObject(answer) ? answer : {}) as Record<string, unknown>;
  if (typeof username !== 'string' || typeof secret !== 'string')
    throw fail('answered without Username and Secret');
  if (username === '' && secret === '') return undefined;
  const isToken = username === '<token>';
  return {
    username: isToken ? '' : username,
    password: isToken ? '' : secret,
    identityToken: isToken ? secret : undefined,
    registryToken: undefined,
    source: program,
  };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
