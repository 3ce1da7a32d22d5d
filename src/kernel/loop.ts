/**
 * Loop devices: a file as a block device (drivers/block/loop.c, linux/loop.h).
 *
 * Each layer device is mounted through one, because the kernel can exchange the file behind a read-only loop under a
 * mounted file system (LOOP_CHANGE_FD): from the FUSE file, while blocks are absent, to the device file itself.
 *
 * - With direct I/O the loop hands its requests to the backing file side by side. Buffered, one kernel thread reads
 *   piece after piece, and sixteen cold reads take sixteen times as long as one.
 * - Every call here may read, stat or open a FUSE file, so all of them run off the event loop.
 * - Loop numbers belong to the whole machine. Another process may take a free number that the kernel has just named to
 *   us; between two calls of ours the kernel may free a loop and another process may take its number. The label, which
 *   the kernel keeps as lo_file_name, says whose loop it is.
 */
import { execFile } from 'node:child_process';
import { constants, existsSync, readdirSync, readFileSync } from 'node:fs';
import { type FileHandle, open, readdir, readFile, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { CofaError } from '../../schemas/errors.ts';
import { explain, isErrno } from './errno.ts';
import { callOffLoop, declare, offLoop } from './libc.ts';

export interface LoopDevice {
  number: number;
  /** /dev/loopN */
  path: string;
  /** lo_file_name: by it cofa recognizes its own loops after a crash. */
  label: string;
}

export interface LoopStatus extends LoopDevice {
  /** As the kernel shows it; ends in ` (deleted)` when unlinked. */
  backingFile: string;
  directIo: boolean;
  readOnly: boolean;
  /** The kernel detaches it when its last user closes it. */
  autoclear: boolean;
}

export interface AttachOptions {
  directIo: boolean;
  readOnly: true;
  /** 1 to 63 bytes. */
  label: string;
}

/**
 * Attaches a read-only loop device with 512-byte blocks to a file. Errors: `environment` without the loop driver or on
 * a kernel before 5.8, `unsupported` when the file system below cannot do the direct I/O asked for.
 */
export async function attachLoop(file: string, options: AttachOptions): Promise<LoopDevice> {
  const { directIo, label } = options;
  const labelBytes = Buffer.from(label);
  if (labelBytes.length === 0 || labelBytes.length >= NAME_SIZE || labelBytes.includes(0))
    throw new CofaError('invalid-argument', `loop label ${JSON.stringify(label)} is not 1 to 63 bytes`);
  const attempted = `loop device for ${file}`;
  const backing = await openForKernel(file, attempted);
  try {
    const taken = new Set<number>();
    for (let attempt = 1; ; attempt++) {
      const device = { ...(await freeLoop(taken)), label };
      const configured = await configure(device, backing, { directIo, labelBytes }).finally(() =>
        claimed.delete(device.number),
      );
      if (configured === 'taken') {
        taken.add(device.number);
        if (attempt >= MAX_ATTEMPTS)
          throw new CofaError('busy', `${attempted}: other processes took ${attempt} free loops in a row`);
        await sleep(Math.min(attempt, 20));
        continue;
      }
      return device;
    }
  } catch (error) {
    throw explain(error, attempted, KNOWN);
  } finally {
    await offLoop(() => backing.close()); // the close of a FUSE file waits for its server
  }
}

/**
 * Exchanges the backing file for one of the same size (LOOP_CHANGE_FD), also under a mounted file system. The call
 * waits for the reads in flight; later reads reach the new file. Errors: `invalid-argument` when the sizes differ,
 * `not-found` when the loop has been detached, or another process has taken its number since.
 */
export async function changeBacking(loop: LoopDevice, file: string): Promise<void> {
  const attempted = `change of ${loop.path} to ${file}`;
  const backing = await openForKernel(file, attempted);
  try {
    await withLoop(loop, async (fd) => {
      const before = await ownStatus(fd, loop);
      if (before === undefined) throw new CofaError('not-found', `${attempted}: the loop device is gone`);
      await callOffLoop('ioctl(LOOP_CHANGE_FD)', ioctlNumber, fd, LOOP_CHANGE_FD, backing.fd);
      // The driver gives up direct I/O by itself when the new file cannot do it; that costs memory, not correctness.
      const after = await readStatus(fd);
      if (before.directIo && after?.directIo === false)
        await callOffLoop('ioctl(LOOP_SET_DIRECT_IO)', ioctlNumber, fd, LOOP_SET_DIRECT_IO, 1).catch(
          () => {},
        );
    });
  } catch (error) {
    throw explain(error, attempted, {
      ...KNOWN,
      EINVAL: {
        code: 'invalid-argument',
        hint: 'the new file must have the very same size, and the loop must be read-only',
      },
    });
  } finally {
    await offLoop(() => backing.close()); // the close of a FUSE file waits for its server
  }
}

/**
 * Detaches the loop device; resolves when it is free. Does nothing when it is free already or another process has taken
 * its number. Error: `busy` while a process has it open; the kernel then detaches it with its last user.
 */
export async function detachLoop(loop: LoopDevice): Promise<void> {
  const attempted = `detach of ${loop.path}`;
  try {
    const present = await withLoop(loop, async (fd) => {
      if ((await ownStatus(fd, loop)) === undefined) return false;
      await callOffLoop('ioctl(LOOP_CLR_FD)', ioctlNumber, fd, LOOP_CLR_FD, 0);
      return true;
    });
    if (!present) return;
    // The driver detaches when the last descriptor closes; udev or blkid may hold the device open for a moment.
    for (let waited = 0; waited <= DETACH_WAIT_MS; waited += DETACH_STEP_MS) {
      if ((await statusOf(loop.number))?.label !== loop.label) return;
      await sleep(DETACH_STEP_MS);
    }
  } catch (error) {
    if (isErrno(error, 'ENXIO', 'ENOENT', 'ENODEV')) return;
    throw explain(error, attempted, KNOWN);
  }
  throw new CofaError('busy', `${loop.path} is in use`, {
    hint: 'unmount what stands on it; it is freed then',
  });
}

/**
 * Detaches a loop device without waiting: at once when no process uses it, else the kernel does it with the last user.
 * Does nothing when it is free already or another process has taken its number.
 */
export async function dismissLoop(loop: LoopDevice): Promise<void> {
  try {
    await withLoop(loop, async (fd) => {
      if ((await ownStatus(fd, loop)) !== undefined)
        await callOffLoop('ioctl(LOOP_CLR_FD)', ioctlNumber, fd, LOOP_CLR_FD, 0);
    });
  } catch (error) {
    if (!isErrno(error, 'ENXIO', 'ENOENT', 'ENODEV')) throw explain(error, `detach of ${loop.path}`, KNOWN);
  }
}

/**
 * Configured loop devices of the machine, by number: all, or those whose backing file `wanted` accepts. Does not open
 * the others, which would keep them busy for a moment.
 */
export async function listLoops(wanted?: (backingFile: string) => boolean): Promise<LoopStatus[]> {
  const numbers = (await readdir('/sys/block').catch(() => []))
    .map((name) => /^loop(\d+)$/.exec(name)?.[1])
    .filter((digits) => digits !== undefined)
    .map(Number)
    .toSorted((a, b) => a - b);
  // Side by side: there may be hundreds, and each takes several calls.
  const found = await Promise.all(numbers.map((number) => statusOf(number, wanted)));
  return found.filter((status) => status !== undefined);
}

/**
 * The files, as the kernel names them, behind the loop devices of this machine, with the loops' numbers. Synchronous,
 * since the caller is about to punch holes into one of the files; sysfs answers from memory.
 */
export function backingFiles(): Map<string, number[]> {
  const files = new Map<string, number[]>();
  for (const name of readdirSync('/sys/block')) {
    if (!/^loop\d+$/.test(name)) continue;
    let text: string;
    try {
      text = readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8');
    } catch {
      continue; // not configured
    }
    const file = text.replace(/\n$/, '');
    files.set(file, [...(files.get(file) ?? []), Number(name.slice(4))]);
  }
  return files;
}

/**
 * The file behind a loop at this moment, as the kernel names it: one that was replaced since ends in ` (deleted)`.
 * Undefined when the loop is detached. Synchronous: sysfs answers from memory.
 */
export function backingFileOf({ number }: Pick<LoopDevice, 'number'>): string | undefined {
  try {
    return readFileSync(`/sys/block/loop${number}/loop/backing_file`, 'utf8').replace(/\n$/, '');
  } catch {
    return undefined;
  }
}

/** Reads that a loop has served since it was attached (Documentation/block/stat.rst); undefined when it is detached. */
export async function loopReads(number: number): Promise<number | undefined> {
  const text = await readFile(`/sys/block/loop${number}/stat`, 'utf8').catch(() => '');
  const reads = Number(text.trim().split(/\s+/)[0]);
  return text === '' || !Number.isFinite(reads) ? undefined : reads;
}

// linux/loop.h
const LOOP_CLR_FD = 0x4c01;
const LOOP_GET_STATUS64 = 0x4c05;
const LOOP_CHANGE_FD = 0x4c06;
const LOOP_SET_DIRECT_IO = 0x4c08;
const LOOP_CONFIGURE = 0x4c0a;
const LOOP_CTL_ADD = 0x4c80;
const LOOP_CTL_GET_FREE = 0x4c82;
const LO_FLAGS_READ_ONLY = 1;
const LO_FLAGS_AUTOCLEAR = 4;
const LO_FLAGS_DIRECT_IO = 16;
const NAME_SIZE = 64;
/** struct loop_info64: 5 u64, 4 u32, lo_file_name at 56, lo_crypt_name, lo_encrypt_key, 2 u64. */
const INFO = { flags: 52, fileName: 56, size: 232 } as const;
/** struct loop_config: u32 fd, u32 block_size, struct loop_info64, 8 reserved u64. */
const CONFIG = { fd: 0, blockSize: 4, info: 8, size: 8 + INFO.size + 64 } as const;
/** EROFS images here have 512-byte blocks; with direct I/O the driver would else choose the disk's block size. */
const SECTOR = 512;

const MAX_ATTEMPTS = 200;
const DETACH_WAIT_MS = 2_000;
const DETACH_STEP_MS = 10;

const KNOWN = {
  ENXIO: { code: 'not-found', hint: 'the loop device is not configured' },
  ENODEV: { code: 'environment', hint: 'this kernel lacks loop devices: modprobe loop' },
  ENOTTY: { code: 'environment', hint: 'the kernel is older than 5.8 (LOOP_CONFIGURE)' },
  EINVAL: {
    code: 'environment',
    hint: 'the kernel is older than 5.8 (LOOP_CONFIGURE), or refuses this file',
  },
} as const;

const ioctlNumber = declare('ioctl', ['int', 'ulong', 'long']);
const ioctlPointer = declare('ioctl', ['int', 'ulong', 'void *']);

/** Opens a file whose descriptor the kernel gets; the file may lie on FUSE, so the open may take a while. */
async function openForKernel(file: string, attempted: string): Promise<FileHandle> {
  try {
    return await offLoop(() => open(file, constants.O_RDONLY));
  } catch (error) {
    throw explain(error, attempted);
  }
}

/**
 * Loop numbers that calls of this process are about to configure. The kernel names the same free number to all callers,
 * and all but one would have to ask again: sixty attaches side by side took fifty times as long as one after the other.
 */
const claimed = new Set<number>();

/**
 * A free number that no other call of this process takes: `claimed` holds it until it is configured or given up.
 * `taken`: numbers that other processes had when they were tried.
 */
async function freeLoop(taken: ReadonlySet<number>): Promise<Omit<LoopDevice, 'label'>> {
  let control: FileHandle;
  try {
    control = await open('/dev/loop-control', constants.O_RDWR);
  } catch (error) {
    throw explain(error, 'open of /dev/loop-control', {
      ENOENT: { code: 'environment', hint: 'this kernel lacks loop devices: modprobe loop' },
    });
  }
  try {
    const number = await callOffLoop(
      'ioctl(LOOP_CTL_GET_FREE)',
      ioctlNumber,
      control.fd,
      LOOP_CTL_GET_FREE,
      0,
    );
    // Where other calls of this process have claimed it: the next number that they left, made where its device is
    // missing.
    let own = number;
    // An open would keep a loop in use busy. The look is synchronous: with an await two calls would claim the same
    // number.
    const inUse = (n: number) => taken.has(n) || existsSync(`/sys/block/loop${n}/loop`);
    while (claimed.has(own) || (own !== number && inUse(own))) own++;
    claimed.add(own);
    if (own !== number) {
      try {
        await callOffLoop('ioctl(LOOP_CTL_ADD)', ioctlNumber, control.fd, LOOP_CTL_ADD, own);
      } catch (error) {
        if (!isErrno(error, 'EEXIST')) {
          claimed.delete(own);
          throw error;
        }
      }
    }
    return { number: own, path: `/dev/loop${own}` };
  } finally {
    await control.close();
  }
}

/**
 * 'taken': another process took the number first, is still making its device, or removed it; the caller asks for another one.
 */
async function configure(
  device: LoopDevice,
  backing: FileHandle,
  options: { directIo: boolean; labelBytes: Buffer },
): Promise<'configured' | 'taken'> {
  if (!(await ensureNode(device))) return 'taken';
  const config = Buffer.alloc(CONFIG.size);
  config.writeUInt32LE(backing.fd, CONFIG.fd);
  config.writeUInt32LE(SECTOR, CONFIG.blockSize);
  config.writeUInt32LE(
    LO_FLAGS_READ_ONLY | (options.directIo ? LO_FLAGS_DIRECT_IO : 0),
    CONFIG.info + INFO.flags,
  );
  options.labelBytes.copy(config, CONFIG.info + INFO.fileName);
  let handle: FileHandle;
  try {
    handle = await offLoop(() => open(device.path, constants.O_RDONLY));
  } catch (error) {
    if (isErrno(error, 'ENXIO', 'ENOENT', 'ENODEV', 'EBUSY')) return 'taken';
    throw error;
  }
  try {
    try {
      await callOffLoop('ioctl(LOOP_CONFIGURE)', ioctlPointer, handle.fd, LOOP_CONFIGURE, config);
    } catch (error) {
      if (isErrno(error, 'EBUSY', 'ENXIO', 'ENODEV')) return 'taken';
      throw error;
    }
    const status = await readStatus(handle.fd);
    if (options.directIo && status?.directIo !== true) {
      await callOffLoop('ioctl(LOOP_CLR_FD)', ioctlNumber, handle.fd, LOOP_CLR_FD, 0);
      throw new CofaError('unsupported', `${device.path}: the backing file cannot be read by direct I/O`, {
        hint: 'keep the cofa root on ext4, xfs or btrfs',
      });
    }
    return 'configured';
  } finally {
    await offLoop(() => handle.close());
  }
}

/**
 * Without udev or devtmpfs (a container's own /dev) no daemon makes the node of a new loop device. False where the kernel has no
 * such device: LOOP_CTL_ADD says EEXIST as soon as another process has begun to make it, and some milliseconds pass until it
 * is there (loop_add in drivers/block/loop.c).
 */
async function ensureNode(device: Omit<LoopDevice, 'label'>): Promise<boolean> {
  let numbers: string[];
  try {
    numbers = (await readFile(`/sys/block/loop${device.number}/dev`, 'utf8')).trim().split(':');
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENODEV')) return false;
    throw error;
  }
  try {
    const node = await stat(device.path);
    if (node.isBlockDevice()) return true;
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error;
  }
  try {
    await promisify(execFile)('mknod', ['-m', '0600', device.path, 'b', ...numbers]);
  } catch (error) {
    // udev was faster.
    if ((await stat(device.path).catch(() => undefined))?.isBlockDevice() === true) return true;
    throw new CofaError('environment', `${device.path} is missing and cannot be made`, { cause: error });
  }
  return true;
}

async function withLoop<T>(loop: LoopDevice, run: (fd: number) => Promise<T>): Promise<T> {
  const handle = await offLoop(() => open(loop.path, constants.O_RDONLY));
  try {
    return await run(handle.fd);
  } finally {
    await offLoop(() => handle.close()); // the last close of a cleared loop detaches it
  }
}

interface Info {
  label: string;
  directIo: boolean;
  readOnly: boolean;
  autoclear: boolean;
}

/**
 * A loop on a file of a FUSE mount whose server has ended: to tell a loop's status the kernel asks the file, and when
 * the file fails, the kernel keeps back the rest of the status.
 */
const NAMELESS: Info = { label: '', directIo: true, readOnly: true, autoclear: false };

/** Undefined when the device is not configured. */
async function readStatus(fd: number): Promise<Info | undefined> {
  const info = Buffer.alloc(INFO.size);
  try {
    await callOffLoop('ioctl(LOOP_GET_STATUS64)', ioctlPointer, fd, LOOP_GET_STATUS64, info);
  } catch (error) {
    if (isErrno(error, 'ENXIO')) return undefined;
    if (isErrno(error, 'ENOTCONN')) return NAMELESS;
    throw error;
  }
  const flags = info.readUInt32LE(INFO.flags);
  const name = info.subarray(INFO.fileName, INFO.fileName + NAME_SIZE);
  const end = name.indexOf(0);
  return {
    label: name.toString('utf8', 0, end < 0 ? NAME_SIZE : end),
    directIo: (flags & LO_FLAGS_DIRECT_IO) !== 0,
    readOnly: (flags & LO_FLAGS_READ_ONLY) !== 0,
    autoclear: (flags & LO_FLAGS_AUTOCLEAR) !== 0,
  };
}

async function ownStatus(fd: number, loop: LoopDevice): Promise<Info | undefined> {
  const status = await readStatus(fd);
  return status?.label === loop.label || status === NAMELESS ? status : undefined;
}

async function statusOf(
  number: number,
  wanted?: (backingFile: string) => boolean,
): Promise<LoopStatus | undefined> {
  const path = `/dev/loop${number}`;
  try {
    // The file is missing unless the loop is configured; most loops of a machine need no further look.
    const backingFile = (await readFile(`/sys/block/loop${number}/loop/backing_file`, 'utf8')).replace(
      /\n$/,
      '',
    );
    if (wanted?.(backingFile) === false) return undefined;
    const info = await withLoop({ number, path, label: '' }, readStatus);
    return info && { number, path, backingFile, ...info };
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENXIO', 'ENODEV')) return undefined;
    throw explain(error, `status of ${path}`, KNOWN);
  }
}
