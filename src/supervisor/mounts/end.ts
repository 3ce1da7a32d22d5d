/** What becomes of the mounts when an engine ends: it detaches them for the next start, or another engine owns them now. */
import type { Logger } from 'pino';
import { toErrorRecord } from '../../../schemas/errors.ts';
import { dismissLoop, type LoopDevice } from '../../kernel/loop.ts';
import {
  describeUsers,
  detachMount,
  listMounts,
  type MountEntry,
  mountsUpon,
  unmountEntry,
} from '../../kernel/mount.ts';
import type { Layout } from '../../store/layout.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import { removeMade } from './directory.ts';
import type { MountKernel } from './kernel.ts';
import type { MountActor } from './mount-actor.ts';
import { followed, isSameFileSystem, mappedOf } from './overlays.ts';
import { stillCarrying } from './standing.ts';

export interface EndOptions {
  layout: Layout;
  live: Pick<LiveFold, 'append' | 'state'>;
  log: Logger;
  kernel?: MountKernel | undefined;
}

/** Of so many mounts that are in use `down` says by whom: each is looked for in all of /proc. */
const MOST_NAMED = 3;

/**
 * Mounts that need the engine and that an overlay of this mount namespace stands on, each with those overlays. A first look, which
 * changes nothing: overlays name their layers as they like, and those of other namespaces are not seen here. `detachAll` is sure.
 */
export function overlaid(actors: Iterable<MountActor>, layout: Layout): string[] {
  const mounts = listMounts();
  const mapped = mappedOf(mounts, layout);
  const overlays = mounts.filter(({ type }) => type === 'overlay');
  if (overlays.length === 0) return [];
  return Array.from(actors).flatMap((actor) => {
    const there = actor.host.state === 'mounted' && !actor.image.isDirect() ? actor.standing : undefined;
    if (there === undefined) return [];
    const places = [there, ...mapped.filter((one) => isSameFileSystem(one, there))];
    const upon = mountsUpon(
      places.map(({ mountPoint }) => mountPoint),
      overlays,
      (folder) => followed(folder, layout),
    );
    if (upon.length === 0) return [];
    const users = upon.slice(0, MOST_NAMED).map(({ mountPoint }) => `the mount ${mountPoint}`);
    return [named(actor, users.join(', '))];
  });
}

const named = ({ request: { dir } }: MountActor, users: string): string =>
  users === '' ? dir : `${dir} by ${users}`;

/**
 * Takes every mount out of the kernel, keeping it in the log for the next start. One that is in use stays when its image is
 * complete, since its reads need no engine. Returns the directories that are in use and are not complete, some with their users:
 * then nothing has changed; with `force` these are detached as well and their reads end with the engine.
 */
export async function detachAll(
  actors: Iterable<MountActor>,
  force: boolean,
  options: EndOptions,
): Promise<string[]> {
  const mapped = await detachMapped(options);
  const busy: Detached[] = [];
  const detached: Detached[] = [];
  for (const actor of actors) {
    if (actor.host.state !== 'mounted') continue;
    const isComplete = actor.image.isDirect();
    const there = actor.standing;
    try {
      if (there !== undefined) await unmountEntry(there, { lazy: force && !isComplete, unnamed: true });
    } catch (error) {
      if (toErrorRecord(error).code === 'busy') {
        if (!isComplete) busy.push({ actor, left: [] });
        continue;
      }
    }
    const shown = there === undefined ? [] : mapped.filter((one) => isSameFileSystem(one, there));
    detached.push({ actor, left: there === undefined ? [] : [there, ...shown] });
  }
  if (!force) busy.push(...(await stillUsed(detached, busy, options)));
  if (busy.length === 0) {
    for (const { actor } of detached) await sayDetached(actor, options);
    return [];
  }
  const sentences: string[] = [];
  for (const { actor, left } of busy) {
    const isNamed = sentences.length < MOST_NAMED;
    sentences.push(named(actor, isNamed ? await describeUsers(actor.request.dir, left) : ''));
  }
  // Nothing stops: what was unmounted comes back.
  await allBack(detached);
  return sentences;
}

interface Detached {
  actor: MountActor;
  /** Mounts that its file system had, in this mount namespace. */
  left: MountEntry[];
}

/** Those that readers need although they are unmounted, and that need the engine; without further mounts of what is busy anyway. */
async function stillUsed(
  detached: readonly Detached[],
  busy: readonly Detached[],
  { kernel }: EndOptions,
): Promise<Detached[]> {
  const others = detached.filter(({ actor }) => !busy.some((one) => one.actor.image === actor.image));
  const loopOf = ({ actor, left }: Detached) =>
    left.length === 0 || actor.image.isDirect() ? undefined : actor.image.attached?.metadata;
  const loops = new Set(others.map(loopOf).filter((loop) => loop !== undefined));
  const carrying = await stillCarrying([...loops], kernel);
  return others.filter((one) => {
    const loop = loopOf(one);
    return loop !== undefined && carrying.has(loop);
  });
}

/** Errors: that of the first which does not come back; the others do. */
async function allBack(detached: readonly Detached[]): Promise<void> {
  const failures: unknown[] = [];
  for (const { actor } of detached) {
    await actor.mountErofs().catch((error: unknown) => failures.push(error));
  }
  if (failures.length > 0) throw failures[0];
}

async function sayDetached(actor: MountActor, { live, log }: EndOptions): Promise<void> {
  const { id } = actor.request;
  // A log that is full or away is no reason to stay: the mount comes back all the same.
  await live
    .append(id, { type: 'mount.detached', reason: 'engine-stopped' })
    .catch((error: unknown) => log.warn({ mount: id, error }, 'the log does not take that it is detached'));
  // An unmount whose append had no answer may be in the log after all: then no start brings the mount back, nor removes its folder.
  if (actor.madeDir && live.state.mounts.get(id) === undefined) await removeMade(actor.request);
  actor.host.send({ type: 'DETACHED' });
  await actor.image.release(id);
}

/**
 * Takes this engine's mounts and their loops out of the kernel and says nothing to the log: another engine owns them now.
 * What is in use goes with its last user.
 */
export async function abandon(actors: Iterable<MountActor>, options: EndOptions): Promise<void> {
  const { log } = options;
  await detachMapped(options);
  const loops = new Set<LoopDevice>();
  for (const actor of actors) {
    const { attached } = actor.image;
    for (const loop of attached === undefined ? [] : [attached.metadata, ...attached.devices])
      loops.add(loop);
    // The other engine may have mounted the directory already, or do it just now.
    const there = actor.standing;
    if (there === undefined) continue;
    await detachMount(there).catch((error: unknown) =>
      log.error({ mount: actor.request.id, error }, 'the mount stays'),
    );
  }
  for (const loop of loops) {
    await dismissLoop(loop).catch((error: unknown) => log.warn({ loop: loop.path, error }, 'a loop stays'));
  }
}

/**
 * The snapshotter's views of flat images (src/snapshotter/mapped-mounts.ts), which it makes again when it needs them. Returns those that
 * there were.
 */
async function detachMapped({ layout, log }: EndOptions): Promise<MountEntry[]> {
  const mapped = mappedOf(listMounts(), layout);
  for (const entry of mapped.toReversed()) {
    await detachMount(entry).catch((error: unknown) =>
      log.warn({ dir: entry.mountPoint, error }, 'a mount with other owners stays'),
    );
  }
  return mapped;
}
