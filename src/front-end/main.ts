/**
 * The front end process: serves layer devices to the kernel. It owns the layer actors and their part of the event log;
 * killed at any moment, its successor folds that log and goes on with the same FUSE descriptor.
 */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CacheHost } from './cache-host.ts';
import { blocksInHoles, trimAbsent } from './device-holes.ts';
import { Conditions } from '../process/conditions.ts';
import { createLog } from '../process/log.ts';
import { foldEvent, idOf } from '../../actors/node-state.ts';
import { Budgets } from '../../actors/pace.ts';
import { pairsOf } from '../../actors/ranges.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type {
  BeginStart,
  CacheNeeds,
  CloseLayer,
  Collect,
  FrontNotice,
  FrontStatus,
  HandedOver,
  HandedOverReply,
  Doubt,
  OpenLayer,
  OpenLayerReply,
  Refetch,
  Scrub,
  Scrubbed,
  Settled,
  Shrink,
} from '../../schemas/front.ts';
import { subjects } from '../../schemas/subjects.ts';
import { ask, connectBus, encode, serve } from '../bus/connection.ts';
import { awaySentence, watchBus } from '../bus/health.ts';
import { serveLocal } from '../bus/local-socket.ts';
import type { ColdRead, DeviceFile, FuseTransport } from '../fuse/transport.ts';
import type { KernelTransport } from '../fuse/kernel-transport.ts';
import { SpanTable } from '../image/span-table.ts';
import { openDevice } from '../store/device.ts';
import { EventLog, type LogRecord } from '../store/event-log.ts';
import { layerLog, type NewLayerEvent } from '../store/layer-log.ts';
import { Layout } from '../store/layout.ts';
import { LogFiles } from '../store/log-files.ts';
import { continueNode, loadNode } from '../store/snapshots.ts';
import { FetchPool } from './fetch-pool.ts';
import { giveHeapRoom, Tidying } from '../process/heap.ts';
import { LayerHost, type LayerHostOptions } from './layer-host.ts';
import { linkToParent } from '../process/parent-link.ts';
import { realPorts } from '../process/ports.ts';
import { busOf, readSettings } from '../process/settings.ts';
import { Scrubber } from './scrubber.ts';
import { Starts } from './starts.ts';

/** The FUSE descriptor that the supervisor hands down. */
const FUSE_FD = 3;
/** A front end that has to wait so long, ms, before it may begin takes over from another one. */
const SWAP_MS = 50;
const EIO = 5;

/** Before another front end takes over, what has come has this long to get into the log, ms. */
const RETIRE_MS = 1_000;

/** Layers that are served now, by diffID; a layer is in the map while it opens and until it has closed. */
const layers = new Map<string, Promise<LayerHost>>();

giveHeapRoom();
const tidying = new Tidying();

// From here on another front end may take over, also while this one still loads.
const link = linkToParent({
  onOrphaned: die,
  trouble: () => serving?.trouble(),
  onRetire: () => void retire().finally(die),
});
let serving: KernelTransport | undefined;

const root = process.argv[2];
if (root === undefined) throw new Error('usage: front-end/main.ts ROOT');
const settings = await readSettings(root);
const log = createLog('front-end', settings.logLevel);
const conditions = new Conditions(log);
const layout = new Layout(root);
const names = subjects(settings.node, settings.epoch);
/** Monotonic: deadlines must not move with the wall clock. */
const now = () => performance.now();

/** Those that will be opened when their blocks in doubt have been compared. */
const doubted = new Set<string>();
/** Those of them that have opened. */
const opened = new Map<string, LayerHost>();
const byInode = new Map<number, LayerHost>();
/** Compressed bytes that each layer has cost since this process began; kept while the layer is closed. */
const fetched = new Map<string, number>();
/** Reads of layers that have been closed since. */
const pastReads = new Map<string, { hits: number; misses: number; errors: number }>();

/**
 * The rest of an image is fetched when its start is over: the first pause without a cold read, at the latest after a
 * while. Before that every byte of it would delay one that somebody waits for.
 */
const START_QUIET_MS = 500;
const START_LIMIT_MS = 20_000;
let lastCold = Number.NEGATIVE_INFINITY;
/** There has been work. */
const working = new AbortController();
let rehearsed: Promise<void> | undefined;
/** Layers whose rest is wanted; those in `starting` wait for it. */
const wanted = new WeakSet<LayerHost>();
const starting = new Map<LayerHost, number>();
const budgets = new Budgets();

const cold: ColdRead = (file: DeviceFile, offset, length, answer) => {
  lastCold = now();
  tidying.worked();
  const layer = byInode.get(file.inode);
  if (layer === undefined) answer(EIO);
  else layer.cold(offset, length, answer);
};

