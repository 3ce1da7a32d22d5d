/**
 * Writes the metadata of a flat image: one EROFS file system for a chain of layers, whose file data are extents inside
 * the layer devices. The same tables of contents give the same bytes, always: order, padding and times come from the
 * input alone.
 *
 * Two passes over the tree: the first gives each inode its place, the second writes. Directories and symlinks keep what
 * fits behind the inode in the same block (EROFS allows no inline data across a block's border); the rest goes into
 * blocks after the inodes. A file is chunk-based with device ids; a file in one piece has one chunk, whatever its size.
 */
import { createHash } from 'node:crypto';
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
  DIRENT_TYPE,
  EXTENDED,
  encodeDevice,
  HOLE,
  INCOMPAT,
  INODE,
  LAYOUT,
  MAX_CHUNK_BITS,
  MAX_CHUNKS,
  MAX_METADATA,
  MODE_TYPE,
  NID_UNIT,
  SUPER_MAGIC,
  SUPER_OFFSET,
  XATTR_HEADER,
  XATTR_PREFIXES,
} from './erofs-format.ts';
import type { Toc, Xattr } from './toc.ts';
import { type FlatInode, mergeLayers } from './tree.ts';

export interface LayerDevice {
  diffId: string;
  /** Bytes of the raw tar. */
  size: number;
}

export interface FlatImage {
  /** A whole number of 512-byte blocks. */
  metadata: Buffer;
  /** Indexes into the layers, in the order of the image's device slots; only layers that own file data. */
  devices: number[];
}

/**
 * Builds the flat image of a chain of layers, the lowest first; `layers` describes the devices of the same layers.
 * Errors: `integrity` (see tree.ts; extents beyond a layer), `unsupported` (more than EROFS can hold).
 */
export function buildFlat(tocs: readonly Toc[], layers: readonly LayerDevice[]): FlatImage {
  return writeFlat(mergeLayers(tocs), layers);
}

/** A node's place in the image. */
interface Placed {
  inode: FlatInode;
  nid: number;
  /** Names that lead to it; for a directory 2 + its subdirectories. */
  links: number;
  parent: Placed | undefined;
  xattrs: Buffer;
  layout: number;
  /** Bytes of the inode, its xattrs and what follows them. */
  size: number;
  /** First data block, counted from the first of all; -1: none. */
  dataBlock: number;
  children: Array<readonly [name: string, child: Placed]>;
  /** Of a directory: how many of its entries lie in each of its blocks. */
  blockEntries: number[];
  /** Bytes of a directory's contents. */
  length: number;
  chunkBits: number;
}

/** The file system of a tree; `layers` as the inodes number them. */
export function writeFlat(root: FlatInode, layers: readonly LayerDevice[]): FlatImage {
  const { all, dataBlocks, devices } = place(root, layers);
  const used = [...devices].sort((a, b) => a - b);
  const slots = new Map(used.map((layer, slot) => [layer, slot + 1]));
  const start = DEVICES_OFFSET + used.length * DEVICE_SLOT;
  const end = assignNumbers(all, start);
  const rootNid = all[0]?.nid ?? 0;
  if (rootNid > 0xffff)
    throw new CofaError('unsupported', `${used.length} layers with files are more than EROFS can have`);
  const firstData = align(end, BLOCK) / BLOCK;
  const blocks = firstData + dataBlocks;
  if (blocks * BLOCK > MAX_METADATA)
    throw new CofaError('unsupported', `the flat image would take ${blocks * BLOCK} bytes`);

  const out = Buffer.alloc(blocks * BLOCK);
  for (const [slot, layer] of used.entries()) {
    const device = layers[layer] as LayerDevice;
    const at = DEVICES_OFFSET + slot * DEVICE_SLOT;
    out.write(device.diffId.slice(7), at, 64, 'latin1');
    out.writeUInt32LE(align(device.size, BLOCK) / BLOCK, at + 64);
  }
  for (const [index, placed] of all.entries()) writeInode(out, placed, index + 1, firstData, slots);
  writeSuperblock(out, { rootNid, inodes: all.length, blocks, devices: used.length });
  return { metadata: out, devices: used };
}

