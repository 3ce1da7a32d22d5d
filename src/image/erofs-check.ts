/**
 * Reads the metadata of a flat image that came from elsewhere, before the kernel does.
 *
 * The check is complete by construction: the metadata is parsed into a tree with every length bounded, the tree is
 * written again by the writer (erofs.ts), and the bytes must be the same. So whatever the kernel mounts is something that
 * our own writer makes: no unknown feature, no loop of directories, no overlapping or hidden bytes.
 */
import { CofaError } from '../../schemas/errors.ts';
import {
  align,
  BLOCK,
  BLOCK_BITS,
  CHUNK_INDEX,
  CHUNK_INDEXES,
  DEVICE_SLOT,
  DEVICES_OFFSET,
  DIRENT,
  decodeDevice,
  EXTENDED,
  HOLE,
  INCOMPAT,
  INODE,
  LAYOUT,
  MAX_CHUNK_BITS,
  MAX_CHUNKS,
  MODE_TYPE,
  NID_UNIT,
  SUPER_MAGIC,
  SUPER_OFFSET,
  XATTR_HEADER,
  XATTR_PREFIXES,
} from './erofs-format.ts';
import { type LayerDevice, writeFlat } from './erofs.ts';
import type { Extent, Patch, Xattr } from './toc.ts';
import { type FlatInode, type InodeType, newDirectory } from './tree.ts';

/** Sizes are those of the devices: multiples of 512. Errors: `integrity`, naming what is wrong. */
export function checkFlat(metadata: Buffer): { devices: LayerDevice[]; inodes: number } {
  const { root, devices, inodes } = readFlat(metadata);
  let again: Buffer;
  try {
    again = writeFlat(root, devices).metadata;
  } catch (cause) {
    throw new CofaError('integrity', `the flat image holds what no layer can: ${(cause as Error).message}`, {
      cause,
    });
  }
  if (!again.equals(metadata)) {
    const length = Math.min(again.length, metadata.length);
    let at = 0;
    while (at < length && again[at] === metadata[at]) at++;
    throw bad(`it is not in the form that cofa writes, from byte ${at} on`);
  }
  return { devices, inodes };
}

/** Parses a flat image into the tree that it was written from. Bounded, and safe on any bytes. Errors: `integrity`. */
export function readFlat(metadata: Buffer): { root: FlatInode; devices: LayerDevice[]; inodes: number } {
  const reader = new FlatReader(metadata);
  return { root: reader.root(), devices: reader.devices, inodes: reader.inodes };
}

class FlatReader {
  readonly devices: LayerDevice[];
  readonly #image: Buffer;
  readonly #rootNid: number;
  readonly #known = new Map<number, FlatInode>();

  constructor(image: Buffer) {
    this.#image = image;
    if (image.length < DEVICES_OFFSET || image.length % BLOCK !== 0)
      throw bad(`${image.length} bytes are no whole number of blocks`);
    const at = SUPER_OFFSET;
    if (image.readUInt32LE(at) !== SUPER_MAGIC) throw bad('it has no EROFS superblock');
    if (image.readUInt8(at + 12) !== BLOCK_BITS) throw bad('its blocks do not have 512 bytes');
    if (image.readUInt32LE(at + 80) !== INCOMPAT) throw bad('it uses features of EROFS that cofa does not');
    this.#rootNid = image.readUInt16LE(at + 14);
    const count = image.readUInt16LE(at + 86);
    if (DEVICES_OFFSET + count * DEVICE_SLOT > image.length)
      throw bad(`${count} device slots do not fit into it`);
    this.devices = Array.from({ length: count }, (_, slot) => {
      const slotAt = DEVICES_OFFSET + slot * DEVICE_SLOT;
      const tag = image.toString('latin1', slotAt, slotAt + 64);
      if (!/^[0-9a-f]{64}$/.test(tag)) throw bad(`device ${slot + 1} does not name a diffID`);
      return { diffId: `sha256:${tag}`, size: image.readUInt32LE(slotAt + 64) * BLOCK };
    });
    if (new Set(this.devices.map(({ diffId }) => diffId)).size !== count) {
      // Two slots for one layer would be two loops for one device.
      throw bad('two of its devices are one layer');
    }
  }

  get inodes(): number {
    return this.#known.size;
  }

