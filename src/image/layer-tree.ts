/**
 * What one layer unpacks to, by the rules of containerd's applier when it unpacks for overlayfs, that is into an empty
 * folder (pkg/archive/tar.go, applyNaive and createTarFile; fs.RootPath of containerd/continuity):
 *
 * - Entries are applied in the order of the tar, so of two with one name the later one counts. A directory over a
 *   directory keeps its contents and takes the new attributes; any other entry replaces what was there.
 * - The parents of a name are looked up in this layer, symlinks followed within the image's root. A name below a
 *   symlink of a *lower* layer hence makes a directory that hides the symlink. (umoci, which unpacks into the merged
 *   tree, follows it.)
 * - Directories that no entry names are made on the way. They get the attributes that the layers below show for them,
 *   else 0755, root's (the group of a set-group-id directory around them) and 1970. Only the time is our choice:
 *   containerd and umoci take the moment of unpacking, and here the same input must give the same bytes.
 * - A hard link's header sets owner, mode, time and xattrs of the inode that it links to. Not so for an inode of a
 *   lower layer, which containerd cannot link to: there umoci is the example, which keeps the inode as it is.
 *
 * Names are kept in latin1, which maps bytes to characters one to one.
 */
import { CofaError } from '../../schemas/errors.ts';
import { MAX_NAME_BYTES, MAX_PATH_BYTES } from './erofs-format.ts';
import {
  type Attributes,
  DEFAULT_ATTRIBUTES,
  type Directory,
  Inode,
  isDirectory,
  newDirectory,
} from './inode.ts';
import { pathProblem } from './layer-path.ts';
import type { TocEntry, Xattr } from './toc.ts';

/** containerd's limit, for one path. */
const MAX_SYMLINKS = 255;
/**
 * Path components that a layer may look up, to bound the work of a few hostile entries: 256 for each entry, deeper than
 * any real image, and a million besides.
 */
const STEPS = 1 << 20;
const STEPS_PER_ENTRY = 256;
/** Directories of a layer that no entry names. */
const MAX_IMPLICIT = 1 << 20;

export class LayerTree {
  readonly root: Directory;
  readonly #layer: number;
  /** The merged layers below; read, never changed. */
  readonly #lower: Directory;
  #steps = STEPS;
  #implicit = 0;
  /** Most entries lie in the folder of the entry before. Forgotten when a name changes its meaning. */
  #lastParent: { path: string; directory: Directory } | undefined;
  /** Of the entry that is being applied. */
  #path: Buffer = Buffer.alloc(0);

  constructor(layer: number, lower: Directory) {
    this.#layer = layer;
    this.#lower = lower;
    this.root = newDirectory(layer, lower);
  }

  apply(entry: TocEntry): void {
    this.#path = entry.path;
    this.#steps += STEPS_PER_ENTRY;
    const problem = pathProblem(entry.path);
    if (problem !== undefined) throw this.#fault(problem);
    const path = entry.path.toString('latin1');
    if (entry.type === 'opaque') {
      this.#directory(path).opaque = true;
      return;
    }
    if (path === '') {
      if (entry.type !== 'dir') throw this.#fault('the root must be a directory');
      this.root.take(entry);
      return;
    }
    const slash = path.lastIndexOf('/');
    const name = path.slice(slash + 1);
    const parent = this.#directory(slash < 0 ? '' : path.slice(0, slash));
    switch (entry.type) {
      case 'whiteout':
        this.#applyWhiteout(parent, name);
        return;
      case 'dir':
        this.#applyDirectory(parent, name, entry);
        return;
      case 'hardlink':
        this.#applyLink(parent, name, entry);
        return;
      default:
        this.#put(parent, name, new Inode(entry.type, this.#layer, entry, entry));
    }
  }