function place(root: FlatInode, layers: readonly LayerDevice[]) {
  const all: Placed[] = [];
  const byInode = new Map<FlatInode, Placed>();
  const devices = new Set<number>();
  let dataBlocks = 0;
  const take = (inode: FlatInode, parent: Placed | undefined): Placed => {
    const placed: Placed = {
      inode,
      nid: 0,
      links: 0,
      parent,
      xattrs: encodeXattrs(inode.xattrs),
      layout: LAYOUT.flatPlain,
      size: 0,
      dataBlock: -1,
      children: [],
      blockEntries: [],
      length: 0,
      chunkBits: 0,
    };
    all.push(placed);
    byInode.set(inode, placed);
    return placed;
  };

  // Depth first with the entries of one directory together: their inodes share blocks, as their readers do.
  const first = take(root, undefined);
  first.links = 2;
  const pending = [first];
  for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
    const names = [...(directory.inode.children as Map<string, FlatInode>).entries()].sort(([a], [b]) =>
      a < b ? -1 : a > b ? 1 : 0,
    );
    const below: Placed[] = [];
    for (const [name, inode] of names) {
      const placed = byInode.get(inode) ?? take(inode, directory);
      if (inode.type === 'dir') {
        placed.links = 2;
        directory.links += 1;
        below.push(placed);
      } else {
        placed.links += 1;
      }
      directory.children.push([name, placed]);
    }
    pending.push(...below.reverse());
  }

  for (const placed of all) {
    const { inode } = placed;
    const head = INODE + placed.xattrs.length;
    placed.size = head;
    if (inode.type === 'file') {
      if (inode.size === 0) continue;
      placed.layout = LAYOUT.chunkBased;
      placed.chunkBits = chunkBitsOf(inode, layers[inode.layer]);
      const chunks = Math.ceil(inode.size / 2 ** placed.chunkBits);
      if (chunks > MAX_CHUNKS)
        throw new CofaError('unsupported', `a sparse file of ${inode.size} bytes has too many pieces`);
      placed.size = align(head, CHUNK_INDEX) + chunks * CHUNK_INDEX;
      if (inode.extents.length > 0) devices.add(inode.layer);
      const patched = inode.patches.reduce((sum, { bytes }) => sum + align(bytes.length, BLOCK), 0) / BLOCK;
      if (patched > 0) placed.dataBlock = dataBlocks;
      dataBlocks += patched;
      continue;
    }
    if (inode.type === 'symlink') placed.length = inode.link.length;
    else if (inode.type === 'dir') measureDirectory(placed);
    else continue;
    const tail = placed.length % BLOCK;
    const inline = tail > 0 && head + tail <= BLOCK;
    placed.layout = inline ? LAYOUT.flatInline : LAYOUT.flatPlain;
    if (inline) placed.size += tail;
    const count = inline ? (placed.length - tail) / BLOCK : align(placed.length, BLOCK) / BLOCK;
    if (count > 0) placed.dataBlock = dataBlocks;
    dataBlocks += count;
  }
  return { all, dataBlocks, devices };
}

/** Gives inodes their places in order; one with inline data starts where the data does not cross a block's border. */
function assignNumbers(all: readonly Placed[], start: number): number {
  let at = align(start, NID_UNIT);
  for (const placed of all) {
    if (
      placed.layout === LAYOUT.flatInline &&
      Math.floor(at / BLOCK) !== Math.floor((at + placed.size - 1) / BLOCK)
    ) {
      at = align(at, BLOCK);
    }
    placed.nid = at / NID_UNIT;
    at = align(at + placed.size, NID_UNIT);
  }
  return at;
}

/** Entries as they fill the blocks: `.` and `..` among the names, all sorted by bytes. */
function directoryEntries(placed: Placed): Array<readonly [name: string, child: Placed]> {
  const dots: Array<readonly [string, Placed]> = [
    ['.', placed],
    ['..', placed.parent ?? placed],
  ];
  const entries = [...placed.children];
  for (const dot of dots) {
    let at = 0;
    while (at < entries.length && (entries[at] as readonly [string, Placed])[0] < dot[0]) at++;
    entries.splice(at, 0, dot);
  }
  return entries;
}

