/**
 * The parts of the FUSE kernel protocol that a read-only server of plain files needs (include/uapi/linux/fuse.h,
 * protocol 7.36 to 7.45). All numbers have the machine's byte order, which is little-endian on Linux wherever Node
 * runs; `assertByteOrder` refuses the rest.
 */
import { endianness } from 'node:os';
import { CofaError } from '../../schemas/errors.ts';

export const OP = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  OPEN: 14,
  READ: 15,
  STATFS: 17,
  RELEASE: 18,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
} as const;

/** Codes of messages that the server sends on its own account. */
export const NOTIFY = { INVAL_ENTRY: 3, RESEND: 7 } as const;

export const ERRNO = { ENOENT: 2, EIO: 5, ENODEV: 19, ENOTDIR: 20, EINVAL: 22, ENOSYS: 38 } as const;

/** The root folder's inode number, fixed by the protocol. */
export const ROOT = 1;

/** Largest read, bytes: 256 pages, the kernel's limit unless fs.fuse.max_pages_limit is raised. */
export const MAX_READ = 1 << 20;
export const PAGE = 4096;

/** struct fuse_in_header, byte offsets. The body follows at `size`. */
export const IN = { length: 0, opcode: 4, unique: 8, inode: 16, size: 40 } as const;
/** struct fuse_out_header, byte offsets: u32 length, i32 -errno (of a notification: its code), u64 unique (or 0). */
export const OUT = { length: 0, error: 4, unique: 8, size: 16 } as const;
/** struct fuse_read_in, byte offsets in the request. READDIR has the same. */
export const READ_IN = { offset: IN.size + 8, length: IN.size + 16 } as const;

/** Sizes of reply bodies, bytes. */
export const BODY = { entry: 128, attr: 104, open: 16, statfs: 80, init: 64 } as const;

/**
 * A request without data is small; the longest that comes here is a BATCH_FORGET or a LOOKUP. The kernel refuses
 * read(2) with less room than 8192 bytes, and than `max_write` (4096 here) with its headers.
 */
export const REQUEST_ROOM = 16_384;

/** Flags of INIT; those above bit 31 travel in a second word. */
const INIT_FLAGS = {
  ASYNC_READ: 1 << 0,
  /**
   * The kernel splits one direct read into many requests at once. Without it a loop reads one piece after the other.
   */
  ASYNC_DIO: 1 << 15,
  PARALLEL_DIROPS: 1 << 18,
  MAX_PAGES: 1 << 22,
  /** Unless the server returns this flag the kernel ignores the second word. */
  INIT_EXT: 1 << 30,
} as const;
const INIT_FLAGS2 = {
  /** FUSE_HAS_RESEND, bit 39: the kernel knows NOTIFY.RESEND (6.9 and newer). */
  HAS_RESEND: 1 << 7,
} as const;

/**
 * Requests that the kernel keeps in flight in the background (readahead and direct I/O). The number caps the cold reads
 * that wait side by side; the kernel's own 12 would make sixteen of them take twice as long.
 */
const MAX_BACKGROUND = 256;
const NEWEST_MINOR = 40;
const OLDEST_MINOR = 36;

/**
 * The reply to an INIT request, and whether the kernel can resend. Throws `environment` for a kernel whose protocol is
 * too old.
 */
export function answerInit(request: Buffer): { reply: Buffer; resend: boolean } {
  if (request.length < IN.size + 16 || request.readUInt32LE(IN.opcode) !== OP.INIT)
    throw new CofaError('environment', 'the kernel does not begin with FUSE INIT');
  const [major, minor, readahead, flags] = [0, 4, 8, 12].map((at) => request.readUInt32LE(IN.size + at)) as [
    number,
    number,
    number,
    number,
  ];
  if (major !== 7 || minor < OLDEST_MINOR)
    throw new CofaError(
      'environment',
      `the kernel speaks FUSE ${major}.${minor}; 7.${OLDEST_MINOR} is needed`,
      {
        hint: 'use Linux 6.4 or newer',
      },
    );
  const extended = (flags & INIT_FLAGS.INIT_EXT) !== 0 && request.length >= IN.size + 20;
  const flags2 = extended ? request.readUInt32LE(IN.size + 16) : 0;
  const reply = Buffer.alloc(OUT.size + BODY.init); // struct fuse_init_out
  reply.writeUInt32LE(reply.length, OUT.length);
  request.copy(reply, OUT.unique, IN.unique, IN.unique + 8);
  const at = OUT.size;
  reply.writeUInt32LE(7, at);
  reply.writeUInt32LE(Math.min(minor, NEWEST_MINOR), at + 4);
  reply.writeUInt32LE(Math.max(readahead, MAX_READ), at + 8);
  reply.writeUInt32LE(take(flags, INIT_FLAGS), at + 12);
  reply.writeUInt16LE(MAX_BACKGROUND, at + 16);
  reply.writeUInt16LE((MAX_BACKGROUND * 3) / 4, at + 18); // congestion threshold
  reply.writeUInt32LE(PAGE, at + 20); // max_write: there are no writes
  reply.writeUInt32LE(1, at + 24); // time granularity, ns
  reply.writeUInt16LE(MAX_READ / PAGE, at + 28);
  const taken2 = take(flags2, INIT_FLAGS2);
  reply.writeUInt32LE(taken2, at + 32);
  return { reply, resend: (taken2 & INIT_FLAGS2.HAS_RESEND) !== 0 };
}

function take(offered: number, wanted: Record<string, number>): number {
  return Object.values(wanted).reduce((taken, flag) => taken | (offered & flag), 0) >>> 0;
}

/**
 * A notification without a body that makes the kernel ask again for every request that was taken and never answered.
 */
export function resendNotification(): Buffer {
  const bytes = Buffer.alloc(OUT.size);
  bytes.writeUInt32LE(bytes.length, OUT.length);
  bytes.writeInt32LE(NOTIFY.RESEND, OUT.error);
  return bytes;
}

/** A notification that makes the kernel forget a name in the root folder (struct fuse_notify_inval_entry_out). */
export function forgetNameNotification(name: string): Buffer {
  const bytes = Buffer.alloc(OUT.size + 16 + name.length + 1);
  bytes.writeUInt32LE(bytes.length, OUT.length);
  bytes.writeInt32LE(NOTIFY.INVAL_ENTRY, OUT.error);
  bytes.writeUInt32LE(ROOT, OUT.size);
  bytes.writeUInt32LE(name.length, OUT.size + 8);
  bytes.write(name, OUT.size + 16, 'latin1');
  return bytes;
}

export function assertByteOrder(): void {
  if (endianness() !== 'LE')
    throw new CofaError('environment', 'the FUSE transport needs a little-endian machine');
}
