/**
 * A thread that indexes layers. It runs the one pass over a blob (inflate, tar, hashes) while the main thread brings
 * the bytes, and writes the raw bytes as the layer's device where the job asks for it. A layer is one job, so layers
 * run side by side.
 *
 * It loads no registry client: the client takes half of a thread's start, and main memory in each thread.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readSync,
  rmSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { parentPort } from 'node:worker_threads';
import { toErrorRecord } from '../../schemas/errors.ts';
import { indexLayer } from '../image/index-layer.ts';
import { TocWriter } from '../image/toc-codec.ts';
import { beginWriteBack } from '../kernel/write-back.ts';
import { deviceSize } from '../store/device.ts';
import { DiskRoom, writeAll } from '../store/disk-room.ts';
import { Layout } from '../store/layout.ts';
import { HashBeside, hashFor } from './hash-beside.ts';
import type { FromThread, LayerJob, Rest, ToThread } from './layer-job.ts';
import type { Piece } from './pieces.ts';
import { giveRawBack, type RawBudget, takeRaw } from './raw-budget.ts';

const port = parentPort;
if (port === null) throw new Error('layer-thread.ts runs in a worker thread');
const running = new Map<number, { control: AbortController; blob: Incoming }>();

port.on('message', (message: ToThread) => {
  if ('hash' in message) {
    hashFor(message.hash);
    return;
  }
  const { id } = message;
  if ('job' in message) void answer(id, message.job, message.beside && new HashBeside(message.beside));
  else if ('bytes' in message) running.get(id)?.blob.push(message.bytes);
  else if ('end' in message) running.get(id)?.blob.push(undefined);
  else stop(id);
});

function stop(id: number): void {
  const job = running.get(id);
  job?.control.abort();
  // The indexer, which waits for bytes, then looks at the signal.
  job?.blob.push(undefined);
}

async function answer(id: number, job: LayerJob, hashBeside?: HashBeside): Promise<void> {
  const control = new AbortController();
  const blob = new Incoming((bytes) => send({ id, kind: 'taken', bytes }));
  running.set(id, { control, blob });
  try {
    send({ id, kind: 'done', rest: await indexOne(id, job, blob, { signal: control.signal, hashBeside }) });
  } catch (error) {
    send({ id, kind: 'failed', error: toErrorRecord(error) });
  } finally {
    hashBeside?.close();
    running.delete(id);
  }
}

async function indexOne(
  id: number,
  job: LayerJob,
  blob: Incoming,
  parts: { signal: AbortSignal; hashBeside: HashBeside | undefined },
): Promise<Rest> {
  const layout = job.store === undefined ? undefined : new Layout(job.store);
  const token = randomBytes(6).toString('hex');
  const draft = layout && new DeviceDraft(layout.deviceDraft(job.diffId, token), job.budget);
  const toc = new TocWriter();
  try {
    const index = await indexLayer(blob, {
      expect: { digest: job.blob.digest, size: job.blob.size, diffId: job.diffId },
      file: job.file,
      ...parts,
      onEntry: (entry) => toc.add(entry),
      ...(draft === undefined
        ? {}
        : { onRaw: (offset: number, bytes: Buffer) => draft.write(offset, bytes) }),
    });
    const { rawSize, diffId, compression, blobDigest, blobSize, spans } = index;
    // The flat image waits for these first; the thread does the rest while the main thread builds it.
    send({ id, kind: 'contents', contents: { rawSize, toc: toc.finish() } });
    // The indexer has compared the whole tar with its diffID; only now may the device bear its name.
    if (layout !== undefined) await draft?.publish(layout.device(spans.root), rawSize);
    return {
      diffId,
      compression,
      blobDigest,
      blobSize,
      spanCount: spans.spanCount,
      spans: spans.encode(),
      root: spans.root,
      built: draft !== undefined,
    };
  } finally {
    await draft?.discard();
  }
}

/** Compressed bytes on their way to the indexer. It gives a piece back as soon as the indexer asks for the next one. */
class Incoming implements AsyncIterable<Piece> {
  readonly #pieces: Array<Piece | undefined> = [];
  readonly #giveBack: (piece: Piece) => void;
  #wake: (() => void) | undefined;

