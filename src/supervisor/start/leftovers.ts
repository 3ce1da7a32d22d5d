/** What an engine that was killed left in the kernel. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { sha256Hex } from '../../digest/digest.ts';
import { takeOffered } from '../../fuse/hand-over.ts';
import type { FuseSession } from '../../fuse/session.ts';
import { findMount, unmount } from '../../kernel/mount.ts';
import { type Layout, writeWhole } from '../../store/layout.ts';
import { Leftovers } from '../mounts/leftovers.ts';
import type { SupervisorOptions } from '../options.ts';

/**
 * Begins the label of every loop device of the engine with this root. Loops are the machine's, and roots of containers may have
 * equal paths: so each root has a word of its own, in `run/label`, beside the inode of the folder that it was made for: a copy
 * of that folder gets another one. A root in which 0.1.0 has prepared images keeps the word that this one made of the path.
 */
export async function labelOf(layout: Layout): Promise<string> {
  const { dev, ino } = await stat(layout.root);
  const [inode, word] = (await readFile(layout.label(), 'utf8').catch(() => '')).trim().split(' ');
  if (word !== undefined && /^[0-9a-f]{12}$/.test(word) && inode === String(ino)) return `cofa:${word}`;
  const isOlder = inode === '' && (await readdir(layout.in('images'))).length > 0;
  const made = sha256Hex(isOlder ? layout.root : `${layout.root} ${dev} ${ino}`).slice(0, 12);
  await writeWhole(layout.label(), Buffer.from(`${ino} ${made}\n`));
  return `cofa:${made}`;
}

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
