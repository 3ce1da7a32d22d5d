/**
 * A part of a blob in memory, for the right of someone else: of everyone, or of who has brought a token. Nothing is used that
 * other requests have taught: the address of a redirect was given to the one who asked, and works for all who know it.
 */
import { CofaError } from '../../schemas/errors.ts';
import type { RegistryApi, Source } from './api.ts';
import type { BlobName, ByteRange } from './blob-reader.ts';
import { asRight, type Right } from './questions.ts';
import { checkContentRange } from './range-reply.ts';
import { readBody } from './transport.ts';

/** Errors: the registry's; `unsupported` where it ignores Range; `integrity` where the blob has another size. */
export async function readPart(
  api: RegistryApi,
  source: Source,
  blob: BlobName,
  [start, end]: ByteRange,
  right: Right,
  signal: AbortSignal,
): Promise<Buffer> {
  const what = `blob ${blob.digest} of ${source.repository}`;
  return await api.retry(what, signal, async () => {
    const reply = await api.request({
      registry: source.registry,
      method: 'GET',
      target: `/v2/${source.repository}/blobs/${blob.digest}`,
      scope: { repository: source.repository, push: false },
      headers: { accept: '*/*', 'accept-encoding': 'identity', range: `bytes=${start}-${end - 1}` },
      // A token is for the registry alone.
      need: right === 'everyone' ? ['pull'] : undefined,
      ...asRight(right),
      expect: [200, 206],
      what,
      signal,
    });
    const isWhole = start === 0 && end === blob.size;
    if (reply.status === 206) {
      if (checkContentRange(reply, blob, start, end) !== end) {
        reply.body.destroy();
        throw new CofaError('unavailable', `${reply.url.host} sends less of ${what} than was asked for`);
      }
    } else if (!isWhole) {
      reply.body.destroy();
      throw new CofaError('unsupported', `${reply.url.host} gives no parts of blobs`);
    }
    const bytes = await readBody(reply, end - start, what, signal);
    if (bytes.length !== end - start)
      throw new CofaError(
        'integrity',
        `${reply.url.host} sends ${bytes.length} bytes of ${what}, not ${end - start}`,
      );
    return bytes;
  });
}
