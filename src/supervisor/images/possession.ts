/** Whether a repository holds a layer: its blob is read to the end, once, and nothing of it is kept. */
import type { Readable } from 'node:stream';
import { Readable as Stream } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { CofaError } from '../../../schemas/errors.ts';
import { Digest } from '../../digest/digest.ts';
import { detectCompression, MAGIC_SIZE } from '../../image/layer-decoder.ts';
import type { BlobName, RegistryClient, Source } from '../../registry/client.ts';

/** DEFLATE's best ratio; zstd's has no bound. */
const MOST_RATIO = 1_032;

/**
 * True when the repository's blob decompresses to the layer. Errors: the registry's where it cannot be asked, the signal's
 * reason.
 */
export async function holdsLayer(
  registry: Pick<RegistryClient, 'blobStream'>,
  source: Source,
  /** `rawSize`: bytes of the layer, where the node knows them. */
  layer: { blob: BlobName; diffId: string; rawSize: number | undefined },
  signal: AbortSignal,
): Promise<boolean> {
  const { blob, diffId, rawSize = 0 } = layer;
  const hash = new Digest();
  let left = Math.max(rawSize, blob.size * MOST_RATIO);
  try {
    for await (const raw of await decompressed(
      registry.blobStream({ ...source, direct: true }, blob, signal),
    )) {
      left -= raw.length;
      if (left < 0) return false;
      hash.update(raw);
    }
  } catch (error) {
    signal.throwIfAborted();
    // What the registry sends instead is a blob of another digest, or nothing that decompresses.
    const isAnswer =
      !(error instanceof CofaError) ||
      ['integrity', 'unsupported', 'not-found', 'unauthorized'].includes(error.code);
    if (isAnswer) return false;
    throw error;
  }
  return hash.end() === diffId;
}

async function decompressed(blob: AsyncGenerator<Buffer, void, undefined>): Promise<AsyncIterable<Buffer>> {
  const head: Buffer[] = [];
  let length = 0;
  while (length < MAGIC_SIZE) {
    const step = await blob.next();
    if (step.done === true) break;
    head.push(step.value);
    length += step.value.length;
  }
  const compression = detectCompression(Buffer.concat(head));
  async function* whole(): AsyncGenerator<Buffer, void, undefined> {
    yield* head;
    yield* blob;
  }
  if (compression === 'none') return whole();
  const decoder = compression === 'gzip' ? createGunzip() : createZstdDecompress();
  const source: Readable = Stream.from(whole());
  source.once('error', (error) => decoder.destroy(error));
  decoder.once('close', () => source.destroy());
  return source.pipe(decoder);
}
