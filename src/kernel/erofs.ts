/** Mounts a flat image: EROFS metadata on one loop device, file data on others (fs/erofs/super.c). */
import { existsSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import type { Lookup } from './directory.ts';
import { offLoop } from './libc.ts';
import type { LoopDevice } from './loop.ts';
import { ATTRIBUTE, mountAt } from './mount-at.ts';
import { willNeedPages } from './page-cache.ts';

export interface ErofsMount {
  metadata: LoopDevice;
  /** In the order of the image's device slots. */
  devices: LoopDevice[];
  /** An existing directory. */
  target: string;
  /** How its path is followed; without any link by default. */
  lookup?: Lookup;
  /** Setuid and setgid bits and file capabilities count. */
  suid?: boolean;
  /** Device files open devices. */
  dev?: boolean;
}

/**
 * Mounts read-only, off the event loop: the kernel reads the metadata, and checks that each device is there, before
 * it returns. Errors: `environment` when the kernel lacks EROFS, `unsupported` for an image that it refuses.
 */
export async function mountErofs(options: ErofsMount): Promise<void> {
  const { metadata, devices, target, lookup = { links: 'none' }, suid = false, dev = false } = options;
  if (devices.length > MAX_DEVICES)
    throw new CofaError('unsupported', `an image of ${devices.length} layers; ${MAX_DEVICES} can be mounted`);
  const { RDONLY, NOATIME, NOSUID, NODEV } = ATTRIBUTE;
  await mountAt({
    source: metadata.path,
    type: 'erofs',
    options: devices.map((device) => `device=${device.path}`),
    attributes: RDONLY | NOATIME | (suid ? 0 : NOSUID) | (dev ? 0 : NODEV),
    target,
    lookup,
  });
}

/**
 * Whether a file system stands on the loop: it is mounted in some mount namespace, or overlayfs keeps it by a mount of its own, which
 * no table of mounts shows. The kernel has a folder for each until its last user has ended (fs/erofs/sysfs.c, Linux 5.16).
 */
export function carriesErofs({ path }: Pick<LoopDevice, 'path'>): boolean {
  return existsSync(`/sys/fs/erofs/${basename(path)}`);
}

/**
 * Makes the kernel read the metadata of a mount now; never throws. By itself it asks for each page on first use, without reading ahead and in
 * eight requests of one block (erofs_bread in fs/erofs/data.c); each request wakes a thread of the loop device and
 * waits for it. Call it after the mount: a mount that changes the block size drops the device's pages from the page
 * cache.
 */
export async function loadMetadata({ path }: LoopDevice): Promise<void> {
  try {
    const device = await offLoop(() => open(path, 'r'));
    try {
      await willNeedPages(device.fd, 0, LOADED_METADATA);
    } finally {
      await offLoop(() => device.close());
    }
  } catch {
    // The mount works without these pages, and is slower at first.
  }
}

/** Bytes: the metadata of some 60,000 files. A mount of a larger image seldom needs more than that. */
const LOADED_METADATA = 8 << 20;

/** More than any image has: docker's have 127 at most. */
const MAX_DEVICES = 200;
