/** Opens the engine's doors: the API over NATS and on the socket, signals, and the file by which commands find the engine. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import type { Counts } from '../../../actors/counts.ts';
import type { ProcessStatus } from '../../../schemas/api.ts';
import { OLDEST_PROTOCOL, PROTOCOL } from '../../../schemas/protocol.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import { serveLocal } from '../../bus/local-socket.ts';
import type { BusUsers } from '../../bus/roles.ts';
import type { Endpoint } from '../../client/endpoint.ts';
import { version } from '../../client/version.ts';
import type { Child } from '../../process/child.ts';
import type { Conditions } from '../../process/conditions.ts';
import { type Layout, writeWhole } from '../../store/layout.ts';
import { busAway, type Handlers, localApi, serveApi } from '../api.ts';
import type { End } from '../end.ts';
import type { NodeLog } from '../log/node-log.ts';
import { type OperationsParts, operations } from '../operations.ts';
import { DEFAULT_TRUST, type SupervisorOptions } from '../options.ts';
import type { Fetchers } from '../processes/fetchers.ts';
import type { FrontEnds } from '../processes/front-ends.ts';
import type { SupervisorPorts } from '../ports.ts';
import { UsageMeter, type UsageMeterOptions } from '../processes/usage-meter.ts';
import { type StatusSources, statusOf } from '../status/status.ts';
import { UserCalls } from '../user-calls.ts';
import { UserRights } from '../user-rights.ts';
import type { FleetProcess } from './fleet.ts';
import { followLog } from './log.ts';
import { serveMetrics } from './metrics.ts';
import type { LimitedUsers } from './nats.ts';
import { sendTraces } from './traces.ts';

export interface DoorsOptions
  extends Omit<OperationsParts, 'status' | 'usage'>,
    Omit<StatusSources, 'children' | 'natsUrl'> {
  options: SupervisorOptions;
  bus: NatsConnection;
  names: Subjects;
  users: BusUsers;
  limited: LimitedUsers;
  layout: Layout;
  natsProcesses: () => ProcessStatus[];
  snapshotter: Child | undefined;
  fleet: FleetProcess | undefined;
  fronts: OperationsParts['fronts'] &
    StatusSources['fronts'] &
    Pick<FrontEnds, 'status' | 'counted' | 'failedReads' | 'degraded'>;
  fetchers: OperationsParts['fetchers'] & Pick<Fetchers, 'status' | 'counted' | 'degraded'>;
  owner: NodeLog['owner'];
  indexers: UsageMeterOptions['indexers'];
  counts: Counts;
  events: NodeLog['events'];
  live: NodeLog['live'];
  keeper: NodeLog['keeper'];
  conditions: Conditions;
  log: Logger;
  mounts: OperationsParts['mounts'] & StatusSources['mounts'];
  podman: OperationsParts['podman'] & StatusSources['podman'];
  images: OperationsParts['images'] & StatusSources['images'];
  end: End;
  ports: SupervisorPorts;
}

/**
 * In this order: the log is followed, so that a clean end closes it; calls are answered; signals are obeyed; last, commands find
 * the engine.
 */
export async function openDoors(given: DoorsOptions): Promise<void> {
  const { users, natsProcesses, snapshotter, fleet, fronts, fetchers, mounts, podman, end } = given;
  const children = () => [
    ...natsProcesses(),
    ...(snapshotter === undefined ? [] : [snapshotter.status()]),
    ...(fleet === undefined ? [] : [fleet.child.status()]),
    ...fronts.status(),
    ...fetchers.status(),
  ];
  const status = statusOf({ ...given, children, natsUrl: users.supervisor.url });
  followLog(given);
  serveMetrics({ ...given, others: [snapshotter, fleet?.child], children });
  sendTraces(given);
  const usage = new UsageMeter({ ...given, children });
  end.at('background', () => usage.close());
  await serveOperations(given, operations({ ...given, status, usage }));
  end.obeySignals(() => podman.behind(() => mounts.detachAll(true)));
  await writeEndpoint(given);
}

/** Answers every operation, on both ways. A socket that cannot be opened is no reason not to start. */
async function serveOperations(given: DoorsOptions, handlers: Handlers): Promise<void> {
  const { options, bus, names, users, layout, ports, owner, conditions, mounts, log, end } = given;
  const { mayAnswer } = owner;
  const rights = followRights(given);
  const userCalls =
    rights &&
    new UserCalls({
      users: () => rights.now(),
      policy: options.trust ?? DEFAULT_TRUST,
      dirs: () => mounts.list().map(({ dir }) => dir),
      now: ports.clock.now,
    });
  serveApi({ bus, names, handlers, log, mayAnswer, userCalls });
  const away = () => (conditions.has('nats') ? busAway(users.supervisor.url) : undefined);
  try {
    const server = await serveLocal(layout.socket('supervisor'), localApi(handlers, log, mayAnswer, away));
    end.at('root', () => void server.close());
  } catch (error) {
    log.warn({ error }, 'status cannot be asked for while NATS is away');
  }
}

/** Undefined where there is no file of users with limited rights. */
function followRights(given: DoorsOptions): UserRights | undefined {
  const { options, limited, conditions, ports, end } = given;
  if (options.apiUsers === undefined) return undefined;
  const rights = new UserRights({
    path: options.apiUsers,
    first: limited.rights,
    apply: async (now) => await writeUsers(given, (await limited.setRights?.(now)) ?? {}),
    conditions,
    clock: ports.clock,
  });
  end.at('connections', () => rights.close());
  return rights;
}

const spoken = () =>
  ({ v: 1, version: version(), protocol: PROTOCOL, oldestProtocol: OLDEST_PROTOCOL }) as const;

/** One file for each user with limited rights, and none for others. */
async function writeUsers(
  { options, names, layout }: DoorsOptions,
  addresses: LimitedUsers['addresses'],
): Promise<void> {
  const folder = layout.in('run/api');
  const files = new Set(Object.keys(addresses).map((user) => `${user}.json`));
  for (const file of await readdir(folder).catch(() => []))
    if (!files.has(file)) await rm(join(folder, file), { force: true });
  for (const [user, nats] of Object.entries(addresses)) {
    const calls = names.userApi(user, '');
    const own = { ...spoken(), node: options.node, user, nats, calls, progress: names.progress('', user) };
    await writeWhole(layout.in('run/api', `${user}.json`), Buffer.from(JSON.stringify(own, null, 2)));
  }
}

/** The engine's endpoint, and before it one for each user with limited rights. */
async function writeEndpoint(given: DoorsOptions): Promise<void> {
  const { options, users, limited, layout, end, ports } = given;
  await writeUsers(given, limited.addresses);
  const endpoint = {
    ...spoken(),
    node: options.node,
    pid: ports.self.pid,
    nats: users.api,
    log: users.reader,
    packs: users.packs,
    root: options.root,
  } as const satisfies Endpoint & { root: string };
  await writeWhole(layout.endpoint(), Buffer.from(JSON.stringify(endpoint, null, 2)));
  end.at('endpoint', () => rm(layout.endpoint(), { force: true }));
}
