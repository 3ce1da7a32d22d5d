/**
 * The front end process: serves layer devices to the kernel. It owns the layer actors and their part of the event log;
 * killed at any moment, its successor folds that log and goes on with the same FUSE descriptor.
 *
 *     link ─▶ settings ─▶ bus ─▶ log ─▶ fetch ─▶ transport ─▶ begin ─▶ layers ─▶ calls ─▶ ready
 *       │                                        standby        │
 *       └ from here on another front end may take over          └ from here on the kernel's requests come here
 */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { connectBus } from '../bus/connection.ts';
import { serveLocal } from '../bus/local-socket.ts';
import { readPressure } from '../kernel/pressure.ts';
import { isSibling, setProcessPriority } from '../kernel/priority.ts';
import type { ColdRead, FuseTransport } from '../fuse/transport.ts';
import { giveHeapRoom, Tidying } from '../process/heap.ts';
import { linkToParent, type ParentLink } from '../process/parent-link.ts';
import { type Clock, type Ports, realPorts } from '../process/ports.ts';
import { IdleRehearsal, type RunRehearsal } from '../process/rehearsal/idle.ts';
import { type ChildSelf, realChildSelf } from '../process/self.ts';
import { busOf } from '../process/settings.ts';
import type { Layout } from '../store/layout.ts';
import { frontCalls, serveCalls } from './calls.ts';
import { loadTransport, type LoadTransport, type StandbyTransport } from './devices.ts';
import type { Machine } from './fetcher-urgency.ts';
import { LayerTable } from './layer-table.ts';
import { LocalFetcher, type MakeOwnFetcher } from './local-fetcher.ts';
import { LogWriter } from './log-writer.ts';
import { FrontMetrics } from './metrics.ts';
import { type Fetching, readBase, serveLayers, type Serving, startFetching } from './parts.ts';
import type { Rest } from './rest.ts';
import { Shutdown, type StopStep } from './shutdown.ts';

export interface FrontEndPorts extends Ports {
  self: ChildSelf;
  /** Collects garbage in the pauses of the process. */
  tidying: Pick<Tidying, 'worked' | 'now'>;
  loadTransport: LoadTransport;
  /** For when NATS is away or no fetcher lives. */
  ownFetcher: MakeOwnFetcher;
  /** How busy the machine is, and how urgent its processes. */
  machine: Machine;
  /** Goes through a start when there is nothing to do; absent: no rehearsal. */
  rehearse?: RunRehearsal;
}

export interface FrontEnd {
  /** Its name: no other front end has it. */
  readonly name: string;
  /** Closes every layer and ends every part. The process stays. */
  stop(): Promise<void>;
}

/** A front end that has to wait so long, ms, before it may begin takes over from another one. */
const SWAP_MS = 50;
/** A rehearsal has this long to end when the front end stops, ms. */
const REHEARSAL_END_MS = 1_000;
const EIO = 5;

/** Starts a front end of the engine in `root`; it serves when this resolves. Errors: `unavailable` without NATS. */
export async function runFrontEnd(root: string, ports: FrontEndPorts): Promise<FrontEnd> {
  const { clock, self, tidying } = ports;
  const layers = new LayerTable();
  const shutdown = new Shutdown(self, clock, layers);
  const hushed = new AbortController();
  const link = linkToParent(self.parent, {
    onOrphaned: shutdown.die,
    onRetire: shutdown.retire,
    onWork: () => hushed.abort(),
  });

  const base = await readBase(root, ports);
  const { settings, names, layout, log, counts } = base;
  const bus = await connectBus(busOf(settings, 'front-end'), { name: 'cofa-front-end' });
  const writer = await LogWriter.open({ bus, names, settings, clock, counts });
  const fetching = startFetching(base, bus, layers, ports);

  const cold = coldReads(layers, fetching.rest, tidying);
  const standby = await ports.loadTransport({ settings, layout, cold });
  link.watch(() => standby.trouble());
  const transport = await beginInTurn(link, clock, writer, standby);

  const serving = serveLayers(base, { ...fetching, bus, layers, writer, transport });
  const metrics = new FrontMetrics({ ...base, ...fetching, ...serving, layers, writer, transport });
  link.countBy(() => metrics.samples());
  link.watch(() => {
    metrics.look();
    return standby.trouble();
  });
  const rehearsal = new IdleRehearsal({
    clock,
    tidying,
    log,
    slower: 'the first start',
    hushed: hushed.signal,
  });
  const { front, conditions } = base;
  link.degradedBy(() => conditions.list());
  const handlers = frontCalls({
    ...fetching,
    ...serving,
    front,
    conditions,
    transport: standby,
    onOpen: rehearsal.workCame,
    onStart: () => tidying.worked(),
  });
  serveCalls(bus, names, handlers);
  const local = await serveStatus(layout, () => handlers.status({}), log);
  await bus.flush();

  shutdown.order = stopOrder({ ...fetching, ...serving, rehearsal, transport, local, bus });
  link.ready();
  if (settings.rehearses !== false && ports.rehearse !== undefined)
    void rehearsal.begin({ root, name: 'front-end' }, ports.rehearse);
  void writer.warmUp();
  log.info(
    { pid: self.pid, layers: writer.layerLog().layers.size, transport: settings.transport },
    'front end ready',
  );
  endWith(self, transport, shutdown, log);
  return { name: front, stop: () => shutdown.stop() };
}

