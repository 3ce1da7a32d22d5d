/** Strict reading of extended attributes, for erofs-check.ts; what erofs-xattrs.ts writes and nothing else. */
import {
  INODE_SIZE,
  type InodeKind,
  MAX_INLINE_XATTRS,
  MAX_NAME_BYTES,
  NID_UNIT,
  roundUp,
  XATTR_ENTRY,
  XATTR_HEADER,
  XATTR_PREFIXES,
  XATTR_SHARED_COUNT,
} from './erofs-format.ts';
import type { Claims, Fault } from './erofs-claims.ts';
import type { Words } from './erofs-words.ts';
import { isSoundAcl } from './posix-acl.ts';

export class XattrReader {
  readonly #image: Buffer;
  readonly #words: Words;
  readonly #sharedAt: number;
  readonly #claims: Claims;
  readonly #fault: Fault;
  /** By their place in the image. */
  readonly #shared = new Map<number, Entry>();

  /** `sharedAt`: byte of the shared area. */
  constructor(words: Words, sharedAt: number, claims: Claims, fault: Fault) {
    this.#image = words.image;
    this.#words = words;
    this.#sharedAt = sharedAt;
    this.#claims = claims;
    this.#fault = fault;
  }

  /** Checks what stands behind the inode at byte `inode` and returns how many bytes it takes. `count`: the inode's own count. */
  read(inode: number, count: number, kind: InodeKind): number {
    if (count === 0) return 0;
    const at = inode + INODE_SIZE;
    const what = `inode ${inode / NID_UNIT}`;
    const size = XATTR_HEADER + 4 * (count - 1);
    if (count === 1 || size > MAX_INLINE_XATTRS) throw this.#fault(`${what} has ${size} bytes of xattrs`);
    this.#claims.claim(at, size);
    const image = this.#image;
    const shared = image[at + XATTR_SHARED_COUNT] as number;
    const idsEnd = at + XATTR_HEADER + 4 * shared;
    const unused =
      image.readUInt32LE(at) === 0 && this.#words.isZero(at + XATTR_SHARED_COUNT + 1, at + XATTR_HEADER);
    if (!unused || idsEnd > at + size) throw this.#fault(`${what} has xattrs of an unknown form`);
    const names = new Set<string>();
    const take = ({ name }: Entry) => {
      if (names.has(name)) throw this.#fault(`${what} has the xattr ${JSON.stringify(name)} twice`);
      if (!fits(name, kind)) throw this.#fault(`${what}, a ${kind}, has the xattr ${JSON.stringify(name)}`);
      names.add(name);
    };
    for (let id = at + XATTR_HEADER; id < idsEnd; id += 4)
      take(this.#sharedEntry(image.readUInt32LE(id), what));
    for (let next = idsEnd; next < at + size; ) {
      const entry = this.#entry(next, at + size, what);
      take(entry);
      next += entry.size;
    }
    return size;
  }

  #sharedEntry(id: number, what: string): Entry {
    const at = this.#sharedAt + id * 4;
    const known = this.#shared.get(at);
    if (known !== undefined) return known;
    if (at + XATTR_ENTRY > this.#image.length)
      throw this.#fault(`${what} has shared xattrs outside of the image`);
    const entry = this.#entry(at, this.#image.length, what);
    this.#claims.claim(at, entry.size);
    this.#shared.set(at, entry);
    return entry;
  }

  #entry(at: number, end: number, what: string): Entry {
    const image = this.#image;
    if (at + XATTR_ENTRY > end) throw this.#fault(`${what} has an xattr that is cut short`);
    const nameAt = at + XATTR_ENTRY;
    const valueAt = nameAt + (image[at] as number);
    const valueEnd = valueAt + image.readUInt16LE(at + 2);
    const size = roundUp(valueEnd - at, 4);
    if (at + size > end) throw this.#fault(`${what} has an xattr that is cut short`);
    const prefix = XATTR_PREFIXES.find(({ index }) => index === image[at + 1])?.prefix;
    if (prefix === undefined) throw this.#fault(`${what} has an xattr in the name space ${image[at + 1]}`);
    const name = prefix + image.toString('latin1', nameAt, valueAt);
    const isAcl = prefix.startsWith('system.');
    if (valueAt > nameAt === isAcl || name.length > MAX_NAME_BYTES || name.includes('\0')) {
      throw this.#fault(`${what} has an xattr named ${JSON.stringify(name)}`);
    }
    if (isAcl && !isSoundAcl(image.subarray(valueAt, valueEnd)))
      throw this.#fault(`${what} has a malformed ACL`);
    if (!this.#words.isZero(valueEnd, at + size)) throw this.#fault(`${what} has something behind an xattr`);
    return { name, size };
  }
}

interface Entry {
  name: string;
  /** Bytes with padding. */
  size: number;
}

function fits(name: string, kind: InodeKind): boolean {
  if (name.startsWith('user.')) return kind === 'file' || kind === 'dir';
  if (name === 'system.posix_acl_access') return kind !== 'symlink';
  return name === 'system.posix_acl_default' ? kind === 'dir' : true;
}
