/** Overlays on mounts: containers of containerd, docker and podman. Each has its layers to itself, so the kernel calls no mount busy for it. */
import { realpathSync } from 'node:fs';
import { CofaError } from '../../../schemas/errors.ts';
import { listMounts, type MountEntry } from '../../kernel/mount.ts';
import type { Layout } from '../../store/layout.ts';
import { KERNEL, type MountKernel } from './kernel.ts';

/**
 * Error `busy` where overlays stand on the mount, with some of them: without it the loops would be detached below them. Overlays name
 * their layers as they like, so one that names them by a path of its own is not seen.
 */
export async function refuseOverlaid(
  there: MountEntry,
  layout: Layout,
  { overlaysUpon }: Pick<MountKernel, 'overlaysUpon'> = KERNEL,
): Promise<void> {
  const shown = mappedOf(listMounts(), layout).filter((one) => isSameFileSystem(one, there));
  const places = [there, ...shown].map(({ mountPoint }) => mountPoint);
  const users = await overlaysUpon(places, (folder) => followed(folder, layout));
  if (users.length === 0) return;
  throw new CofaError('busy', `${there.mountPoint} is in use by ${users.join(', ')}`, {
    hint: 'end the containers that stand on it, then try again',
  });
}

/** podman names its layers by links; others' folders may be on a disk that does not answer. */
export function followed(folder: string, layout: Layout): string {
  if (!folder.startsWith(`${layout.podman()}/`)) return folder;
  try {
    return realpathSync(folder);
  } catch {
    return folder;
  }
}

/** The snapshotter's views of flat images (src/snapshotter/mapped-mounts.ts). */
export const mappedOf = (mounts: readonly MountEntry[], layout: Layout): MountEntry[] =>
  mounts.filter(({ mountPoint }) => mountPoint.startsWith(`${layout.mapped()}/`));

export const isSameFileSystem = (a: MountEntry, b: MountEntry): boolean =>
  a.major === b.major && a.minor === b.minor;
