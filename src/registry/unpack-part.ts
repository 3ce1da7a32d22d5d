/** Unpacks a part of a sidecar. By itself, since a process that does nothing else has no use for a registry client. */
import { promisify } from 'node:util';
import { constants, zstdDecompress } from 'node:zlib';
import { CofaError } from '../../schemas/errors.ts';

const decompress = promisify(zstdDecompress);

/** Unpacks to exactly `size` bytes and never more. Errors: `integrity`; `internal` where there is no memory for it. */
export async function unpackPart(
  body: Buffer,
  size: number,
  part: { digest: string; mediaType: string },
): Promise<Buffer> {
  let bytes: Buffer;
  try {
    // One byte more than promised shows as an error, a terabyte is never unpacked.
    bytes = await decompress(body, {
      maxOutputLength: size + 1,
      // In one piece: joining several takes the same again.
      chunkSize: Math.max(64, size + 1),
      params: { [constants.ZSTD_d_windowLogMax]: 27 },
    });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    // That says nothing about the bytes.
    if (code === 'ERR_MEMORY_ALLOCATION_FAILED')
      throw new CofaError('internal', `there is no memory for blob ${part.digest} (${part.mediaType})`, {
        cause,
      });
    const isLarger = code === 'ERR_BUFFER_TOO_LARGE';
    const why = isLarger ? `it unpacks to more than ${size} bytes` : 'it is not valid zstd';
    throw new CofaError('integrity', `blob ${part.digest} (${part.mediaType}): ${why}`, { cause });
  }
  if (bytes.length !== size) {
    throw new CofaError(
      'integrity',
      `blob ${part.digest} (${part.mediaType}): ${bytes.length} bytes instead of ${size}`,
    );
  }
  return bytes;
}
