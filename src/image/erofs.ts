/**
 * Writes flat images: the metadata of one EROFS file system for a whole chain of layers. The files' data are extents in
 * the layers' own devices. The layout is in erofs-format.ts; tree.ts decides which files exist.
 *
 * - 512-byte blocks, because tar aligns data to them. A process that maps a file to memory and looks beyond its end may
 *   see in the last block what the tar has there (zeros, by any tar known).
 * - Inodes are ordered by directory: those of one directory together, then those of its first subdirectory, and so on.
 *   So `find` and `ls -l` read the metadata nearly from front to back.
 * - Inode numbers are places (byte / 32): they are stable for one image, and small.
 * - Everything depends on the input alone, times and UUID too: the same tables give the same bytes.
 */
import { isDigest } from '../../schemas/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import { type ChunkPlan, placePatches, planChunks, writeChunks } from './erofs-chunks.ts';
import { type DirectoryPlan, planDirectory, writeDirectory } from './erofs-directory.ts';
import {
  BLOCK,
  BLOCK_BITS,
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
  inodeFormat,
  KINDS,
  LAYOUT,
  MAGIC,
  MAX_DEVICES,
  MAX_IMAGE,
  NID_UNIT,
  NO_ID,
  NULL_BLOCK,
  roundUp,
  SB,
  SLOT,
  SUPERBLOCK,
  VOLUME_NAME,
  XATTR_HEADER,
} from './erofs-format.ts';
import { writeXattrs, type XattrSet, XattrTable } from './erofs-xattrs.ts';
import { type Directory, type Inode, isDirectory } from './inode.ts';
import type { Toc } from './toc.ts';
import { mergeLayers } from './tree.ts';

export interface LayerDevice {
  /** `sha256:` and 64 hex digits: the digest of the raw tar. */
  diffId: string;
  /** Bytes of the raw tar; its device ends at the next multiple of 512. */
  size: number;
}

export interface FlatImage {
  /** A multiple of 4096 bytes. */
  metadata: Buffer;
  /** Which layers the image needs as devices: indexes into `layers`, in the order of the image's device slots. */
  devices: number[];
}

/**
 * Builds the flat image of a chain of layers, the lowest first; `layers` belong to `tocs` by index. A layer that occurs
 * twice in the chain is one device. Errors: `integrity` where the layers cannot be unpacked (see tree.ts) or data lie
 * outside of their layer, `unsupported` beyond the limits of erofs-format.ts or of the format.
 */
export function buildFlat(tocs: readonly Toc[], layers: readonly LayerDevice[]): FlatImage {
  if (tocs.length !== layers.length) {
    throw new CofaError('invalid-argument', `${tocs.length} tables of contents for ${layers.length} layers`);
  }
  const blocks = layers.map(deviceBlocks);
  const places = collect(mergeLayers(tocs).root, blocks);
  const slots = assignSlots(places, layers);
  const layout = arrange(places, slots.devices.length);
  const image = Buffer.alloc(layout.size);
  writeSuperblock(image, places, layout, slots.devices.length);
  for (const [index, layer] of slots.devices.entries()) {
    const at = (DEVICE_TABLE_SLOT + index) * DEVICE_SLOT;
    image.write((layers[layer] as LayerDevice).diffId.slice('sha256:'.length), at + SLOT.tag, 'latin1');
    image.writeUInt32LE(blocks[layer] as number, at + SLOT.blocks);
  }
  for (const [index, place] of places.list.entries())
    writeInode(image, place, index + 1, slots.ofLayer, places.of);
  places.xattrs.writeShared(image, layout.sharedAt);
  imageUuid(image).copy(image, SUPERBLOCK + SB.uuid);
  return { metadata: image, devices: slots.devices };
}

