/** What an engine that was killed left in the kernel. */
import { sha256Hex } from '../../digest/digest.ts';
import { takeOffered } from '../../fuse/hand-over.ts';
import type { FuseSession } from '../../fuse/session.ts';
import { findMount, unmount } from '../../kernel/mount.ts';
import type { Layout } from '../../store/layout.ts';
import { Leftovers } from '../mounts/leftovers.ts';
import type { SupervisorOptions } from '../options.ts';

/** Begins the label of every loop device of the engine with this root. */
export const labelOf = (root: string): string => `cofa:${sha256Hex(root).slice(0, 12)}`;

/**
 * Finds its loop devices; they stay, with the file systems on them. Its FUSE mount is taken over where `cofa upgrade --engine`
 * offers that (`handed`), else it is dead and detached.
 */
export async function findLeftovers(given: {
  layout: Layout;
  label: string;
  options: Pick<SupervisorOptions, 'transport'>;
}): Promise<{ leftovers: Leftovers; handed: FuseSession | undefined }> {
  const { layout, label, options } = given;
  const devices = layout.devices();
  const handed = options.transport === 'kernel' ? takeOffered(layout.handOver(), devices) : undefined;
  const leftovers = await Leftovers.find(layout, label);
  if (handed !== undefined) return { leftovers, handed };
  while (findMount(devices) !== undefined) await unmount(devices, { lazy: true });
  return { leftovers, handed };
}
