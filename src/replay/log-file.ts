/**
 * An exported event log: one file that can be carried anywhere. All numbers are little-endian.
 *
 *   "cofa-log", version (4 bytes), then sections:
 *     type (1 byte), length before compression (4), length (4), CRC-32 of type, lengths and content (4), content (zstd)
 *   H  header: a msgpack map, see LogHeader; always the first
 *   S  the state in front of the first event (src/store/node-codec.ts); only where the log does not begin with nothing
 *   E  events: a frame (frames.ts); any number
 *   p  file paths of blocks that traces name, for `why`
 *   g  shapes of layers (shapes.ts), for `what-if`
 *   T  trailer: number of events, first and last sequence and time, SHA-256 of everything before it; always the last
 *
 * A reader skips unknown sections with small letters; it refuses unknown capital ones, and another version. The file is
 * written in one pass, so the trailer stands at the end: a file without it was cut off.
 */
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { constants, crc32, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { Packr } from 'msgpackr';
import { CofaError } from '../../schemas/errors.ts';
import { decodeFrame, FrameBuilder, MAX_FRAME_BYTES } from './frames.ts';
import type { RawRecord } from './record.ts';
import { decodeNodeState, encodeNodeState } from '../store/node-codec.ts';
import { type Beginning, emptyBeginning } from './replay-log.ts';
import type { ShapesRecord } from './shapes.ts';
import type { FrameLoader } from './timeline.ts';
import { noNewFile } from './new-file.ts';

export const LOG_FORMAT = 1;
const MAGIC = Buffer.from('cofa-log');
const SECTION_HEAD = 13;
/** Bytes of a state: 2^26 blocks are 8 MiB of bits. It is unpacked to a byte for each bit. */
const MAX_STATE_BYTES = 2 ** 26;

const packr = new Packr({
  useRecords: false,
  mapsAsObjects: true,
  variableMapSize: true,
  int64AsType: 'number',
});

export interface LogHeader {
  node: string;
  /** Version of the cofa that wrote the file. */
  cofa: string;
  /** When it was written, ms since the epoch. */
  exportedAt: number;
  /** Only the events of this image or mount; absent: all. */
  image?: string;
  mount?: string;
  /** Where the state in front of the first event ends, and why the log does not begin earlier. */
  beginning?: { seq: number; at: number; reason: 'from' | 'retention' };
}

/** What the trailer says. */
export interface LogSummary {
  events: number;
  firstSeq?: number;
  lastSeq?: number;
  /** ms since the epoch */
  firstAt?: number;
  lastAt?: number;
}

/** Paths by layer: `[block, paths]`. */
export type BlockPaths = Record<string, Array<[block: number, paths: string[]]>>;

/** Writes FILE whole or not at all. */
export class LogFileWriter {
  readonly #path: string;
  readonly #draft: string;
  readonly #file: FileHandle;
  readonly #digest = createHash('sha256');
  readonly #frame = new FrameBuilder();
  readonly #summary: LogSummary = { events: 0 };
  #bytes = 0;

  private constructor(path: string, draft: string, file: FileHandle) {
    this.#path = path;
    this.#draft = draft;
    this.#file = file;
  }

  /** Error: `conflict` where the file exists, unless `replace`; those of the file system. */
  static async create(
    path: string,
    header: LogHeader,
    options: { beginning?: Beginning; replace?: boolean } = {},
  ): Promise<LogFileWriter> {
    const known = await stat(path).catch(() => undefined);
    if (known?.isDirectory() === true)
      throw new CofaError('invalid-argument', `${path} is a directory`, { hint: 'name a file' });
    if (known !== undefined && options.replace !== true)
      throw new CofaError('conflict', `${path} exists already`, { hint: 'choose another name, or --force' });
    const draft = `${path}.${process.pid}.draft`;
    const file = await open(draft, 'w', 0o600).catch((cause: unknown) => {
      throw noNewFile(path, cause);
    });
    const writer = new LogFileWriter(path, draft, file);
    try {
      const start = Buffer.alloc(MAGIC.length + 4);
      MAGIC.copy(start);
      start.writeUInt32LE(LOG_FORMAT, MAGIC.length);
      await writer.#write(start);
      await writer.#section('H', packr.pack(header));
      if (options.beginning !== undefined)
        await writer.#section('S', encodeNodeState(options.beginning.state));
      return writer;
    } catch (error) {
      await writer.abandon();
      throw error;
    }
  }

  get bytes(): number {
    return this.#bytes;
  }

  get summary(): LogSummary {
    return { ...this.#summary };
  }

  /** `at`: of the event, ms. */
  async add(record: RawRecord, at: number): Promise<void> {
    const summary = this.#summary;
    summary.events += 1;
    summary.firstSeq ??= record.seq;
    summary.firstAt ??= at;
    summary.lastSeq = record.seq;
    summary.lastAt = at;
    this.#frame.add(record);
    if (this.#frame.isFull) await this.#section('E', this.#frame.take());
  }

  /** Writes the rest, syncs the file and gives it its name. */
  async finish(paths: BlockPaths = {}, shapes?: ShapesRecord): Promise<LogSummary> {
    try {
      if (this.#frame.count > 0) await this.#section('E', this.#frame.take());
      if (Object.keys(paths).length > 0) await this.#section('p', packr.pack(paths));
      if (shapes !== undefined && Object.keys(shapes.tables).length > 0) {
        const packed = packr.pack(shapes);
        if (packed.length <= MAX_FRAME_BYTES) await this.#section('g', packed);
      }
      const sha256 = this.#digest.copy().digest();
      await this.#section('T', packr.pack({ ...this.#summary, sha256 }));
      await this.#file.sync();
      await this.#file.close();
      await rename(this.#draft, this.#path);
      return this.summary;
    } catch (error) {
      await this.abandon();
      throw error;
    }
  }

  /** Removes the unfinished file. */
  async abandon(): Promise<void> {
    await this.#file.close().catch(() => {});
    await rm(this.#draft, { force: true });
  }

  async #section(type: string, content: Buffer): Promise<void> {
    const packed = zstdCompressSync(content, { params: { [constants.ZSTD_c_compressionLevel]: 6 } });
    const head = Buffer.alloc(SECTION_HEAD);
    head.write(type, 0, 'latin1');
    head.writeUInt32LE(content.length, 1);
    head.writeUInt32LE(packed.length, 5);
    head.writeUInt32LE(crc32(packed, crc32(head.subarray(0, 9))), 9);
    await this.#write(Buffer.concat([head, packed]));
  }

  async #write(bytes: Buffer): Promise<void> {
    this.#digest.update(bytes);
    this.#bytes += bytes.length;
    for (let at = 0; at < bytes.length; ) at += (await this.#file.write(bytes, at)).bytesWritten;
  }
}

export interface LogFrame {
  records: RawRecord[];
  /** Reads the frame again; for as long as the file is open. */
  load: FrameLoader;
}

export interface ReadOptions {
  /** Take what is whole of a damaged file; `damage` says what is wrong with it. */
  partial?: boolean;
  /** Bytes read, bytes of the file. */
  onProgress?: (done: number, total: number) => void;
}

/** An exported log, open for reading. Errors: `integrity` when damaged, `unsupported` when of a later format. */
export class LogFileReader {
  readonly path: string;
  readonly size: number;
  readonly header: LogHeader;
  readonly beginning: Beginning;
  /** After `frames` has ended. */
  summary: LogSummary | undefined;
  paths: BlockPaths = {};
  /** As `shapesOfRecord` takes it; undefined: the file has none. */
  shapes: unknown;
  /** Why the rest was left out, with `partial`. */
  damage: string | undefined;
  readonly #fd: number;
  readonly #digest = createHash('sha256');
  #at: number;
  #events = 0;
  #lastSeq = 0;
  /** The first section behind header and state. */
  #next: Section | undefined;

  /** Errors: also `not-found`, `invalid-argument` where it is another kind of file. */
  static open(path: string): LogFileReader {
    let fd: number;
    try {
      fd = openSync(path, 'r');
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ENOTDIR')
        throw new CofaError('not-found', `there is no file ${path}`, { cause, hint: 'check its name' });
      throw cause;
    }
    try {
      return new LogFileReader(path, fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
    const stats = fstatSync(fd);
    if (!stats.isFile())
      throw new CofaError('invalid-argument', `${path} is not a regular file`, {
        hint: 'name an exported log',
      });
    this.size = stats.size;
    const start = this.#start();
    this.#digest.update(start);
    this.#at = start.length;
    const head = this.#section();
    if (head.type !== 'H') throw this.#fault('it has no header');
    this.header = this.#map(head) as unknown as LogHeader;
    if (typeof this.header.node !== 'string') throw this.#fault('its header names no node');
    const { seq = 0, at = 0 } = this.header.beginning ?? {};
    const next = this.#section();
    if (next.type === 'S') this.beginning = { seq, at, state: decodeNodeState(next.load()) };
    else {
      this.#next = next;
      this.beginning = { ...emptyBeginning(), seq, at };
    }
    this.#lastSeq = this.beginning.seq;
  }

  /** The bytes in front of the first section. */
  #start(): Buffer {
    const start = Buffer.alloc(MAGIC.length + 4);
    const got = readSync(this.#fd, start, 0, start.length, 0);
    const magic = Math.min(got, MAGIC.length);
    if (!start.subarray(0, magic).equals(MAGIC.subarray(0, magic)))
      throw new CofaError('invalid-argument', `${this.path} is not an exported event log`, {
        hint: 'such a file is made by: cofa events export FILE',
      });
    if (got < start.length) throw this.#cut();
    const version = start.readUInt32LE(MAGIC.length);
    if (version !== LOG_FORMAT)
      throw new CofaError(
        'unsupported',
        `${this.path} has format ${version}; this cofa reads ${LOG_FORMAT}`,
        {
          hint: 'use the cofa that wrote it, or a later one',
        },
      );
    return start;
  }

  /** All events, frame by frame. Call it once. */
  *frames(options: ReadOptions = {}): IterableIterator<LogFrame> {
    try {
      for (;;) {
        const section = this.#next ?? this.#section();
        this.#next = undefined;
        options.onProgress?.(this.#at, this.size);
        if (section.type === 'T') {
          this.#finish(section);
          return;
        }
        if (section.type === 'p') this.paths = this.#map(section) as BlockPaths;
        else if (section.type === 'g') this.shapes = this.#map(section);
        else if (section.type === 'E') yield this.#frame(section);
        else if (section.type !== section.type.toLowerCase())
          throw new CofaError(
            'unsupported',
            `${this.path} has a part ${section.type} that this cofa does not know`,
            {
              hint: 'use the cofa that wrote it, or a later one',
            },
          );
      }
    } catch (error) {
      if (options.partial !== true || !(error instanceof CofaError) || error.code !== 'integrity')
        throw error;
      this.damage = error.message;
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  #frame(section: Section): LogFrame {
    let records: RawRecord[];
    try {
      records = decodeFrame(section.load());
    } catch (cause) {
      throw cause instanceof CofaError ? this.#fault(cause.message, cause) : cause;
    }
    for (const { seq } of records) {
      if (seq <= this.#lastSeq) throw this.#fault(`event ${seq} comes after event ${this.#lastSeq}`);
      this.#lastSeq = seq;
    }
    this.#events += records.length;
    return { records, load: section.load };
  }

  #finish(section: Section): void {
    const { sha256, ...summary } = this.#map(section) as unknown as LogSummary & { sha256: Uint8Array };
    if (!Buffer.from(sha256 ?? []).equals(section.before())) throw this.#fault('its checksum is another');
    if (summary.events !== this.#events)
      throw this.#fault(`it holds ${this.#events} events and says ${summary.events}`);
    if (this.#at !== this.size) throw this.#fault('there is something behind its end');
    this.summary = summary;
  }

  #map(section: Section): Record<string, unknown> {
    try {
      const map: unknown = packr.unpack(section.load());
      if (typeof map === 'object' && map !== null) return map as Record<string, unknown>;
    } catch (cause) {
      throw this.#fault(`its part ${section.type} cannot be read`, cause);
    }
    throw this.#fault(`its part ${section.type} cannot be read`);
  }

  #section(): Section {
    if (this.#at === this.size) throw this.#cut();
    const head = this.#bytes(this.#at, SECTION_HEAD);
    const type = head.toString('latin1', 0, 1);
    const [length, packedLength, crc] = [head.readUInt32LE(1), head.readUInt32LE(5), head.readUInt32LE(9)];
    const at = this.#at + SECTION_HEAD;
    const limit = type === 'S' ? MAX_STATE_BYTES : MAX_FRAME_BYTES;
    if (!/[A-Za-z]/.test(type) || length > limit) throw this.#fault(`there is no part at byte ${this.#at}`);
    const packed = this.#bytes(at, packedLength);
    if (crc32(packed, crc32(head.subarray(0, 9))) !== crc)
      throw this.#fault(`the part at byte ${this.#at} is not as it was written`);
    const before = this.#digest.copy();
    this.#digest.update(head).update(packed);
    this.#at = at + packedLength;
    const load = (): Buffer => {
      try {
        const content = zstdDecompressSync(this.#bytes(at, packedLength), {
          maxOutputLength: Math.max(1, length),
        });
        if (content.length === length) return content;
      } catch (cause) {
        throw this.#fault(`the part at byte ${at - SECTION_HEAD} cannot be unpacked`, cause);
      }
      throw this.#fault(`the part at byte ${at - SECTION_HEAD} has another length`);
    };
    return { type, load, before: () => before.digest() };
  }

  #bytes(at: number, length: number): Buffer {
    if (at + length > this.size) throw this.#cut();
    const bytes = Buffer.allocUnsafe(length);
    for (let got = 0; got < length; ) {
      const more = readSync(this.#fd, bytes, got, length - got, at + got);
      if (more === 0) throw this.#cut();
      got += more;
    }
    return bytes;
  }

  #cut(): CofaError {
    const whole = this.#events > 0 ? `; its first ${this.#events} events are whole` : '';
    return new CofaError('integrity', `${this.path} is cut off${whole}`, { hint: DAMAGE_HINT });
  }

  #fault(what: string, cause?: unknown): CofaError {
    return new CofaError('integrity', `${this.path} is damaged: ${what}`, { hint: DAMAGE_HINT, cause });
  }
}

const DAMAGE_HINT = 'copy or export it again; --partial shows what is whole of it';

interface Section {
  type: string;
  load: () => Buffer;
  /** SHA-256 of everything in front of it. */
  before: () => Buffer;
}