  root(): FlatInode {
    const root = this.#inode(this.#rootNid, true);
    if (root.type !== 'dir') throw bad('its root is no directory');
    const pending: Array<readonly [nid: number, inode: FlatInode, parent: number]> = [
      [this.#rootNid, root, this.#rootNid],
    ];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const [nid, directory, parent] = next;
      for (const [name, childNid] of this.#entries(nid)) {
        if (name === '.' || name === '..') {
          if (childNid !== (name === '.' ? nid : parent)) throw bad(`a directory's ${name} leads elsewhere`);
          continue;
        }
        const seen = this.#known.get(childNid);
        const child = seen ?? this.#inode(childNid, false);
        if (child.type === 'dir') {
          if (seen !== undefined) throw bad('a directory has two names');
          pending.push([childNid, child, nid]);
        }
        (directory.children as Map<string, FlatInode>).set(name, child);
      }
    }
    return root;
  }

  #inode(nid: number, isRoot: boolean): FlatInode {
    const image = this.#image;
    const at = nid * NID_UNIT;
    if (at < DEVICES_OFFSET || at + INODE > image.length) throw bad(`inode ${nid} lies outside of it`);
    const format = image.readUInt16LE(at);
    const layout = format >> 1;
    if ((format & 1) !== EXTENDED || !(Object.values(LAYOUT) as number[]).includes(layout))
      throw bad(`inode ${nid} has an unknown form`);
    const mode = image.readUInt16LE(at + 4);
    const type = (Object.keys(MODE_TYPE) as InodeType[]).find(
      (name) => MODE_TYPE[name] === (mode & 0o170000),
    );
    if (type === undefined) throw bad(`inode ${nid} has an unknown type`);
    const size = Number(image.readBigUInt64LE(at + 8));
    if (!Number.isSafeInteger(size)) throw bad(`inode ${nid} is too large`);
    const body = this.#xattrsEnd(nid);
    const inode: FlatInode = {
      ...newDirectory(),
      type,
      mode: mode & 0o7777,
      uid: image.readUInt32LE(at + 24),
      gid: image.readUInt32LE(at + 28),
      mtime: { sec: Number(image.readBigInt64LE(at + 32)), nsec: image.readUInt32LE(at + 40) },
      xattrs: this.#xattrs(at, body),
      children: type === 'dir' ? new Map() : undefined,
    };
    if (!Number.isSafeInteger(inode.mtime.sec) || inode.mtime.nsec > 999_999_999)
      throw bad(`inode ${nid} has no time`);
    if (type === 'char' || type === 'block') Object.assign(inode, decodeDevice(image.readUInt32LE(at + 16)));
    else if (type === 'symlink') inode.link = this.#contents(nid);
    else if (type === 'file') {
      inode.size = size;
      if (size > 0) this.#data(nid, inode, body);
    }
    if (isRoot && type !== 'dir') throw bad('its root is no directory');
    this.#known.set(nid, inode);
    return inode;
  }

  #xattrsEnd(nid: number): number {
    const count = this.#image.readUInt16LE(nid * NID_UNIT + 2);
    const end = nid * NID_UNIT + INODE + (count === 0 ? 0 : XATTR_HEADER + (count - 1) * 4);
    if (end > this.#image.length) throw bad(`the xattrs of inode ${nid} reach beyond its end`);
    return end;
  }

  #xattrs(inodeAt: number, end: number): Xattr[] {
    const xattrs: Xattr[] = [];
    for (let at = inodeAt + INODE + XATTR_HEADER; at < end; ) {
      if (at + 4 > end) throw bad('an xattr is cut short');
      const nameLength = this.#image.readUInt8(at);
      const index = this.#image.readUInt8(at + 1);
      const valueLength = this.#image.readUInt16LE(at + 2);
      const prefix = XATTR_PREFIXES.find((candidate) => candidate[1] === index);
      const valueAt = at + 4 + nameLength;
      if (prefix === undefined || valueAt + valueLength > end) throw bad('an xattr is malformed');
      const name = Buffer.concat([Buffer.from(prefix[0], 'latin1'), this.#image.subarray(at + 4, valueAt)]);
      xattrs.push([name, this.#image.subarray(valueAt, valueAt + valueLength)]);
      at = align(valueAt + valueLength, 4);
    }
    return xattrs;
  }

  /** Bytes of a directory or symlink. */
  #contents(nid: number): Buffer {
    const image = this.#image;
    const at = nid * NID_UNIT;
    const size = Number(image.readBigUInt64LE(at + 8));
    const layout = image.readUInt16LE(at) >> 1;
    if (layout === LAYOUT.chunkBased || size > image.length) throw bad(`inode ${nid} has no contents`);
    const inline = layout === LAYOUT.flatInline ? size % BLOCK : 0;
    const tailAt = this.#xattrsEnd(nid);
    if (inline > 0 && Math.floor(tailAt / BLOCK) !== Math.floor((tailAt + inline - 1) / BLOCK)) {
      throw bad(`the end of inode ${nid} crosses a block's border`);
    }
    const blocksAt = image.readUInt32LE(at + 16) * BLOCK;
    if (tailAt + inline > image.length || (size > inline && blocksAt + size - inline > image.length)) {
      throw bad(`the contents of inode ${nid} lie outside of it`);
    }
    return Buffer.concat([
      image.subarray(blocksAt, blocksAt + size - inline),
      image.subarray(tailAt, tailAt + inline),
    ]);
  }

  #entries(nid: number): Array<readonly [name: string, nid: number]> {
    const contents = this.#contents(nid);
    const entries: Array<readonly [string, number]> = [];
    let before = '';
    for (let blockAt = 0; blockAt < contents.length; blockAt += BLOCK) {
      const block = contents.subarray(blockAt, blockAt + BLOCK);
      const namesAt = block.length < DIRENT ? 0 : block.readUInt16LE(8);
      if (namesAt === 0 || namesAt % DIRENT !== 0 || namesAt > block.length)
        throw bad(`directory ${nid} is malformed`);
      const count = namesAt / DIRENT;
      for (let index = 0; index < count; index++) {
        const start = block.readUInt16LE(index * DIRENT + 8);
        const next = index + 1 < count ? block.readUInt16LE((index + 1) * DIRENT + 8) : block.length;
        if (start < namesAt || next <= start || next > block.length)
          throw bad(`directory ${nid} has a malformed name`);
        let name = block.toString('latin1', start, next);
        if (index + 1 === count) name = name.replace(/\0+$/, '');
        if (name === '' || name.length > 255 || /[\0/]/.test(name) || name <= before)
          throw bad(`directory ${nid} has a malformed name`);
        before = name;
        const child = Number(block.readBigUInt64LE(index * DIRENT));
        if (!Number.isSafeInteger(child)) throw bad(`directory ${nid} names an inode outside of the image`);
        entries.push([name, child]);
      }
    }
    return entries;
  }

  /** Extents and patches of a file from its chunk indexes. */
  #data(nid: number, inode: FlatInode, body: number): void {
    const image = this.#image;
    const format = image.readUInt16LE(nid * NID_UNIT + 16);
    const bits = BLOCK_BITS + (format & 0x1f);
    if ((format & ~0x1f) !== CHUNK_INDEXES || bits > MAX_CHUNK_BITS)
      throw bad(`file ${nid} has no chunk indexes`);
    const chunk = 2 ** bits;
    const count = Math.ceil(inode.size / chunk);
    const table = align(body, CHUNK_INDEX);
    if (count > MAX_CHUNKS || table + count * CHUNK_INDEX > image.length)
      throw bad(`the chunks of file ${nid} do not fit into it`);
    const extents: Extent[] = [];
    const patches: Patch[] = [];
    /** Where the last patch begins in the image: patches that follow one another lie side by side. */
    let patchAt = 0;
    let device = 0;
    for (let index = 0; index < count; index++) {
      const entry = table + index * CHUNK_INDEX;
      const block = image.readUInt32LE(entry + 4);
      if (block === HOLE) continue;
      const slot = image.readUInt16LE(entry + 2);
      const fileOffset = index * chunk;
      const length = Math.min(chunk, inode.size - fileOffset);
      const deviceOffset = block * BLOCK;
      if (slot === 0) {
        if (deviceOffset + length > image.length) throw bad(`the data of file ${nid} lie outside of it`);
        const last = patches.at(-1);
        const end = last === undefined ? -1 : last.fileOffset + last.bytes.length;
        if (last !== undefined && end === fileOffset && patchAt + last.bytes.length === deviceOffset) {
          last.bytes = image.subarray(patchAt, deviceOffset + length);
        } else {
          patches.push({ fileOffset, bytes: image.subarray(deviceOffset, deviceOffset + length) });
          patchAt = deviceOffset;
        }
        continue;
      }
      if (slot > this.devices.length || (device !== 0 && device !== slot))
        throw bad(`file ${nid} lies in devices that it cannot`);
      device = slot;
      const last = extents.at(-1);
      const adjacent =
        last !== undefined &&
        last.fileOffset + last.length === fileOffset &&
        last.deviceOffset + last.length === deviceOffset;
      if (adjacent) last.length += length;
      else extents.push({ fileOffset, deviceOffset, length });
    }
    Object.assign(inode, { extents, patches, layer: Math.max(0, device - 1) });
  }
}

const bad = (what: string): CofaError => new CofaError('integrity', `the flat image is not sound: ${what}`);
