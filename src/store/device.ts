/**
 * Layer devices: sparse files, one per diffID, shared by all images that have the layer. A block that was never
 * written is a hole; which blocks are there is known from the event log alone, never from the file.
 */
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Digest } from '../digest/digest.ts';
import { CofaError } from '../../schemas/errors.ts';

/** EROFS' block of a flat image: devices are a whole number of these, bytes. */
const SECTOR = 512;

/** Size of a layer device: the raw size padded with zeros to 512 bytes. */
export const deviceSize = (rawSize: number): number => Math.ceil(rawSize / SECTOR) * SECTOR;

/**
 * Opens a device file, creating it with its full (sparse) size. A file of another size is not this layer: error
 * `integrity`. Returns whether the file is new: then the log's blocks for it are void.
 */
export async function openDevice(
  path: string,
  rawSize: number,
): Promise<{ file: FileHandle; created: boolean }> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  let file: FileHandle;
  let created = true;
  try {
    file = await open(path, 'wx+', 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    file = await open(path, 'r+');
    created = false;
  }
  try {
    const { size } = await file.stat();
    if (size !== deviceSize(rawSize)) {
      // A crash between creation and truncation leaves an empty file: nothing was ever written to it.
      if (size !== 0)
        throw new CofaError('integrity', `${path} has ${size} bytes, its layer ${deviceSize(rawSize)}`);
      await file.truncate(deviceSize(rawSize));
      created = true;
    }
    return { file, created };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * sha256 of the first `rawSize` bytes of a device, `sha256:…`: what the image config calls the diffID. `turn`: settles when the
 * next MiB may be read; undefined: now.
 */
export async function hashDevice(
  path: string,
  rawSize: number,
  { signal, turn }: { signal?: AbortSignal; turn?: () => Promise<void> | undefined } = {},
): Promise<string> {
  const file = await open(path, 'r');
  try {
    const hash = new Digest();
    const buffer = Buffer.allocUnsafe(1 << 20);
    for (let at = 0; at < rawSize; ) {
      await turn?.();
      signal?.throwIfAborted();
      const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, rawSize - at), at);
      if (bytesRead === 0) throw new CofaError('integrity', `${path} ends after ${at} of ${rawSize} bytes`);
      hash.update(buffer.subarray(0, bytesRead));
      at += bytesRead;
    }
    return hash.end();
  } finally {
    await file.close();
  }
}
