/** The secrets of this machine that cofa knows of, so that they can be looked for in what leaves it. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'smol-toml';
import { readSettings } from '../process/settings.ts';
import { CONTAINERD_HOSTS } from '../registry/hosts.ts';
import { configPath as dockerConfigPath } from '../registry/credentials.ts';
import { CONFIG_KEYS, readConfig } from './config-file.ts';
import { decodedOr, secretsIn } from './support-mask.ts';

/** Bytes of a file with secrets. */
const MAX_FILE = 1 << 20;
/** Folders of mirrors that are looked at. */
const MAX_HOSTS = 1_000;

/** Never throws: what cannot be read cannot be in the way either. */
export async function knownSecrets(root: string): Promise<string[]> {
  const config = await readConfig(undefined).catch(() => undefined);
  const setting = (key: string): string[] => {
    const value = config?.values.get(key)?.value;
    return [value].flat().filter((one): one is string => typeof one === 'string');
  };
  // The engine may have been told on its command line.
  const settings = await readSettings(root).catch(() => undefined);
  const { dockerConfig: told, hostDirs = [] } = settings?.registry ?? {};
  const [dockerConfig] = setting('docker-config');
  const json = [
    dockerConfigPath({ dockerConfig: told, environment: process.env }),
    dockerConfigPath({ dockerConfig, environment: process.env }),
    dockerConfigPath({ dockerConfig: undefined, environment: process.env }),
    '/root/.docker/config.json',
    join(root, 'run/engine.json'),
    join(root, 'run/endpoint.json'),
    ...(await filesIn(join(root, 'run/api'), '.json')),
    ...setting('nats-users'),
    ...setting('api-users'),
  ];
  const keys = [...setting('metrics-key'), join(root, 'run/nats.pem')];
  const hosts = [...hostDirs, ...setting('hosts-dir'), CONTAINERD_HOSTS, '/etc/docker/certs.d'];
  const found = await Promise.all(
    [
      ...json.map(async (path) => secretsIn(JSON.parse(await small(path)))),
      ...hosts.map(inHosts),
      ...keys.map(async (path) => keyLines(await small(path))),
      ...setting('metrics-auth').map(async (path) => loginIn(await small(path))),
      ...setting('traces-headers').map(async (path) => valuesIn(await small(path))),
      secretsIn(Object.fromEntries([...CONFIG_KEYS.keys()].map((key) => [key, setting(key)]))),
      fromEnvironment(),
    ].map(async (work) => await Promise.resolve(work).catch(() => [])),
  );
  return found.flat();
}

/** Variables of this process that hold secrets by their name, and logins in addresses. */
function fromEnvironment(): string[] {
  const secret = /pass|secret|token|credential|auth(?!or)|api_?key|private_?key/i;
  return Object.entries(process.env).flatMap(([name, value = '']) => [
    ...secretsIn(value, secret.test(name)),
    ...(/headers/i.test(name) ? valuesIn(value) : []),
  ]);
}

const loginIn = (text: string): string[] => {
  const [line = ''] = text.split(/\r?\n/);
  return [line, line.slice(line.indexOf(':') + 1)];
};

/** Values of NAME=VALUE or NAME: VALUE, one a line or with commas; a login without its word before it too. */
const valuesIn = (text: string): string[] =>
  text.split(/[\r\n,]+/).flatMap((line) => {
    const value = /^[^=:]+[=:]\s*(.*?)\s*$/.exec(line)?.[1] ?? '';
    return [value, value.replace(/^\S+\s+/, ''), decodedOr(value)];
  });

/** The lines of private keys in PEM, which may stand alone. */
const keyLines = (pem: string): string[] =>
  [...pem.matchAll(/-----BEGIN [A-Z ]*PRIVATE KEY-----([\s\S]*?)-----END/g)].flatMap(([, body = '']) =>
    body.split(/\s+/).filter((line) => line.length >= 16),
  );

/** Headers that containerd's hosts.toml adds to requests. */
async function inHosts(dir: string): Promise<string[]> {
  const names = await readdir(dir);
  const found = await Promise.all(
    names.slice(0, MAX_HOSTS).map(async (name) => {
      const text = await small(join(dir, name, 'hosts.toml')).catch(() => '');
      try {
        return secretsIn(parse(text));
      } catch {
        return [];
      }
    }),
  );
  return found.flat();
}

async function filesIn(dir: string, suffix: string): Promise<string[]> {
  const names = await readdir(dir).catch(() => []);
  return names.filter((name) => name.endsWith(suffix)).map((name) => join(dir, name));
}

async function small(path: string): Promise<string> {
  const text = await readFile(path, 'utf8');
  return text.length > MAX_FILE ? '' : text;
}
