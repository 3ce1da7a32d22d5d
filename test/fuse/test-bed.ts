/** What every FUSE test stands on: a mount that is aborted at the end whatever happens, and layers to serve. */
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { abortConnection, connectionOf } from '../../src/fuse/connection.ts';
import {
  BLOCK_ABSENT,
  BLOCK_PRESENT,
  type ColdRead,
  type DeviceFile,
  type FuseTransport,
  inodeOf,
} from '../../src/fuse/transport.ts';
import { attachLoop, detachLoop, type LoopDevice } from '../../src/kernel/loop.ts';
import { setReadAhead } from '../../src/kernel/read-ahead.ts';
import { Cleanup } from '../support/temp.ts';

export const BLOCK = 65_536;

export interface Served {
  transport: FuseTransport;
  connection: number;
  /** Ends the mount; errors are reported. */
  close(): Promise<void>;
}

/** Mounts at an existing folder and serves nothing yet. */
export type Serve = (target: string, cold: ColdRead) => Promise<Served>;

/** A layer: its true bytes in one file, and the sparse device file that fills as blocks are fetched. */
export class Layer {
  readonly truth: string;
  readonly device: string;
  readonly file: DeviceFile;
  readonly #states: Uint8Array;
  readonly #truthFd: number;
  readonly #deviceFd: number;

  constructor(folder: string, name: string, size: number) {
    this.truth = join(folder, `${name.slice(0, 12)}.truth`);
    this.device = join(folder, `${name.slice(0, 12)}.device`);
    this.#truthFd = openSync(this.truth, 'r');
    this.#deviceFd = openSync(this.device, 'r+');
    const blocks = new SharedArrayBuffer(Math.ceil(size / BLOCK));
    this.#states = new Uint8Array(blocks);
    this.file = { name, inode: inodeOf(name), size, fd: this.#deviceFd, blockSize: BLOCK, blocks };
  }

  get blockCount(): number {
    return this.#states.length;
  }

  /** Writes the blocks of a range, and only then marks them present. */
  fetch(offset = 0, length = this.file.size): void {
    const buffer = Buffer.alloc(BLOCK);
    for (let block = Math.floor(offset / BLOCK); block * BLOCK < offset + length; block++) {
      const got = readSync(this.#truthFd, buffer, 0, BLOCK, block * BLOCK);
      writeSync(this.#deviceFd, buffer, 0, got, block * BLOCK);
      this.mark(block, BLOCK_PRESENT);
    }
  }

  mark(block: number, state: number): void {
    Atomics.store(this.#states, block, state);
  }

  forget(): void {
    this.#states.fill(BLOCK_ABSENT);
  }

  close(): void {
    closeSync(this.#truthFd);
    closeSync(this.#deviceFd);
  }
}

export class TestBed {
  readonly cleanup = new Cleanup();
  folder = '';
  readonly #connections: Array<{ target: string; connection: number }> = [];
  readonly #serve: Serve;
  readonly #alarm: NodeJS.Timeout;
  #mounts = 0;

  /** Everything in flight fails `deadlineMs` from now on, so that a test ends red rather than never. */
  constructor(serve: Serve, deadlineMs = 60_000) {
    this.#serve = serve;
    this.#alarm = setTimeout(() => this.abort(), deadlineMs);
  }

  async start(): Promise<this> {
    this.folder = await this.cleanup.tempDir('fuse');
    return this;
  }

  /** A served mount of its own. */
  async serve(cold: ColdRead): Promise<Served & { target: string }> {
    const target = join(this.folder, `mnt${this.#mounts++}`);
    await mkdir(target);
    const served = await this.#serve(target, cold);
    this.watch(target, served.connection);
    this.cleanup.defer(() => served.close());
    return { ...served, target };
  }

  /** A layer of random bytes, all absent. `bytes`: these instead. */
  async layer(content: number | Buffer): Promise<Layer> {
    const bytes = typeof content === 'number' ? randomBytes(content) : content;
    const name = createHash('sha256').update(bytes.subarray(0, 4096)).update(randomBytes(8)).digest('hex');
    await writeFile(join(this.folder, `${name.slice(0, 12)}.truth`), bytes);
    await writeFile(join(this.folder, `${name.slice(0, 12)}.device`), '');
    await truncate(join(this.folder, `${name.slice(0, 12)}.device`), bytes.length);
    const layer = new Layer(this.folder, name, bytes.length);
    this.cleanup.defer(() => layer.close());
    return layer;
  }

  /** A read-only loop device with direct I/O, without read-ahead unless said otherwise. */
  async loop(file: string, readAheadKb = 0): Promise<LoopDevice> {
    const loop = await attachLoop(file, {
      directIo: true,
      readOnly: true,
      label: `cofa-test-${process.pid}`,
    });
    this.cleanup.defer(() => detachLoop(loop));
    await setReadAhead(loop, readAheadKb);
    return loop;
  }

  watch(target: string, connection: number): void {
    this.#connections.push({ target, connection });
  }

  /** A mount that is gone is left alone: its number may be another one's by now. */
  abort(): void {
    for (const { target, connection } of this.#connections)
      if (connectionOf(target) === connection) abortConnection(connection);
  }

  async end(): Promise<void> {
    clearTimeout(this.#alarm);
    this.abort();
    await this.cleanup.run();
  }
}

/** `count` ranges within `size` bytes (or a little beyond): any alignment, lengths from 1 byte to 300 KB. */
export function randomPieces(count: number, size: number): Array<{ offset: number; length: number }> {
  return Array.from({ length: count }, () => {
    const [a, b] = [randomBytes(6).readUIntLE(0, 6), randomBytes(4).readUInt32LE()];
    const length = b % 3 === 0 ? 1 + (b % 100) : 1 + (b % 300_000);
    return { offset: a % (size + 1000), length };
  });
}
