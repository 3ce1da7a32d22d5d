/**
 * Compares blocks of a layer device with the layer's span table, as the disk has them now. The page cache may well hold
 * what the disk has lost, so it is passed by: O_DIRECT writes back what is dirty and reads the rest from the disk. Where a
 * file system has no direct I/O, the pages are dropped first.
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { addBlock, type BlockRun, blockRuns } from '../../actors/ranges.ts';
import type { ScrubJob } from '../../schemas/fetch.ts';
import { NativeBuffer } from '../image/native.ts';
import type { SpanTable } from '../image/span-table.ts';
import { errnoOf, isErrno } from '../kernel/errno.ts';
import { dropPages } from '../kernel/page-cache.ts';
import { deviceSize } from '../store/device.ts';
import type { Layout } from '../store/layout.ts';
import type { SpanTables } from './fetch-job.ts';
import type { Gate } from './gate.ts';

/** Read at once; hashing them takes half a millisecond, after which others have a turn. */
const CHUNK_BLOCKS = 16;
/** Direct I/O needs memory and lengths that are multiples of the disk's sectors. */
const ALIGNMENT = 4096;
/** What a disk, or a file system with checksums, says of bytes that it cannot give. */
const UNREADABLE = new Set(
  Object.values({ EIO: 5, ENODATA: 61, EBADMSG: 74, EILSEQ: 84, EUCLEAN: 117, EREMOTEIO: 121 }),
);

/** What is to be compared. */
export type BlockCheck = Pick<ScrubJob, 'layer' | 'blob' | 'table' | 'ranges'>;

export interface ScrubContext {
  layout: Layout;
  tables: SpanTables;
  signal: AbortSignal;
  /** While it is shut nothing is read; absent: it never is. */
  gate?: Gate;
}

/**
 * The blocks whose bytes are not the layer's, or cannot be read. A device that is not there
 * has none. Errors: `integrity` when the span table is another layer's.
 */
export async function checkBlocks(job: BlockCheck, context: ScrubContext): Promise<BlockRun[]> {
  const table = await context.tables.of(job.table ?? job.blob, job.layer);
  const device = await openDirect(context.layout.device(job.layer));
  const bad: BlockRun[] = [];
  const buffer = alignedBuffer(CHUNK_BLOCKS * table.blockSize);
  try {
    for (const [first, count] of blockRuns(job.ranges)) {
      for (let block = first; block < first + count; block += CHUNK_BLOCKS) {
        await context.gate?.opening;
        context.signal.throwIfAborted();
        const blocks = Math.min(CHUNK_BLOCKS, first + count - block);
        const right = device === undefined ? [] : await rightBlocks(device, table, block, blocks, buffer);
        for (let at = 0; at < blocks; at++) if (right[at] !== true) addBlock(bad, block + at);
      }
    }
  } finally {
    await device?.file.close();
  }
  return bad;
}

interface Device {
  file: FileHandle;
  isDirect: boolean;
}

async function openDirect(path: string): Promise<Device | undefined> {
  const { O_RDONLY, O_DIRECT } = constants;
  try {
    return { file: await open(path, O_RDONLY | O_DIRECT), isDirect: true };
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    if (!isErrno(error, 'EINVAL')) throw error;
    return { file: await open(path, O_RDONLY), isDirect: false };
  }
}

/** For each of `count` blocks whether it is right. */
async function rightBlocks(
  device: Device,
  table: SpanTable,
  first: number,
  count: number,
  buffer: Buffer,
): Promise<boolean[]> {
  const { blockSize } = table;
  const from = first * blockSize;
  let length: number;
  try {
    length = await readAt(device, buffer, from, count * blockSize);
  } catch (error) {
    if (!UNREADABLE.has(errnoOf(error) ?? 0)) throw error;
    if (count === 1) return [false];
    // Which of them is it?
    const each: boolean[] = [];
    for (let at = 0; at < count; at++)
      each.push(...(await rightBlocks(device, table, first + at, 1, buffer)));
    return each;
  }
  return Array.from({ length: count }, (_, at) => {
    const start = at * blockSize;
    const size = table.blockLength(first + at);
    const end = Math.min(start + blockSize, deviceSize(table.rawSize) - from);
    if (length < end) return false;
    // The device is padded with zeros, which the kernel reads too.
    const isPadded = buffer.subarray(start + size, end).every((byte) => byte === 0);
    return isPadded && table.verify(first + at, buffer.subarray(start, start + size));
  });
}

/** Reads up to `length` bytes; fewer at the end of the file alone. */
async function readAt(
  { file, isDirect }: Device,
  buffer: Buffer,
  from: number,
  length: number,
): Promise<number> {
  if (!isDirect) await dropPages(file.fd, from, length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(buffer, done, length - done, from + done);
    done += bytesRead;
    // That was the end; a direct read could not go on from there.
    if (bytesRead === 0 || done % ALIGNMENT !== 0) break;
  }
  return done;
}

function alignedBuffer(size: number): Buffer {
  const whole = new NativeBuffer(size + ALIGNMENT, false);
  const past = Number(whole.address % BigInt(ALIGNMENT));
  const start = past === 0 ? 0 : ALIGNMENT - past;
  return whole.bytes.subarray(start, start + size);
}
