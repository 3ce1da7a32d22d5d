/** Opens the engine's doors: the API over NATS and on the socket, signals, and the file by which commands find the engine. */
import { rm } from 'node:fs/promises';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
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
import type { SupervisorPorts } from '../ports.ts';
import { type StatusSources, statusOf } from '../status/status.ts';
import { UserCalls } from '../user-calls.ts';
import { followLog } from './log.ts';
import type { LimitedUsers } from './nats.ts';

export interface DoorsOptions
  extends Omit<OperationsParts, 'status'>,
    Omit<StatusSources, 'children' | 'natsUrl'> {
  options: SupervisorOptions;
  bus: NatsConnection;
  names: Subjects;
  users: BusUsers;
  limited: LimitedUsers;
  layout: Layout;
  natsProcesses: () => ProcessStatus[];
  snapshotter: Child | undefined;
  fronts: OperationsParts['fronts'] & StatusSources['fronts'] & { status(): ProcessStatus[] };
  fetchers: OperationsParts['fetchers'] & { status(): ProcessStatus[] };
  owner: NodeLog['owner'];
  live: NodeLog['live'];
  keeper: NodeLog['keeper'];
  conditions: Conditions;
  log: Logger;
  mounts: OperationsParts['mounts'] & StatusSources['mounts'];
  images: OperationsParts['images'] & StatusSources['images'];
  end: End;
  ports: SupervisorPorts;
}

/**
 * In this order: the log is followed, so that a clean end closes it; calls are answered; signals are obeyed; last, commands find
 * the engine.
 */
export async function openDoors(given: DoorsOptions): Promise<void> {
  const { users, natsProcesses, snapshotter, fronts, fetchers, mounts, end } = given;
  const children = () => [
    ...natsProcesses(),
    ...(snapshotter === undefined ? [] : [snapshotter.status()]),
    ...fronts.status(),
    ...fetchers.status(),
  ];
  const status = statusOf({ ...given, children, natsUrl: users.supervisor.url });
  followLog(given);
  await serveOperations(given, operations({ ...given, status }));
  end.obeySignals(() => mounts.detachAll(true));
  await writeEndpoint(given);
}

/** Answers every operation, on both ways. A socket that cannot be opened is no reason not to start. */
async function serveOperations(given: DoorsOptions, handlers: Handlers): Promise<void> {
  const { options, bus, names, users, limited, layout, owner, conditions, mounts, log, end } = given;
  const { mayAnswer } = owner;
  const userCalls = new UserCalls({
    users: limited.rights,
    policy: options.trust ?? DEFAULT_TRUST,
    dirs: () => mounts.list().map(({ dir }) => dir),
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

/** The engine's endpoint, and before it one for each user with limited rights, in a folder of this start. */
async function writeEndpoint(given: DoorsOptions): Promise<void> {
  const { options, users, limited, names, layout, end, ports } = given;
  const spoken = { v: 1, version: version(), protocol: PROTOCOL, oldestProtocol: OLDEST_PROTOCOL } as const;
  await rm(layout.in('run/api'), { recursive: true, force: true });
  for (const [user, nats] of Object.entries(limited.addresses)) {
    const calls = names.userApi(user, '');
    const own = { ...spoken, node: options.node, user, nats, calls, progress: names.progress('', user) };
    await writeWhole(layout.in('run/api', `${user}.json`), Buffer.from(JSON.stringify(own, null, 2)));
  }
  const endpoint = {
    ...spoken,
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
