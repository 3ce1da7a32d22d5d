/**
 * The text of a `hosts.toml`: where a registry's contents may be had, as containerd reads it (its page "Registry Configuration" and
 * core/remotes/docker/config/hosts.go). Each `[host."URL"]` is tried in the file's order, `server` is last.
 *
 * This file loads the TOML parser, so it is imported only where such a file is there.
 */
import { isAbsolute, join } from 'node:path';
import { parse, type TomlTable, type TomlValue } from 'smol-toml';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { hostOf } from './reference.ts';

/** What a host may be asked for: blobs and manifests by digest, tags, uploads, lists of referrers. */
export type Capability = 'pull' | 'resolve' | 'push' | 'referrers';

export interface HostEntry {
  /** `scheme://HOST[:PORT]`; undefined: `server` is not named, so it is the registry itself. */
  origin: string | undefined;
  /** What stands before `/NAME/blobs/…` in a path: `/v2`, or what `override_path` says; without a slash at its end. */
  path: string;
  capabilities: ReadonlySet<Capability>;
  /** The certificate is not checked. */
  skipVerify: boolean;
  /** Files of CAs that are trusted beside the system's. */
  ca: readonly string[];
  /** Files of client certificates with their keys; the same file twice where it has both. */
  client: ReadonlyArray<readonly [certificate: string, key: string]>;
  /** Sent with each request to this host. */
  headers: Readonly<Record<string, string>>;
  /** Until a connection stands, ms; undefined: the client's own limit. */
  dialTimeoutMs: number | undefined;
}

const CAPABILITIES: readonly Capability[] = ['pull', 'resolve', 'push', 'referrers'];
const MOST_HOSTS = 32;
const MOST_FILES = 32;
const MOST_HEADERS = 64;
/** Bytes of one header. */
const LONGEST_HEADER = 8 * 1024;
/** Longest wait for a connection that the file may ask for, ms. */
const LONGEST_DIAL_MS = 120_000;

/**
 * The hosts of a file, in the order in which they are asked; the last one is `server`. `folder` is the file's: relative paths
 * begin there. Error `invalid-argument`, which names the key.
 */
export function parseHosts(text: string, folder: string): HostEntry[] {
  let file: TomlTable;
  try {
    file = parse(text);
  } catch (error) {
    throw new CofaError('invalid-argument', `it is not TOML: ${toErrorRecord(error).message.split('\n')[0]}`);
  }
  const hosts = file['host'] === undefined ? {} : tableOf(file['host'], 'host');
  const names = Object.keys(hosts);
  if (names.length > MOST_HOSTS) throw wrong('host', `has ${names.length} hosts, more than ${MOST_HOSTS}`);
  const mirrors = names.map((name) => {
    if (name === '') throw wrong('host', 'has a host without a name');
    return entryOf(name, tableOf(hosts[name] as TomlValue, `host."${name}"`), folder, `host."${name}".`);
  });
  const server = file['server'] === undefined ? '' : textOf(file['server'], 'server');
  return [...mirrors, entryOf(server, file, folder, '')];
}

function entryOf(address: string, table: TomlTable, folder: string, at: string): HostEntry {
  const inFolder = (path: string) => (isAbsolute(path) ? path : join(folder, path));
  return {
    ...placeOf(address, table['override_path'] === true, at),
    capabilities: capabilitiesOf(table['capabilities'], `${at}capabilities`),
    skipVerify: table['skip_verify'] === true,
    ca: filesOf(table['ca'], `${at}ca`).map(inFolder),
    client: clientsOf(table['client'], `${at}client`).map(([one, key]) => [inFolder(one), inFolder(key)]),
    headers: headersOf(table['header'], `${at}header`),
    dialTimeoutMs: durationOf(table['dial_timeout'], `${at}dial_timeout`),
  };
}

function placeOf(
  address: string,
  isWhole: boolean,
  at: string,
): { origin: string | undefined; path: string } {
  if (address === '') return { origin: undefined, path: '/v2' };
  let url: URL;
  try {
    url = new URL(address.startsWith('http') ? address : `https://${address}`);
  } catch {
    throw wrong(at === '' ? 'server' : at.slice(0, -1), 'is not the address of a host');
  }
  const isPlain = url.username === '' && url.password === '' && url.search === '' && url.hash === '';
  if (!['http:', 'https:'].includes(url.protocol) || url.host === '' || !isPlain)
    throw wrong(at === '' ? 'server' : at.slice(0, -1), 'is not http(s)://HOST[:PORT][/PATH]');
  const path = url.pathname.replace(/\/+$/, '');
  // Where docker.io is served; the name itself leads to a web page.
  if (url.host === 'docker.io') url.host = hostOf('docker.io');
  return { origin: url.origin, path: isWhole || path.endsWith('/v2') ? path : `${path}/v2` };
}

