/** The address of a NATS that the operator runs, from what `--nats` and `--nats-ca` say. */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';
import { type BusAddress, connectBus } from './connection.ts';
import { serversIn } from './server-list.ts';
import { staysOnMachine } from './tls.ts';

/**
 * User and password stand apart from the URLs, which `status` shows. `text`: URLs with commas between. `caFile`: PEM with
 * authorities. Error: `invalid-argument` for a file that is not there or holds no certificate, and for servers with different users.
 */
export async function operatorsAddress(text: string, caFile?: string): Promise<BusAddress> {
  const urls = serversIn(text).map((one) => new URL(one));
  const logins = new Set(
    urls.map(({ username, password }) => `${username}:${password}`).filter((one) => one !== ':'),
  );
  if (logins.size > 1)
    throw new CofaError('invalid-argument', '--nats: the servers of one cluster have one user', {
      hint: 'name it in the first URL alone',
    });
  const [user = '', pass = ''] = [...logins].flatMap((one) => one.split(':'));
  const part = (word: string) => (word === '' ? undefined : decodeURIComponent(word));
  const [url = '', ...others] = urls.map((one) => {
    one.username = '';
    one.password = '';
    return one.toString().replace(/\/$/, '');
  });
  const ca = caFile === undefined ? undefined : await readAuthorities(caFile);
  return {
    url,
    ...defined({ user: part(user), pass: part(pass), ca, others: others.length > 0 ? others : undefined }),
  };
}

/** Servers of a cluster that are remembered at the most. */
const MOST_SERVERS = 16;

/**
 * The address, with the servers that this cluster has besides: a program that starts while the named one is away finds another.
 * `user`: who asks. The address as it is where no server answers.
 */
export async function withCluster(address: BusAddress, user: Partial<BusAddress> = {}): Promise<BusAddress> {
  try {
    const bus = await connectBus({ ...address, ...user }, { name: 'cofa-cluster', reconnect: false });
    const learned = (bus.info?.connect_urls ?? []).slice(0, MOST_SERVERS);
    await bus.close();
    return learned.length === 0 ? address : { ...address, learned };
  } catch {
    return address;
  }
}

/** What to tell the user of an address at which others may listen; undefined where they cannot. */
export function exposure(text: string, caFile?: string): string | undefined {
  const isSafe = (url: string) => /^tls:/i.test(url) || staysOnMachine(url);
  if (caFile !== undefined || serversIn(text).every(isSafe)) return undefined;
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
