/**
 * The process that writes the tar-split file of one whole layer; started by src/supervisor/podman/splits.ts, ends when it has
 * answered with the bytes of the file.
 */
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { splitTar } from '../image/tar-split.ts';
import { SPLITTING, type ToSplitter } from '../index/orders.ts';
import { serveForked } from '../process/forked.ts';
import { CofaError } from '../../schemas/errors.ts';

const CHUNK = 1 << 20;
/** A sign of life after so many bytes. */
const NOTE_BYTES = 8 << 20;

async function split(
  { device, size, diffId, target }: ToSplitter,
  note: (bytes: number) => void,
): Promise<number> {
  const draft = `${target}.draft`;
  const file = await open(device, 'r');
  try {
    const gzip = createGzip();
    const written = pipeline(gzip, createWriteStream(draft, { mode: 0o600, flush: true }));
    written.catch(() => {});
    const write = async (text: string) => {
      if (!gzip.write(text)) await Promise.race([once(gzip, 'drain'), written]);
    };
    const digest = await splitTar(() => readWhole(file, size, note), write);
    gzip.end();
    await written;
    if (digest !== diffId)
      throw new CofaError('integrity', `${device} is not ${diffId}, or was changed while it was read`);
    await rename(draft, target);
    return (await stat(target)).size;
  } finally {
    await file.close();
    await rm(draft, { force: true });
  }
}

/** The first `size` bytes. Each chunk is good until the next one is asked for. */
async function* readWhole(
  file: FileHandle,
  size: number,
  note: (bytes: number) => void,
): AsyncGenerator<Buffer> {
  const buffer = Buffer.allocUnsafe(CHUNK);
  for (let at = 0; at < size; ) {
    const { bytesRead } = await file.read(buffer, 0, Math.min(CHUNK, size - at), at);
    if (bytesRead === 0) throw new CofaError('integrity', `the layer ends after ${at} of ${size} bytes`);
    if (Math.floor((at + bytesRead) / NOTE_BYTES) > Math.floor(at / NOTE_BYTES)) note(at + bytesRead);
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
}

if (import.meta.main) await serveForked(SPLITTING, split);
