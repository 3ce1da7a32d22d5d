/**
 * Certificates for registries, laid out as docker does: `DIR/HOST[:PORT]/` holds CAs (`*.crt`) that are trusted
 * besides those of the system, and client certificates (`NAME.cert` with `NAME.key`).
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as tls from 'node:tls';
import { CofaError } from '../../schemas/errors.ts';

export interface HostCertificates {
  authorities: string[];
  clients: Array<{ certificate: string; key: string }>;
  /** Changes when the files change; empty where there are none. */
  fingerprint: string;
}

/** Docker's folder; searched after the given ones. */
export const DOCKER_CERTS = '/etc/docker/certs.d';

const MAX_FILES = 100;
const MAX_FILE = 1024 * 1024;

/**
 * Reads the folders' certificates for a host. `names` are the spellings under which the folder may stand (`HOST:PORT`,
 * and `HOST` for the default port). Throws CofaError `environment` for a client certificate without its key and for
 * unreadable files.
 */
export async function readCertificates(
  certDirs: readonly string[],
  names: readonly string[],
): Promise<HostCertificates> {
  const found: HostCertificates = { authorities: [], clients: [], fingerprint: '' };
  for (const directory of certDirs) {
    for (const name of names.flatMap(spellings)) {
      // A host has no slash (an IPv6 address its colons), so this cannot leave the folder; ".." is no host.
      if (name.includes('/') || name.startsWith('.')) continue;
      await readFolder(join(directory, name), found);
    }
  }
  return found;
}

/** Of `HOST:PORT`; containerd writes it as `HOST_PORT_`, too. */
function spellings(name: string): string[] {
  const port = /:(\d+)$/.exec(name);
  return port === null ? [name] : [name, `${name.slice(0, port.index)}_${port[1]}_`];
}

/** Adds files that a configuration names: CAs, and certificates with their keys. Error `environment`. */
export async function addCertificates(
  found: HostCertificates,
  files: { ca: readonly string[]; client: ReadonlyArray<readonly [certificate: string, key: string]> },
): Promise<void> {
  for (const path of files.ca) found.authorities.push(await readPem(path, found));
  for (const [certificate, key] of files.client)
    found.clients.push({ certificate: await readPem(certificate, found), key: await readPem(key, found) });
}

/**
 * The TLS context for a host: its own CAs beside those of Node and of the system (Go programs such as docker trust the
 * system's, so must we). Made once for a host, since parsing the CAs takes some milliseconds.
 */
export function secureContext(certificates: HostCertificates): tls.SecureContext {
  const options: tls.SecureContextOptions = {
    ca: [
      ...new Set([
        ...tls.getCACertificates('default'),
        ...tls.getCACertificates('system'),
        ...certificates.authorities,
      ]),
    ],
    minVersion: 'TLSv1.2',
  };
  if (certificates.clients.length > 0) {
    options.cert = certificates.clients.map((client) => client.certificate);
    options.key = certificates.clients.map((client) => client.key);
  }
  try {
    return tls.createSecureContext(options);
  } catch (cause) {
    throw new CofaError('environment', 'a certificate or key in certs.d cannot be read', {
      cause,
      hint: 'they have to be PEM files: CAs as *.crt, client certificates as NAME.cert with NAME.key',
    });
  }
}

async function readFolder(folder: string, found: HostCertificates): Promise<void> {
  let names: string[];
  try {
    names = (await readdir(folder)).sort();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return;
    throw unreadable(folder, error);
  }
  for (const name of names.slice(0, MAX_FILES)) {
    const path = join(folder, name);
    if (name.endsWith('.crt')) {
      found.authorities.push(await readPem(path, found));
    } else if (name.endsWith('.cert')) {
      const key = `${name.slice(0, -'.cert'.length)}.key`;
      if (!names.includes(key)) {
        throw new CofaError('environment', `the client certificate ${path} has no key`, {
          hint: `put it at ${join(folder, key)}`,
        });
      }
      found.clients.push({
        certificate: await readPem(path, found),
        key: await readPem(join(folder, key), found),
      });
    }
  }
}

async function readPem(path: string, found: HostCertificates): Promise<string> {
  try {
    const { size, mtimeMs, ino } = await stat(path);
    if (size > MAX_FILE) throw new Error('it is larger than a certificate can be');
    found.fingerprint += `${path}\0${size}\0${mtimeMs}\0${ino}\n`;
    return await readFile(path, 'utf8');
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: string, cause: unknown): CofaError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new CofaError('environment', `${path} cannot be read: ${why}`, { cause });
}
