/** Layers without file data, such as those of a `mkdir`: no device has them, so the engine fetches their blobs for podman. */
import { createWriteStream } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { PassThrough, Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import type { Logger } from 'pino';
import { CofaError } from '../../../schemas/errors.ts';
import { MAGIC_SIZE, detectCompression } from '../../image/layer-decoder.ts';
import type { RegistryClient } from '../../registry/client.ts';
import type { Image } from '../images/image.ts';
import { type Split, splitInProcess } from './splits.ts';

/** Headers alone are no more than this, bytes: some 100,000 folders; and as they are in the registry. */
const MOST = 64 << 20;
const MOST_PACKED = 8 << 20;

/**
 * Bytes of the layer's tar; its tar-split file is at `target` afterwards. Errors: those of the registry, `integrity` where the blob
 * is not the layer, `unsupported` where it is too large.
 */
export async function sizeOfBlob(
  image: Image,
  { diffId, blob, blobSize }: { diffId: string; blob: string; blobSize: number },
  target: string,
  { registry, split = splitInProcess }: { registry: RegistryClient; log: Logger; split?: Split },
): Promise<number> {
  const { ref, registry: host, repository } = image.resolved;
  if (blobSize > MOST_PACKED) throw tooLarge(ref, diffId);
  const draft = `${target}.tar.draft`;
  const signal = AbortSignal.timeout(120_000);
  try {
    const chunks: Buffer[] = [];
    const source = { registry: host, repository };
    for await (const chunk of registry.blobStream(source, { digest: blob, size: blobSize }, signal))
      chunks.push(chunk);
    const bytes = Buffer.concat(chunks);
    let size = 0;
    const bounded = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        size += chunk.length;
        done(size > MOST ? tooLarge(ref, diffId) : null, chunk);
      },
    });
    await pipeline(
      Readable.from([bytes]),
      decoder(bytes),
      bounded,
      createWriteStream(draft, { mode: 0o600 }),
    );
    await split({ device: draft, size: (await stat(draft)).size, diffId, target }, signal);
    return size;
  } finally {
    await rm(draft, { force: true });
  }
}

function decoder(bytes: Buffer) {
  switch (detectCompression(bytes.subarray(0, MAGIC_SIZE))) {
    case 'gzip':
      return createGunzip();
    case 'zstd':
      return createZstdDecompress();
    default:
      return new PassThrough();
  }
}

const tooLarge = (ref: string, diffId: string): CofaError =>
  new CofaError('unsupported', `layer ${diffId} of ${ref} has no file data and more than ${MOST} bytes`);
