/** The parts that know mounts, and the stage that brings the mounts of an earlier engine back. */
import type { Logger } from 'pino';
import type { Counts } from '../../../actors/counts.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import { reapContainers } from '../../container/reap.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { Layout } from '../../store/layout.ts';
import type { End } from '../end.ts';
import type { RegistryClient } from '../../registry/client.ts';
import type { Chains } from '../images/chains.ts';
import type { Images } from '../images/images.ts';
import { CacheKeeper } from '../layers/cache-keeper.ts';
import type { Devices } from '../layers/devices.ts';
import type { FrontCaller } from '../layers/front-caller.ts';
import { Scrubs } from '../layers/scrubs.ts';
import type { NodeLog } from '../log/node-log.ts';
import { Discards } from '../mounts/discards.ts';
import { dropFilePages } from '../mounts/file-pages.ts';
import type { Leftovers } from '../mounts/leftovers.ts';
import { Mounts } from '../mounts/mounts.ts';
import type { Restored } from '../mounts/restore.ts';
import { pastMounts, removeFolders } from '../mounts/past.ts';
import { PodmanStore } from '../podman/store.ts';
import type { SupervisorPorts } from '../ports.ts';
import type { FrontFigures } from '../status/front-figures.ts';

/** What containers left has this long to be removed at a clean end, ms; the next start removes the rest. */
const DISCARD_MS = 2_000;

export interface MountParts {
  mounts: Mounts;
  scrubs: Scrubs;
  discards: Discards;
  cache: CacheKeeper;
  podman: PodmanStore;
}

export interface MountPartsOptions {
  front: FrontCaller;
  layout: Layout;
  live: NodeLog['live'];
  owner: NodeLog['owner'];
  images: Images;
  chains: Chains;
  registry: RegistryClient;
  devices: Devices;
  figures: FrontFigures;
  /** Mounts that fail are counted here. */
  counts: Counts;
  conditions: Conditions;
  log: Logger;
  end: End;
  ports: SupervisorPorts;
}

/** Makes them; each registers with `end` what it has to close. */
export function makeMounts(given: MountPartsOptions): MountParts {
  const { front, layout, images, devices, figures, conditions, log, end, ports } = given;
  const mounts = new Mounts({
    layout,
    log,
    live: given.live,
    owner: given.owner,
    images,
    counts: given.counts,
    newId: () => ports.random.hex(8),
    onRestored: (dir) => {
      conditions.clear(`restore:${dir}`);
      void podman.show();
    },
    onUnmounted: (dir) => conditions.clear(`restore:${dir}`),
  });
  end.at('mounts', { replaced: () => mounts.abandon() });
  const scrubs = new Scrubs({
    front,
    log,
    images,
    devices,
    ports,
    dropPages: (diffId, ranges) => dropFilePages(diffId, ranges, { layout, images, mounts }),
  });
  end.at('background', () => scrubs.close());
  const discards = new Discards({ folder: layout.discarded(), mounts, conditions, log });
  end.at('background', { clean: () => discards.settled(DISCARD_MS) });
  const status = async () => (await figures.now()).cache;
  const cache = new CacheKeeper({ front, layout, log, images, mounts, status, ports });
  end.at('background', () => cache.stop());
  const podman = new PodmanStore({ ...given, mounts });
  end.at('background', () => podman.close());
  return { mounts, scrubs, discards, cache, podman };
}

/** What came back, for the log. */
interface Returned extends Restored {
  /** Loop devices that an earlier engine left. */
  loops: number;
  /** Of those: were of no use any more. */
  dismissed: number;
}

/**
 * Brings back the mounts that the log has, removes what ended containers left, and takes away what the log does not know. A mount
 * that does not come back is a condition, and is tried again.
 */
export async function restoreMounts(given: {
  options: { root: string };
  names: Subjects;
  events: NodeLog['events'];
  mounts: Mounts;
  discards: Discards;
  podman: PodmanStore;
  leftovers: Leftovers;
  conditions: Conditions;
  log: Logger;
  ports: SupervisorPorts;
}): Promise<Returned> {
  const { options, names, events, mounts, discards, podman, leftovers, conditions, log, ports } = given;
  const loops = leftovers.size;
  await podman.prepare();
  const restored = await mounts.restore();
  for (const { dir, sentence } of restored.failures) conditions.set(`restore:${dir}`, sentence);
  for (const dir of restored.lost) {
    conditions.set(`lost:${dir}`, `${dir} was mounted anew: who used the mount that was there reads errors`);
  }
  await reapEnded({ root: options.root, mounts, log, now: new Date(ports.clock.wallMs()) });
  discards.sweep();
  // Loops that no mount has taken over, and mounts on them.
  const { loops: dismissed, dirs } = await leftovers.dismissRest(
    log,
    (dir) => mounts.has(dir),
    async () => new Set((await pastMounts(events, names)).keys()),
  );
  if (dirs.length > 0) await removeFolders(dirs, events, names);
  await podman.begin();
  return { ...restored, loops, dismissed };
}

/** Removes containers whose `cofa run` died. */
async function reapEnded(given: { root: string; mounts: Mounts; log: Logger; now: Date }): Promise<void> {
  const { root, mounts, log, now } = given;
  const reaped = await reapContainers({
    root,
    now,
    unmountImage: async (dir) => {
      await mounts.unmount(dir);
    },
  });
  for (const { id, error } of reaped) {
    if (error !== undefined) log.warn({ container: id, error }, 'what a container left stays');
  }
}
