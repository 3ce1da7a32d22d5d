/** Which fleet a machine is a member of: options of `cofa up` and `cofa fetcher`. */
import { CofaError } from '../../schemas/errors.ts';
import { FLEET_TOKEN } from '../../schemas/fleet.ts';
import type { FleetChoice } from '../process/fleet-settings.ts';
import { byteOption } from './byte-option.ts';
import { numberOption } from './context.ts';

export interface FleetFlags {
  /** True: that of the default name. */
  fleet?: string | boolean;
  zone?: string;
  fleetListen?: string;
  fleetAddress?: string;
  fleetCache?: number;
  fleetUpload?: number;
  fleetWitnesses?: number;
}

/** Name of a fleet, and of a zone, where none is given. */
export const DEFAULT_NAME = 'default';
/** Of a node, whose disk is there for containers. */
const NODE_CACHE = 4 * 2 ** 30;

export const ZONE_OPTIONS = [
  {
    flags: '--zone <name>',
    about: 'members of a zone are near each other, and ask each other before the registry (default: default)',
    parse: token('--zone'),
    kind: 'string',
    sample: '"rack-1"',
  },
  {
    flags: '--fleet-listen <address>',
    about: 'HOST:PORT where this machine answers members (default: the address that reaches NATS, any port)',
    parse: address('--fleet-listen'),
    kind: 'string',
    sample: '"0.0.0.0:7440"',
  },
  {
    flags: '--fleet-address <address>',
    about: 'HOST:PORT by which members reach it, where that is another one',
    parse: address('--fleet-address'),
    kind: 'string',
    sample: '"10.0.0.5:7440"',
  },
] as const;

export const UPLOAD_OPTION = {
  flags: '--fleet-upload <size>',
  about: 'members may read so much from it in a second, such as 100M (default: no limit)',
  parse: byteOption('--fleet-upload'),
  kind: 'size',
  sample: '"100M"',
} as const;

export const FLEET_OPTIONS = [
  {
    flags: '--fleet [name]',
    about: 'ask the members of this fleet before registries, and answer them; takes --nats (default: off)',
    parse: token('--fleet'),
    kind: 'string',
    sample: '"default"',
  },
  ...ZONE_OPTIONS,
  {
    flags: '--fleet-cache <size>',
    about:
      'keep so much for other members, and be a home of blobs in that proportion (default: 4GiB; 0: none)',
    parse: byteOption('--fleet-cache'),
    kind: 'size',
    sample: '"4GiB"',
  },
  UPLOAD_OPTION,
  {
    flags: '--fleet-witnesses <count>',
    about: 'with --trust fleet: so many members have to have proven what a sidecar holds (default: 1)',
    parse: numberOption('--fleet-witnesses', { min: 1, max: 16, integer: true }),
    kind: 'number',
    sample: '2',
  },
] as const;

/** Undefined: no fleet. Errors `invalid-argument` where the options do not belong together. */
export function fleetChoice(flags: FleetFlags, nats: string | undefined): FleetChoice | undefined {
  const { fleet, zone, fleetListen, fleetAddress, fleetCache, fleetUpload, fleetWitnesses } = flags;
  if (fleet === undefined || fleet === false) {
    const [lonely] = Object.entries({
      '--zone': zone,
      '--fleet-listen': fleetListen,
      '--fleet-address': fleetAddress,
      '--fleet-cache': fleetCache,
      '--fleet-upload': fleetUpload,
      '--fleet-witnesses': fleetWitnesses,
    }).filter(([, value]) => value !== undefined);
    if (lonely === undefined) return undefined;
    throw new CofaError('invalid-argument', `${lonely[0]} belongs to --fleet`);
  }
  if (nats === undefined)
    throw new CofaError('invalid-argument', '--fleet takes --nats', {
      hint: 'members meet on a NATS that they share: cofa up --nats tls://HOST:4222 --fleet',
    });
  return {
    fleet: fleet === true ? DEFAULT_NAME : fleet,
    zone: zone ?? DEFAULT_NAME,
    listen: fleetListen,
    address: fleetAddress,
    cacheBytes: fleetCache ?? NODE_CACHE,
    uploadBytes: fleetUpload,
    witnesses: fleetWitnesses,
  };
}

/** One token of a NATS subject. */
export function token(option: string): (text: string) => string {
  return (text) => {
    if (FLEET_TOKEN.test(text)) return text;
    throw new CofaError('invalid-argument', `${option}: ${JSON.stringify(text)} is not allowed`, {
      hint: 'letters, digits, _ and -, at most 64',
    });
  };
}

function address(option: string): (text: string) => string {
  return (text) => {
    if (/^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}$/.test(text)) return text;
    throw new CofaError('invalid-argument', `${option}: ${JSON.stringify(text)} is not HOST:PORT`);
  };
}
