/**
 * The writable root of a container of `cofa run`, which the supervisor mounts together with the image and takes away with
 * it: a process that has just begun would have to load the foreign function interface for two system calls.
 */
import { basename, dirname } from 'node:path';
import { CofaError } from '../../../schemas/errors.ts';
import { checkName } from '../../container/options.ts';
import { mountRoot, unmountOverlay } from '../../container/overlay.ts';
import { ContainerFolder } from '../../container/record.ts';
import type { Above } from './mount-actor.ts';

/**
 * The container whose image is mounted at `dir`. Whoever may call the engine can have nothing else overlaid. Error:
 * `invalid-argument` where it is no folder of a container of this root.
 */
export function containerAt(root: string, dir: string): ContainerFolder {
  const folder = new ContainerFolder(root, checkName(basename(dirname(dir))));
  if (folder.image === dir) return folder;
  throw new CofaError('invalid-argument', `overlay: ${dir} is not where the image of a container is mounted`);
}

/** It, on the container's image. Errors: those of mount(2) and umount2(2). */
export const rootOf = (folder: ContainerFolder, overlay: 'temporary' | 'kept'): Above => ({
  mount: () => mountRoot(folder, { temporary: overlay === 'temporary' }),
  unmount: () => unmountFrom(folder),
});

/** Takes it away, before its image goes. Errors: those of umount2(2). */
export async function unmountFrom(folder: ContainerFolder): Promise<void> {
  await unmountOverlay(folder.rootfs);
}
