/**
 * The merged tree of a chain of layers: what a container sees.
 *
 * Each layer is applied on its own, as containerd's applier does for its overlayfs snapshotter, then laid over the tree
 * of the layers below by overlayfs's rules. Names of the upper layer win. Two directories of one name become one with
 * the upper one's attributes. A whiteout hides a lower name, and an opaque directory hides all lower ones. So what a
 * layer unpacks to depends on no other layer, except where the two notes below say so.
 *
 * Where unpackers differ, or have bugs, this is the rule (see also layer-tree.ts):
 *
 * - A whiteout and an opaque mark concern the layers below alone, wherever in the tar they stand (image-spec layer.md,
 *   "Whiteouts"; umoci). So a directory that is whited out and made anew holds only what is new. With containerd it may
 *   show the old content too, or not unpack.
 * - An opaque root hides all layers below, as in umoci.
 * - The root takes the attributes of its entry ('./'), as with umoci and Docker; containerd ignores them.
 * - A hard link to a name that only lower layers have links to that inode, as with umoci; containerd refuses it.
 * - Link counts are of the names that are left.
 * - A character device 0:0 in a tar is overlayfs's own mark of a whiteout. It stays as a device and hides what is below
 *   its name; under the container's overlay it then hides itself, as with containerd.
 */
import { CofaError } from '../../schemas/errors.ts';
import { type Directory, type Inode, isDirectory, newDirectory } from './inode.ts';
import { LayerTree } from './layer-tree.ts';
import type { Toc } from './toc.ts';

export interface ImageTree {
  root: Directory;
  /** Different inodes, the root among them. */
  inodes: number;
}

/**
 * Applies the tables of a chain of layers, the lowest first. Errors, which name the layer by its place in the chain
 * and the entry by its path: `integrity` where a layer cannot be unpacked (a hard link to nothing or to a directory,
 * something below a file, a loop of symlinks), `unsupported` beyond the bounds of layer-tree.ts.
 */
export function mergeLayers(tocs: readonly Toc[]): ImageTree {
  const root = newDirectory(0);
  for (const [layer, { entries }] of tocs.entries()) {
    const upper = new LayerTree(layer, root);
    for (const entry of entries) upper.apply(entry);
    layOver(root, upper.root);
  }
  return { root, inodes: countLinks(root) };
}

/** Merges `upper` into `lower`. Subtrees that are in one of them alone are not visited. */
function layOver(lower: Directory, upper: Directory): void {
  const pairs: Array<[lower: Directory, upper: Directory]> = [[lower, upper]];
  for (let pair = pairs.pop(); pair !== undefined; pair = pairs.pop()) {
    const [below, above] = pair;
    below.take(above);
    if (above.opaque) below.children.clear();
    for (const name of above.whiteouts ?? NO_NAMES) below.children.delete(name);
    for (const [name, inode] of above.children) {
      const hidden = below.children.get(name);
      if (isDirectory(inode) && hidden !== undefined && isDirectory(hidden)) pairs.push([hidden, inode]);
      else below.children.set(name, inode);
    }
  }
}

const NO_NAMES: ReadonlySet<string> = new Set();

function countLinks(root: Directory): number {
  let inodes = 1;
  root.nlink = 2;
  const directories = [root];
  for (let directory = directories.pop(); directory !== undefined; directory = directories.pop()) {
    for (const inode of directory.children.values()) {
      if (inode.nlink === 0) inodes++;
      if (!isDirectory(inode)) {
        inode.nlink++;
        continue;
      }
      if (inode.nlink > 0) throw new CofaError('internal', 'a directory came to have two names');
      inode.nlink = 2;
      directory.nlink++;
      directories.push(inode);
    }
  }
  return inodes;
}

export type { Directory, Inode };
