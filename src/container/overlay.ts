/**
 * The writable root of a container: overlayfs with the lazily mounted image as its only lower layer.
 *
 * Options, each only where the kernel has it:
 * - `redirect_dir`: a process can rename a folder of the image (else EXDEV).
 * - `metacopy`: chown and chmod of a file of the image copy its metadata up and leave its data where they are. Without
 *   it a `chown -R` in an entrypoint would fetch all those files.
 * - `volatile`: the kernel never syncs the upper layer. It is deleted with the container, and a sync would wait for
 *   every dirty page of the disk.
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
  /** The upper layer is deleted with the container. */
  temporary: boolean;
}

/**
 * Mounts the root of a container on its image. The folder `upper` is the container's `/` for every process in it, so it
 * takes mode and owner from the image's root. Errors: those of `mountOverlay`.
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

/** Mounts the overlay. Errors: as of mount(2); `environment` when the kernel has no overlayfs. */
export async function mountOverlay(overlay: Overlay): Promise<void> {
  const extras = ['redirect_dir=on', 'metacopy=on', ...(overlay.temporary ? ['volatile'] : [])];
  // Older kernels refuse an unknown option with EINVAL, without saying which.
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
 * Unmounts the overlay. A process that still uses it after the container's end (an administrator's shell inside, a scan
 * of the disk) would hold up every later step. So then this detaches it, and the kernel ends it with its last user.
 * False: it was detached.
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