/** An inode and where its parts lie. */
interface Place {
  inode: Inode;
  /** The directory above a directory; the root is above itself. */
  parent: Directory | undefined;
  xattrs: XattrSet | undefined;
  chunks: ChunkPlan | undefined;
  directory: DirectoryPlan | undefined;
  /** Bytes of a file, directory or symlink, as stat shows them. */
  size: number;
  /** Byte of the inode. */
  at: number;
  /** Whether the last block's data lie behind the inode. */
  inline: boolean;
  /** First of the blocks that hold the rest of a directory or symlink; 0: none. */
  block: number;
  /** First block of each of a file's patches. */
  patches: readonly number[];
}

interface Places {
  /** In the order of the image, the root first. */
  list: Place[];
  of: (inode: Inode) => number;
  xattrs: XattrTable;
}

interface Layout {
  /** Bytes. */
  size: number;
  /** Byte of the shared xattrs. */
  sharedAt: number;
}

/** Blocks of a layer's device. A block address has 32 bits, and the last one means a hole. */
function deviceBlocks({ diffId, size }: LayerDevice): number {
  if (!isDigest(diffId)) {
    throw new CofaError('invalid-argument', `${JSON.stringify(diffId)} is not a sha256 diffID`);
  }
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new CofaError('invalid-argument', `layer ${diffId} cannot have ${size} bytes`);
  }
  const blocks = Math.ceil(size / BLOCK);
  if (blocks >= NULL_BLOCK) {
    throw new CofaError('unsupported', `layer ${diffId} has ${size} bytes; EROFS addresses less than 2 TiB`);
  }
  return blocks;
}

/** Lists the inodes in the order of the image and plans their contents. */
function collect(root: Directory, blocks: readonly number[]): Places {
  const list: Place[] = [];
  const places = new Map<Inode, Place>();
  const xattrs = new XattrTable();
  const add = (inode: Inode, parent: Directory | undefined) => {
    const { entry } = inode;
    const place: Place = {
      inode,
      parent,
      xattrs: xattrs.add(inode),
      chunks: undefined,
      directory: undefined,
      size: 0,
      at: 0,
      inline: false,
      block: 0,
      patches: [],
    };
    if (isDirectory(inode)) {
      place.directory = planDirectory(inode);
      place.size = place.directory.size;
    } else if (inode.kind === 'symlink') {
      place.size = entry?.link.length ?? 0;
    } else if (inode.kind === 'file' && entry !== undefined) {
      place.size = entry.size;
      if (entry.size > 0) place.chunks = planChunks(entry, blocks[inode.layer] ?? 0);
    }
    list.push(place);
    places.set(inode, place);
    return place;
  };
  const pending = [add(root, root)];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    const directory = at.inode as Directory;
    const below: Place[] = [];
    for (const name of (at.directory as DirectoryPlan).names) {
      const inode = directory.children.get(name);
      if (inode === undefined || places.has(inode)) continue;
      const place = add(inode, isDirectory(inode) ? directory : undefined);
      if (place.directory !== undefined) below.push(place);
    }
    for (const place of below.toReversed()) pending.push(place);
  }
  return { list, xattrs, of: (inode) => (places.get(inode) as Place).at };
}

/** One device slot for each layer with data in the image, in the order of the chain. */
function assignSlots(places: Places, layers: readonly LayerDevice[]) {
  const used = new Set<number>();
  for (const { inode } of places.list) if ((inode.entry?.extents.length ?? 0) > 0) used.add(inode.layer);
  const devices: number[] = [];
  const byDiffId = new Map<string, number>();
  const ofLayer: number[] = layers.map(() => 0);
  for (const [layer, { diffId, size }] of layers.entries()) {
    if (!used.has(layer)) continue;
    let slot = byDiffId.get(diffId);
    if (slot === undefined) {
      devices.push(layer);
      slot = devices.length;
      byDiffId.set(diffId, slot);
    } else if (layers[devices[slot - 1] as number]?.size !== size) {
      throw new CofaError('invalid-argument', `layer ${diffId} stands in the chain with two sizes`);
    }
    ofLayer[layer] = slot;
  }
  if (devices.length > MAX_DEVICES) {
    throw new CofaError(
      'unsupported',
      `${devices.length} layers with data; an image can have ${MAX_DEVICES}`,
    );
  }
  return { devices, ofLayer };
}