  constructor(giveBack: (piece: Piece) => void) {
    this.#giveBack = giveBack;
  }

  /** undefined: no more follow. */
  push(piece: Piece | undefined): void {
    this.#pieces.push(piece);
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Piece, void, undefined> {
    for (;;) {
      while (this.#pieces.length === 0) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      const piece = this.#pieces.shift();
      if (piece === undefined) return;
      yield piece;
      this.#giveBack(piece);
    }
  }
}

/**
 * Raw bytes whose write-back begins together, so that the sync at the end, on which the image waits, has little left.
 */
const WRITE_BACK_BYTES = 8 << 20;
const sync = promisify(fdatasync);

/** The device file before its bytes are verified, under a name that no reader opens. Its block root, which names it, is known at its end. */
class DeviceDraft {
  readonly #path: string;
  readonly #room: DiskRoom;
  readonly #budget: RawBudget | undefined;
  #fd: number | undefined;
  /** Bytes of the budget that no device has yet. */
  #taken = 0;
  /** Bytes written so far, and those of them whose write-back has begun. */
  #written = 0;
  #begun = 0;
  #writeBack: Promise<void> | undefined;

  constructor(path: string, budget: RawBudget | undefined) {
    this.#path = path;
    const folder = dirname(path);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    this.#room = new DiskRoom(folder, budget?.reserve);
    this.#budget = budget;
    this.#fd = openSync(this.#path, 'wx+', 0o600);
  }

  /** Synchronous: this thread has nothing else to do, and needs the buffer again for the next bytes. */
  write(offset: number, bytes: Buffer): void {
    const fd = this.#fd as number;
    if (this.#budget !== undefined) {
      this.#taken += bytes.length;
      takeRaw(this.#budget, bytes.length);
    }
    this.#room.write(fd, bytes, offset);
    this.#written = offset + bytes.length;
    // One write-back at a time: a disk that does not keep up gets no further requests.
    if (this.#written - this.#begun < WRITE_BACK_BYTES || this.#writeBack !== undefined) return;
    this.#writeBack = beginWriteBack(fd, this.#begun, this.#written - this.#begun).then(() => {
      this.#writeBack = undefined;
    });
    this.#begun = this.#written;
  }

  async publish(target: string, rawSize: number): Promise<void> {
    const fd = this.#fd as number;
    ftruncateSync(fd, deviceSize(rawSize));
    await sync(fd);
    try {
      mkdirSync(dirname(target), { recursive: true, mode: 0o700 });
      linkSync(this.#path, target);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      // Another image has some of the layer's blocks already, and a loop device may hold that very file.
      fillInPlace(fd, target);
    }
    this.#taken = 0;
  }

  async discard(): Promise<void> {
    const fd = this.#fd;
    if (fd === undefined) return;
    this.#fd = undefined;
    await this.#writeBack;
    closeSync(fd);
    rmSync(this.#path, { force: true });
    if (this.#budget !== undefined) giveRawBack(this.#budget, this.#taken);
  }
}

/** Completes a device that others use: writes only the bytes that belong there, and never truncates. */
function fillInPlace(from: number, target: string): void {
  const to = openSync(target, 'r+');
  try {
    const { size } = fstatSync(from);
    if (fstatSync(to).size !== size) ftruncateSync(to, size);
    const buffer = Buffer.allocUnsafe(1 << 20);
    for (let at = 0; at < size; ) {
      const length = readSync(from, buffer, 0, buffer.length, at);
      if (length === 0) break;
      writeAll(to, buffer.subarray(0, length), at);
      at += length;
    }
    fdatasyncSync(to);
  } finally {
    closeSync(to);
  }
}

function send(message: FromThread): void {
  port?.postMessage(message, []);
}
