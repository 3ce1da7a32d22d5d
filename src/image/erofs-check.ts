/**
 * Reads the metadata of a flat image that came from elsewhere, before the kernel does.
 *
 * Kernels have had bugs with images that no writer makes, and an image that hides something from a look at its files
 * may hide it from a review too. So this check accepts the subset of EROFS that erofs.ts writes and nothing else. Each
 * field has a value that erofs.ts would write. The check reaches each inode from the root, and a directory by one name
 * alone. Each byte belongs to one part, and bytes that belong to none are zero. The order of the parts is free, so that
 * images of a later writer pass too.
 *
 * Time and memory are linear in the size of the image: the check claims a part before it reads it, and no byte is
 * claimed twice.
 */
import { CofaError } from '../../schemas/errors.ts';
import {
  BLOCK,
  BLOCK_BITS,
  CHUNK,
  CHUNK_INDEX,
  CHUNK_INDEXES,
  COMPAT,
  DEVICE_SLOT,
  DEVICE_TABLE_SLOT,
  IMAGE_ALIGN,
  imageUuid,
  INCOMPAT,
  INODE,
  INODE_SIZE,
  inlineEnd,
  type InodeKind,
  KINDS,
  LAYOUT,
  MAGIC,
  MAX_CHUNK_BITS,
  MAX_DEVICES,
  MAX_IMAGE,
  MAX_PATH_BYTES,
  NID_UNIT,
  NO_ID,
  NULL_BLOCK,
  roundUp,
  SB,
  SLOT,
  SUPERBLOCK,
  SUPERBLOCK_SIZE,
  VOLUME_NAME,
} from './erofs-format.ts';
import { type Contents, readEntries, shown } from './erofs-check-directory.ts';
import { XattrReader } from './erofs-check-xattrs.ts';
import { Claims, type Fault } from './erofs-claims.ts';
import { Words } from './erofs-words.ts';
import type { LayerDevice } from './erofs.ts';
import { MAX_FILE_SIZE } from './toc-limits.ts';

/**
 * Checks a whole image. Returns its devices in the order of their slots (`size` is that of the device: the raw tar's,
 * raised to a multiple of 512) and the number of its inodes. Throws CofaError('integrity'), which says what is wrong.
 */
export function checkFlat(metadata: Buffer): { devices: LayerDevice[]; inodes: number } {
  const check = checkFlatInSteps(metadata);
  for (;;) {
    const { done, value } = check.next();
    if (done === true) return value;
  }
}

/** The same in steps of a millisecond or so, for an event loop that has other work. */
export function checkFlatInSteps(
  metadata: Buffer,
): Generator<void, { devices: LayerDevice[]; inodes: number }, void> {
  return new Checker(metadata).check();
}

/** Inodes that one step reads; a step that comes to a larger directory reads all of its inodes. */
const STEP_INODES = 500;

interface Device extends LayerDevice {
  blocks: number;
  used: boolean;
}

interface Header {
  rootNid: number;
  inodes: number;
  /** Byte of the shared xattrs. */
  sharedAt: number;
}

/** The fields of an inode that do not depend on its kind. */
interface Body {
  at: number;
  layout: number;
  /** Bytes, as stat shows them. */
  size: number;
  xattrBytes: number;
}

/** A directory whose entries are still to be read. */
interface Pending {
  nid: number;
  parent: number;
  /** Bytes of the path to it. */
  path: number;
  contents: Contents;
}

class Checker {
  readonly #image: Buffer;
  readonly #words: Words;
  readonly #claims: Claims;
  readonly #devices: Device[] = [];
  /** By their running numbers: 1 for those that the check has met. */
  readonly #inos: Uint8Array;
  readonly #xattrs: XattrReader;
  readonly #header: Header;
  /** By nid: the kind of each inode that has been read, as FT_*; 0 for the others. */
  readonly #types: Uint8Array;
  /** By nid: the link count in the inode, and the links found; every directory begins with two. */
  readonly #nlinks: Uint32Array;
  readonly #found: Uint32Array;
  #count = 0;
  readonly #pending: Pending[] = [];

  constructor(image: Buffer) {
    this.#image = image;
    if (image.length < IMAGE_ALIGN || image.length % IMAGE_ALIGN !== 0 || image.length > MAX_IMAGE) {
      throw fault(`its size is ${image.length} bytes`);
    }
    this.#words = new Words(image);
    this.#claims = new Claims(this.#words, fault);
    this.#header = this.#superblock();
    this.#inos = new Uint8Array(this.#header.inodes + 1);
    this.#xattrs = new XattrReader(this.#words, this.#header.sharedAt, this.#claims, fault);
    this.#types = new Uint8Array(image.length / NID_UNIT);
    this.#nlinks = new Uint32Array(image.length / NID_UNIT);
    this.#found = new Uint32Array(image.length / NID_UNIT);
  }

