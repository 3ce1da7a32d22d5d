/** The node's event log, in two stages: the node becomes this engine's; the log is read. */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import type { Counts } from '../../../actors/counts.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import { version } from '../../client/version.ts';
import type { Conditions } from '../../process/conditions.ts';
import { appendWatch } from '../../process/counted.ts';
import type { Layout } from '../../store/layout.ts';
import type { End } from '../end.ts';
import { type NodeLog, openNodeLog } from '../log/node-log.ts';
import { rootId } from '../log/ownership.ts';
import type { SupervisorOptions } from '../options.ts';
import type { SupervisorPorts } from '../ports.ts';

/** The log has this long for its last snapshot, ms. */
const CLOSE_MS = 2_000;

export interface OpeningLog {
  /** The epoch: sequence of this engine's `engine.started`. Other processes may begin. */
  owned: Promise<number>;
  read: Promise<NodeLog>;
}

/** Errors of both: those of `openNodeLog`. */
export function openLog(given: {
  options: SupervisorOptions;
  /** Appends are counted here. */
  counts: Counts;
  bus: NatsConnection;
  names: Subjects;
  layout: Layout;
  conditions: Conditions;
  log: Logger;
  end: End;
  ports: SupervisorPorts;
}): OpeningLog {
  const { options, counts, bus, names, layout, conditions, log, end, ports } = given;
  const { root: folder, node, transport, nats, logLimit: limit } = options;
  const { pid, host } = ports.self;
  const owned = Promise.withResolvers<number>();
  const open = async () => {
    const opened = await openNodeLog({
      bus,
      names,
      node,
      onOwned: owned.resolve,
      onEnded: appendWatch(counts),
      limit,
      files: nats === undefined ? layout.in('nats') : undefined,
      conditions,
      presence: { host, pid, folder },
      started: {
        type: 'engine.started',
        pid,
        version: version(),
        transport,
        root: await rootId(layout),
        host,
      },
      log,
    });
    void opened.owner.lost.then((error) => end.replaced(error));
    return opened;
  };
  const read = open();
  read.catch(owned.reject);
  return { owned: owned.promise, read };
}

/** Follows the log from now on. At a clean end it takes `engine.stopped` and a last snapshot. */
export function followLog(given: {
  live: NodeLog['live'];
  keeper: NodeLog['keeper'];
  log: Logger;
  end: End;
}): void {
  const { live, keeper, log, end } = given;
  keeper.start();
  end.at('log', {
    clean: () =>
      live.append('main', { type: 'engine.stopped' }).then(
        ({ seq }) => keeper.close(seq, CLOSE_MS),
        (error: unknown) => log.warn({ error }, 'the log did not take the end'),
      ),
  });
}
