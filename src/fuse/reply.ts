/**
 * Builds and writes the replies of the kernel-protocol transport. Each thread has one `Replier`; the main thread has
 * one for the reads that had to wait. It builds a reply in place in one buffer, header first, then the file's bytes,
 * and sends it with one write(2). A read allocates nothing.
 */
import { writeSync } from 'node:fs';
import { isErrno } from '../kernel/errno.ts';
import { BODY, ERRNO, MAX_READ, OUT, PAGE, ROOT } from './protocol.ts';
import { loadBytes, noteUse, type ServedFile, TALLY, TALLY_FIELDS, type Tally } from './served-file.ts';

export class Replier {
  readonly #device: number;
  readonly #row: number;
  // Filled, so that its pages exist before the first read: no allocation in the kernel either when memory is short.
  readonly #out = Buffer.alloc(OUT.size + MAX_READ, 1);
  readonly #header = new Int32Array(this.#out.buffer, this.#out.byteOffset, OUT.size / 4);

  /** `row`: where this thread counts in tallies. */
  constructor(device: number, row: number) {
    this.#device = device;
    this.#row = row * TALLY_FIELDS;
  }

  /** Adds to one column of this thread's row. */
  count(tally: Tally, field: number, amount: number): void {
    const at = this.#row + field;
    tally[at] = (tally[at] as number) + amount;
  }

  /** Answers a read whose blocks are all present. `length` is clamped to the file. A failing disk gives EIO. */
  read(file: ServedFile, low: number, high: number, offset: number, length: number): void {
    if (length > MAX_READ || !loadBytes(file, this.#out, OUT.size, offset, length)) {
      this.count(file.tally, TALLY.errors, 1);
      this.error(low, high, ERRNO.EIO);
      return;
    }
    if (length > 0) noteUse(file, offset, length);
    this.count(file.tally, TALLY.bytes, length);
    this.#send(low, high, 0, length);
  }

  /** `errno` 0: success, without a body. */
  error(low: number, high: number, errno: number): void {
    this.#send(low, high, errno, 0);
  }

  /** LOOKUP found it: struct fuse_entry_out. */
  entry(low: number, high: number, file: ServedFile): void {
    const at = OUT.size;
    this.#out.fill(0, at, at + BODY.entry);
    this.#writeU64(at, file.inode); // generation 0 follows
    this.#writeU64(at + 16, FOREVER_SECONDS);
    this.#writeU64(at + 24, FOREVER_SECONDS);
    this.#attributes(at + 40, file.inode, FILE_MODE, file.size);
    this.#send(low, high, 0, BODY.entry);
  }

  /** GETATTR: struct fuse_attr_out. `file` undefined: the root folder. */
  attributes(low: number, high: number, file: ServedFile | undefined): void {
    const at = OUT.size;
    this.#out.fill(0, at, at + BODY.attr);
    this.#writeU64(at, FOREVER_SECONDS);
    if (file === undefined) this.#attributes(at + 16, ROOT, FOLDER_MODE, PAGE);
    else this.#attributes(at + 16, file.inode, FILE_MODE, file.size);
    this.#send(low, high, 0, BODY.attr);
  }

  /** OPENDIR: struct fuse_open_out without handle or flags, so that the kernel keeps no listings. */
  opened(low: number, high: number): void {
    this.#out.fill(0, OUT.size, OUT.size + BODY.open);
    this.#send(low, high, 0, BODY.open);
  }

  /** STATFS: struct fuse_kstatfs; block size and longest name are all that matters. */
  statfs(low: number, high: number, files: number): void {
    const at = OUT.size;
    this.#out.fill(0, at, at + BODY.statfs);
    this.#writeU64(at + 24, files);
    this.#out.writeUInt32LE(PAGE, at + 40);
    this.#out.writeUInt32LE(255, at + 44);
    this.#out.writeUInt32LE(PAGE, at + 48);
    this.#send(low, high, 0, BODY.statfs);
  }

  /** READDIR: as many struct fuse_dirent behind `cookie` as fit into `room` bytes. */
  list(low: number, high: number, files: Iterable<ServedFile>, cookie: number, room: number): void {
    let end = OUT.size;
    const limit = OUT.size + Math.min(room, MAX_READ);
    const put = (inode: number, next: number, type: number, name: string): boolean => {
      const size = (24 + name.length + 7) & ~7;
      if (end + size > limit) return false;
      this.#out.fill(0, end, end + size);
      this.#writeU64(end, inode);
      this.#writeU64(end + 8, next);
      this.#out.writeUInt32LE(name.length, end + 16);
      this.#out.writeUInt32LE(type, end + 20);
      this.#out.write(name, end + 24, 'latin1');
      end += size;
      return true;
    };
    // A cookie is the place of the next entry: 0 and 1 are the folder itself, files follow by sequence.
    let more = cookie > 0 || put(ROOT, 1, DT_DIR, '.');
    more &&= cookie > 1 || put(ROOT, 2, DT_DIR, '..');
    if (more)
      for (const file of files)
        if (file.sequence + 2 >= cookie && !put(file.inode, file.sequence + 3, DT_REG, file.name)) break;
    this.#send(low, high, 0, end - OUT.size);
  }

  /** One write(2) is one reply. ENOENT: the reader was killed meanwhile. ENODEV: the mount was detached or aborted. */
  #send(low: number, high: number, errno: number, length: number): void {
    this.#header[0] = OUT.size + length;
    this.#header[1] = -errno;
    this.#header[2] = low;
    this.#header[3] = high;
    try {
      writeSync(this.#device, this.#out, 0, OUT.size + length);
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'ENODEV', 'ECONNABORTED', 'ENOTCONN')) throw error;
    }
  }

  /** struct fuse_attr. Times are 0: what matters in a layer stands in the file system that lies upon it. */
  #attributes(at: number, inode: number, mode: number, size: number): void {
    this.#writeU64(at, inode);
    this.#writeU64(at + 8, size);
    this.#writeU64(at + 16, Math.ceil(size / 512));
    this.#out.writeUInt32LE(mode, at + 60);
    this.#out.writeUInt32LE(1, at + 64);
    this.#out.writeUInt32LE(PAGE, at + 80);
  }

  #writeU64(at: number, value: number): void {
    this.#out.writeUInt32LE(value % 2 ** 32, at);
    this.#out.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
  }
}

/**
 * How long the kernel keeps names and attributes. Nothing here ever changes; and after a server died, the kernel can
 * exchange a loop's backing file only while it still has the attributes of the old one.
 */
const FOREVER_SECONDS = 1_000_000_000;
const FILE_MODE = 0o100400;
const FOLDER_MODE = 0o40500;
const DT_DIR = 4;
const DT_REG = 8;
