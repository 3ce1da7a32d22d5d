/** How to reach a running engine: the file that it writes when it is ready. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import type { BusAddress } from '../bus/connection.ts';
import type { Spoken } from './protocol.ts';

/** Lies in ROOT/run/endpoint.json, readable by root only. */
export interface Endpoint extends Spoken {
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

/** What engines have written. That of 0.1.0 does not say what it speaks; before it had users there was one for everything. */
type WrittenEndpoint = Pick<Endpoint, 'v' | 'node' | 'pid' | 'nats'> & Partial<Endpoint>;
const FIRST: Spoken = { version: '0.1.0', protocol: 1, oldestProtocol: 1 };

/** The endpoint file of `root`, at once. Errors: `not-running` when there is none, `forbidden` where this user may not read it. */
export async function readEndpoint(root: string): Promise<Endpoint> {
  try {
    const text = readFileSync(join(root, 'run/endpoint.json'), 'utf8');
    const { nats, log = nats, packs = nats, ...rest } = JSON.parse(text) as WrittenEndpoint;
    return { ...FIRST, ...rest, nats, log, packs };
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EACCES')
      throw new CofaError('forbidden', `the engine with its state in ${root} answers root alone`, {
        cause,
        hint: 'call cofa as root (sudo)',
      });
    throw new CofaError('not-running', `no engine runs with its state in ${root}`, {
      cause,
      hint: `start it: cofa up${root === '/var/lib/cofa' ? '' : ` --root ${root}`}`,
    });
  }
}

/** The socket on which the supervisor takes calls. */
export const socketOf = (root: string): string => join(root, 'run/supervisor.sock');