/** Nothing new begins, what is under way ends, and what has come gets into the log before its connection closes. */
function stopOrder(
  parts: Fetching &
    Serving & {
      rehearsal: IdleRehearsal;
      transport: FuseTransport;
      local: LocalServer;
      bus: NatsConnection;
    },
): StopStep[] {
  const { rest, rehearsal, scrubber, cache, pool, layers, transport, local, bus } = parts;
  return [
    () => rest.stop(),
    () => rehearsal.stop(REHEARSAL_END_MS),
    () => scrubber.stop(),
    () => cache.stop(),
    () => pool.close(),
    () => layers.closeAll(),
    () => transport.stop(),
    () => local?.close(),
    () => bus.drain(),
  ];
}

/** Begins when the front end before this one has ended, and has read what that wrote last. */
async function beginInTurn(
  link: ParentLink,
  clock: Clock,
  writer: LogWriter,
  standby: StandbyTransport,
): Promise<FuseTransport> {
  const loadedAt = clock.now();
  await link.begin();
  if (clock.now() - loadedAt > SWAP_MS) await writer.catchUp();
  return await standby.begin();
}

/** A read whose blocks are not all present: its layer fetches them. */
const coldReads =
  (layers: LayerTable, rest: Rest, tidying: FrontEndPorts['tidying']): ColdRead =>
  (file, offset, length, answer) => {
    rest.coldRead();
    tidying.worked();
    const layer = layers.byInode.get(file.inode);
    if (layer === undefined) answer(EIO);
    else layer.cold(offset, length, answer);
  };

type LocalServer = Awaited<ReturnType<typeof serveStatus>>;

/** For the supervisor's status while NATS is away. */
const serveStatus = (layout: Layout, status: () => unknown, log: Logger) =>
  serveLocal(layout.socket('front-end'), { status: async () => await status() }).catch((error: unknown) => {
    log.warn({ error }, 'status cannot be asked for while NATS is away');
    return undefined;
  });

/** Ends the process with its transport, at a signal, and at an error that no part has caught. */
function endWith(self: ChildSelf, transport: FuseTransport, shutdown: Shutdown, log: Logger): void {
  void transport.ended.then(async (error) => {
    if (error !== undefined) log.fatal({ error }, 'the FUSE transport failed');
    // Without an error the mount is gone: what has come is still to be logged.
    else await shutdown.stop();
    shutdown.die();
  });
  // Node would wait for the threads that block in read(2), and readers for a successor that never comes.
  self.onFailure((error) => {
    log.fatal({ error }, 'the front end failed');
    shutdown.die();
  });
  self.onSignal(() => void shutdown.stop().finally(shutdown.die));
}

if (import.meta.main) {
  const [, , root] = process.argv;
  if (root === undefined) throw new Error('usage: front-end/main.ts ROOT');
  giveHeapRoom();
  const ports = realPorts();
  const rehearse: RunRehearsal = async (rehearsal) =>
    await (await import('./rehearse.ts')).rehearseFront(rehearsal, ports.clock);
  await runFrontEnd(root, {
    ...ports,
    self: realChildSelf(),
    tidying: new Tidying(),
    loadTransport,
    ownFetcher: (options) => new LocalFetcher(options),
    machine: {
      pressure: () => readPressure(),
      // Fetchers say their numbers themselves.
      setPriority: (pid, priority) => void (isSibling(pid) && setProcessPriority(pid, priority)),
    },
    rehearse,
  });
}