  #applyWhiteout(parent: Directory, name: string): void {
    parent.whiteouts ??= new Set();
    if (parent.whiteouts.has(name)) return;
    parent.whiteouts.add(name);
    const there = parent.children.get(name);
    if (there === undefined || !isDirectory(there)) return;
    // Directories on the way took their attributes from what is hidden now.
    if (there.implicit) there.take(plainAttributes(parent));
    const directories = [there];
    for (let directory = directories.pop(); directory !== undefined; directory = directories.pop()) {
      for (const inode of directory.children.values()) {
        this.#spend();
        if (!isDirectory(inode)) continue;
        if (inode.implicit) inode.take(plainAttributes(directory));
        directories.push(inode);
      }
    }
  }

  #applyDirectory(parent: Directory, name: string, entry: TocEntry): void {
    const there = parent.children.get(name);
    if (there === undefined || !isDirectory(there)) {
      this.#put(parent, name, newDirectory(this.#layer, entry));
      return;
    }
    there.take(there.implicit ? entry : onTopOf(there, entry));
    there.implicit = false;
  }

  #applyLink(parent: Directory, name: string, entry: TocEntry): void {
    const link = entry.link.toString('latin1');
    const problem = link === '' ? 'a hard link that names no file' : pathProblem(entry.link);
    if (problem !== undefined) throw this.#fault(problem);
    // An unpacker first removes what has the new name, and with it what lies below.
    if (parent.children.delete(name)) this.#lastParent = undefined;
    const inode = this.#visible(link, { directory: parent, name });
    const text = `the hard link's target ${printable(link)}`;
    if (inode === undefined) throw this.#fault(`${text} is not there`);
    if (isDirectory(inode)) throw this.#fault(`${text} is a directory`);
    if (inode.layer === this.#layer) inode.take(onTopOf(inode, entry));
    this.#put(parent, name, inode);
  }

  #put(parent: Directory, name: string, inode: Inode): void {
    if (parent.children.has(name)) this.#lastParent = undefined;
    parent.children.set(name, inode);
  }

  /** The directory that `path` leads to in this layer; makes directories that are missing on the way. */
  #directory(path: string): Directory {
    if (path === '') return this.root;
    if (this.#lastParent?.path === path) return this.#lastParent.directory;
    const places = this.#walk<OwnPlace>({ directory: this.root, name: '' }, path, (place, name) => {
      const inode = place.directory?.children.get(name);
      if (inode === undefined) return { directory: undefined, name };
      if (isDirectory(inode)) return { directory: inode, name };
      if (inode.kind === 'symlink') return targetOf(inode);
      throw this.#fault(`it lies below ${printable(name)}, which is no directory`);
    });
    const last = places?.at(-1);
    if (places === undefined || last === undefined) throw this.#fault('it lies nowhere');
    const directory = last.directory ?? this.#make(places);
    this.#lastParent = { path, directory };
    return directory;
  }

  /** Makes the directories of a path that are missing in this layer; the root comes first and is there. */
  #make(places: readonly OwnPlace[]): Directory {
    let at = this.root;
    let length = 0;
    /** The same directory in the layers below, undefined if there is none or it is whited out. */
    let below: Directory | undefined = this.#lower;
    let walked = '';
    for (const { directory, name } of places.slice(1)) {
      length += name.length + 1;
      walked += `/${name}`;
      if (name.length > MAX_NAME_BYTES || length - 1 > MAX_PATH_BYTES) {
        throw this.#fault('symlinks lead it to a path that is too long', 'unsupported');
      }
      if (below !== undefined)
        below = at.whiteouts?.has(name) === true ? undefined : this.#below(below, name, walked);
      if (directory !== undefined) {
        at = directory;
        continue;
      }
      if (++this.#implicit > MAX_IMPLICIT) {
        throw this.#fault(`more than ${MAX_IMPLICIT} directories without an entry`, 'unsupported');
      }
      const made = newDirectory(this.#layer, below ?? plainAttributes(at));
      made.implicit = true;
      at.children.set(name, made);
      at = made;
    }
    return at;
  }

  /** The directory `name` of a lower directory; through a symlink, if it is one, whose path is `path`. */
  #below(directory: Directory, name: string, path: string): Directory | undefined {
    const inode = directory.children.get(name);
    if (inode === undefined) return undefined;
    if (isDirectory(inode)) return inode;
    if (inode.kind !== 'symlink') return undefined;
    return this.#walk<Directory>(this.#lower, path, (at, next) => {
      const child = at.children.get(next);
      if (child === undefined || isDirectory(child)) return child;
      return child.kind === 'symlink' ? targetOf(child) : undefined;
    })?.at(-1);
  }

  /**
   * What has the name `path` with this layer laid over the lower ones, without following a symlink at its end;
   * undefined if nothing has. The name `gone` counts as absent. Names that this layer whites out are still seen:
   * whiteouts do not depend on the order of entries, and a link keeps what they remove.
   */
  #visible(path: string, gone: { directory: Directory; name: string }): Inode | undefined {
    const find = ({ own, lower }: UnionPlace, name: string) => {
      if (own === gone.directory && name === gone.name) return {};
      return { own: own?.children.get(name), lower: lower?.children.get(name) };
    };
    const slash = path.lastIndexOf('/');
    const root: UnionPlace = { own: this.root, lower: this.#lower };
    const place = this.#walk<UnionPlace>(root, slash < 0 ? '' : path.slice(0, slash), (at, name) => {
      const { own, lower } = find(at, name);
      const inode = own ?? lower;
      if (inode === undefined) return undefined;
      if (!isDirectory(inode)) return inode.kind === 'symlink' ? targetOf(inode) : undefined;
      return {
        own: own !== undefined && isDirectory(own) ? own : undefined,
        lower: lower !== undefined && isDirectory(lower) ? lower : undefined,
      };
    })?.at(-1);
    if (place === undefined) return undefined;
    const { own, lower } = find(place, path.slice(slash + 1));
    return own ?? lower;
  }

  /**
   * Walks a path as the kernel does below a root that it cannot leave: `..` stops there, absolute symlinks begin there.
   * `step` gives the place of a name, or the target of a symlink, or undefined to end the walk. Returns the places on
   * the way from the root to the path's end, both included.
   */
  #walk<Place extends object>(
    root: Place,
    path: string,
    step: (at: Place, name: string) => Place | string | undefined,
  ): Place[] | undefined {
    const places: Place[] = [root];
    const names = path.split('/').toReversed();
    let symlinks = 0;
    for (let name = names.pop(); name !== undefined; name = names.pop()) {
      this.#spend();
      if (name === '' || name === '.') continue;
      if (name === '..') {
        if (places.length > 1) places.pop();
        continue;
      }
      const found = step(places.at(-1) ?? root, name);
      if (found === undefined) return undefined;
      if (typeof found !== 'string') {
        places.push(found);
        continue;
      }
      if (++symlinks > MAX_SYMLINKS) throw this.#fault('too many symlinks on the way: a loop?');
      if (found.startsWith('/')) places.length = 1;
      for (const part of found.split('/').toReversed()) names.push(part);
    }
    return places;
  }

  #spend(): void {
    if (--this.#steps < 0) throw this.#fault('paths that lead through too many symlinks', 'unsupported');
  }

  #fault(reason: string, code: 'integrity' | 'unsupported' = 'integrity'): CofaError {
    return new CofaError(
      code,
      `layer ${this.#layer + 1} cannot be unpacked: ${printable(this.#path.toString('latin1')) || 'the root'}: ${reason}`,
    );
  }
}

