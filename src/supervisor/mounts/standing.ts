/**
 * What stands at a mount's directory. It may be this engine's mount, one that an earlier engine left, or one that another
 * engine has made which owns the node by now: that one stays. So nothing of an earlier engine is taken away before this
 * engine is seen to own the node, and then only the very mount that was looked up before.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { CofaError } from '../../../schemas/errors.ts';
import type { LoopDevice } from '../../kernel/loop.ts';
import { detachMount, findMount, type MountEntry, unmountEntry } from '../../kernel/mount.ts';
import { KERNEL, type MountKernel } from './kernel.ts';

/** Whose the node is; src/supervisor/log/ownership.ts. */
export interface Owner {
  readonly isFenced: boolean;
  confirm(): Promise<void>;
}

/** The mount at `dir`, where it stands on this loop. */
export function mountOn(dir: string, metadata: string | undefined): MountEntry | undefined {
  const found = findMount(dir);
  return found !== undefined && found.source === metadata ? found : undefined;
}

/**
 * Detaches what an earlier engine left; `there` was looked up before. Errors: `conflict` when another engine owns the node, or
 * something else is mounted there by now; `unavailable` when NATS does not say whose the node is: it may be another one's.
 */
export async function takeAway(there: MountEntry, owner: Owner): Promise<void> {
  await owner.confirm();
  if (!(await detachMount(there)) && findMount(there.mountPoint) !== undefined) throw replaced(there);
}

/** Unmounts what an earlier engine left at `dir`, unless it is in use: error `busy`. Other errors: as of `takeAway`. */
export async function unmountEarlier(dir: string, owner: Owner): Promise<void> {
  const there = findMount(dir);
  if (there?.type !== 'erofs') return;
  await owner.confirm();
  const now = findMount(dir);
  if (now === undefined) return;
  if (now.id !== there.id || now.source !== there.source) throw replaced(there);
  await unmountEntry(now);
}

/** The kernel ends a file system a moment after its last user, ms. */
const LAST_USER_MS = 1_000;
const LOOK_EVERY_MS = 20;

/**
 * Which of the loops still carry a file system although this engine has unmounted it: an overlay has one of its layers to itself, and so
 * has a copy of the mount in another mount namespace. A process that reads there needs the loops of the image as before. `loops`: those under
 * flat metadata.
 */
export async function stillCarrying(
  loops: readonly LoopDevice[],
  { carriesErofs }: Pick<MountKernel, 'carriesErofs'> = KERNEL,
): Promise<ReadonlySet<LoopDevice>> {
  let left = loops;
  for (let waited = 0; ; waited += LOOK_EVERY_MS) {
    left = left.filter(carriesErofs);
    if (left.length === 0 || waited >= LAST_USER_MS) return new Set(left);
    await sleep(LOOK_EVERY_MS);
  }
}

const replaced = ({ mountPoint }: MountEntry): CofaError =>
  new CofaError('conflict', `something else is mounted at ${mountPoint} by now`);
