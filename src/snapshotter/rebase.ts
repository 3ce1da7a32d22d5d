/**
 * Layers that containerd unpacks side by side (the capability `rebase`; core/unpack/unpacker.go there): each is prepared
 * without a parent, and Commit says upon which it stands. Two things are then different from a layer that is unpacked
 * onto its parent:
 *
 * - **Whiteouts.** A file that the layer deletes is in no folder below yet. containerd's applier keeps such an entry as
 *   overlayfs has it (a device 0:0) where the mount is an overlay, and only obeys it where it is not: then what the layer
 *   deletes would be back (containerd#13030). So the mount is an overlay with an upper folder alone. No kernel mounts that;
 *   the applier writes into the folder without a mount.
 * - **Folders that the tar does not list**, such as those above a single file. Upon its parent a layer's folder gets the
 *   owner, mode and attributes of the one that it hides; alone it gets root's, with 0755. They are completed at the commit.
 */
import { type BigIntStats } from 'node:fs';
import { chmod, chown, lstat, readdir } from 'node:fs/promises';
import { isErrno } from '../kernel/errno.ts';
import { getXattr, listXattrs, setXattr } from '../kernel/xattrs.ts';
import type { SnapshotFacts } from '../../actors/snapshots.ts';

/** What containerd's unpacker says of a layer with others below (core/unpack/unpacker.go). */
const PARENT_LABEL = 'containerd.io/snapshot/parent-chain-id';

/** Whether it is prepared to be unpacked alone, before what it will stand on. */
export const isUnpackedAlone = ({ kind, parent, labels }: SnapshotFacts): boolean =>
  kind === 'active' && parent === '' && (labels[PARENT_LABEL] ?? '') !== '';

const SLASH = Buffer.from('/');
const OPAQUE = Buffer.from('trusted.overlay.opaque');
const YES = Buffer.from('y');

/**
 * Gives folders of a layer that its tar did not list what the folders have that they hide. `lowers`: roots of the layers
 * below, the uppermost first. A folder that was listed has the time that the tar says; one that was not has the time at
 * which it was made, after the layer's root. Errors: the system's.
 */
export async function completeFolders(root: string, lowers: readonly string[]): Promise<void> {
  const top = Buffer.from(root);
  const { birthtimeNs } = await lstat(top, { bigint: true });
  const now = BigInt(Date.now() + 1) * 1_000_000n;
  const isUnlisted = ({ mtimeNs }: BigIntStats) => mtimeNs >= birthtimeNs && mtimeNs <= now;
  for (const parts of await foldersWhere(top, isUnlisted)) {
    const hidden = await firstBelow(
      lowers.map((lower) => Buffer.from(lower)),
      parts,
    );
    if (hidden !== undefined) await copyAttributes(hidden, pathOf(top, parts));
  }
}

const pathOf = (root: Buffer, parts: readonly Buffer[]): Buffer =>
  Buffer.concat([root, ...parts.flatMap((part) => [SLASH, part])]);

/** Paths of the folders that are chosen, the root first. */
async function foldersWhere(root: Buffer, isChosen: (stats: BigIntStats) => boolean): Promise<Buffer[][]> {
  const chosen: Buffer[][] = [];
  const queue: Buffer[][] = [[]];
  for (let parts = queue.pop(); parts !== undefined; parts = queue.pop()) {
    const path = pathOf(root, parts);
    if (isChosen(await lstat(path, { bigint: true }))) chosen.push(parts);
    const entries = await readdir(path, { encoding: 'buffer', withFileTypes: true });
    for (const entry of entries) if (entry.isDirectory()) queue.push([...parts, entry.name]);
  }
  return chosen;
}

/** The folder that layers show at a path, as overlayfs merges them; undefined where they show none there. */
async function firstBelow(lowers: readonly Buffer[], parts: readonly Buffer[]): Promise<Buffer | undefined> {
  let visible = lowers;
  for (const part of parts) {
    const next: Buffer[] = [];
    for (const folder of visible) {
      const path = Buffer.concat([folder, SLASH, part]);
      const stats = await lstat(path).catch((error: unknown) => {
        if (isErrno(error, 'ENOENT')) return undefined;
        throw error;
      });
      if (stats === undefined) continue;
      // A whiteout, or another file: what lies further down is hidden.
      if (!stats.isDirectory()) break;
      next.push(path);
      if ((await getXattr(path, OPAQUE))?.equals(YES) === true) break;
    }
    visible = next;
  }
  return visible[0];
}

/** Owner, mode and extended attributes, but for overlayfs's own. */
async function copyAttributes(from: Buffer, to: Buffer): Promise<void> {
  const { uid, gid, mode } = await lstat(from);
  await chown(to, uid, gid);
  await chmod(to, mode & 0o7777);
  for (const name of await listXattrs(from)) {
    if (name.toString('latin1').startsWith('trusted.overlay.')) continue;
    const value = await getXattr(from, name);
    if (value !== undefined) await setXattr(to, name, value);
  }
}