  *check(): Generator<void, { devices: LayerDevice[]; inodes: number }, void> {
    const { rootNid, inodes } = this.#header;
    if (this.#inode(rootNid, rootNid, 0) !== DIRECTORY) throw fault('its root is no directory');
    let pause = STEP_INODES;
    for (let next = this.#pending.pop(); next !== undefined; next = this.#pending.pop()) {
      this.#directory(next);
      if (this.#count < pause) continue;
      yield;
      pause = this.#count + STEP_INODES;
    }
    yield;
    this.#checkLinks();
    if (this.#count !== inodes) throw fault(`it has ${this.#count} inodes and says ${inodes}`);
    for (const { diffId, used } of this.#devices)
      if (!used) throw fault(`nothing lies in its device ${diffId}`);
    this.#claims.checkRest();
    return { devices: this.#devices.map(({ diffId, size }) => ({ diffId, size })), inodes };
  }

  /** Not in the generator, whose loops V8 does not compile while they run. */
  #checkLinks(): void {
    const nlinks = this.#nlinks;
    const all = this.#found;
    for (let nid = 0; nid < nlinks.length; nid++) {
      const nlink = nlinks[nid];
      const found = all[nid];
      if (nlink !== found) throw fault(`inode ${nid} has ${found} links and says ${nlink}`);
    }
  }

  #superblock(): Header {
    const image = this.#image;
    const at = SUPERBLOCK;
    if (image.readUInt32LE(at + SB.magic) !== MAGIC) throw fault('it has no EROFS superblock');
    if (!image.subarray(at + SB.uuid, at + SB.uuid + 16).equals(imageUuid(image))) {
      throw fault('its UUID is not that of its bytes: it is damaged');
    }
    const devices = image.readUInt16LE(at + SB.devices);
    const header = {
      rootNid: image.readUInt16LE(at + SB.rootNid),
      inodes: image.readUInt32LE(at + SB.inodes),
      sharedAt: image.readUInt32LE(at + SB.xattrBlock) * BLOCK,
    };
    // The fields that vary, put into a superblock that is right in all other fields.
    const expected = Buffer.alloc(SUPERBLOCK_SIZE);
    expected.writeUInt32LE(MAGIC, SB.magic);
    expected.writeUInt32LE(COMPAT, SB.compat);
    expected[SB.blockBits] = BLOCK_BITS;
    expected.writeUInt16LE(header.rootNid, SB.rootNid);
    expected.writeUInt32LE(header.inodes, SB.inodes);
    expected.writeUInt32LE(image.length / BLOCK, SB.blocks);
    expected.writeUInt32LE(header.sharedAt / BLOCK, SB.xattrBlock);
    image.copy(expected, SB.uuid, at + SB.uuid, at + SB.uuid + 16);
    expected.write(VOLUME_NAME, SB.volumeName, 'latin1');
    expected.writeUInt32LE(INCOMPAT, SB.incompat);
    expected.writeUInt16LE(devices, SB.devices);
    expected.writeUInt16LE(DEVICE_TABLE_SLOT, SB.deviceTable);
    for (const [offset, byte] of expected.entries()) {
      if (image[at + offset] !== byte) throw fault(`its superblock has an unknown value at byte ${offset}`);
    }
    this.#claims.claim(at, SUPERBLOCK_SIZE);
    if (header.inodes < 1 || header.inodes > image.length / INODE_SIZE) {
      throw fault(`it cannot hold ${header.inodes} inodes`);
    }
    if (header.sharedAt > image.length) throw fault('its shared xattrs lie outside of it');
    this.#deviceTable(devices);
    return header;
  }

  #deviceTable(count: number): void {
    const table = DEVICE_TABLE_SLOT * DEVICE_SLOT;
    if (count > MAX_DEVICES) throw fault(`it has ${count} devices`);
    this.#claims.claim(table, count * DEVICE_SLOT);
    const known = new Set<string>();
    for (let index = 0; index < count; index++) {
      const at = table + index * DEVICE_SLOT;
      const tag = this.#image.toString('latin1', at + SLOT.tag, at + SLOT.tag + 64);
      const blocks = this.#image.readUInt32LE(at + SLOT.blocks);
      if (!/^[0-9a-f]{64}$/.test(tag)) throw fault(`device ${index + 1} is named by no diffID`);
      if (known.has(tag)) throw fault(`two devices are layer ${tag}`);
      if (blocks === 0 || blocks === NULL_BLOCK) throw fault(`device ${index + 1} has ${blocks} blocks`);
      if (!this.#words.isZero(at + SLOT.blocks + 4, at + DEVICE_SLOT)) {
        throw fault(`device ${index + 1} is used in an unknown way`);
      }
      known.add(tag);
      this.#devices.push({ diffId: `sha256:${tag}`, size: blocks * BLOCK, blocks, used: false });
    }
  }

  /** Reads an inode that no entry has led to before; returns its FT_*. `path`: bytes of the path to it. */
  #inode(nid: number, parent: number, path: number): number {
    const words = this.#words;
    const at = nid * NID_UNIT;
    if (at + INODE_SIZE > words.image.length) throw fault(`${inodeAt(at)} lies outside of it`);
    this.#claims.claim(at, INODE_SIZE);
    const format = words.u16(at + INODE.format);
    const layout = format >> 1;
    if ((format & 1) === 0 || !LAYOUTS.has(layout))
      throw fault(`${inodeAt(at)} has the unknown format ${format}`);
    const mode = words.u16(at + INODE.mode);
    const kind = KIND_OF_MODE.get(mode & 0o170000);
    if (kind === undefined) throw fault(`${inodeAt(at)} has the unknown mode ${mode.toString(8)}`);
    if (kind === 'symlink' && (mode & 0o7777) !== 0o777)
      throw fault(`${inodeAt(at)}, a symlink, has permissions`);
    const ino = words.u32(at + INODE.ino);
    if (ino < 1 || ino >= this.#inos.length || this.#inos[ino] !== 0) {
      throw fault(`${inodeAt(at)} has the running number ${ino}, which is not its own`);
    }
    this.#inos[ino] = 1;
    if (words.u32(at + INODE.mtimeNsec) > 999_999_999) throw fault(`${inodeAt(at)} has a bad time`);
    if (words.u16(at + INODE_UNUSED[0]) !== 0 || !words.isZero(at + INODE_UNUSED[1], at + INODE_SIZE)) {
      throw fault(`${inodeAt(at)} is used in an unknown way`);
    }
    if (words.u32(at + INODE.uid) === NO_ID || words.u32(at + INODE.gid) === NO_ID) {
      throw fault(`${inodeAt(at)} has no owner`);
    }
    const size = words.u32(at + INODE.size + 4) * 2 ** 32 + words.u32(at + INODE.size);
    const xattrCount = words.u16(at + INODE.xattrCount);
    const xattrBytes = this.#xattrs.read(at, xattrCount, kind);
    const body: Body = { at, layout, size, xattrBytes };
    switch (kind) {
      case 'file':
        this.#file(body);
        break;
      case 'dir':
        if (size === 0) throw fault(`${inodeAt(at)}, a directory, is empty`);
        this.#pending.push({ nid, parent, path, contents: this.#contents(body) });
        break;
      case 'symlink':
        this.#symlink(body);
        break;
      default:
        if (layout !== LAYOUT.plain || size !== 0) throw fault(`${inodeAt(at)}, a ${kind}, has contents`);
        if (kind === 'fifo' && this.#union(body) !== 0)
          throw fault(`${inodeAt(at)}, a fifo, has a device number`);
    }
    this.#count++;
    this.#types[nid] = KINDS[kind].entryType;
    this.#nlinks[nid] = words.u32(at + INODE.nlink);
    this.#found[nid] = kind === 'dir' ? 2 : 0;
    return KINDS[kind].entryType;
  }

  #directory({ nid, parent, path, contents }: Pending): void {
    const what = `directory ${nid}`;
    const image = this.#image;
    const found = this.#found;
    let dots = 0;
    readEntries(this.#words, contents, what, fault, (nameAt, nameEnd, child, type) => {
      const length = nameEnd - nameAt;
      if (image[nameAt] === DOT && (length === 1 || (length === 2 && image[nameAt + 1] === DOT))) {
        dots++;
        if (child !== (length === 1 ? nid : parent) || type !== DIRECTORY) {
          throw fault(`${what} has a ${length === 1 ? '.' : '..'} that leads elsewhere`);
        }
        return;
      }
      const childPath = path === 0 ? length : path + 1 + length;
      if (childPath > MAX_PATH_BYTES) throw fault(`${what} lies deeper than any path leads`);
      const known = this.#types[child] ?? 0;
      if (known === DIRECTORY) throw fault(`directory ${child} has two names`);
      const actual = known === 0 ? this.#inode(child, nid, childPath) : known;
      if (type !== actual) throw fault(`${what} gives ${shown(image, nameAt, nameEnd)} the wrong type`);
      const linked = actual === DIRECTORY ? nid : child;
      found[linked] = (found[linked] as number) + 1;
    });
    if (dots !== 2) throw fault(`${what} lacks . or ..`);
  }

