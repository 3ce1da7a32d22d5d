/** What becomes of the mounts when an engine ends: it detaches them for the next start, or another engine owns them now. */
import type { Logger } from 'pino';
import { toErrorRecord } from '../../../schemas/errors.ts';
import { dismissLoop, type LoopDevice } from '../../kernel/loop.ts';
import { detachMount, listMounts, unmountEntry } from '../../kernel/mount.ts';
import type { Layout } from '../../store/layout.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { MountActor } from './mount-actor.ts';

export interface EndOptions {
  layout: Layout;
  live: Pick<LiveFold, 'append'>;
  log: Logger;
}

/**
 * Takes every mount out of the kernel, keeping it in the log for the next start. One that is in use stays when its image is
 * complete, since its reads need no engine. Returns the directories that are in use and are not complete: then nothing has
 * changed; with `force` these are detached as well and their reads end with the engine.
 */
export async function detachAll(
  actors: Iterable<MountActor>,
  force: boolean,
  options: EndOptions,
): Promise<string[]> {
  const busy: string[] = [];
  const detached: MountActor[] = [];
  await detachMapped(options);
  for (const actor of actors) {
    if (actor.host.state !== 'mounted') continue;
    const { dir } = actor.request;
    const isComplete = actor.image.isDirect();
    try {
      const there = actor.standing;
      if (there !== undefined) await unmountEntry(there, { lazy: force && !isComplete });
    } catch (error) {
      if (toErrorRecord(error).code === 'busy') {
        if (!isComplete) busy.push(dir);
        continue;
      }
    }
    detached.push(actor);
  }
  if (busy.length > 0) {
    // Nothing stops: what was unmounted comes back.
    for (const actor of detached) await actor.mountErofs();
    return busy;
  }
  for (const actor of detached) await sayDetached(actor, options);
  return [];
}

async function sayDetached(actor: MountActor, { live, log }: EndOptions): Promise<void> {
  const { id } = actor.request;
  // A log that is full or away is no reason to stay: the mount comes back all the same.
  await live
    .append(id, { type: 'mount.detached', reason: 'engine-stopped' })
    .catch((error: unknown) => log.warn({ mount: id, error }, 'the log does not take that it is detached'));
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

/** The snapshotter's views of flat images (src/snapshotter/mapped-mounts.ts), which it makes again when it needs them. */
async function detachMapped({ layout, log }: EndOptions): Promise<void> {
  const beginning = `${layout.mapped()}/`;
  for (const entry of listMounts().toReversed()) {
    if (!entry.mountPoint.startsWith(beginning)) continue;
    await detachMount(entry).catch((error: unknown) =>
      log.warn({ dir: entry.mountPoint, error }, 'a mount with other owners stays'),
    );
  }
}
