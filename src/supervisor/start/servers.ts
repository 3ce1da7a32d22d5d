/** The processes that serve readers: front end and fetchers. */
import { availableParallelism } from 'node:os';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import type { NodeState } from '../../../actors/node-state.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import type { BusUsers } from '../../bus/roles.ts';
import type { FuseSession } from '../../fuse/session.ts';
import type { Conditions } from '../../process/conditions.ts';
import { type RegistrySettings, writeSettings } from '../../process/settings.ts';
import type { EventLog } from '../../store/event-log.ts';
import type { Layout } from '../../store/layout.ts';
import type { End } from '../end.ts';
import { Devices } from '../layers/devices.ts';
import { Doubts } from '../layers/doubts.ts';
import { FrontCaller } from '../layers/front-caller.ts';
import type { Leftovers } from '../mounts/leftovers.ts';
import type { SupervisorOptions } from '../options.ts';
import type { SupervisorPorts } from '../ports.ts';
import { childSettings } from '../processes/child-settings.ts';
import { Fetchers } from '../processes/fetchers.ts';
import { FrontEnds } from '../processes/front-ends.ts';
import type { Watch } from '../processes/watchers.ts';
import { FrontFigures } from '../status/front-figures.ts';
import { followBus } from './bus.ts';

export interface Servers {
  fronts: FrontEnds;
  fetchers: Fetchers;
  /** Asks the front end. */
  front: FrontCaller;
  /** What the front end says of itself. */
  figures: FrontFigures;
  /** What it serves. */
  devices: Devices;
  /** What it has to compare. */
  doubts: Doubts;
}

/** Makes them; none runs yet. A front end that begins to serve is greeted, and one whose words were lost with NATS. */
export function makeServers(given: {
  options: SupervisorOptions;
  bus: NatsConnection;
  users: BusUsers;
  names: Subjects;
  layout: Layout;
  label: string;
  leftovers: Leftovers;
  /** The FUSE mount of the engine before, which this one goes on with. */
  handed: FuseSession | undefined;
  log: Logger;
  conditions: Conditions;
  watch: Watch;
  end: End;
  ports: SupervisorPorts;
}): Servers {
  const { options, bus, names, layout, label, leftovers, handed, log, conditions, watch, end, ports } = given;
  const front = new FrontCaller({ bus, names, ports });
  const devices = new Devices({
    front,
    layout,
    label,
    log,
    leftovers,
    returning: handed !== undefined,
    isEnding: () => end.isNear,
  });
  const doubts = new Doubts({ bus, names, front });
  const greet = greetWith({ devices, doubts, log });
  followBus({ ...given, onBack: () => end.isNear || greet(false) });
  const { transport, readDeadlineMs, hangMs } = options;
  const shared = { layout, conditions, hangMs, ports };
  const watchers = watch('front-end', 'front-end');
  const fronts = new FrontEnds({
    ...shared,
    log,
    transport,
    readDeadlineMs,
    watchers,
    handed,
    onServing: greet,
  });
  const fetchers = new Fetchers({
    ...shared,
    count: options.workers ?? availableParallelism(),
    label,
    watchers: (name) => watch('fetcher', name),
  });
  end.at('readers', () => fronts.stop());
  end.at('readers', () => fetchers.stop());
  end.atCut(() => fronts.close());
  return { fronts, fetchers, front, figures: new FrontFigures({ front, layout }), devices, doubts };
}

/**
 * Tells a front end what to serve. One that takes another's place first compares what that one has not. `move`: it serves a new
 * FUSE mount.
 */
function greetWith(given: { devices: Devices; doubts: Doubts; log: Logger }): (move: boolean) => void {
  const { devices, doubts, log } = given;
  const greet = async (move: boolean) => {
    await doubts.say().catch(() => {});
    await devices.reopenAll(move);
  };
  return (move) => {
    greet(move).catch((error: unknown) =>
      log.error({ error }, 'the front end was not told all that it has to serve'),
    );
  };
}

/** Opens the FUSE mount and starts a front end on it; resolves when it serves. Errors: those of `FrontEnds`. */
export async function startFront(given: {
  fronts: FrontEnds;
  names: Subjects;
  epoch: number;
  options: SupervisorOptions;
  layout: Layout;
  users: BusUsers;
  registrySettings: RegistrySettings;
}): Promise<void> {
  const { fronts, names, epoch } = given;
  names.epoch = epoch;
  await fronts.open();
  await writeSettings(childSettings({ ...given, resend: fronts.resend }));
  await fronts.start();
}

/**
 * Waits for `serving`, then starts the fetchers, which it will ask. After a log that ended uncleanly it hears what to compare
 * before it serves anything. Errors: those of `startFront`.
 */
export async function untilServing(given: {
  serving: Promise<void>;
  fetchers: Fetchers;
  doubts: Doubts;
  events: Pick<EventLog, 'epoch'>;
  live: { state: Pick<NodeState, 'crashed'> };
  log: Logger;
}): Promise<void> {
  const { serving, fetchers, doubts, events, live, log } = given;
  if (live.state.crashed) await doubts.find(events.epoch ?? 0);
  await serving;
  fetchers.start();
  await doubts.say().catch((error: unknown) => log.error({ error }, 'the newest blocks are not compared'));
}
