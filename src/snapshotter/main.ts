/**
 * The snapshotter: the process that containerd talks to. It keeps the snapshots (store.ts); images, devices and mounts
 * are the engine's, which it asks over NATS. Started by the supervisor: `main.ts ROOT OPTIONS`, these as JSON.
 *
 *     link ─▶ settings ─▶ bus ─▶ log ─▶ store ─▶ servers ─▶ begin ─▶ ready ─▶ old mounts
 */
import { mkdir } from 'node:fs/promises';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { idOf } from '../../actors/node-state.ts';
import type { Counts } from '../../actors/counts.ts';
import { SnapshotTable, type SnapshotEvent } from '../../actors/snapshots.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import { type Subjects, subjects } from '../../schemas/subjects.ts';
import { isNothing } from '../../schemas/shapes.ts';
import { ask, connectBus } from '../bus/connection.ts';
import { type CallEngine, callOver } from '../client/call.ts';
import { overNats } from '../client/over-nats.ts';
import { wallClock } from '../kernel/clock.ts';
import { findMount } from '../kernel/mount.ts';
import { appendWatch, countsFor } from '../process/counted.ts';
import { createLog } from '../process/log.ts';
import { linkToParent } from '../process/parent-link.ts';
import { type Ports, realPorts } from '../process/ports.ts';
import { type ChildSelf, realChildSelf } from '../process/self.ts';
import { busOf, type EngineSettings, readSettings, registryOptions } from '../process/settings.ts';
import type { SnapshotterOptions } from '../process/snapshotter-options.ts';
import { RegistryClient } from '../registry/client.ts';
import { EventLog } from '../store/event-log.ts';
import { hiddenIn } from '../store/hidden-blobs.ts';
import { Layout } from '../store/layout.ts';
import { LogFiles } from '../store/log-files.ts';
import { loadNode } from '../store/snapshots.ts';
import { Snapshots } from '../containerd/generated/containerd/services/snapshots/v1/snapshots_pb.ts';
import { BlobFiles } from './blob-files.ts';
import { FlatMounts } from './flat-mounts.ts';
import { grpcCalls } from './grpc-calls.ts';
import { ImageDoor } from './image-door.ts';
import { ImageService } from './image-service.ts';
import { LayerUsage } from './layer-usage.ts';
import { LazyBlobs } from './lazy-blobs.ts';
import { PullJudge } from './pull-judge.ts';
import { hideMapped, MappedMounts, showMapped } from './mapped-mounts.ts';
import { serveStreams } from './server.ts';
import { snapshotCalls } from './service.ts';
import { SnapshotStore, type SnapshotStoreOptions } from './store.ts';

/** A flat image that no snapshot needs stays mounted for so long, ms. */
const LINGER_MS = 30_000;
/** Calls under way at the end have this long, ms. */
const GRACE_MS = 2_000;
/** The supervisor has this long to make room in a full log, ms. */
const ROOM_MS = 5_000;

export interface Snapshotter {
  /** Takes no further calls, ends those under way and leaves. The process stays. */
  stop(): Promise<void>;
}

/** Serves snapshots of the engine in `root`; containerd can call when this resolves. Errors: `unavailable` without NATS. */
export async function runSnapshotter(
  root: string,
  options: SnapshotterOptions,
  ports: Ports & { self: ChildSelf },
): Promise<Snapshotter> {
  const { self } = ports;
  // Calls are not finished for an engine that is gone.
  const link = linkToParent(self.parent, { onOrphaned: () => self.exit(1) });
  const settings = await readSettings(root);
  const log = createLog('snapshotter', settings.logLevel);
  const layout = new Layout(root);
  const names = subjects(settings.node);
  const bus = await connectBus(busOf(settings, 'snapshotter'), { name: 'cofa-snapshotter' });
  const counts = countsFor(link);
  const { table, append } = await openSnapshotLog(bus, names, settings, { ...ports, counts });
  const { prepare } = options;
  const call = callOver(overNats(bus, names));
  const usage = new LayerUsage({ layout, status: () => call('status', {}), now: ports.clock.now });
  const door = new ImageDoor({
    call,
    prepare,
    folder: layout.in('run'),
    log,
  });
  const flats = new FlatMounts({
    dirOf: layout.flatMount,
    mount: (flat, dir, trace) => door.mount(flat, dir, trace),
    unmount: (dir) => door.unmount(dir),
    isThere: (dir) => findMount(dir)?.type === 'erofs',
    lingerMs: LINGER_MS,
    log,
  });
  await mkdir(layout.snapshots(), { recursive: true, mode: 0o700 });
  const isFlat = (chain: string) => table.find(chain)?.flat !== undefined;
  const blobs = showBlobs(options, { settings, layout, isFlat, log });
  const store = new SnapshotStore({
    dir: layout.snapshots(),
    table,
    flats,
    mapped: new MappedMounts({ dir: layout.mapped(), show: showMapped, hide: hideMapped, log }),
    append,
    cover: async (wanted) => {
      const { flat, whole } = (await door.cover(wanted)) ?? {};
      // A pull is mostly followed by a start: the engine gets the image ready beside it.
      if (whole !== undefined) flats.ahead(whole, wanted.trace);
      return flat;
    },
    ...(blobs === undefined ? {} : { adopted: blobs.show }),
    deviceUsage: (diffId) => usage.of(diffId),
    now: wallClock,
    newId: () => ports.random.hex(6),
    log,
  });
  const closeServers = await serveContainerd(options, { store, layout, call, log, now: ports.clock.wallMs });

  let stopping: Promise<void> | undefined;
  const stop = (): Promise<void> => {
    stopping ??= (async () => {
      await closeServers();
      await store.settle();
      await blobs?.close();
      await Promise.race([bus.drain().catch(() => {}), ports.clock.sleep(GRACE_MS)]);
    })();
    return stopping;
  };
  await link.begin();
  link.ready();
  log.info({ socket: options.socket, imageService: options.imageService?.socket }, 'ready');
  adoptMounts(layout, door, flats).catch((error: unknown) =>
    log.warn({ error }, 'old mounts of flat images were not looked for'),
  );
  self.onSignal(() => void stop().then(() => self.exit(0)));
  return { stop };
}

