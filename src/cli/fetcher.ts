/** `cofa fetcher`: a member of a fleet on a machine without an engine. It mounts nothing and needs no FUSE. */
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { addOptions, type Context, examples } from './context.ts';
import { byteOption } from './byte-option.ts';
import {
  DEFAULT_NAME,
  type FleetFlags,
  fleetChoice,
  token,
  UPLOAD_OPTION,
  ZONE_OPTIONS,
} from './fleet-options.ts';
import { makeFolder } from '../kernel/make-folder.ts';
import { checkNats, type NatsOptions, takeNatsUrl, warnOfNats } from './nats-options.ts';
import { REGISTRY_OPTIONS, type RegistryFlags } from './registry-options.ts';
import { registrySettings } from './registry-settings.ts';
import { LOG_LEVEL_OPTION, nodeName, ownNode } from './up-options.ts';

interface FetcherOptions extends RegistryFlags, NatsOptions, FleetFlags {
  node?: string;
  cacheLimit: number;
  logLevel: string;
}

/** Of a machine that is there for it. */
const CACHE = 100 * 2 ** 30;

/** What has no right of its own has no use for credentials. */
const REACH = REGISTRY_OPTIONS.filter(({ flags }) => !flags.startsWith('--docker-config'));

const OPTIONS = [
  {
    flags: '--nats <url>',
    about: 'the NATS of the fleet; URLs of a cluster: with commas between (or: $COFA_NATS)',
  },
  {
    flags: '--nats-users <file>',
    about: 'users of this machine on that NATS: cofa nats-config makes it',
    parse: (text: string) => resolve(text),
  },
  {
    flags: '--nats-ca <file>',
    about: 'authority that has signed the certificate of that NATS',
    parse: (text: string) => resolve(text),
  },
  { flags: '--node <name>', about: 'name of this machine on NATS (default: the hostname)', parse: nodeName },
  { flags: '--fleet <name>', about: 'the fleet', parse: token('--fleet'), fallback: DEFAULT_NAME },
  ...ZONE_OPTIONS,
  {
    flags: '--cache-limit <size>',
    about: 'blobs may take so much of the disk, such as 500G; its share of the fleet follows from it',
    parse: byteOption('--cache-limit'),
    fallback: CACHE,
    fallbackWords: '100GiB',
  },
  UPLOAD_OPTION,
  ...REACH,
  LOG_LEVEL_OPTION,
];

export function define(command: Command, context: Context): void {
  command.description(
    'Run a member of a fleet that mounts nothing: it fetches from registries for the nodes of its zone, once, and keeps what it fetched. It stays in the foreground, for a service manager or a pod, and needs no privileges but its folder.',
  );
  addOptions(command, OPTIONS);
  command.action(async (options: FetcherOptions) => {
    takeNatsUrl(options);
    checkNats(options);
    await warnOfNats(options, context);
    await stay(options, context);
  });
  examples(command, [
    ['cofa fetcher --nats tls://10.0.0.5:4222 --nats-users f1.json --zone rack-1', ''],
    ['cofa fetcher --root /srv/cofa-fetcher --cache-limit 500G --nats tls://10.0.0.5:4222', ''],
    ['cofa --root /srv/cofa-fetcher fleet', 'what it does'],
  ]);
}

async function stay(options: FetcherOptions, context: Context): Promise<void> {
  const { root } = context;
  const { nats: url, natsUsers, natsCa } = options;
  const { cacheLimit, ...flags } = options;
  const withoutNats = () =>
    new CofaError('invalid-argument', 'a fetcher meets its fleet on a NATS', {
      hint: 'cofa fetcher --nats tls://HOST:4222',
    });
  if (url === undefined) throw withoutNats();
  const choice = fleetChoice({ ...flags, fleetCache: cacheLimit }, url);
  if (choice === undefined) throw withoutNats();
  const [
    { operatorsAddress },
    { fleetUserOn, readNodeUsers },
    { runFetcherMember },
    { boundLogs },
    { realPorts },
    { hostname },
  ] = await Promise.all([
    import('../bus/operators-nats.ts'),
    import('../bus/user-files.ts'),
    import('../process/fleet-member.ts'),
    import('../process/bounded-logs.ts'),
    import('../process/ports.ts'),
    import('node:os'),
  ]);
  const node = options.node ?? ownNode(hostname());
  const address = await operatorsAddress(url, natsCa);
  const users = natsUsers === undefined ? undefined : await readNodeUsers(natsUsers);
  if (users !== undefined && users.node !== node)
    throw new CofaError(
      'invalid-argument',
      `these users of NATS are for ${users.node}; this one is ${node}`,
      {
        hint: `cofa fetcher --node ${users.node}, or the file of ${node}`,
      },
    );
  // It has no right of its own, so no use for credentials either.
  const { dockerConfig: _, ...registry } = await registrySettings(options, context);
  await makeFolder(root, 0o700);
  boundLogs(join(root, 'log'), realPorts().clock);
  await runFetcherMember({
    ...choice,
    root,
    node,
    role: 'fetcher',
    nats: users === undefined ? address : fleetUserOn(address, users),
    registry,
    logLevel: options.logLevel,
  });
}
