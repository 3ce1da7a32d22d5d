/** The NATS of an engine: a private nats-server below it, or one that the operator runs. */
import type { Logger } from 'pino';
import type { BusAddress } from '../../bus/connection.ts';
import { exposure, operatorsAddress } from '../../bus/operators-nats.ts';
import { BUS_ROLES, type BusRole, type BusUsers } from '../../bus/roles.ts';
import type { Conditions } from '../../process/conditions.ts';
import { startNats, watchNats } from '../../process/nats-server.ts';
import type { Layout } from '../../store/layout.ts';
import type { ProcessStatus } from '../../../schemas/api.ts';
import type { End } from '../end.ts';
import type { SupervisorOptions } from '../options.ts';
import type { SupervisorPorts } from '../ports.ts';
import type { Watch } from '../processes/watchers.ts';

/** How the engine's roles reach NATS. */
export interface ReachedNats {
  users: BusUsers;
  /** The private nats-server; empty where the operator runs NATS. */
  natsProcesses: () => ProcessStatus[];
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
export function reachNats(
  given: PrivateNatsOptions & {
    options: Pick<SupervisorOptions, 'nats' | 'natsUsers' | 'natsCa' | 'node'>;
  },
): Promise<ReachedNats> {
  const { nats: url, natsUsers: file, natsCa: ca, node } = given.options;
  if (url === undefined) return privateNats(given);
  const exposed = exposure(url, ca);
  if (exposed !== undefined) given.log.warn(exposed);
  return operatorsNats({ url, file, ca, node });
}

/** Starts a nats-server and has it killed when it does not answer. Errors: those of `startNats`. */
async function privateNats(given: PrivateNatsOptions): Promise<ReachedNats> {
  const { options, layout, log, conditions, watch, end, ports } = given;
  const nats = await startNats(layout, ports, {
    ...watch('nats-server', 'nats-server'),
    onGiveUp: () => conditions.set('nats-server', 'nats-server does not start'),
  });
  end.at('nats', () => nats.child.stop());
  if (nats.repaired > 0) {
    const bytes = nats.repaired;
    log.warn({ bytes }, 'the end of the log was damaged and is cut off: what is lost was not synced');
  }
  watchNats(nats, { log, hangMs: options.hangMs, clock: ports.clock }).then(
    (stop) => end.at('connections', stop),
    (error: unknown) => log.warn({ error }, 'nats-server is not watched'),
  );
  return { users: nats.users, natsProcesses: () => [nats.child.status()] };
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
}): Promise<ReachedNats> {
  const { file, node } = given;
  const address = await operatorsAddress(given.url, given.ca);
  const natsProcesses = () => [];
  if (file !== undefined) {
    const { readNodeUsers, usersOn } = await import('../../bus/user-files.ts');
    return { users: usersOn(address, node, await readNodeUsers(file)), natsProcesses };
  }
  const users = Object.fromEntries(BUS_ROLES.map((role) => [role, address])) as Record<BusRole, BusAddress>;
  return { users, natsProcesses };
}
