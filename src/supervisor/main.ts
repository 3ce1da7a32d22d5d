/**
 * The supervisor: the one process of a node that starts the others, holds the FUSE descriptor, mounts and unmounts, and
 * answers the API. It never touches a block: reads go through the front end (src/front-end) and survive its restarts.
 *
 * A start, from left to right; what stands below each other runs side by side:
 *
 *     root ── nats ──────── bus ── own ──┬── front end loads ──┬── front ── mounts ── doors ──┬── snapshotter
 *             loops                      └── log ── parts ─────┘                              └── rehearsal
 *             credentials
 *
 * Each stage lies in src/supervisor/start/ and takes what it needs of the stages before. What it opens it registers with the
 * end (end.ts), which closes it in the one order there is, also where the start does not come to its end.
 */
import { Counts } from '../../actors/counts.ts';
import { subjects } from '../../schemas/subjects.ts';
import { Conditions } from '../process/conditions.ts';
import { createLog } from '../process/log.ts';
import { Layout } from '../store/layout.ts';
import { End } from './end.ts';
import type { SupervisorOptions } from './options.ts';
import { realSupervisorPorts, type SupervisorPorts } from './ports.ts';
import { ProcessEvents } from './processes/process-events.ts';
import { makeSnapshotter } from './processes/snapshotter.ts';
import { watchProcesses } from './processes/watchers.ts';
import { Stages } from './stages.ts';
import { openBus } from './start/bus.ts';
import { openCredentials } from './start/credentials.ts';
import { openDoors } from './start/doors.ts';
import { findLeftovers, labelOf } from './start/leftovers.ts';
import { watchIncidents } from './start/incidents.ts';
import { openLog } from './start/log.ts';
import { restoreMounts } from './start/mounts.ts';
import { reachNats } from './start/nats.ts';
import { makeParts } from './start/parts.ts';
import { IdleWork } from './start/rehearsal.ts';
import { takeRoot } from './start/root.ts';
import { makeServers, startFront, untilServing } from './start/servers.ts';

/**
 * Runs an engine until SIGTERM, SIGINT or the API's `down`; then `ports.self.exit` ends the process. Errors: before it is ready
 * `conflict` (a second engine), `environment` (something is missing on the machine), `unavailable` (the given NATS); later
 * `conflict` when another engine takes the node over.
 */
export async function runSupervisor(
  options: SupervisorOptions,
  ports: SupervisorPorts = realSupervisorPorts(),
): Promise<void> {
  const log = createLog('supervisor', options.logLevel);
  const end = new End({ log, ports });
  start({ options, log, end, ports }).catch((error: unknown) => end.failed(error));
  await end.over;
  ports.self.exit(0);
}

interface Given {
  options: SupervisorOptions;
  log: ReturnType<typeof createLog>;
  end: End;
  ports: SupervisorPorts;
}

/** The stages in the order of time. Errors: those of the stage that fails. */
async function start(given: Given): Promise<void> {
  const { options, log, end, ports } = given;
  const stages = new Stages({ log, end, ports });
  const names = subjects(options.node);
  const facts = new ProcessEvents({ log, end, ports });
  const held = {
    ...given,
    names,
    layout: new Layout(options.root),
    conditions: new Conditions(log),
    counts: new Counts(),
    watch: watchProcesses({ facts, log, end }),
    startedAt: new Date(ports.clock.wallMs()),
  };

  // A node without a fleet loads nothing of it.
  const member =
    options.fleet && (await import('./start/fleet.ts')).makeFleet({ ...held, choice: options.fleet });

  // One engine a root: what an earlier one left is looked at when that has ended.
  await stages.run('root', () => takeRoot(held));
  const base = { ...held, label: await labelOf(held.layout) };
  // A nats-server takes its time to come. Meanwhile loops are found and the desk for credentials is opened.
  const [{ leftovers, handed }, nats, credentials] = await stages.run('nats', () =>
    Promise.all([findLeftovers(base), reachNats(base), openCredentials(base)]),
  );
  const alone = { registrySettings: credentials, fleet: undefined };
  const { registrySettings, fleet } = (await member?.begin({ ...base, ...nats, ...alone })) ?? alone;
  // The log lies behind NATS, and the engine's processes meet there.
  const bus = await stages.run('bus', () => openBus({ ...base, ...nats }));
  const reached = { ...base, ...nats, ...bus, leftovers, handed, registrySettings };
  const servers = makeServers(reached);

  const opening = openLog(reached);
  // Another engine may have the node: no process of this one writes before the log says that it is this one's.
  const epoch = await stages.run('own', () => opening.owned);
  // The front end loads while this process reads the log.
  const serving = startFront({ ...reached, ...servers, epoch });
  serving.catch(() => {});
  // All parts begin with the facts that the log has.
  const node = await stages.run('log', () => opening.read);
  // A process may have died since the start: this watch hears of it first.
  watchIncidents({ ...base, ...node });
  facts.open(node.live);
  member?.open(node.live);
  const parts = makeParts({ ...reached, ...servers, ...node, witnesses: member?.witnesses });
  // Mounts need a front end: their devices are files that it serves.
  await stages.run('front', () => untilServing({ ...base, ...servers, ...node, serving }));
  // A command finds the mounts as they were before.
  const returned = await stages.run('mounts', () => restoreMounts({ ...reached, ...parts, ...node }));
  log.info({ ...returned, ms: stages.ms }, 'mounts are back');
  servers.devices.areBack();
  // A refutation of before is an alarm again, and what became whole before is proven.
  parts.trust.poke();
  void parts.cache.begin();

  const snapshotter = makeSnapshotter(base);
  const idle = new IdleWork({ ...base, ...servers, ...parts, fleet });
  // Now commands may come.
  await stages.run('doors', () =>
    openDoors({ ...reached, ...servers, ...node, ...parts, snapshotter, fleet, idle }),
  );
  // containerd's calls are calls of the engine.
  snapshotter?.start();
  void parts.startups.ready();
  log.info(
    { root: options.root, node: options.node, nats: nats.users.supervisor.url, ms: stages.ms },
    'ready',
  );
  if (options.rehearses !== false && parts.mounts.list().length === 0) idle.begin();
}