  #file(body: Body): void {
    const { at, layout, size, xattrBytes } = body;
    const words = this.#words;
    const union = this.#union(body);
    if (size === 0) {
      if (layout !== LAYOUT.plain || union !== 0)
        throw fault(`${inodeAt(body.at)}, an empty file, has contents`);
      return;
    }
    if (size > MAX_FILE_SIZE) throw fault(`${inodeAt(body.at)} has ${size} bytes`);
    const bits = union - CHUNK_INDEXES;
    if (layout !== LAYOUT.chunks || bits < 0 || bits > MAX_CHUNK_BITS) {
      throw fault(`${inodeAt(body.at)} has chunks of an unknown form`);
    }
    const chunk = BLOCK * 2 ** bits;
    const count = Math.ceil(size / chunk);
    const indexes = roundUp(at + INODE_SIZE + xattrBytes, CHUNK_INDEX);
    this.#claims.claim(indexes, count * CHUNK_INDEX);
    for (let index = 0; index < count; index++) {
      const from = indexes + index * CHUNK_INDEX;
      const slot = words.u16(from + CHUNK.device);
      const block = words.u32(from + CHUNK.block);
      if (words.u16(from) !== 0) throw fault(`${inodeAt(body.at)} has a chunk of an unknown form`);
      if (block === NULL_BLOCK) {
        if (slot !== 0) throw fault(`${inodeAt(body.at)} has a hole in a device`);
        continue;
      }
      const length = Math.min(chunk, size - index * chunk);
      if (slot === 0) {
        this.#blocks(block, length, body.at);
        continue;
      }
      const device = this.#devices[slot - 1];
      if (device === undefined) throw fault(`${inodeAt(body.at)} lies in device ${slot}, which is not there`);
      if (block + Math.ceil(length / BLOCK) > device.blocks)
        throw fault(`${inodeAt(body.at)} reaches beyond its device`);
      device.used = true;
    }
  }

  #symlink(body: Body): void {
    const { size, layout } = body;
    if (size < 1 || size > MAX_PATH_BYTES) throw fault(`${inodeAt(body.at)}, a symlink, has ${size} bytes`);
    if (layout === LAYOUT.inline && size >= BLOCK)
      throw fault(`${inodeAt(body.at)}, a symlink, lies in two places`);
    const { at, tailAt } = this.#contents(body);
    const start = tailAt >= 0 ? tailAt : at;
    if (this.#image.subarray(start, start + size).includes(0))
      throw fault(`${inodeAt(body.at)}, a symlink, holds a NUL`);
  }

  /** Claims the contents of a directory or symlink that is not empty. */
  #contents(body: Body): Contents {
    const { at, layout, size, xattrBytes } = body;
    const block = this.#union(body);
    const isInline = layout === LAYOUT.inline;
    if (!isInline && layout !== LAYOUT.plain)
      throw fault(`${inodeAt(body.at)} has contents of an unknown form`);
    const apart = Math.ceil(size / BLOCK) - (isInline ? 1 : 0);
    if (apart === 0) {
      if (block !== 0) throw fault(`${inodeAt(body.at)} has a block and no use for it`);
    } else {
      this.#blocks(block, Math.min(size, apart * BLOCK), body.at);
    }
    if (!isInline) return { size, at: block * BLOCK, tailAt: -1 };
    const tailAt = at + INODE_SIZE + xattrBytes;
    const tail = size - apart * BLOCK;
    if (inlineEnd(at, xattrBytes, tail) > BLOCK)
      throw fault(`${inodeAt(body.at)} has data across the border of a block`);
    this.#claims.claim(tailAt, tail);
    return { size, at: block * BLOCK, tailAt };
  }

  /** Claims whole blocks of the image that hold `length` bytes of the inode at byte `inode`; the rest of the last one must be zero. */
  #blocks(block: number, length: number, inode: number): void {
    const at = block * BLOCK;
    const end = roundUp(at + length, BLOCK);
    this.#claims.claim(at, end - at);
    if (!this.#words.isZero(at + length, end)) throw fault(`${inodeAt(inode)} has something behind its end`);
  }

  #union({ at }: Body): number {
    return this.#words.u32(at + INODE.union);
  }
}

/** Unused bytes of an inode: 6 and 7, and from 48 on. */
const INODE_UNUSED = [6, 48] as const;
const DIRECTORY = KINDS.dir.entryType;
const DOT = 0x2e;
const LAYOUTS: ReadonlySet<number> = new Set(Object.values(LAYOUT));
const KIND_OF_MODE: ReadonlyMap<number, InodeKind> = new Map(
  (Object.keys(KINDS) as InodeKind[]).map((kind) => [KINDS[kind].mode, kind]),
);

/** For messages alone: to name each inode took as long as a third of the check. */
const inodeAt = (at: number): string => `inode ${at / NID_UNIT}`;

const fault: Fault = (what) => new CofaError('integrity', `the flat image is not sound: ${what}`);