/** The facts about snapshots, and the door through which the store adds to them. */
async function openSnapshotLog(
  bus: NatsConnection,
  names: Subjects,
  { epoch, natsFiles }: EngineSettings,
  { clock, counts }: Ports & { counts: Counts },
): Promise<Pick<SnapshotStoreOptions, 'table' | 'append'>> {
  const { fold } = await loadNode(bus, names);
  const table = new SnapshotTable(fold.state.snapshots);
  const events = new EventLog(bus, clock.wallMs, {
    epoch,
    onFull: () => ask(bus, names.room, {}, isNothing, ROOM_MS),
    // An append of the snapshotter before this one, which landed late.
    onMissed: ({ subject, event }) => table.apply(idOf(subject), event as SnapshotEvent),
    onEnded: appendWatch(counts),
    ...(natsFiles === undefined ? {} : { alone: true, sync: new LogFiles(natsFiles).sync }),
  });
  events.rememberAll(names, fold);
  const append: SnapshotStoreOptions['append'] = async (id, event) =>
    (await events.append(names.event('snapshot', id), event)).event;
  return { table, append };
}

/** Layers that stay in the registry, in containerd's content store; undefined where no client wants them. */
function showBlobs(
  { lazyBlobs }: SnapshotterOptions,
  given: { settings: EngineSettings; layout: Layout; isFlat: (chain: string) => boolean; log: Logger },
): { show: NonNullable<SnapshotStoreOptions['adopted']>; close: () => Promise<void> } | undefined {
  if (lazyBlobs === undefined) return undefined;
  const { settings, layout, isFlat, log } = given;
  const registry = new RegistryClient({ ...registryOptions(settings), log });
  const files = new BlobFiles({ dir: layout.blobs(), scratch: layout.in('run'), registry, log });
  const hidden = () => hiddenIn(layout.hiddenBlobs());
  const namespaces = lazyBlobs.namespaces.filter((namespace) => hidden().has(namespace));
  if (namespaces.length > 0)
    log.warn({ namespaces }, 'layers that stay in the registry are not shown to containerd: cofa uninstall');
  const blobs = new LazyBlobs({ ...lazyBlobs, hidden, files, isFlat, log });
  return {
    show: (layer) => blobs.show(layer),
    close: async () => {
      await blobs.close();
      await files.close();
      await registry.close();
    },
  };
}

/** Listens for containerd, and for a kubelet where that is wanted. Returns what ends it, with the calls under way. */
async function serveContainerd(
  { socket, imageService }: SnapshotterOptions,
  given: { store: SnapshotStore; layout: Layout; call: CallEngine; log: Logger; now: () => number },
): Promise<() => Promise<void>> {
  const { store, layout, call, log, now } = given;
  const server = await serveStreams(socket, grpcCalls(Snapshots, snapshotCalls(store, log), now));
  if (imageService === undefined) return () => server.close(GRACE_MS);
  const { containerd } = imageService;
  const judge = new PullJudge({ containerd, call, log });
  const images = new ImageService({
    containerd,
    desk: layout.socket('credentials'),
    judge: (ref, response) => judge.judge(ref, response),
    log,
  });
  // A kubelet does not even start where its image service does not answer.
  const imageServer = await serveStreams(imageService.socket, images.take, { heir: containerd });
  return async () => {
    await Promise.all([server.close(GRACE_MS), imageServer.close(GRACE_MS)]);
    images.close();
    judge.close();
  };
}

/** Flat images that an earlier snapshotter left mounted are unmounted after a while, unless a snapshot needs them. */
async function adoptMounts(layout: Layout, door: ImageDoor, flats: FlatMounts): Promise<void> {
  for (const chain of await door.mountedBelow(layout.flats())) flats.adopt(chain);
  await door.forgetPrepared();
}

if (import.meta.main) {
  const [root, text] = process.argv.slice(2) as [string, string];
  const options = JSON.parse(text) as SnapshotterOptions;
  try {
    await runSnapshotter(root, options, { ...realPorts(), self: realChildSelf() });
  } catch (error) {
    const { socket } = options;
    createLog('snapshotter', 'info').fatal({ error, socket }, toErrorRecord(error).message);
    process.exit(1);
  }
}
