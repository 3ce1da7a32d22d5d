/**
 * A thread that indexes layers: fetches a blob from the registry, runs the one pass over it (inflate, tar, hashes) and,
 * where asked to, writes the raw bytes as the layer's device. A layer is one job, so layers go side by side and the
 * event loop of the main thread stays free.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { toErrorRecord } from '../../schemas/errors.ts';
import { indexLayer } from '../image/index-layer.ts';
import { decodeToc, encodeToc } from '../image/toc-codec.ts';
import { RegistryClient } from '../registry/client.ts';
import { deviceSize } from '../store/device.ts';
import type {
  FlattenJob,
  FlattenResult,
  FromThread,
  IndexedLayer,
  Job,
  LayerJob,
  ToThread,
} from './layer-job.ts';

/** Progress is reported after so many compressed bytes. */
const REPORT_BYTES = 256 * 1024;

const port = parentPort;
if (port === null) throw new Error('layer-thread.ts runs in a worker thread');
const registry = new RegistryClient(workerData as ConstructorParameters<typeof RegistryClient>[0]);
const running = new Map<number, AbortController>();

port.on('message', (message: ToThread) => {
  if ('abort' in message) running.get(message.id)?.abort();
  else void answer(message.id, message.job);
});

async function answer(id: number, job: Job): Promise<void> {
  const control = new AbortController();
  running.set(id, control);
  try {
    const result = job.kind === 'layer' ? await indexOne(id, job, control.signal) : await flatten(job);
    send({ id, kind: 'done', result });
  } catch (error) {
    send({ id, kind: 'failed', error: toErrorRecord(error) });
  } finally {
    running.delete(id);
  }
}

async function indexOne(id: number, job: LayerJob, signal: AbortSignal): Promise<IndexedLayer> {
  const draft = job.device === undefined ? undefined : new DeviceDraft(job.device);
  let reported = 0;
  try {
    const index = await indexLayer(registry.blobStream(job.source, job.blob, signal), {
      expect: { digest: job.blob.digest, size: job.blob.size, diffId: job.diffId },
      signal,
      ...(draft === undefined
        ? {}
        : { onRaw: (offset: number, bytes: Buffer) => draft.write(offset, bytes) }),
      onProgress: (done) => {
        if (done - reported < REPORT_BYTES && done < job.blob.size) return;
        reported = done;
        send({ id, kind: 'progress', done });
      },
    });
    // The indexer has compared the whole tar with its diffID; only now it may bear its name.
    draft?.publish(index.rawSize);
    return {
      diffId: index.diffId,
      rawSize: index.rawSize,
      compression: index.compression,
      blobDigest: index.blobDigest,
      blobSize: index.blobSize,
      spanCount: index.spans.spanCount,
      toc: encodeToc(index.toc),
      spans: index.spans.encode(),
      built: draft !== undefined,
    };
  } finally {
    draft?.discard();
  }
}

async function flatten(job: FlattenJob): Promise<FlattenResult> {
  const { buildFlat } = await import('../image/erofs.ts');
  const tocs = job.tocs.map((bytes) => decodeToc(asBuffer(bytes)));
  const { metadata, devices } = buildFlat(tocs, job.layers);
  return { metadata, devices };
}

/** The device file while its bytes are not proven yet: beside its place, under a name that nobody looks for. */
class DeviceDraft {
  readonly #target: string;
  readonly #path: string;
  #fd: number | undefined;

  constructor(target: string) {
    this.#target = target;
    this.#path = `${target}.${randomBytes(6).toString('hex')}.draft`;
    mkdirSync(dirname(target), { recursive: true, mode: 0o700 });
    this.#fd = openSync(this.#path, 'wx+', 0o600);
  }

  /** Synchronous: this thread has nothing else to do, and the next bytes wait for these anyway. */
  write(offset: number, bytes: Buffer): void {
    writeAt(this.#fd as number, offset, bytes);
  }

  publish(rawSize: number): void {
    const fd = this.#fd as number;
    ftruncateSync(fd, deviceSize(rawSize));
    fdatasyncSync(fd);
    try {
      linkSync(this.#path, this.#target);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      // Another image has some of the layer already, and a loop device may hold that very file.
      fillInPlace(fd, this.#target);
    }
  }

  discard(): void {
    if (this.#fd === undefined) return;
    closeSync(this.#fd);
    this.#fd = undefined;
    rmSync(this.#path, { force: true });
  }
}

/** Completes a device that others use: every byte that is written is the one that belongs there. Never truncates. */
function fillInPlace(from: number, target: string): void {
  const to = openSync(target, 'r+');
  try {
    const { size } = fstatSync(from);
    if (fstatSync(to).size !== size) ftruncateSync(to, size);
    const buffer = Buffer.allocUnsafe(1 << 20);
    for (let at = 0; at < size; ) {
      const length = readSync(from, buffer, 0, buffer.length, at);
      if (length === 0) break;
      writeAt(to, at, buffer.subarray(0, length));
      at += length;
    }
    fdatasyncSync(to);
  } finally {
    closeSync(to);
  }
}

function writeAt(fd: number, offset: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
  }
}

function send(message: FromThread): void {
  port?.postMessage(message);
}

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
