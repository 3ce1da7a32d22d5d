/** The address of a NATS that the operator runs, from what `--nats` and `--nats-ca` say. */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { BusAddress } from './connection.ts';
import { staysOnMachine } from './tls.ts';

/**
 * User and password stand apart from the URL, which `status` shows. `caFile`: PEM with authorities. Error: `invalid-argument`
 * for a file that is not there or holds no certificate.
 */
export async function operatorsAddress(text: string, caFile?: string): Promise<BusAddress> {
  const url = new URL(text);
  const part = (word: string) => (word === '' ? undefined : decodeURIComponent(word));
  const login = { user: part(url.username), pass: part(url.password) };
  url.username = '';
  url.password = '';
  const ca = caFile === undefined ? undefined : await readAuthorities(caFile);
  return defined({ url: url.toString().replace(/\/$/, ''), ...login, ca });
}

/** What to tell the user of an address at which others may listen; undefined where they cannot. */
export function exposure(url: string, caFile?: string): string | undefined {
  if (caFile !== undefined || /^tls:/i.test(url) || staysOnMachine(url)) return undefined;
  return 'NATS is reached without TLS unless its server insists: others on the network may read passwords and forge messages; say tls://HOST:PORT, and --nats-ca FILE for an authority of your own';
}

async function readAuthorities(path: string): Promise<string> {
  const refuse = (why: string, cause: unknown) =>
    new CofaError('invalid-argument', `--nats-ca: ${path} ${why}`, {
      cause,
      hint: 'a file with the certificate of the authority that has signed that of the nats-server, as PEM',
    });
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw refuse(`cannot be read (${cause.code})`, cause);
  });
  let found: X509Certificate;
  try {
    found = new X509Certificate(text);
  } catch (cause) {
    throw refuse('holds no certificate', cause);
  }
  // The file may have several.
  return found.raw.length > 0 ? text : '';
}