const bus = await connectBus(busOf(settings, 'front-end'), { name: 'cofa-front-end' });
let scrubber: Scrubber | undefined;
const logFiles = settings.natsFiles === undefined ? undefined : new LogFiles(settings.natsFiles);
const events = new EventLog(bus, Date.now, {
  epoch: settings.epoch,
  // An append of the front end before this one, which landed late.
  onMissed: foldRecord,
  onFull: () => ask(bus, names.room, {}, 5_000),
  onStored: (record) => {
    foldRecord(record);
    scrubber?.onStored(`sha256:${idOf(record.subject)}`, record.event);
  },
  ...(logFiles === undefined ? {} : { alone: true, sync: logFiles.sync }),
});
let { fold } = await loadNode(bus, names);
let node = fold.state;
events.rememberAll(names, fold);
const front = randomBytes(8).toString('hex');
const pool = new FetchPool({ bus, names, front, clock: realPorts().clock, log, root, conditions });
const starts = new Starts({ pool, layer: (diffId) => opened.get(diffId), now, log });
const startTimer = setInterval(() => {
  starts.tick();
  if (starts.isBringing) return;
  const lastRead = Math.max(lastCold, starts.lastFirstRead);
  for (const [layer, openedAt] of starting) {
    if (now() - Math.max(lastRead, openedAt) < START_QUIET_MS && now() - openedAt < START_LIMIT_MS) continue;
    starting.delete(layer);
    layer.prefetch(true);
  }
}, 100);
const health = watchBus(bus, {
  onAway: () => {
    conditions.set('nats', awaySentence(settings.nats.url));
    conditions.clear('log');
    pool.busAway();
  },
  onBack: () => {
    conditions.clear('nats');
    pool.busBack();
  },
});
serving = await loadKernelTransport();
const loadedAt = now();
await link.begin();
// Another one has served meanwhile, and has ended: what it wrote last is still to be read.
if (now() - loadedAt > SWAP_MS) await foldLog();
serving?.begin();
const transport: FuseTransport = serving ?? (await startFuseNative());
const notify = (notice: FrontNotice) => bus.publish(names.notice, encode(notice));
const facts = layerLog(events, names, node.layers);
const cache = new CacheHost({
  layout,
  limit: settings.cacheLimit,
  facts,
  opened,
  isInUse: (diffId) => layers.has(diffId) && !doubted.has(diffId),
  conditions,
  log,
  now,
  notify,
});
scrubber = new Scrubber({ layout, facts, opened, pool, cache, conditions, log, notify });
const scrubs = scrubber;

serve<OpenLayer>(bus, names.front('open'), open);
serve<CloseLayer>(bus, names.front('close'), close);
serve<BeginStart>(bus, names.front('start'), (order) => {
  tidying.worked();
  starts.begin(order);
});
serve<HandedOver>(bus, names.front('handed-over'), async ({ diffId }): Promise<HandedOverReply> => {
  const layer = await layers.get(diffId);
  // Where room is short it would be taken back at once.
  if (cache.hasRoom) layer?.handedOver();
  return { state: layer?.state ?? 'lazy' };
});
serve<HandedOver>(bus, names.front('take-back'), async ({ diffId }) => {
  await (await layers.get(diffId))?.takeBack();
});
serve<HandedOver>(bus, names.front('taken-back'), async ({ diffId }): Promise<HandedOverReply> => {
  const layer = await layers.get(diffId);
  layer?.takenBack();
  return { state: layer?.state ?? 'lazy' };
});
serve<CacheNeeds>(bus, names.front('needs'), (needs) => void (cache.needs = needs));
serve(bus, names.front('uses'), () => cache.layerUses());
serve<Shrink>(bus, names.front('shrink'), (order) => cache.shrink(order));
serve<Collect>(bus, names.front('collect'), (order) => cache.collect(order));
serve<Scrub>(bus, names.front('scrub'), (order) => scrubs.scrub(order));
serve<Refetch>(bus, names.front('refetch'), (order) => scrubs.refetch(order));
serve<Scrubbed>(bus, names.front('scrubbed'), (report) => scrubs.scrubbed(report));
serve<Doubt>(bus, names.front('doubt'), (doubt) => scrubs.doubt(doubt));
serve(bus, names.front('status'), status);
// Every layer that the kernel knows is open again: a request for another one need not wait for it to appear.
serve<Settled>(bus, names.front('settled'), async ({ fronts }) => {
  // What another one had open is not open here.
  if (fronts.some((other) => other !== front)) return;
  serving?.settled();
  await cache.start();
});
await serveLocal(layout.socket('front-end'), { status }).catch((error: unknown) => {
  log.warn({ error }, 'status cannot be asked for while NATS is away');
});
await bus.flush();
link.ready();
if (settings.rehearses !== false) rehearsed = rehearse();
// The first sync looks at all files of the log: the first layer that is opened need not wait for that.
void logFiles?.sync().catch(() => {});
log.info({ pid: process.pid, layers: facts.layers.size, transport: settings.transport }, 'front end ready');

