/**
 * From the members of a tar to the entries of a layer: what a container runtime would make of each, still in archive
 * order and without looking at the other entries.
 */
import { classify, normalisePath, pathProblem } from './layer-path.ts';
import { layOut } from './sparse.ts';
import type { Capture } from './sparse.ts';
import { TarReader } from './tar.ts';
import type { MemberType, TarMember } from './tar.ts';
import {
  keepsXattr,
  MAX_ENTRIES,
  MAX_EXTENTS,
  MAX_FILE_SIZE,
  MAX_MAJOR,
  MAX_MINOR,
  MAX_PATCH_BYTES,
  MAX_TEXT_BYTES,
  MAX_TIME,
  MAX_XATTR_BYTES,
  MAX_XATTR_NAME,
  MAX_XATTR_VALUE,
} from './toc-limits.ts';
import type { Mtime, Toc, TocEntry, Xattr } from './toc.ts';

/**
 * Builds a layer's table from its raw tar bytes as they stream by. Memory: the entries, and at most 1 MiB of a header
 * that is being read. Throws CofaError('integrity') where the archive is damaged or a name is impossible, 'unsupported'
 * where it holds more, or other things, than cofa takes.
 */
export class TocBuilder {
  readonly #reader: TarReader;
  readonly #entries: TocEntry[] = [];
  readonly #give: (entry: TocEntry) => void;
  /** The last one: its patches are filled until the next member begins. */
  #open: TocEntry | undefined;
  readonly #aufs = new AufsLinks();
  readonly #most: number;
  #members = 0;
  #extents = 0;
  #textBytes = 0;
  #patchBytes = 0;
  #toc: Toc | undefined;

  /**
   * `mostMembers`: a tar with more is refused. `give` gets the entries in order, each when it is whole; without it they are
   * in the table that `finish` returns.
   */
  constructor(mostMembers: number = MAX_ENTRIES, give?: (entry: TocEntry) => void) {
    this.#give = give ?? ((entry) => this.#entries.push(entry));
    this.#most = Math.min(mostMembers, MAX_ENTRIES);
    this.#reader = new TarReader((member) => this.#take(member));
  }

  /** Takes the next bytes; borders between chunks mean nothing. The chunk is not kept. */
  push(chunk: Buffer): void {
    this.#reader.push(chunk);
  }

  /** Call after the last byte. */
  finish(): Toc {
    this.#reader.finish();
    this.#pass();
    this.#toc ??= { entries: this.#entries };
    return this.#toc;
  }

