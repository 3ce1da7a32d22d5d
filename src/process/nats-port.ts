/**
 * The port of the private nats-server. Its number stays while the engine lives, also while nats-server is started again, and a
 * port that the kernel chooses (port 0, nats-server's `-1`) is one of those that it gives to outgoing connections, too
 * (net.ipv4.ip_local_port_range). Such a connection can take the port before nats-server binds it, or while it is away. It may
 * even be one of the engine's own, on its way back to nats-server: a connection from the very port that it leads to stands (a
 * simultaneous open, RFC 9293, 3.5). So the port is none of these, where there are others.
 */
import { randomInt } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { isErrno } from '../kernel/errno.ts';

/** First and last port. */
export type PortRange = readonly [first: number, last: number];

/**
 * Where a port is looked for, the best first. No service has one of its own from 49,152 on (RFC 6335, 6), and the kernel leaves
 * those from 61,000 on to whom takes them. Below that few have one from 20,000 on; from 30,000 on Kubernetes has its node ports.
 */
const PLACES: readonly PortRange[] = [
  [61_000, 65_535],
  [49_152, 60_999],
  [20_000, 29_999],
];
/** Fewer ports are no place: an engine may find each of them taken. */
const FEWEST = 500;
/** The kernel's default. */
const OUTGOING: PortRange = [32_768, 60_999];
/** Ports that are tried. */
const TRIES = 100;

/** A port of 127.0.0.1 that is free at the moment. Errors: those of listening. */
export async function freePort(): Promise<number> {
  const [first, last] = besideOf(await outgoing()) ?? [0, 0];
  for (let tries = 1; first > 0 && tries <= TRIES; tries++) {
    const port = randomInt(first, last + 1);
    if (!(await isTaken(port))) return port;
  }
  return await listenOn(0);
}

/** Whether a program listens on a port of 127.0.0.1, or a connection has it. Errors: others of listening. */
export async function isTaken(port: number): Promise<boolean> {
  try {
    await listenOn(port);
    return false;
  } catch (error) {
    if (isErrno(error, 'EADDRINUSE')) return true;
    throw error;
  }
}

/** The first place of which enough is no port of outgoing connections: the longer part; undefined: there is none. */
export function besideOf([low, high]: PortRange): PortRange | undefined {
  for (const [first, last] of PLACES) {
    const parts: PortRange[] = [
      [first, Math.min(last, low - 1)],
      [Math.max(first, high + 1), last],
    ];
    const [longest] = parts.toSorted((a, b) => sizeOf(b) - sizeOf(a));
    if (longest !== undefined && sizeOf(longest) >= FEWEST) return longest;
  }
  return undefined;
}

const sizeOf = ([first, last]: PortRange): number => last - first + 1;

/** The ports of outgoing connections here. */
async function outgoing(): Promise<PortRange> {
  const text = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').catch(() => '');
  const [, low, high] = /^(\d{1,5})\s+(\d{1,5})\s*$/.exec(text) ?? [];
  return low === undefined || high === undefined ? OUTGOING : [Number(low), Number(high)];
}

/** Listens there for a moment, and says where; 0: the kernel chooses. */
function listenOn(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}