void transport.ended.then(async (error) => {
  if (error !== undefined) log.fatal({ error }, 'the FUSE transport failed');
  // Without an error the mount is gone: what has come is still to be logged.
  else await stop();
  die();
});
// Node would wait for the threads that block in read(2), and readers for a successor that never comes.
process.on('uncaughtException', (error) => {
  log.fatal({ error }, 'the front end failed');
  die();
});
process.once('SIGTERM', () => void stop().finally(die));
process.once('SIGINT', () => void stop().finally(die));

/** A first start would wait for code that runs for the first time. */
async function rehearse(): Promise<void> {
  try {
    const { rehearseFront } = await import('./rehearse.ts');
    await rehearseFront({ root: root as string, name: 'front-end', signal: working.signal });
    if (!working.signal.aborted) tidying.now();
  } catch (error) {
    log.warn({ error }, 'the first start will be slower: its rehearsal failed');
  }
}

/** What the log has taken is known from here on. */
function foldRecord({ subject, event }: LogRecord): void {
  foldEvent(node, idOf(subject), event);
}

/** Brings the state up to the end of the log. */
async function foldLog(): Promise<void> {
  fold = await continueNode(bus, names, fold);
  node = fold.state;
  events.rememberAll(names, fold);
}

/** Its threads are there, and take nothing before `begin`. */
async function loadKernelTransport(): Promise<KernelTransport | undefined> {
  if (settings.transport !== 'kernel') return undefined;
  const { kernelTransport } = await import('../fuse/kernel-transport.ts');
  return kernelTransport({ fd: FUSE_FD, resend: settings.resend, cold, standby: true });
}

async function startFuseNative(): Promise<FuseTransport> {
  const { fuseNativeTransport } = await import('../fuse/fuse-native-transport.ts');
  return await fuseNativeTransport({ target: layout.devices(), cold });
}

/** Another front end takes over: it reads from the log what has come. Readers that wait are passed to it by the kernel. */
async function retire(): Promise<void> {
  const open = await Promise.allSettled(layers.values());
  const flushed = open.map((layer) => (layer.status === 'fulfilled' ? layer.value.flush() : undefined));
  await Promise.race([Promise.allSettled(flushed), sleep(RETIRE_MS)]);
}

async function open(request: OpenLayer): Promise<OpenLayerReply> {
  working.abort();
  let opening = layers.get(request.diffId);
  if (opening === undefined) {
    opening = openCompared(request);
    layers.set(request.diffId, opening);
    opening.catch(() => layers.delete(request.diffId));
  }
  const layer = await opening;
  if (request.direct === true) layer.pin();
  else layer.announce();
  budgets.set(request.diffId, request.limits ?? [], now());
  layer.pace(budgets);
  if (request.prefetch && !wanted.has(layer)) {
    wanted.add(layer);
    layer.readahead(true);
    starting.set(layer, now());
  } else if (!request.prefetch && wanted.delete(layer)) {
    starting.delete(layer);
    layer.readahead(false);
    layer.prefetch(false);
  }
  return { deviceSize: layer.device.size, name: layer.device.name, state: layer.state, front };
}

/** Blocks that came shortly before an unclean stop are compared first. */
async function openCompared(request: OpenLayer): Promise<LayerHost> {
  const { diffId } = request;
  doubted.add(diffId);
  await scrubs.opening(diffId).finally(() => doubted.delete(diffId));
  return await cache.whileIdle(diffId, () => openLayer(request));
}

