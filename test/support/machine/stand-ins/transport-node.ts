/** Stand-in for @nats-io/transport-node. */
import { machine } from '../machine.ts';
import { connectionOwner, SimConnection } from '../nats.ts';
import { IDENTITY } from '../identity.ts';
import { world } from '../world.ts';

export async function connect(options: {
  servers: string | string[];
  timeout?: number;
  user?: string;
  inboxPrefix?: string;
  tls?: { ca?: string };
}): Promise<unknown> {
  const url = Array.isArray(options.servers) ? options.servers[0] : options.servers;
  const process = connectionOwner();
  if (url?.startsWith('tls:') === true && options.tls?.ca !== IDENTITY.certificate)
    throw new Error('the certificate is not the one that the client was told');
  await machine().sleep(1 + machine().random.next());
  const server = world().servers.get(url?.replace('localhost', '127.0.0.1') ?? '');
  if (server?.reaches(process) !== true) throw new Error('connection refused');
  return new SimConnection(server, process, options);
}
