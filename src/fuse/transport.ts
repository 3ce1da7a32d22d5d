/**
 * What serves layer devices to the kernel through FUSE. Two implementations pass one acceptance suite:
 * kernel-transport.ts (the protocol itself, on /dev/fuse) and fuse-native-transport.ts (the npm package).
 *
 * A transport holds no policy. It answers a read whose blocks are all present from the device file; it hands any other
 * to `cold`, and answers when `cold` says so. It never waits on its own account, save for files that a restarted front
 * end is about to add again.
 */
import { CofaError } from '../../schemas/errors.ts';

/** States of one block in `DeviceFile.blocks`. A writer stores `BLOCK_PRESENT` only after the bytes are in the file. */
export const BLOCK_ABSENT = 0;
export const BLOCK_FETCHING = 1;
export const BLOCK_PRESENT = 2;

export interface DeviceFile {
  /** File name below the FUSE mount: the 64 hex digits of the diffID. */
  name: string;
  /** `inodeOf(diffId)`: the same in every front end that ever serves the mount. */
  inode: number;
  /** Bytes, a multiple of 512 but where `anySize` is set. */
  size: number;
  /** No loop device will stand on it: its size may be any. */
  anySize?: true;
  /** The sparse device file, open for reading in this process. The transport opens it again for itself. */
  fd: number;
  /** Bytes, a power of two, at least 512. */
  blockSize: number;
  /** One Uint8 per block: absent, fetching or present. */
  blocks: SharedArrayBuffer;
  /** Notes the order in which blocks are first read; undefined: no recording wants it. */
  firstReads?: FirstReads;
  /**
   * When each block was last read, as Uint32: word 0 is the present time, in any unit that only grows. The thread that
   * serves a read copies it into the word `1 + block` of each of its blocks. Undefined: no cache asks for it.
   */
  uses?: SharedArrayBuffer;
}

/**
 * The order in which the blocks of one or several devices are read for the first time since `clock[1]` was set to
 * `clock[0]`. Every number is a tick of one clock that all devices of a front end share.
 */
export interface FirstReads {
  /** Two Int32: the ticks so far; the tick since when first reads count. */
  clock: SharedArrayBuffer;
  /** One Uint32 a block: the tick of its first read since then; an earlier one, or 0: not read since. */
  ticks: SharedArrayBuffer;
}

/**
 * Called on the main thread for a read of which some block is not present. `offset` and `length` are bytes and lie
 * within the file. `answer(0)`: all are present now; the transport reads the file and replies. Else a positive
 * errno. Only the first answer counts; it may come from within the call.
 */
export type ColdRead = (
  file: DeviceFile,
  offset: number,
  length: number,
  answer: (errno: number) => void,
) => void;

export interface TransportCounters {
  /** Reads that the kernel asked for. */
  reads: number;
  /** Reads answered at once, all blocks present. */
  hits: number;
  /** Reads handed to `cold`. */
  misses: number;
  /** Reads answered with an errno. */
  errors: number;
  /** Bytes replied. */
  bytes: number;
}

export interface FuseTransport {
  /**
   * Serves the file from now on. A name that is added again replaces the file, and reads that wait for the old one get
   * EIO; with the same block states nothing happens. Errors: `invalid-argument` for sizes that do not fit together,
   * `conflict` when another name has the inode.
   */
  add(file: DeviceFile): void;
  /**
   * Removes a file: reads that wait get EIO, as do later reads by processes that have it open. Ignores an unknown
   * inode.
   */
  remove(inode: number): void;
  /**
   * Ends serving: reads that wait get EIO, and every thread has ended when it resolves. A request that no thread has
   * taken yet stays with the kernel, for the next server or until the session is closed. To hand a mount over to a new
   * front end do not stop: end with SIGKILL, and the kernel asks the next one again.
   */
  stop(): Promise<void>;
  /**
   * Resolves when every read that may have seen the block states as they were before this call has been answered; later
   * reads see them as they are now. After it the caller may punch the bytes of blocks that it made absent before the
   * call.
   */
  quiesce(): Promise<void>;
  /** Of all files since the start, or of one inode since it was added. */
  counters(inode?: number): TransportCounters;
  /**
   * Resolves when serving has ended: with undefined after `stop()` or when the mount was detached or aborted, with the
   * error when a thread failed. After an error the process must end, so that the kernel asks its successor again.
   */
  readonly ended: Promise<Error | undefined>;
}

/** A device file's inode number: 52 bits of the diffID (`sha256:` optional), at least 2 because 1 is the root. */
export function inodeOf(diffId: string): number {
  const match = /^(?:sha256:)?([0-9a-f]{64})$/.exec(diffId);
  if (match === null) throw new CofaError('invalid-argument', `not a diffID: ${JSON.stringify(diffId)}`);
  const bits = Number.parseInt((match[1] as string).slice(0, 13), 16);
  return bits < 2 ? bits + 2 : bits;
}

/** Throws where the numbers of a device file contradict each other, before a thread trusts them. */
export function checkDeviceFile(file: DeviceFile): void {
  const fail = (what: string): never => {
    throw new CofaError('invalid-argument', `device file ${file.name}: ${what}`);
  };
  if (!/^[0-9a-f]{64}$/.test(file.name)) fail('its name is not 64 hex digits');
  if (!Number.isSafeInteger(file.inode) || file.inode < 2) fail(`inode ${file.inode}`);
  if (!Number.isSafeInteger(file.size) || file.size < 0 || (file.size % 512 !== 0 && file.anySize !== true))
    fail(`size ${file.size} is not a multiple of 512`);
  if (
    !Number.isSafeInteger(file.blockSize) ||
    file.blockSize < 512 ||
    !Number.isInteger(Math.log2(file.blockSize))
  )
    fail(`block size ${file.blockSize} is not a power of two`);
  if (!(file.blocks instanceof SharedArrayBuffer)) fail('its block states are not shared memory');
  if (file.blocks.byteLength < Math.ceil(file.size / file.blockSize))
    fail(`${file.blocks.byteLength} block states for ${Math.ceil(file.size / file.blockSize)} blocks`);
  const { firstReads } = file;
  if (firstReads !== undefined && firstReads.ticks.byteLength < file.blocks.byteLength * 4)
    fail(`${firstReads.ticks.byteLength / 4} ticks for ${file.blocks.byteLength} blocks`);
  if (file.uses !== undefined && file.uses.byteLength < 4 * (1 + file.blocks.byteLength))
    fail(`${file.uses.byteLength} bytes for the uses of ${file.blocks.byteLength} blocks`);
}
