/**
 * The snapshotter: the process that containerd talks to. It keeps the snapshots (store.ts); images, devices and mounts
 * are the engine's, which it asks over NATS. Started by the supervisor: `main.ts ROOT OPTIONS`, these
 * as JSON (src/process/snapshotter-options.ts).
 */
import { randomBytes } from 'node:crypto';
import { mkdir, stat } from 'node:fs/promises';
import { idOf } from '../../actors/node-state.ts';
import { SnapshotTable, type SnapshotEvent } from '../../actors/snapshots.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import { ask, connectBus } from '../bus/connection.ts';
import { callOver } from '../client/call.ts';
import { overNats } from '../client/over-nats.ts';
import { createLog } from '../process/log.ts';
import { linkToParent } from '../process/parent-link.ts';
import { busOf, readSettings } from '../process/settings.ts';
import { wallClock } from '../kernel/clock.ts';
import { EventLog } from '../store/event-log.ts';
import { Layout } from '../store/layout.ts';
import { LogFiles } from '../store/log-files.ts';
import { loadNode } from '../store/snapshots.ts';
import { FlatMounts } from './flat-mounts.ts';
import { ImageDoor } from './image-door.ts';
import { ImageService } from './image-service.ts';
import { hideMapped, MappedMounts, showMapped } from './mapped-mounts.ts';
import type { SnapshotterOptions } from '../process/snapshotter-options.ts';
import { serveGrpc, serveStreams } from './server.ts';
import { serveSnapshots } from './service.ts';
import { SnapshotStore } from './store.ts';

/** A flat image that no snapshot needs stays mounted for so long, ms. */
const LINGER_MS = 30_000;
/** Calls under way at the end have this long, ms. */
const GRACE_MS = 2_000;

// Signs of life; calls are not finished for an engine that is gone.
const link = linkToParent({ onOrphaned: () => process.exit(1) });
const [root, text] = process.argv.slice(2) as [string, string];
const { socket, imageService, prepare } = JSON.parse(text) as SnapshotterOptions;
const settings = await readSettings(root);
const log = createLog('snapshotter', settings.logLevel);
try {
  await run();
} catch (error) {
  log.fatal({ error, socket }, toErrorRecord(error).message);
  process.exit(1);
}

async function run(): Promise<void> {
  const layout = new Layout(root);
  const names = subjects(settings.node);
  const bus = await connectBus(busOf(settings, 'snapshotter'), { name: 'cofa-snapshotter' });
  const events = new EventLog(bus, Date.now, {
    epoch: settings.epoch,
    // An append of the snapshotter before this one, which landed late.
    onFull: () => ask(bus, names.room, {}, 5_000),
    ...(settings.natsFiles === undefined ? {} : { alone: true, sync: new LogFiles(settings.natsFiles).sync }),
    onMissed: ({ subject, event }) => table.apply(idOf(subject), event as SnapshotEvent),
  });
  const { fold } = await loadNode(bus, names);
  events.rememberAll(names, fold);
  const table = new SnapshotTable(fold.state.snapshots);
  await mkdir(layout.snapshots(), { recursive: true, mode: 0o700 });
  const door = new ImageDoor({
    call: callOver(overNats(bus, names)),
    prepare,
    folder: layout.in('run'),
    log,
  });
  const flats = new FlatMounts({
    dirOf: layout.flatMount,
    mount: (flat, dir) => door.mount(flat, dir),
    unmount: (dir) => door.unmount(dir),
    lingerMs: LINGER_MS,
    log,
  });
  const store = new SnapshotStore({
    dir: layout.snapshots(),
    table,
    flats,
    mapped: new MappedMounts({ dir: layout.mapped(), show: showMapped, hide: hideMapped, log }),
    append: async (id, event) =>
      (await events.append(names.event('snapshot', id), event)).event as SnapshotEvent,
    cover: (wanted) => door.cover(wanted),
    deviceUsage: async (diffId) =>
      await stat(layout.device(diffId)).then(
        ({ blocks }) => blocks * 512,
        () => 0,
      ),
    now: wallClock,
    newId: () => randomBytes(6).toString('hex'),
    log,
  });
  const server = await serveGrpc(socket, (router) => serveSnapshots(router, store, log));
  const images =
    imageService === undefined
      ? undefined
      : new ImageService({ containerd: imageService.containerd, desk: layout.socket('credentials'), log });
  const imageServer = images && (await serveStreams(imageService?.socket ?? '', images.take));
  await link.begin();
  link.ready();
  log.info({ socket, imageService: imageService?.socket }, 'ready');
  // Mounts of an earlier life that nobody needs go after a while.
  void door
    .mountedBelow(layout.flats())
    .then((chains) => {
      for (const chain of chains) flats.adopt(chain);
    })
    .then(() => door.forgetPrepared())
    .catch((error: unknown) => log.warn({ error }, 'old mounts of flat images were not looked for'));

  let stopping = false;
  const stop = async () => {
    if (stopping) return;
    stopping = true;
    await Promise.all([server.close(GRACE_MS), imageServer?.close(GRACE_MS)]);
    images?.close();
    await store.settle();
    await Promise.race([bus.drain().catch(() => {}), new Promise((done) => setTimeout(done, GRACE_MS))]);
    process.exit(0);
  };
  process.on('SIGTERM', () => void stop());
  process.on('SIGINT', () => void stop());
}
