/**
 * The writable root of a container: overlayfs with the lazily mounted image as its only lower layer.
 *
 * Options, each only where the kernel has it:
 * - `redirect_dir`: a folder of the image can be renamed (else EXDEV).
 * - `metacopy`: chown and chmod of a file of the image copy its metadata up and leave its data where they are.
 *   Without it a `chown -R` in an entrypoint would fetch all those files.
 * - `volatile`: the upper layer is never synced. It dies with the container, and a sync would wait for every dirty
 *   page of the disk.
 */
import { chmod, chown, stat } from 'node:fs/promises';
import { CofaError } from '../../schemas/errors.ts';
import { mount, unmount } from '../kernel/mount.ts';
import type { ContainerFolder } from './record.ts';

export interface Overlay {
  lower: string;
  upper: string;
  work: string;
  target: string;
  /** The upper layer is thrown away with the container. */
  temporary: boolean;
}

/**
 * Mounts the root of a container on its image. The folder `upper` is the container's `/` to all who look at it: it takes mode
 * and owner from the image's. Errors: those of `mountOverlay`.
 */
export async function mountRoot(
  folder: Pick<ContainerFolder, 'image' | 'upper' | 'work' | 'rootfs'>,
  { temporary }: Pick<Overlay, 'temporary'>,
): Promise<void> {
  const { image, upper, work, rootfs } = folder;
  const root = await stat(image);
  await chown(upper, root.uid, root.gid);
  await chmod(upper, root.mode & 0o7777);
  await mountOverlay({ lower: image, upper, work, target: rootfs, temporary });
}

/** Mounts it. Errors: as of mount(2); `environment` when the kernel has no overlayfs. */
export async function mountOverlay(overlay: Overlay): Promise<void> {
  const extras = ['redirect_dir=on', 'metacopy=on', ...(overlay.temporary ? ['volatile'] : [])];
  // Older kernels refuse an option they do not know with EINVAL, without saying which.
  for (const options of [extras, extras.slice(0, 1), []]) {
    try {
      await mount({
        source: 'overlay',
        target: overlay.target,
        type: 'overlay',
        data: overlayData(overlay, options),
      });
      return;
    } catch (error) {
      const refused = error instanceof CofaError && error.code === 'unsupported';
      if (!refused || options.length === 0) throw error;
    }
  }
}

/**
 * Unmounts it. What still uses it after the container's end (somebody's shell inside, a scan of the disk) would
 * hold up every later step, so then it is detached and goes when its last user has gone. False: it was detached.
 */
export async function unmountOverlay(target: string): Promise<boolean> {
  try {
    await unmount(target);
    return true;
  } catch (error) {
    if (!(error instanceof CofaError)) throw error;
    if (error.code === 'not-found') return true;
    if (error.code !== 'busy') throw error;
    await unmount(target, { lazy: true });
    return false;
  }
}

/** The option string of mount(2); `\`, `,` and `:` in paths are escaped as overlayfs wants it. */
export function overlayData(
  overlay: Omit<Overlay, 'target' | 'temporary'>,
  extras: readonly string[],
): string {
  return [
    `lowerdir=${escaped(overlay.lower)}`,
    `upperdir=${escaped(overlay.upper)}`,
    `workdir=${escaped(overlay.work)}`,
    ...extras,
  ].join(',');
}

const escaped = (path: string) => path.replace(/[\\,:]/g, (mark) => `\\${mark}`);