  #take(member: TarMember): readonly Capture[] {
    if (++this.#members > this.#most) {
      throw this.#reader.fault(`more than ${this.#most} members`, 'unsupported');
    }
    // A whiteout's own name may be four bytes longer than Linux allows: no file of that name is made.
    const name = classify(normalisePath(member.name));
    const path = this.#checked(name.path, member.name);
    switch (name.kind) {
      case 'whiteout':
      case 'opaque':
        this.#pass(bare(name.kind, path));
        return NOTHING;
      case 'bad':
        throw this.#reader.fault('a whiteout that names nothing to remove');
      case 'aufs':
        if (member.type !== 'file') return NOTHING;
        break;
      default:
        // Only a directory can be the root; containerd ignores any other entry for it.
        if (path.length === 0 && member.type !== 'dir') return NOTHING;
    }
    if (member.type === 'other') {
      const type = JSON.stringify(String.fromCharCode(member.typeflag));
      throw this.#reader.fault(`no container runtime knows a member of type ${type}`, 'unsupported');
    }
    const { entry, captures } = this.#entry(member, member.type, path);
    if (name.kind === 'aufs') {
      this.#aufs.keep(entry);
      return captures;
    }
    const real = this.#aufs.resolve(entry);
    if (real === undefined) throw this.#reader.fault('a hard link to an AUFS file that is not there');
    this.#pass(real);
    return captures;
  }

  /** `next`: the entry behind the last one, which is whole now. */
  #pass(next?: TocEntry): void {
    if (this.#open !== undefined) this.#give(this.#open);
    this.#open = next;
  }

  #entry(
    member: TarMember,
    type: Exclude<MemberType, 'other'>,
    path: Buffer,
  ): { entry: TocEntry; captures: readonly Capture[] } {
    const entry: TocEntry = {
      path,
      type,
      mode: member.mode,
      uid: this.#id(member.uid, 'owner'),
      gid: this.#id(member.gid, 'group'),
      mtime: boundedTime(member.mtime),
      size: 0,
      link: EMPTY,
      major: 0,
      minor: 0,
      xattrs: this.#xattrs(member, type),
      extents: [],
      patches: [],
    };
    switch (type) {
      case 'file':
        return { entry, captures: this.#data(entry, member) };
      case 'symlink':
        entry.link = this.#symlink(member.link);
        break;
      case 'hardlink':
        entry.link = this.#checked(normalisePath(member.link), member.link);
        if (entry.link.length === 0) throw this.#reader.fault('a hard link that names no file');
        break;
      case 'char':
      case 'block':
        if (
          !(member.major >= 0 && member.major <= MAX_MAJOR && member.minor >= 0 && member.minor <= MAX_MINOR)
        ) {
          throw this.#reader.fault(`Linux has no device ${member.major}:${member.minor}`);
        }
        entry.major = member.major;
        entry.minor = member.minor;
        break;
      default:
    }
    return { entry, captures: NOTHING };
  }

  #data(entry: TocEntry, member: TarMember): readonly Capture[] {
    const { size, dataOffset, fragments } = member;
    if (!(size >= 0 && size <= MAX_FILE_SIZE)) {
      throw this.#reader.fault(`a file of ${size} bytes; the limit is ${MAX_FILE_SIZE}`, 'unsupported');
    }
    entry.size = size;
    if (fragments === undefined) {
      if (size > 0) this.#countExtents(1);
      if (size > 0) entry.extents = [{ fileOffset: 0, deviceOffset: dataOffset, length: size }];
      return NOTHING;
    }
    this.#countExtents(fragments.length);
    const layout = layOut(fragments, size, dataOffset, (bytes) => {
      this.#patchBytes += bytes;
      if (this.#patchBytes > MAX_PATCH_BYTES) {
        throw this.#reader.fault('too much sparse data that is not aligned to 512 bytes', 'unsupported');
      }
    });
    entry.extents = layout.extents;
    entry.patches = layout.patches;
    return layout.captures;
  }

  /** The normalised path made of `name`, if Linux can have it. */
  #checked(path: Buffer, name: Buffer): Buffer {
    const problem = pathProblem(path);
    if (problem !== undefined) {
      throw this.#reader.fault(problem, path.includes(0) ? 'integrity' : 'unsupported');
    }
    this.#countText(path.length);
    // A short view would keep all of a long name in memory.
    return path.length === name.length ? path : Buffer.from(path);
  }

  #symlink(link: Buffer): Buffer {
    if (link.length === 0) throw this.#reader.fault('a symlink without a target');
    if (link.length > 4095)
      throw this.#reader.fault(`a symlink target of ${link.length} bytes`, 'unsupported');
    this.#countText(link.length);
    return link;
  }

  /** chown(2) takes 32 bits, negative numbers modulo 2^32; -1 leaves what was there, which is root. */
  #id(id: number, what: string): number {
    if (!(id >= -(2 ** 31) && id < 2 ** 32)) throw this.#reader.fault(`Linux has no ${what} ${id}`);
    const unsigned = id < 0 ? id + 2 ** 32 : id;
    return unsigned === 2 ** 32 - 1 ? 0 : unsigned;
  }

  #xattrs(member: TarMember, type: TocEntry['type']): Xattr[] {
    if (member.xattrs.size === 0) return [];
    const kept: Xattr[] = [];
    let total = 0;
    for (const [name, value] of member.xattrs) {
      if (!keepsXattr(name, type)) continue;
      total += name.length + value.length;
      if (name.length > MAX_XATTR_NAME || value.length > MAX_XATTR_VALUE || total > MAX_XATTR_BYTES) {
        throw this.#reader.fault('extended attributes that are too long', 'unsupported');
      }
      this.#countText(name.length + value.length);
      kept.push([Buffer.from(name, 'latin1'), Buffer.from(value)]);
    }
    return kept.sort((a, b) => a[0].compare(b[0]));
  }

  #countText(bytes: number): void {
    this.#textBytes += bytes;
    if (this.#textBytes > MAX_TEXT_BYTES) {
      throw this.#reader.fault(`more than ${MAX_TEXT_BYTES} bytes of names and attributes`, 'unsupported');
    }
  }

  #countExtents(count: number): void {
    this.#extents += count;
    if (this.#extents > MAX_EXTENTS)
      throw this.#reader.fault(`more than ${MAX_EXTENTS} extents`, 'unsupported');
  }
}

/**
 * Layers made on AUFS (Docker until about 2017) hold the data of hard-linked files under `.wh..wh.plnk`, and every name
 * of such a file as a hard link to there. The first of these names becomes the file, the others link to it.
 */
class AufsLinks {
  readonly #files = new Map<string, TocEntry>();

  keep(file: TocEntry): void {
    this.#files.set(file.path.toString('latin1'), file);
  }

  /** The entry for a name that may be such a link; undefined if it leads nowhere. */
  resolve(entry: TocEntry): TocEntry | undefined {
    if (entry.type !== 'hardlink' || classify(entry.link).kind !== 'aufs') return entry;
    const key = entry.link.toString('latin1');
    const file = this.#files.get(key);
    if (file === undefined) return undefined;
    if (classify(file.path).kind !== 'aufs') return { ...entry, link: file.path };
    // Not a copy: the reader may still fill the file's patches while its body passes.
    file.path = entry.path;
    return file;
  }
}

function bare(type: 'whiteout' | 'opaque', path: Buffer): TocEntry {
  return {
    path,
    type,
    mode: 0,
    uid: 0,
    gid: 0,
    mtime: { sec: 0, nsec: 0 },
    size: 0,
    link: EMPTY,
    major: 0,
    minor: 0,
    xattrs: [],
    extents: [],
    patches: [],
  };
}

/** Times that no file system holds become 1970, as in containerd. */
function boundedTime({ sec, nsec }: Mtime): Mtime {
  return sec >= -MAX_TIME && sec < MAX_TIME ? { sec, nsec } : { sec: 0, nsec: 0 };
}

const EMPTY: Buffer = Buffer.alloc(0);
const NOTHING: readonly Capture[] = [];
