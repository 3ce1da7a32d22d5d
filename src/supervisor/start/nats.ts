/** The NATS of an engine: a private nats-server below it, or one that the operator runs. */
import type { Logger } from 'pino';
import type { BusAddress } from '../../bus/connection.ts';
import { exposure, operatorsAddress, withCluster } from '../../bus/operators-nats.ts';
import { BUS_ROLES, type BusRole, type BusUsers } from '../../bus/roles.ts';
import { readRights } from '../../bus/rights-file.ts';
import type { Conditions } from '../../process/conditions.ts';
import { startNats, watchNats } from '../../process/nats-server.ts';
import type { Layout } from '../../store/layout.ts';
import type { ProcessStatus } from '../../../schemas/api.ts';
import { CofaError } from '../../../schemas/errors.ts';
import type { RightsFile } from '../../../schemas/rights.ts';
import type { End } from '../end.ts';
import type { SupervisorOptions } from '../options.ts';
import type { SupervisorPorts } from '../ports.ts';
import type { Watch } from '../processes/watchers.ts';

/** How the engine's roles reach NATS. */
export interface ReachedNats {
  users: BusUsers;
  /** Users of the API with limited rights. */
  limited: LimitedUsers;
  /** How the node's member of a fleet does. Error `invalid-argument` where NATS has no user for it. */
  fleetUser: () => BusAddress;
  /** The private nats-server; empty where the operator runs NATS. */
  natsProcesses: () => ProcessStatus[];
}

export interface LimitedUsers {
  rights: RightsFile['users'];
  /** How each reaches NATS. */
  addresses: Record<string, BusAddress>;
  /** Tells NATS of others, where the engine can; gives their addresses. Errors: those of a start. */
  setRights?: (rights: RightsFile['users']) => Promise<Record<string, BusAddress>>;
}

export interface PrivateNatsOptions {
  options: Pick<SupervisorOptions, 'hangMs'>;
  layout: Layout;
  log: Logger;
  conditions: Conditions;
  watch: Watch;
  end: End;
  ports: SupervisorPorts;
}

/** Errors: those of the one that is chosen. */
export async function reachNats(
  given: PrivateNatsOptions & {
    options: Pick<SupervisorOptions, 'nats' | 'natsUsers' | 'natsCa' | 'apiUsers' | 'node'>;
  },
): Promise<ReachedNats> {
  const { nats: url, natsUsers: file, natsCa: ca, apiUsers, node } = given.options;
  const rights = apiUsers === undefined ? {} : await readRights(apiUsers);
  if (url === undefined) return await privateNats(given, rights);
  const exposed = exposure(url, ca);
  if (exposed !== undefined) given.log.warn(exposed);
  return await operatorsNats({ url, file, ca, node, rights });
}

/** Starts a nats-server and has it killed when it does not answer. Errors: those of `startNats`. */
async function privateNats(given: PrivateNatsOptions, rights: RightsFile['users']): Promise<ReachedNats> {
  const { options, layout, log, conditions, watch, end, ports } = given;
  const watchers = {
    ...watch('nats-server', 'nats-server'),
    onGiveUp: () => conditions.set('nats-server', 'nats-server does not start'),
  };
  const nats = await startNats(layout, ports, watchers, rights);
  end.at('nats', () => nats.child.stop());
  if (nats.repaired > 0) {
    const bytes = nats.repaired;
    log.warn({ bytes }, 'the end of the log was damaged and is cut off: what is lost was not synced');
  }
  watchNats(nats, { log, hangMs: options.hangMs, clock: ports.clock }).then(
    (stop) => end.at('connections', stop),
    (error: unknown) => log.warn({ error }, 'nats-server is not watched'),
  );
  return {
    users: nats.users,
    limited: { rights, addresses: nats.apiUsers, setRights: nats.setRights },
    fleetUser: () => {
      throw new CofaError(
        'invalid-argument',
        'nodes of a fleet share a NATS, which this engine has for itself',
        {
          hint: '--fleet takes --nats URL',
        },
      );
    },
    natsProcesses: () => [nats.child.status()],
  };
}

/**
 * With a file of users each role has its own; without, all are the URL's user. Errors: those of `operatorsAddress`,
 * `readNodeUsers` and `usersOn`.
 */
export async function operatorsNats(given: {
  url: string;
  file: string | undefined;
  ca?: string | undefined;
  node: string;
  rights?: RightsFile['users'];
  /** Asks a server which others its cluster has. */
  learn?: typeof withCluster;
}): Promise<ReachedNats> {
  const { file, node, rights = {}, learn = withCluster } = given;
  const named = await operatorsAddress(given.url, given.ca);
  const natsProcesses = () => [];
  if (file !== undefined) {
    const { apiUsersOn, fleetUserOn, readNodeUsers, usersOn } = await import('../../bus/user-files.ts');
    const known = await readNodeUsers(file);
    const address = await learn(named, usersOn(named, node, known).supervisor);
    const users = usersOn(address, node, known);
    const addresses = apiUsersOn(address, known, Object.keys(rights));
    // Whom the operator's server knows stands in the node's file, which `cofa nats-config` writes.
    const setRights = async (now: RightsFile['users']) =>
      apiUsersOn(address, await readNodeUsers(file), Object.keys(now));
    const fleetUser = () => fleetUserOn(address, known);
    return { users, limited: { rights, addresses, setRights }, fleetUser, natsProcesses };
  }
  if (Object.keys(rights).length > 0) {
    throw new CofaError('invalid-argument', '--api-users takes a NATS that tells users apart', {
      hint: '--nats-users FILE: cofa nats-config --api-users makes it',
    });
  }
  const address = await learn(named);
  const users = Object.fromEntries(BUS_ROLES.map((role) => [role, address])) as Record<BusRole, BusAddress>;
  return { users, limited: { rights, addresses: {} }, fleetUser: () => address, natsProcesses };
}