function measureDirectory(placed: Placed): void {
  let used = 0;
  let count = 0;
  for (const [name] of directoryEntries(placed)) {
    const more = DIRENT + name.length;
    if (used + more > BLOCK) {
      placed.blockEntries.push(count);
      placed.length += BLOCK;
      used = 0;
      count = 0;
    }
    used += more;
    count += 1;
  }
  placed.blockEntries.push(count);
  placed.length += used;
}

/** log2 of the largest chunk that every border of an extent, a patch or a hole is a multiple of. */
function chunkBitsOf(inode: FlatInode, device: LayerDevice | undefined): number {
  let bits = BLOCK_BITS;
  while (2 ** bits < inode.size) bits += 1;
  bits = Math.min(bits, MAX_CHUNK_BITS);
  const border = (at: number) => {
    if (at < inode.size) while (at % 2 ** bits !== 0) bits -= 1;
  };
  for (const { fileOffset, deviceOffset, length } of inode.extents) {
    if (device === undefined || deviceOffset + length > device.size) {
      throw new CofaError('integrity', `file data at ${deviceOffset} lie beyond the end of their layer`);
    }
    border(fileOffset);
    border(fileOffset + length);
  }
  for (const { fileOffset, bytes } of inode.patches) {
    border(fileOffset);
    border(fileOffset + bytes.length);
  }
  if (bits < BLOCK_BITS)
    throw new CofaError('integrity', 'an extent does not begin at a multiple of 512 bytes');
  return bits;
}

function writeInode(
  out: Buffer,
  placed: Placed,
  number: number,
  firstData: number,
  slots: ReadonlyMap<number, number>,
): void {
  const { inode, xattrs, layout, dataBlock } = placed;
  const at = placed.nid * NID_UNIT;
  out.writeUInt16LE(EXTENDED | (layout << 1), at);
  out.writeUInt16LE(xattrs.length === 0 ? 0 : (xattrs.length - XATTR_HEADER) / 4 + 1, at + 2);
  out.writeUInt16LE(MODE_TYPE[inode.type] | inode.mode, at + 4);
  out.writeBigUInt64LE(BigInt(inode.type === 'file' ? inode.size : placed.length), at + 8);
  if (inode.type === 'char' || inode.type === 'block')
    out.writeUInt32LE(encodeDevice(inode.major, inode.minor), at + 16);
  else if (layout === LAYOUT.chunkBased)
    out.writeUInt16LE(CHUNK_INDEXES | (placed.chunkBits - BLOCK_BITS), at + 16);
  else if (dataBlock >= 0) out.writeUInt32LE(firstData + dataBlock, at + 16);
  out.writeUInt32LE(number, at + 20);
  out.writeUInt32LE(inode.uid, at + 24);
  out.writeUInt32LE(inode.gid, at + 28);
  out.writeBigInt64LE(BigInt(inode.mtime.sec), at + 32);
  out.writeUInt32LE(inode.mtime.nsec, at + 40);
  out.writeUInt32LE(placed.links, at + 44);
  xattrs.copy(out, at + INODE);
  const body = at + INODE + xattrs.length;
  if (layout === LAYOUT.chunkBased) {
    writeChunks(out, align(body, CHUNK_INDEX), placed, firstData, slots.get(inode.layer) ?? 0);
  } else if (placed.length > 0) {
    const contents = inode.type === 'dir' ? directoryBytes(placed) : inode.link;
    const blocks =
      layout === LAYOUT.flatInline ? contents.length - (contents.length % BLOCK) : contents.length;
    if (blocks > 0) contents.copy(out, (firstData + dataBlock) * BLOCK, 0, blocks);
    contents.copy(out, body, blocks);
  }
}

