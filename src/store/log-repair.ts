/**
 * The end of the event log after a power cut, before the private nats-server sees it. A file that is cut in the middle of
 * a record is mended by nats-server itself. A last record whose bytes are there and wrong (zeros where data had not come
 * to the disk) it cuts off, too, but keeps its sequence: what it acknowledges afterwards cannot be read any more (seen with
 * 2.9.10; server/filestore.go, rebuildState). So such an end is cut off here. The hashes are not computed: of bytes that are
 * missing only in the middle of the last record's hash nothing is seen.
 *
 * A record in a message file, little-endian (server/filestore.go, writeMsgRecord):
 *
 *     u32 length, with 1 << 31 for NATS headers · u64 sequence · i64 time, ns · u16 length of the subject
 *     subject · with headers: u32 their length, they · message · 8 bytes of hash
 */
import { open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { STREAM } from '../../schemas/subjects.ts';
import { decode } from '../bus/connection.ts';
import { streamFolder } from './nats-files.ts';

const HEADER = 22;
const HASH = 8;
const HAS_HEADERS = 0x8000_0000;
/** Sequences with these bits are of removed records, which are not looked into. */
const REMOVED = 0b11n << 62n;
/** Records so near the end, bytes, are looked into: what is missing are pages that were written last. */
const DOUBTFUL = 1 << 20;

/** Cuts off what is no record. `folder`: `store_dir`. Returns how many bytes went, 0 as a rule. */
export async function repairLogEnd(folder: string): Promise<number> {
  const messages = join(streamFolder(folder, STREAM), 'msgs');
  const names = await readdir(messages).catch(() => []);
  const numbers = names.flatMap((name) => (name.endsWith('.blk') ? [Number.parseInt(name, 10)] : []));
  if (numbers.length === 0) return 0;
  const last = Math.max(...numbers);
  const file = await open(join(messages, `${last}.blk`), 'r+');
  try {
    const bytes = await file.readFile();
    const end = endOfRecords(bytes);
    // A file without any record is left to nats-server, which takes the sequence from its index.
    if (end === bytes.length || end === 0) return 0;
    await file.truncate(end);
    await file.datasync();
    // The index is of the file as it was; nats-server makes it anew.
    await rm(join(messages, `${last}.idx`), { force: true });
    return bytes.length - end;
  } finally {
    await file.close();
  }
}

/** Where the last record ends that is one. */
export function endOfRecords(bytes: Buffer): number {
  let before = 0n;
  for (let at = 0; at < bytes.length; ) {
    const length = recordAt(bytes, at, before);
    if (length === 0) return at;
    const sequence = bytes.readBigUInt64LE(at + 4);
    if ((sequence & REMOVED) === 0n) before = sequence;
    at += length;
  }
  return bytes.length;
}

/** The length of the record at `at`, 0 where there is none. */
function recordAt(bytes: Buffer, at: number, before: bigint): number {
  if (at + HEADER + HASH > bytes.length) return 0;
  const first = bytes.readUInt32LE(at);
  const hasHeaders = first >= HAS_HEADERS;
  const length = hasHeaders ? first - HAS_HEADERS : first;
  const subject = bytes.readUInt16LE(at + 20);
  const body = at + HEADER + subject;
  const end = at + length - HASH;
  if (end + HASH > bytes.length || body > end) return 0;
  const sequence = bytes.readBigUInt64LE(at + 4);
  if ((sequence & REMOVED) !== 0n || bytes.length - at > DOUBTFUL) return length;
  if (sequence <= before || subject === 0 || bytes.readBigInt64LE(at + 12) <= 0n) return 0;
  if (bytes.readBigUInt64LE(end) === 0n) return 0;
  let message = body;
  if (hasHeaders) {
    if (body + 4 > end) return 0;
    message += 4 + bytes.readUInt32LE(body);
    if (message > end || bytes.toString('latin1', body + 4, body + 12) !== 'NATS/1.0') return 0;
    if (bytes.toString('latin1', message - 4, message) !== '\r\n\r\n') return 0;
  }
  try {
    decode(bytes.subarray(message, end));
    return length;
  } catch {
    return 0;
  }
}
