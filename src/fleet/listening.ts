/** Where a member listens, and by which address others reach it. */
import { createSocket } from 'node:dgram';
import { createServer, type Server as NetServer } from 'node:net';
import type { Server } from 'node:https';
import { networkInterfaces } from 'node:os';
import { CofaError } from '../../schemas/errors.ts';
import type { FleetSettings } from '../process/fleet-settings.ts';
import { hostAndPort, joined } from './tls.ts';

/** How often another port is taken where the one that was free no more is. */
const TRIES = 3;

export interface Listening {
  /** `HOST:PORT` that the member announces. */
  address: string;
  /** Has the server listen there. Error `environment`. */
  begin(server: Server): Promise<void>;
}

/** Errors: `environment` where the address cannot be listened on; `invalid-argument` for one that is none. */
export async function listen({
  listen: wanted,
  address,
  nats,
}: Pick<FleetSettings, 'listen' | 'address' | 'nats'>): Promise<Listening> {
  const at = wanted === undefined ? { host: await ownAddress(nats.url), port: 0 } : hostAndPort(wanted);
  // The port is announced before the server is made.
  const holder = await holdPort(at);
  const { port } = holder;
  return {
    address: address ?? joined(isAny(at.host) ? await ownAddress(nats.url) : at.host, port),
    begin: async (server) => {
      await holder.release();
      await opened(server, at.host, port);
    },
  };
}

const isAny = (host: string): boolean => host === '0.0.0.0' || host === '::';

async function holdPort(at: {
  host: string;
  port: number;
}): Promise<{ port: number; release(): Promise<void> }> {
  for (let tries = 1; ; tries++) {
    const server = createServer();
    try {
      await opened(server, at.host, at.port);
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : at.port;
      return { port, release: () => new Promise((done) => server.close(() => done())) };
    } catch (error) {
      if (tries === TRIES || at.port !== 0) throw error;
    }
  }
}

async function opened(server: NetServer, host: string, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) =>
      reject(
        new CofaError(
          'environment',
          `the fleet's port ${joined(host, port)} cannot be listened on (${cause.code})`,
          {
            cause,
            hint: 'another one: --fleet-listen HOST:PORT',
          },
        ),
      ),
    );
    server.listen(port, host, resolve);
  });
}

/** The address from which this machine reaches that host. Nothing is sent. */
async function ownAddress(url: string): Promise<string> {
  const { hostname, port } = new URL(url);
  const host = hostname.replace(/^\[(.*)\]$/, '$1');
  const found = await new Promise<string | undefined>((resolve) => {
    const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4');
    const end = (address: string | undefined) => {
      resolve(address);
      socket.close();
    };
    socket.once('error', () => end(undefined));
    socket.connect(Number(port) || 4222, host, () => end(socket.address().address));
  });
  if (found !== undefined) return found;
  // A name that is not resolved yet: any address that is not the machine's inside.
  const others = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return others.find(({ internal, family }) => !internal && family === 'IPv4')?.address ?? '127.0.0.1';
}
