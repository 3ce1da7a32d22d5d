/** How to reach a running engine: the file that it writes when it is ready. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import type { BusAddress } from '../bus/connection.ts';

/** Lies in ROOT/run/endpoint.json, readable by root only. */
export interface Endpoint {
  v: 1;
  node: string;
  pid: number;
  /** For operations, and for watching events as they come. */
  nats: BusAddress;
  /** For reading the event log. */
  log: BusAddress;
  /** For startup packs. */
  packs: BusAddress;
}

/** What engines have written: early ones had one user of NATS for everything. */
type WrittenEndpoint = Omit<Endpoint, 'log' | 'packs'> & Partial<Endpoint>;

/** The endpoint file of `root`, at once; error `not-running` when there is none. */
export async function readEndpoint(root: string): Promise<Endpoint> {
  try {
    const text = readFileSync(join(root, 'run/endpoint.json'), 'utf8');
    const { nats, log = nats, packs = nats, ...rest } = JSON.parse(text) as WrittenEndpoint;
    return { ...rest, nats, log, packs };
  } catch (cause) {
    throw new CofaError('not-running', `no engine runs with its state in ${root}`, {
      cause,
      hint: `start it: cofa up${root === '/var/lib/cofa' ? '' : ` --root ${root}`}`,
    });
  }
}

/** The socket on which the supervisor takes calls. */
export const socketOf = (root: string): string => join(root, 'run/supervisor.sock');
