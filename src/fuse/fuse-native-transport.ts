/**
 * Serves layer devices through the npm package fuse-native (libfuse 2 as an addon). The kernel-protocol transport is
 * the default; this one exists because it needs no threads of ours, and as the second opinion in tests.
 *
 * What a reader has to know about the package:
 * - It works on the main thread only, and each request makes a round trip through the event loop.
 * - The buffer of a read belongs to a libfuse thread that waits. The transport fills it by a synchronous call and then calls
 *   the callback, once; after that the memory may be anything. The package's own `timeout` breaks this, so it is off.
 * - libfuse starts a thread for each request that waits, and ends those that exceed its limit; each thread that ends
 *   leaves a handle behind that slows every later request. `max_background` keeps them few.
 * - It does not negotiate FUSE_ASYNC_DIO: a loop device reads one piece after the other, so cold reads add up.
 * - It cannot make the kernel forget a name: after `remove` a folder may still list it from the kernel's memory, but no
 *   open of it succeeds.
 * - When the process dies the mount dies.
 */
import { closeSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { delimiter, join } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { CofaError } from '../../schemas/errors.ts';
import { isMounted } from '../kernel/mount.ts';
import { clearDeadMount } from './connection.ts';
import { ERRNO, PAGE } from './protocol.ts';
import {
  addTally,
  clamp,
  emptyCounters,
  loadBytes,
  newTally,
  readIsPresent,
  noteUse,
  type ServedFile,
  serveFile,
  TALLY,
  type Tally,
  touchedArePresent,
} from './served-file.ts';
import type { ColdRead, DeviceFile, FuseTransport, TransportCounters } from './transport.ts';

/**
 * Mounts at `target`, an existing folder, and serves. Errors: `environment` where libfuse 2 or fusermount is missing
 * or the mount fails, `busy` when something is mounted there.
 */
export async function fuseNativeTransport(options: {
  target: string;
  cold: ColdRead;
}): Promise<FuseTransport> {
  if (!isMainThread) throw new CofaError('environment', 'fuse-native works on the main thread only');
  const Fuse = loadFuse();
  await findProgram('fusermount');
  await clearDeadMount(options.target);
  const transport = new Transport(options.cold);
  const fuse = new Fuse(options.target, transport.operations, {
    timeout: false,
    kernelCache: true,
    defaultPermissions: true,
    attrTimeout: FOREVER_SECONDS,
    entryTimeout: FOREVER_SECONDS,
    maxRead: MAX_READ,
    // The package knows no option for these; it joins its options with commas.
    fsname: `cofa,ro,nosuid,nodev,max_background=${MAX_BACKGROUND}`,
  });
  await new Promise<void>((resolve, reject) => {
    fuse.mount((error) => {
      if (error == null) resolve();
      else
        reject(
          new CofaError('environment', `FUSE mount at ${options.target}: ${error.message}`, { cause: error }),
        );
    });
  });
  transport.unmount = () => unmountFuse(fuse, options.target);
  return transport;
}

/** Reads that wait at a time; a further one gets EIO. */
const MAX_WAITING = 16_384;
/** libfuse 2 takes no larger ones, bytes. */
const MAX_READ = 131_072;
const MAX_BACKGROUND = 8;
const FOREVER_SECONDS = 1_000_000_000;
const FILE_MODE = 0o100400;
const FOLDER_MODE = 0o40500;

interface Stat {
  mode: number;
  size: number;
  nlink: number;
  blksize: number;
  blocks: number;
  uid: number;
  gid: number;
  atime: number;
  mtime: number;
  ctime: number;
}
/** Errnos are negative, other numbers are results. */
type Callback<T = never> = (result: number, value?: T) => void;

/** The part of the package that this file uses; the package has no types. */
interface Operations {
  getattr(path: string, done: Callback<Stat>): void;
  readdir(path: string, done: Callback<string[]>): void;
  open(path: string, flags: number, done: Callback<number>): void;
  read(path: string, handle: number, buffer: Buffer, length: number, offset: number, done: Callback): void;
  statfs(path: string, done: Callback<Record<string, number>>): void;
}
interface FuseMount {
  mount(done: (error: Error | null) => void): void;
  unmount(done: (error: Error | null) => void): void;
}
type FuseConstructor = new (
  target: string,
  operations: Operations,
  options: Record<string, string | number | boolean>,
) => FuseMount;

interface OwnFile extends ServedFile {
  given: DeviceFile;
}
interface WaitingRead {
  file: OwnFile;
  buffer: Buffer;
  offset: number;
  length: number;
  done: Callback;
}

class Transport implements FuseTransport {
  readonly ended: Promise<Error | undefined>;
  readonly operations: Operations;
  unmount: () => Promise<void> = () => Promise.resolve();
  readonly #cold: ColdRead;
  readonly #byInode = new Map<number, OwnFile>();
  readonly #byPath = new Map<string, OwnFile>();
  readonly #waiting = new Set<WaitingRead>();
  readonly #past = emptyCounters();
  /** Reads that belong to no file. */
  readonly #strays = newTally(1);
  #sequence = 1;
  #stopping = false;
  #stopped: Promise<void> | undefined;
  readonly #end: (failure: Error | undefined) => void;

  constructor(cold: ColdRead) {
    this.#cold = cold;
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.ended = promise;
    this.#end = resolve;
    this.operations = {
      getattr: (path, done) => {
        if (path === '/') return done(0, attributes(FOLDER_MODE, PAGE));
        const file = this.#byPath.get(path);
        return file === undefined ? done(-ERRNO.ENOENT) : done(0, attributes(FILE_MODE, file.size));
      },
      readdir: (_, done) =>
        done(
          0,
          [...this.#byInode.values()].map((file) => file.name),
        ),
      open: (path, _, done) => {
        const file = this.#byPath.get(path);
        return file === undefined ? done(-ERRNO.ENOENT) : done(0, file.sequence);
      },
      read: (path, _, buffer, length, offset, done) => this.#read(path, buffer, length, offset, done),
      statfs: (_, done) => done(0, { bsize: PAGE, frsize: PAGE, namemax: 255, files: this.#byInode.size }),
    };
  }

  add(given: DeviceFile): void {
    const old = this.#byInode.get(given.inode);
    if (old !== undefined && old.name !== given.name)
      throw new CofaError(
        'conflict',
        `device file ${given.name}: ${old.name} has inode ${given.inode} already`,
      );
    if (old !== undefined && old.given.blocks === given.blocks && old.size === given.size) return;
    const file: OwnFile = { ...serveFile(given, 1, this.#sequence++), given };
    if (old !== undefined) this.#drop(old);
    this.#byInode.set(file.inode, file);
    this.#byPath.set(`/${file.name}`, file);
  }

  remove(inode: number): void {
    const file = this.#byInode.get(inode);
    if (file !== undefined) this.#drop(file);
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  /** The main thread looks at states and reads bytes in one go, so no read is between the two. */
  quiesce(): Promise<void> {
    return Promise.resolve();
  }

  counters(inode?: number): TransportCounters {
    if (inode !== undefined) {
      const file = this.#byInode.get(inode);
      return file === undefined ? emptyCounters() : addTally(file.tally, emptyCounters());
    }
    const total = addTally(this.#strays, { ...this.#past });
    for (const file of this.#byInode.values()) addTally(file.tally, total);
    return total;
  }

  #read(path: string, buffer: Buffer, asked: number, offset: number, done: Callback): void {
    const file = this.#byPath.get(path);
    count(file?.tally ?? this.#strays, TALLY.reads);
    if (file === undefined || this.#stopping) {
      count(file?.tally ?? this.#strays, TALLY.errors);
      return done(-ERRNO.EIO);
    }
    const length = clamp(file, offset, asked);
    const read: WaitingRead = { file, buffer, offset, length, done };
    if (readIsPresent(file, offset, length)) {
      count(file.tally, TALLY.hits);
      return this.#reply(read);
    }
    count(file.tally, TALLY.misses);
    if (this.#waiting.size >= MAX_WAITING) return this.#fail(read, ERRNO.EIO);
    this.#waiting.add(read);
    return this.#cold(file.given, offset, length, (errno) => this.#answer(read, errno));
  }

  #answer(read: WaitingRead, errno: number): void {
    if (!this.#waiting.delete(read)) return; // answered already, removed or stopped
    if (errno !== 0) return this.#fail(read, errno);
    // The reader would take an absent block for zeros.
    if (!touchedArePresent(read.file, read.offset, read.length)) return this.#fail(read, ERRNO.EIO);
    return this.#reply(read);
  }

  #reply(read: WaitingRead): void {
    const { file, buffer, offset, length, done } = read;
    if (!loadBytes(file, buffer, 0, offset, length)) return this.#fail(read, ERRNO.EIO);
    if (length > 0) noteUse(file, offset, length);
    count(file.tally, TALLY.bytes, length);
    return done(length);
  }

  #fail({ file, done }: WaitingRead, errno: number): void {
    count(file.tally, TALLY.errors);
    done(-errno);
  }

  #drop(file: OwnFile): void {
    this.#byInode.delete(file.inode);
    this.#byPath.delete(`/${file.name}`);
    for (const read of this.#waiting) if (read.file === file) this.#answer(read, ERRNO.EIO);
    addTally(file.tally, this.#past);
    closeSync(file.fd); // every use of it is synchronous
  }

  async #stop(): Promise<void> {
    this.#stopping = true;
    for (const read of this.#waiting) this.#answer(read, ERRNO.EIO);
    await this.unmount();
    for (const file of this.#byInode.values()) this.#drop(file);
    this.#end(undefined);
  }
}

function count(tally: Tally, field: number, amount = 1): void {
  tally[field] = (tally[field] as number) + amount;
}

/** Times are 0: what matters in a layer stands in the file system that lies upon it. */
function attributes(mode: number, size: number): Stat {
  const blocks = Math.ceil(size / 512);
  return { mode, size, nlink: 1, blksize: PAGE, blocks, uid: 0, gid: 0, atime: 0, mtime: 0, ctime: 0 };
}

function loadFuse(): FuseConstructor {
  try {
    return createRequire(import.meta.url)('fuse-native') as FuseConstructor;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new CofaError('environment', `fuse-native does not load: ${message.split('\n')[0]}`, {
      cause: error,
      hint: 'it needs libfuse 2: apt-get install fuse; or use the kernel transport, which needs neither',
    });
  }
}

async function findProgram(name: string): Promise<void> {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const found = await access(join(folder, name)).then(
      () => true,
      () => false,
    );
    if (found) return;
  }
  throw new CofaError('environment', `${name} is not installed; fuse-native unmounts with it`, {
    hint: 'apt-get install fuse',
  });
}

async function unmountFuse(fuse: FuseMount, target: string): Promise<void> {
  const error = await new Promise<Error | null>((resolve) => fuse.unmount(resolve));
  if (error !== null && isMounted(target))
    throw new CofaError('environment', `unmount of ${target}: ${error.message}`, { cause: error });
}
