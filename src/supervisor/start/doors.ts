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
import type { SupervisorOptions } from '../options.ts';
import type { SupervisorPorts } from '../ports.ts';
import { type StatusSources, statusOf } from '../status/status.ts';
import { followLog } from './log.ts';

export interface DoorsOptions
  extends Omit<OperationsParts, 'status'>,
    Omit<StatusSources, 'children' | 'natsUrl'> {
  options: SupervisorOptions;
  bus: NatsConnection;
  names: Subjects;
  users: BusUsers;
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
  const { bus, names, users, layout, owner, conditions, log, end } = given;
  const { mayAnswer } = owner;
  serveApi(bus, names, handlers, log, mayAnswer);
  const away = () => (conditions.has('nats') ? busAway(users.supervisor.url) : undefined);
  try {
    const server = await serveLocal(layout.socket('supervisor'), localApi(handlers, log, mayAnswer, away));
    end.at('root', () => void server.close());
  } catch (error) {
    log.warn({ error }, 'status cannot be asked for while NATS is away');
  }
}

async function writeEndpoint({ options, users, layout, end, ports }: DoorsOptions): Promise<void> {
  const endpoint = {
    v: 1,
    version: version(),
    protocol: PROTOCOL,
    oldestProtocol: OLDEST_PROTOCOL,
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
