/** Where metrics are served, and to whom, as `cofa up` is told. What is not safe is refused before anything starts. */
import { lstatSync, readFileSync } from 'node:fs';
import { isIPv4, isIPv6 } from 'node:net';
import { resolve } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';

export type MetricsAddress = { socket: string } | { host: string; port: number };

export interface MetricsSettings {
  address: MetricsAddress;
  /** Files of the certificate and its key, PEM; absent: plain HTTP. */
  tls?: { cert: string; key: string } | undefined;
  /** File with `USER:PASSWORD`; absent: no login. */
  auth?: string | undefined;
  /** Images that have series of their own, the largest ones; 0: none. */
  images: number;
}

const FORMS = 'PORT, 127.0.0.1:PORT, [::1]:PORT, or unix:/path/of/a/socket';

/** `option`: what the error names. Error `invalid-argument`. */
export function metricsAddress(text: string, option = '--metrics'): MetricsAddress {
  const path = /^(?:unix:)?(\/.*)$/.exec(text)?.[1];
  if (path !== undefined) return { socket: resolve(path) };
  const [, host = '127.0.0.1', port] = /^(?:(.+):)?(\d{1,5})$/.exec(text) ?? [];
  const number = Number(port);
  const bare = host.replace(/^\[(.*)\]$/, '$1');
  const isAddress = isIPv4(bare) || isIPv6(bare);
  if (port === undefined || number < 1 || number > 65_535 || (!isAddress && bare !== 'localhost')) {
    throw new CofaError('invalid-argument', `${option} ${JSON.stringify(text)} is no address`, {
      hint: FORMS,
    });
  }
  return { host: bare === 'localhost' ? '127.0.0.1' : bare, port: number };
}

export const isLoopbackHost = (host: string): boolean => host === '::1' || host.startsWith('127.');

/**
 * Checks what belongs together, and reads the files once. Error `invalid-argument`: an address that others reach without
 * TLS and login; files that are not what they should be.
 */
export function checkMetrics(settings: MetricsSettings): void {
  const { address, tls, auth } = settings;
  if ('host' in address && !isLoopbackHost(address.host) && (tls === undefined || auth === undefined)) {
    throw new CofaError('invalid-argument', `--metrics ${address.host}: other machines reach this address`, {
      hint: 'there it takes --metrics-cert, --metrics-key and --metrics-auth; or use 127.0.0.1 behind a proxy of your own',
    });
  }
  if (auth !== undefined) readLogin(auth);
  if (tls !== undefined) readTls(tls);
}

/** The texts of both files. `options`: what an error names. Error `invalid-argument`. */
export function readTls(
  { cert, key }: NonNullable<MetricsSettings['tls']>,
  [ofCert, ofKey]: readonly [string, string] = ['--metrics-cert', '--metrics-key'],
): { cert: string; key: string } {
  return { cert: text(ofCert, cert), key: secret(ofKey, key) };
}

/** `USER:PASSWORD`, the first line of the file. `option`: what an error names. Error `invalid-argument`. */
export function readLogin(path: string, option = '--metrics-auth'): string {
  const [line = ''] = secret(option, path).split(/\r?\n/);
  if (/^[^:]+:.{8,}$/.test(line)) return line;
  throw new CofaError('invalid-argument', `${option} ${path}: its first line is not USER:PASSWORD`, {
    hint: 'a password has eight characters or more',
  });
}

/** A file that its owner alone may read. */
function secret(option: string, path: string): string {
  const found = text(option, path);
  const { mode } = lstatSync(path);
  if ((mode & 0o170000) !== 0o120000 && (mode & 0o077) !== 0) {
    throw new CofaError('invalid-argument', `${option} ${path} can be read by others than its owner`, {
      hint: `chmod 600 ${path}`,
    });
  }
  return found;
}

function text(option: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new CofaError('invalid-argument', `${option} ${path}: ${(cause as Error).message}`, { cause });
  }
}