/** Gives every inode and every block its place. */
function arrange(places: Places, devices: number): Layout {
  places.xattrs.settle();
  let at = roundUp((DEVICE_TABLE_SLOT + devices) * DEVICE_SLOT, NID_UNIT);
  for (const place of places.list) {
    const head = place.xattrs?.size ?? 0;
    const tail = tailOf(place);
    if (tail > 0) {
      const moved = inlinePlace(at, head, tail);
      // A block of its own costs 512 bytes.
      place.inline = moved !== undefined && moved - at + tail <= BLOCK;
      if (place.inline) at = moved as number;
    }
    place.at = at;
    at += INODE_SIZE + head;
    if (place.inline) at += tail;
    if (place.chunks !== undefined) at = roundUp(at, CHUNK_INDEX) + place.chunks.count * CHUNK_INDEX;
    at = roundUp(at, NID_UNIT);
    checkSize(at);
  }
  const sharedAt = roundUp(at, BLOCK);
  let block = roundUp(sharedAt + places.xattrs.sharedSize, BLOCK) / BLOCK;
  for (const place of places.list) {
    const count = blocksOf(place) - (place.inline ? 1 : 0);
    if (count > 0) place.block = block;
    block += count;
    checkSize(block * BLOCK);
  }
  for (const place of places.list) {
    if (place.inode.entry === undefined || place.chunks === undefined) continue;
    const { blocks, end } = placePatches(place.inode.entry, block);
    place.patches = blocks;
    block = end;
    checkSize(block * BLOCK);
  }
  return { size: roundUp(block * BLOCK, IMAGE_ALIGN), sharedAt };
}

/** Blocks of a directory or symlink. */
function blocksOf({ inode, size }: Place): number {
  return inode.kind === 'dir' || inode.kind === 'symlink' ? Math.ceil(size / BLOCK) : 0;
}

/** Bytes of the last block if they may lie behind the inode, else 0: a symlink is read in one go. */
function tailOf(place: Place): number {
  const blocks = blocksOf(place);
  if (blocks === 0 || (blocks > 1 && place.inode.kind === 'symlink')) return 0;
  return place.size - (blocks - 1) * BLOCK;
}

/** The first place from `at` on for an inode with inline data; undefined if there is none. */
function inlinePlace(at: number, xattrBytes: number, tail: number): number | undefined {
  if (inlineEnd(at, xattrBytes, tail) <= BLOCK) return at;
  // An inode that ends as early in a block as one can: half of it lies in the block before.
  const moved = roundUp(at + NID_UNIT, BLOCK) - NID_UNIT;
  return inlineEnd(moved, xattrBytes, tail) <= BLOCK ? moved : undefined;
}

function checkSize(bytes: number): void {
  if (bytes > MAX_IMAGE) {
    throw new CofaError('unsupported', `the image's metadata would have more than ${MAX_IMAGE} bytes`);
  }
}

function writeSuperblock(image: Buffer, places: Places, { size, sharedAt }: Layout, devices: number): void {
  const at = SUPERBLOCK;
  image.writeUInt32LE(MAGIC, at + SB.magic);
  image.writeUInt32LE(COMPAT, at + SB.compat);
  image[at + SB.blockBits] = BLOCK_BITS;
  image.writeUInt16LE((places.list[0] as Place).at / NID_UNIT, at + SB.rootNid);
  image.writeUInt32LE(places.list.length, at + SB.inodes);
  image.writeUInt32LE(size / BLOCK, at + SB.blocks);
  image.writeUInt32LE(sharedAt / BLOCK, at + SB.xattrBlock);
  image.write(VOLUME_NAME, at + SB.volumeName, 'latin1');
  image.writeUInt32LE(INCOMPAT, at + SB.incompat);
  image.writeUInt16LE(devices, at + SB.devices);
  image.writeUInt16LE(DEVICE_TABLE_SLOT, at + SB.deviceTable);
}

