/** Stand-in for src/kernel/mount.ts. */
import type { MountEntry, UnmountOptions } from '../../../../src/kernel/mount.ts';
import { machine } from '../machine.ts';
import { world } from '../world.ts';
import { explained } from './loop.ts';

export * from '../../../../src/kernel/mount.ts';

export function listMounts(): MountEntry[] {
  return world().kernel.mounts.map(({ id, point, type, source }) => ({
    id,
    parent: 1,
    major: 0,
    minor: id,
    root: '/',
    mountPoint: point,
    options: 'ro',
    tags: [],
    type,
    source,
    superOptions: 'ro',
  }));
}

export function findMount(target: string): MountEntry | undefined {
  return listMounts().findLast(({ mountPoint }) => mountPoint === target);
}

export const isMounted = (target: string): boolean => findMount(target) !== undefined;

export async function unmount(target: string, options: UnmountOptions = {}): Promise<void> {
  try {
    const isForgotten = world().sabotage === 'lost-unmount' && machine().random.chance(0.1);
    await machine().call(2, () => {
      if (!isForgotten || world().kernel.find(target)?.type === 'fuse')
        world().kernel.unmount(target, options.lazy === true);
    });
  } catch (error) {
    throw explained(error);
  }
}

export async function detachMount(entry: MountEntry): Promise<boolean> {
  try {
    return await machine().call(2, () => {
      const { kernel } = world();
      if (kernel.find(entry.mountPoint)?.id !== entry.id) return false;
      kernel.unmount(entry.mountPoint, true);
      return true;
    });
  } catch (error) {
    throw explained(error);
  }
}

export function unmountSync(target: string, options: UnmountOptions = {}): void {
  try {
    world().kernel.unmount(target, options.lazy === true);
  } catch (error) {
    throw explained(error);
  }
}