function writeChunks(out: Buffer, at: number, placed: Placed, firstData: number, slot: number): void {
  const { inode, chunkBits } = placed;
  const chunk = 2 ** chunkBits;
  const count = Math.ceil(inode.size / chunk);
  for (let index = 0; index < count; index++) out.writeUInt32LE(HOLE, at + index * CHUNK_INDEX + 4);
  const put = (fileOffset: number, length: number, device: number, block: number) => {
    for (let offset = 0; offset < length; offset += chunk) {
      const entry = at + ((fileOffset + offset) / chunk) * CHUNK_INDEX;
      out.writeUInt16LE(device, entry + 2);
      out.writeUInt32LE(block + offset / BLOCK, entry + 4);
    }
  };
  for (const { fileOffset, deviceOffset, length } of inode.extents)
    put(fileOffset, length, slot, deviceOffset / BLOCK);
  let block = firstData + placed.dataBlock;
  for (const { fileOffset, bytes } of inode.patches) {
    put(fileOffset, bytes.length, 0, block);
    bytes.copy(out, block * BLOCK);
    block += align(bytes.length, BLOCK) / BLOCK;
  }
}

/** Blocks of sorted entries: the entries' heads, then their names; what is left of a block is zero. */
function directoryBytes(placed: Placed): Buffer {
  const out = Buffer.alloc(placed.length);
  const entries = directoryEntries(placed);
  let next = 0;
  for (const [block, count] of placed.blockEntries.entries()) {
    let head = block * BLOCK;
    let nameAt = count * DIRENT;
    for (const [name, child] of entries.slice(next, next + count)) {
      out.writeBigUInt64LE(BigInt(child.nid), head);
      out.writeUInt16LE(nameAt, head + 8);
      out.writeUInt8(DIRENT_TYPE[child.inode.type], head + 10);
      out.write(name, block * BLOCK + nameAt, name.length, 'latin1');
      head += DIRENT;
      nameAt += name.length;
    }
    next += count;
  }
  return out;
}

/** The xattrs behind an inode: empty, or header and entries, each padded to 4 bytes. */
function encodeXattrs(xattrs: readonly Xattr[]): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of xattrs) {
    const text = name.toString('latin1');
    const prefix = XATTR_PREFIXES.find(([prefix, index]) =>
      index === 2 || index === 3 ? text === prefix : text.startsWith(prefix),
    );
    if (prefix === undefined) continue;
    const rest = text.slice(prefix[0].length);
    const entry = Buffer.alloc(align(4 + rest.length + value.length, 4));
    entry.writeUInt8(rest.length, 0);
    entry.writeUInt8(prefix[1], 1);
    if (value.length > 0xffff)
      throw new CofaError('unsupported', `the xattr ${text} has ${value.length} bytes; EROFS holds 65535`);
    entry.writeUInt16LE(value.length, 2);
    entry.write(rest, 4, 'latin1');
    value.copy(entry, 4 + rest.length);
    parts.push(entry);
  }
  if (parts.length === 0) return EMPTY;
  const all = Buffer.concat([Buffer.alloc(XATTR_HEADER), ...parts]);
  if ((all.length - XATTR_HEADER) / 4 + 1 > 0xffff)
    throw new CofaError('unsupported', 'a file has more xattrs than EROFS holds');
  return all;
}

const EMPTY = Buffer.alloc(0);

function writeSuperblock(
  out: Buffer,
  { rootNid, inodes, blocks, devices }: { rootNid: number; inodes: number; blocks: number; devices: number },
): void {
  const at = SUPER_OFFSET;
  out.writeUInt32LE(SUPER_MAGIC, at);
  out.writeUInt8(BLOCK_BITS, at + 12);
  out.writeUInt16LE(rootNid, at + 14);
  out.writeBigUInt64LE(BigInt(inodes), at + 16);
  out.writeUInt32LE(blocks, at + 36);
  out.writeUInt32LE(INCOMPAT, at + 80);
  out.writeUInt16LE(devices, at + 86);
  out.writeUInt16LE(devices === 0 ? 0 : DEVICES_OFFSET / DEVICE_SLOT, at + 88);
  // The volume's UUID names its contents; it is computed while it is still zero.
  createHash('sha256')
    .update(out)
    .digest()
    .copy(out, at + 48, 0, 16);
}