interface OwnPlace {
  /** Undefined where this layer has nothing yet. */
  directory: Directory | undefined;
  name: string;
}

interface UnionPlace {
  own: Directory | undefined;
  lower: Directory | undefined;
}

/**
 * Attributes of a new directory: mkdir(2) takes over the group of a set-group-id folder, and containerd leaves it so.
 */
function plainAttributes(parent: Directory): Attributes {
  return (parent.mode & 0o2000) === 0 ? DEFAULT_ATTRIBUTES : { ...DEFAULT_ATTRIBUTES, gid: parent.gid };
}

function targetOf(symlink: Inode): string {
  return symlink.entry?.link.toString('latin1') ?? '';
}

/** The attributes of an entry for an inode that exists already: xattrs are set one by one, none is removed. */
function onTopOf(there: Attributes, { mode, uid, gid, mtime, xattrs }: Attributes): Attributes {
  return { mode, uid, gid, mtime, xattrs: joinXattrs(there.xattrs, xattrs) };
}

function joinXattrs(below: readonly Xattr[], above: readonly Xattr[]): readonly Xattr[] {
  if (below.length === 0) return above;
  if (above.length === 0) return below;
  const joined = new Map<string, Xattr>();
  for (const xattr of [...below, ...above]) joined.set(xattr[0].toString('latin1'), xattr);
  return [...joined.values()].sort((a, b) => a[0].compare(b[0]));
}

/** A path in latin1 as one short line. */
function printable(path: string): string {
  const text = path.replace(/[^ -~]|\\/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
