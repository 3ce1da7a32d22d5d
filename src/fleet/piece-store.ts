/**
 * Pieces of blobs on the disk of a home, as compressed bytes: what a registry gave, for other members. It is a cache: every
 * piece may be lost at any time, and the oldest ones make room.
 *
 *     ROOT/fleet/<2 digits>/<64 digits>.<index>@<registry>~<from>     the piece's bytes, then 12 bytes: magic, length, CRC-32
 *                                                                     (little endian)
 *
 * `<from>` is the member that gave it, or `registry`: so a piece that is wrong names its liar after a restart too. Files whose name
 * does not say it are of an earlier cofa, and are deleted.
 *
 * A member may have a home ask any registry that the home reaches, also one of its own. So no registry speaks for another one:
 * what one sent for a digest is given to those who ask for that one's.
 *
 * A home cannot prove a part of a blob, and need not: the process that uses the bytes verifies them. The sum is for what the disk
 * did: a write that was cut off, a block that has rotted. Nothing is synced.
 */
import { crc32 } from 'node:zlib';
import { mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { PIECE_BYTES } from '../../schemas/fleet.ts';
import { DiskRoom, diskReserve } from '../store/disk-room.ts';

const MAGIC = 0x31_63_70_66;
const TRAILER = 12;
const NAME = /^([0-9a-f]{64})\.(\d{1,7})@([A-Za-z0-9.:[\]-]{1,150})~([A-Za-z0-9_-]{1,64})$/;
/** Of a file's name, in letters; one whose registry has so long a name that this is too short is in memory alone. */
const MAX_FILE_NAME = 240;
/** Of actors/fleet-home-protocol.ts. */
const KEY = /^(\S{1,150}) sha256:([0-9a-f]{64}) (\d{1,7})$/;
/** A piece that is read counts as used this often at most, ms: the time of its use is on the disk. */
const TOUCH_MS = 60_000;

interface Entry {
  bytes: number;
  /** ms since 1970. */
  usedAt: number;
  /** `registry`, or the member that gave it. */
  from: string;
}

export interface PieceStoreOptions {
  dir: string;
  limitBytes: number;
  now: () => number;
  /** A piece made room for others, or was not as it was written. */
  onLost?: (key: string) => void;
}

/** Its functions take keys of pieces (`pieceKey`). */
export class PieceStore {
  readonly #options: PieceStoreOptions;
  readonly #room: DiskRoom;
  /** By key, the one used last at the end. */
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;
  #drafts = 0;

  private constructor(options: PieceStoreOptions) {
    this.#options = options;
    // Containers and the log come before a cache for others.
    this.#room = new DiskRoom(options.dir, diskReserve(options.dir));
  }

  /** Opens what an earlier process left. Errors: those of the file system. */
  static async open(options: PieceStoreOptions): Promise<PieceStore> {
    await mkdir(options.dir, { recursive: true, mode: 0o700 });
    const store = new PieceStore(options);
    await store.#load();
    await store.#trim(0);
    return store;
  }

  /** On the disk. */
  get bytes(): number {
    return this.#bytes;
  }

  get pieces(): number {
    return this.#entries.size;
  }

  /** The whole piece; undefined where it is not here, or not as it was written. `length`: bytes that it must have, if any. */
  async read(key: string, length?: number): Promise<Buffer | undefined> {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    length ??= entry.bytes - TRAILER;
    const found = await readPiece(this.#path(key, entry), length).catch(() => undefined);
    // It may have made room, or have come anew, meanwhile.
    if (this.#entries.get(key) !== entry) return found;
    if (found === undefined) {
      await this.#lose(key);
      return undefined;
    }
    const now = this.#options.now();
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    if (now - entry.usedAt > TOUCH_MS) {
      entry.usedAt = now;
      void utimes(this.#path(key, entry), now / 1000, now / 1000).catch(() => {});
    }
    return found;
  }

  /** Keeps a piece that `from` gave: `registry`, or a member. Errors: `no-space`, those of the file system; it is not here then. */
  async write(key: string, bytes: Buffer, from: string): Promise<void> {
    const size = bytes.length + TRAILER;
    if (this.#entries.has(key) || size > this.#options.limitBytes) return;
    await this.#trim(size);
    this.#room.take(size);
    const trailer = Buffer.alloc(TRAILER);
    trailer.writeUInt32LE(MAGIC, 0);
    trailer.writeUInt32LE(bytes.length, 4);
    trailer.writeUInt32LE(crc32(bytes), 8);
    const path = this.#path(key, { from });
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const draft = `${path}.${++this.#drafts}.draft`;
    try {
      const file = await open(draft, 'w', 0o600);
      try {
        await file.writev([bytes, trailer]);
      } finally {
        await file.close();
      }
      await rename(draft, path);
    } catch (error) {
      await rm(draft, { force: true });
      throw error;
    }
    if (!this.#entries.has(key)) this.#bytes += size;
    this.#entries.set(key, { bytes: size, usedAt: this.#options.now(), from });
  }

  /** Forgets a piece: its bytes are said to be wrong. */
  async forget(key: string): Promise<void> {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#bytes -= entry.bytes;
    await rm(this.#path(key, entry), { force: true });
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }

  /** Undefined: it is not here. */
  originOf(key: string): string | undefined {
    return this.#entries.get(key)?.from;
  }

  /** The one used last at the end. */
  keys(): IterableIterator<string> {
    return this.#entries.keys();
  }

  /** Errors: RangeError for a key that is none. */
  #path(key: string, { from }: Pick<Entry, 'from'>): string {
    const [, registry, hex, index] = KEY.exec(key) ?? [];
    if (hex === undefined) throw new RangeError(`${key} is no key of a piece`);
    const name = `${hex}.${index}@${registry}~${from}`;
    if (name.length > MAX_FILE_NAME) throw new RangeError(`${name} is too long for a file's name`);
    return join(this.#options.dir, hex.slice(0, 2), name);
  }

  async #lose(key: string): Promise<void> {
    await this.forget(key);
    this.#options.onLost?.(key);
  }

  /** Makes room for so many bytes more. */
  async #trim(more: number): Promise<void> {
    for (const key of this.#entries.keys()) {
      if (this.#bytes + more <= this.#options.limitBytes) return;
      await this.#lose(key);
    }
  }

  async #load(): Promise<void> {
    const found: Array<[string, Entry]> = [];
    // A name that is part of a file's would keep all of that in memory.
    const names = new Map<string, string>();
    for (const folder of await readdir(this.#options.dir)) {
      if (!/^[0-9a-f]{2}$/.test(folder)) continue;
      const path = join(this.#options.dir, folder);
      for (const name of await readdir(path)) {
        const { size, mtimeMs } = await stat(join(path, name));
        const [, hex, index, registry, part = ''] = NAME.exec(name) ?? [];
        const from = names.get(part) ?? part;
        names.set(from, from);
        if (hex?.startsWith(folder) === true && size <= PIECE_BYTES + TRAILER)
          found.push([`${registry} sha256:${hex} ${index}`, { bytes: size, usedAt: mtimeMs, from }]);
        else await rm(join(path, name), { force: true });
      }
    }
    found.sort(([, a], [, b]) => a.usedAt - b.usedAt);
    for (const [key, entry] of found) {
      // Forgotten in an earlier life that ended before the file was deleted, and then given by another member.
      await this.forget(key);
      this.#entries.set(key, entry);
      this.#bytes += entry.bytes;
    }
  }
}

async function readPiece(path: string, length: number): Promise<Buffer | undefined> {
  const file = await open(path, 'r');
  try {
    const buffer = Buffer.allocUnsafe(length + TRAILER);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
    if (bytesRead !== buffer.length) return undefined;
    const bytes = buffer.subarray(0, length);
    const isRight =
      buffer.readUInt32LE(length) === MAGIC &&
      buffer.readUInt32LE(length + 4) === length &&
      buffer.readUInt32LE(length + 8) === crc32(bytes);
    return isRight ? bytes : undefined;
  } finally {
    await file.close();
  }
}