function writeInode(
  image: Buffer,
  place: Place,
  ino: number,
  slotOf: readonly number[],
  placeOf: (inode: Inode) => number,
): void {
  const { inode, at, xattrs, chunks, directory } = place;
  const { kind, entry, mtime } = inode;
  const layout = chunks !== undefined ? LAYOUT.chunks : place.inline ? LAYOUT.inline : LAYOUT.plain;
  image.writeUInt16LE(inodeFormat(layout), at + INODE.format);
  // Linux shows every symlink with all permissions, whatever its entry says.
  const mode = KINDS[kind].mode | (kind === 'symlink' ? 0o777 : inode.mode);
  image.writeUInt16LE(mode, at + INODE.mode);
  writeInt64(image, place.size, at + INODE.size);
  image.writeUInt32LE(ino, at + INODE.ino);
  if (inode.uid === NO_ID || inode.gid === NO_ID) {
    throw new CofaError('integrity', `Linux has no owner ${inode.uid}:${inode.gid}`);
  }
  image.writeUInt32LE(inode.uid, at + INODE.uid);
  image.writeUInt32LE(inode.gid, at + INODE.gid);
  writeInt64(image, mtime.sec, at + INODE.mtime);
  image.writeUInt32LE(mtime.nsec, at + INODE.mtimeNsec);
  image.writeUInt32LE(inode.nlink, at + INODE.nlink);
  let end = at + INODE_SIZE;
  if (xattrs !== undefined) {
    // The header counts as one.
    image.writeUInt16LE((xattrs.size - XATTR_HEADER) / 4 + 1, at + INODE.xattrCount);
    writeXattrs(xattrs, image, end);
    end += xattrs.size;
  }
  if (chunks !== undefined && entry !== undefined) {
    image.writeUInt16LE(CHUNK_INDEXES | chunks.bits, at + INODE.union);
    const slot = slotOf[inode.layer] ?? 0;
    writeChunks(image, roundUp(end, CHUNK_INDEX), entry, chunks, { slot, patches: place.patches });
    for (const [index, { bytes }] of entry.patches.entries()) {
      bytes.copy(image, (place.patches[index] as number) * BLOCK);
    }
  } else if (directory !== undefined) {
    image.writeUInt32LE(place.block, at + INODE.union);
    const links = {
      self: inode,
      parent: place.parent ?? inode,
      children: (inode as Directory).children,
      placeOf,
    };
    const apart = directory.ends.length - (place.inline ? 1 : 0);
    writeDirectory(image, place.block * BLOCK, directory, { from: 0, to: apart }, links);
    writeDirectory(image, end, directory, { from: apart, to: directory.ends.length }, links);
  } else if (kind === 'symlink') {
    image.writeUInt32LE(place.block, at + INODE.union);
    entry?.link.copy(image, place.inline ? end : place.block * BLOCK);
  } else if (kind === 'char' || kind === 'block') {
    image.writeUInt32LE(deviceNumber(entry?.major ?? 0, entry?.minor ?? 0), at + INODE.union);
  }
}

/** 12 bits of major and 20 of minor: new_encode_dev in include/linux/kdev_t.h. */
function deviceNumber(major: number, minor: number): number {
  if (!(major >= 0 && major <= 0xfff && minor >= 0 && minor <= 0xfffff)) {
    throw new CofaError('unsupported', `Linux has no device ${major}:${minor}`);
  }
  return ((minor & 0xff) | (major << 8) | ((minor & 0xfff00) << 12)) >>> 0;
}

/** A safe integer, negative ones in two's complement. */
function writeInt64(image: Buffer, value: number, at: number): void {
  image.writeUInt32LE(value >>> 0, at);
  image.writeInt32LE(Math.floor(value / 2 ** 32), at + 4);
}
