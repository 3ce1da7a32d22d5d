/**
 * What a tar holds beside the data of its files, in the format of tar-split (github.com/vbatts/tar-split, tar/storage/entry.go):
 * with it and the unpacked files a program of containers/storage writes the very tar again. JSON, one entry a line:
 *
 *     {"type":2,"payload":"<base64>","position":0}                          bytes of the tar: headers, padding, the end
 *     {"type":1,"name":"etc/os","size":9,"payload":"<base64>","position":1} the data of this file, with their CRC-64
 *
 * The reader opens a file by its name in the tar and refuses data with another checksum, and a name that comes twice. So a
 * file's data are an entry of their own only where the unpacked tree has them under that name: ordinary files, the last
 * ones of their name. All other data stand among the bytes.
 */
import { posix } from 'node:path';
import { Digest } from '../digest/digest.ts';
import { TarReader } from './tar.ts';

/** Reads the tar from its beginning, as often as it is called. */
export type ReadTar = () => AsyncIterable<Buffer>;

/** The data of a file, as bytes of the tar. */
interface Body {
  name: Buffer;
  from: number;
  to: number;
}

/** Bytes of the tar in one entry. */
const SEGMENT = 1 << 20;

/**
 * Writes the entries of a tar; resolves with its digest. The caller compares that with the one that it wants, since the tar is
 * read twice: `undefined` where the two differ. Errors: `integrity` where it is no tar.
 */
export async function splitTar(
  read: ReadTar,
  write: (text: string) => Promise<void>,
): Promise<string | undefined> {
  const { bodies, digest } = await listBodies(read);
  const entries = new Entries(write);
  const hash = new Digest();
  let at = 0;
  let next = 0;
  for await (const chunk of read()) {
    hash.update(chunk);
    for (let from = 0; from < chunk.length; ) {
      const body = bodies[next];
      const isData = body !== undefined && at >= body.from;
      const end = body === undefined ? Number.POSITIVE_INFINITY : isData ? body.to : body.from;
      const to = Math.min(chunk.length, from + end - at);
      const part = chunk.subarray(from, to);
      if (isData) entries.data(part);
      else await entries.bytes(part);
      at += to - from;
      from = to;
      if (isData && at === body.to) {
        await entries.file(body);
        next += 1;
      }
    }
  }
  await entries.end();
  return hash.end() === digest ? digest : undefined;
}

/** The bodies that the unpacked tree has, in order. */
async function listBodies(read: ReadTar): Promise<{ bodies: Body[]; digest: string }> {
  const hash = new Digest();
  /** The last member of each name. */
  const last = new Map<string, number>();
  const files: Array<Body & { member: number; path: string }> = [];
  let member = 0;
  const reader = new TarReader(({ type, typeflag, name, size, dataOffset, fragments }) => {
    // As the bytes are: names need not be UTF-8.
    const path = posix.resolve('/', name.toString('latin1'));
    last.set(path, member);
    const isPlain = type === 'file' && fragments === undefined && (typeflag === REGULAR || typeflag === 0);
    if (isPlain && size > 0 && !posix.basename(path).startsWith(WHITEOUT))
      files.push({ name, from: dataOffset, to: dataOffset + size, member, path });
    member += 1;
    return [];
  });
  for await (const chunk of read()) {
    hash.update(chunk);
    reader.push(chunk);
  }
  reader.finish();
  const bodies = files.filter(({ path, member }) => last.get(path) === member);
  return { bodies, digest: hash.end() };
}

const REGULAR = 0x30;
const WHITEOUT = '.wh.';

class Entries {
  readonly #write: (text: string) => Promise<void>;
  #position = 0;
  #pieces: Buffer[] = [];
  #size = 0;
  #crc = new Crc64();

  constructor(write: (text: string) => Promise<void>) {
    this.#write = write;
  }

  async bytes(part: Buffer): Promise<void> {
    // A copy: the reader may use its buffer again.
    this.#pieces.push(Buffer.from(part));
    this.#size += part.length;
    if (this.#size >= SEGMENT) await this.#flush();
  }

  data(part: Buffer): void {
    this.#crc.update(part);
  }

  async file({ name, from, to }: Body): Promise<void> {
    await this.#flush();
    const text = name.toString('utf8');
    const named = Buffer.from(text).equals(name) ? { name: text } : { name_raw: name.toString('base64') };
    await this.#entry({ type: 1, ...named, size: to - from, payload: this.#crc.end().toString('base64') });
    this.#crc = new Crc64();
  }

  async end(): Promise<void> {
    await this.#flush();
  }

  async #flush(): Promise<void> {
    if (this.#size === 0) return;
    const payload = Buffer.concat(this.#pieces).toString('base64');
    this.#pieces = [];
    this.#size = 0;
    await this.#entry({ type: 2, payload });
  }

  async #entry(entry: object): Promise<void> {
    await this.#write(`${JSON.stringify({ ...entry, position: this.#position++ })}\n`);
  }
}

/** CRC-64 of ISO 3309, as Go's hash/crc64 computes it (reflected polynomial 0xD800000000000000). */
export class Crc64 {
  #high = 0xffff_ffff;
  #low = 0xffff_ffff;

  update(bytes: Uint8Array): void {
    let high = this.#high;
    let low = this.#low;
    for (let at = 0; at < bytes.length; at++) {
      // The polynomial is so short that the table's low words are 0.
      const word = TABLE[(low ^ (bytes[at] as number)) & 0xff] as number;
      low = (low >>> 8) | (high << 24);
      high = (high >>> 8) ^ word;
    }
    this.#high = high;
    this.#low = low;
  }

  /** Eight bytes, the highest first. */
  end(): Buffer {
    const bytes = Buffer.alloc(8);
    bytes.writeUInt32BE(~this.#high >>> 0, 0);
    bytes.writeUInt32BE(~this.#low >>> 0, 4);
    return bytes;
  }
}

/** High words. */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let high = 0;
  let low = byte;
  for (let bit = 0; bit < 8; bit++) {
    const isOdd = (low & 1) === 1;
    low = (low >>> 1) | ((high & 1) << 31);
    high = (high >>> 1) ^ (isOdd ? 0xd800_0000 : 0);
  }
  return high >>> 0;
});
