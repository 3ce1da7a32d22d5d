/** What an engine that was killed left in the kernel. */
import { sha256Hex } from '../../digest/digest.ts';
import { findMount, unmount } from '../../kernel/mount.ts';
import type { Layout } from '../../store/layout.ts';
import { Leftovers } from '../mounts/leftovers.ts';

/** Begins the label of every loop device of the engine with this root. */
export const labelOf = (root: string): string => `cofa:${sha256Hex(root).slice(0, 12)}`;

/** Finds its loop devices; they stay, with the file systems on them. Then its dead FUSE mount is detached. */
export async function findLeftovers({
  layout,
  label,
}: {
  layout: Layout;
  label: string;
}): Promise<Leftovers> {
  const leftovers = await Leftovers.find(layout, label);
  const devices = layout.devices();
  while (findMount(devices) !== undefined) await unmount(devices, { lazy: true });
  return leftovers;
}