function capabilitiesOf(value: TomlValue | undefined, key: string): ReadonlySet<Capability> {
  const words = value === undefined ? [] : textsOf(value, key).map((word) => word.toLowerCase());
  for (const word of words)
    if (!CAPABILITIES.includes(word as Capability))
      throw wrong(key, `has ${JSON.stringify(word)}, which is none of ${CAPABILITIES.join(', ')}`);
  return new Set(words.length === 0 ? CAPABILITIES : (words as Capability[]));
}

function filesOf(value: TomlValue | undefined, key: string): string[] {
  if (value === undefined) return [];
  return typeof value === 'string' ? [value] : textsOf(value, key);
}

/** A file with both, files with both, or pairs of files. */
function clientsOf(value: TomlValue | undefined, key: string): Array<[string, string]> {
  if (value === undefined) return [];
  const list = typeof value === 'string' ? [value] : value;
  if (!Array.isArray(list) || list.length > MOST_FILES) throw wrong(key, 'is not a list of files');
  return list.map((one) => {
    if (typeof one === 'string') return [one, one];
    const [certificate, file, ...more] = textsOf(one, key);
    if (certificate === undefined || file === undefined || more.length > 0)
      throw wrong(key, 'has something that is not a file, nor a pair of certificate and key');
    return [certificate, file];
  });
}

function headersOf(value: TomlValue | undefined, key: string): Record<string, string> {
  if (value === undefined) return {};
  const entries = Object.entries(tableOf(value, key));
  if (entries.length > MOST_HEADERS) throw wrong(key, `has more than ${MOST_HEADERS} headers`);
  return Object.fromEntries(
    entries.map(([name, said]) => {
      const text = typeof said === 'string' ? said : textsOf(said, `${key}.${name}`).join(', ');
      const isHeader = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) && /^[\t\x20-\x7e\x80-\xff]*$/.test(text);
      // The client says these by itself; another value would break the exchange.
      const isOurs = /^(?:host|content-length|transfer-encoding|connection|range)$/i.test(name);
      if (!isHeader || isOurs || text.length > LONGEST_HEADER)
        throw wrong(`${key}.${name}`, 'is not a header that can be sent');
      return [name.toLowerCase(), text];
    }),
  );
}

/** As Go writes durations (time.ParseDuration): `1.5s`, `200ms`, `1m30s`. */
function durationOf(value: TomlValue | undefined, key: string): number | undefined {
  if (value === undefined || value === '') return undefined;
  const text = textOf(value, key);
  const units: Record<string, number> = {
    ns: 1e-6,
    us: 1e-3,
    µs: 1e-3,
    ms: 1,
    s: 1000,
    m: 60_000,
    h: 3_600_000,
  };
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/gy)];
  const isWhole = parts.reduce((sum, [part]) => sum + part.length, 0) === text.length && parts.length > 0;
  const ms = parts.reduce(
    (sum, [, count, unit]) => sum + Number(count) * (units[unit as string] as number),
    0,
  );
  if (!isWhole || ms <= 0) throw wrong(key, `${JSON.stringify(text)} is not a duration such as "3s"`);
  return Math.min(Math.max(1, Math.round(ms)), LONGEST_DIAL_MS);
}

function tableOf(value: TomlValue, key: string): TomlTable {
  if (typeof value === 'object' && !Array.isArray(value) && !(value instanceof Date))
    return value as TomlTable;
  throw wrong(key, 'is not a table');
}

function textOf(value: TomlValue, key: string): string {
  if (typeof value === 'string') return value;
  throw wrong(key, 'is not a text');
}

function textsOf(value: TomlValue, key: string): string[] {
  if (Array.isArray(value) && value.length <= MOST_FILES && value.every((one) => typeof one === 'string'))
    return value as string[];
  throw wrong(key, 'is not a list of texts');
}

const wrong = (key: string, what: string): CofaError => new CofaError('invalid-argument', `${key} ${what}`);