async function openLayer({ diffId, size, source, built, direct = false }: OpenLayer): Promise<LayerHost> {
  const table = SpanTable.decode(await readFile(layout.spans(source.digest)));
  if (table.diffId !== diffId || table.rawSize !== size) {
    throw new CofaError('integrity', `the span table of ${source.digest} is not that of layer ${diffId}`);
  }
  const { file, created } = await openDevice(layout.device(diffId), size);
  try {
    const append = (event: NewLayerEvent) => facts.append(diffId, event);
    const onLogged = (error: unknown) => {
      if (error === undefined) conditions.clear('log');
      else if (!health.isAway)
        conditions.set('log', `the event log takes no events, they wait: ${toErrorRecord(error).message}`);
    };
    const known = facts.layers.get(diffId);
    if (known === undefined || known.blob !== source.digest || known.size !== size) {
      const { blockSize, blockCount } = table;
      await append({ type: 'layer.opened', size, blockSize, blockCount, blob: source.digest });
    }
    if (created && (known?.presentCount ?? 0) > 0) {
      await append({
        type: 'layer.dropped',
        reason: 'device-lost',
        message: 'the device file was not there any more',
      });
    }
    if (built && !created && known === undefined) {
      await append({ type: 'layer.blocks', ranges: [[0, table.blockCount]] });
      await append({ type: 'layer.completed', digest: diffId });
    }
    const logged = facts.layers.get(diffId);
    if (!created && logged !== undefined) {
      const lost = await blocksInHoles(file.fd, logged);
      if (lost.length > 0) {
        log.warn({ layer: diffId, ranges: lost.length }, 'blocks of the log are holes of the device');
        await append({ type: 'layer.evicted', ranges: pairsOf(lost), reason: 'lost' });
      }
      await trimAbsent(file.fd, logged).catch((error: unknown) =>
        log.warn({ error }, 'absent blocks keep room'),
      );
    }
    const { readDeadlineMs } = settings;
    const options: LayerHostOptions = {
      layer: { diffId, table, source, file, direct },
      facts,
      pool,
      cache: { use: cache.useOf(diffId, table), fetched, onFetch: cache.onFetch },
      fuse: { firstReads: starts.firstReads(table.blockCount), quiesce: () => transport.quiesce() },
      on: {
        notify,
        logged: onLogged,
        mismatch: (layer) => scrubs.mismatch(diffId, layer),
        isWatched: () => starts.isRecording(diffId),
      },
      clock: realPorts().clock,
      log,
      readDeadlineMs,
    };
    const layer = new LayerHost(options);
    byInode.set(layer.device.inode, layer);
    opened.set(diffId, layer);
    cache.layerOpened(diffId, layer);
    transport.add(layer.device);
    return layer;
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function close({ diffId }: CloseLayer): Promise<void> {
  const layer = await layers.get(diffId);
  if (layer === undefined) return;
  starts.closing(diffId);
  cache.layerClosing(diffId, layer);
  layers.delete(diffId);
  opened.delete(diffId);
  starting.delete(layer);
  budgets.set(diffId, [], now());
  pastReads.set(diffId, readsOf(diffId, layer));
  transport.remove(layer.device.inode);
  byInode.delete(layer.device.inode);
  await cache.whileIdle(diffId, () => layer.close());
}

/** Reads since this process began; `layer` where it is open. */
function readsOf(diffId: string, layer: LayerHost | undefined) {
  const past = pastReads.get(diffId) ?? { hits: 0, misses: 0, errors: 0 };
  if (layer === undefined) return past;
  const { hits, misses, errors } = transport.counters(layer.device.inode);
  return { hits: past.hits + hits, misses: past.misses + misses, errors: past.errors + errors };
}

async function status(): Promise<FrontStatus> {
  const served: FrontStatus['layers'] = [];
  for (const [diffId, known] of facts.layers) {
    const layer = await layers.get(diffId);
    if (layer !== undefined) {
      served.push({ ...layer.status(), ...readsOf(diffId, layer) });
      continue;
    }
    const { size, blockSize, blockCount, presentCount: present } = known;
    served.push({
      diffId,
      state: known.complete ? 'complete' : 'lazy',
      blocks: { absent: blockCount - present, fetching: 0, present },
      bytes: { total: size, present: Math.min(present * blockSize, size), fetched: fetched.get(diffId) ?? 0 },
      ...readsOf(diffId, undefined),
    });
  }
  const { workers, queued } = pool.status();
  const kept = await cache.status();
  return { layers: served, workers, queued, cache: kept, degraded: conditions.list() };
}

let stopping: Promise<void> | undefined;
function stop(): Promise<void> {
  stopping ??= closeAll();
  return stopping;
}

/** Threads may still block in read(2), and process.exit() would wait for them. */
function die(): void {
  process.kill(process.pid, 'SIGKILL');
}

async function closeAll(): Promise<void> {
  clearInterval(startTimer);
  working.abort();
  await Promise.race([rehearsed, sleep(RETIRE_MS)]);
  scrubs.stop();
  await cache.stop();
  pool.close();
  const open = await Promise.allSettled(layers.values());
  await Promise.allSettled(
    open.map((layer) => (layer.status === 'fulfilled' ? layer.value.close() : undefined)),
  );
  await transport.stop();
  await bus.drain();
}
