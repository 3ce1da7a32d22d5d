/** Stand-in for src/kernel/mount.ts. The simulated machine has no symbolic links. */
import { mkdir, readdir, rmdir } from 'node:fs/promises';
import { CofaError } from '../../../../schemas/errors.ts';
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

/** The machine has no overlays. */
export const overlaysUpon = async (): Promise<string[]> => [];

/** The machine's readers have no names. */
export const describeUsers = async (): Promise<string> => '';

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

export const unmountEntry = (entry: MountEntry, options: UnmountOptions = {}): Promise<void> =>
  unmount(entry.mountPoint, options);

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

export async function listDirectory(path: string): Promise<string[] | undefined> {
  try {
    return await readdir(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return undefined;
    if (code === 'ENOTDIR') throw new CofaError('conflict', `${path} is not a directory`);
    throw error;
  }
}

export async function makeDirectory(path: string): Promise<void> {
  await mkdir(path, { recursive: true });
}

export const removeDirectory = (path: string): Promise<void> => rmdir(path);
