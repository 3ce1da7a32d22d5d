/** Layers of zstd that are small and become large when a node indexes them. Work for test/support/cost.ts. */
import { zstdCompressSync } from 'node:zlib';
import { digestOf } from '../../src/digest/digest.ts';
import { indexLayer } from '../../src/image/index-layer.ts';
import { TarBytes } from '../images/tar-bytes.ts';
import { whole } from '../support/attacker/layer.ts';

const MIB = 1 << 20;

/** Indexes a blob as for an image that names it by digest and size. */
const indexed = (blob: Buffer) => async () => {
  const expect = { digest: digestOf(blob), size: blob.length };
  const { rawSize, toc } = await indexLayer(whole(blob), { expect });
  return `${toc.entries.length} entries, ${rawSize} bytes`;
};

/** A file of 8 GiB of zeros, in frames of 64 MiB: 264 KB. */
export const zeros = () => {
  const header = new TarBytes()
    .add({ name: 'zeros', size: 2 ** 33 })
    .bytes()
    .subarray(0, 512);
  const frame = zstdCompressSync(Buffer.alloc(64 * MIB));
  return indexed(Buffer.concat([zstdCompressSync(header), ...Array<Buffer>(128).fill(frame)]));
};

/** Half a million times the same empty file: 256 MiB of headers in 27 KB. */
export const members = () => {
  const header = new TarBytes().add({ name: 'same' }).bytes().subarray(0, 512);
  const frame = zstdCompressSync(Buffer.concat(Array<Buffer>(8 * 2_048).fill(header)));
  return indexed(Buffer.concat(Array<Buffer>(32).fill(frame)));
};

/** A frame that asks for a window of 2 GiB, and fills it with zeros (RFC 8878, 3.1.1.1.2 and 3.1.1.2): 64 KB. */
export const window = () => {
  const head = Buffer.of(0x28, 0xb5, 0x2f, 0xfd, 0, (31 - 10) << 3);
  // Not the last block, one byte to be repeated, 128 KiB.
  const zeros = Buffer.of(
    (((128 << 10) << 3) & 0xff) | 2,
    (((128 << 10) << 3) >> 8) & 0xff,
    ((128 << 10) << 3) >> 16,
    0,
  );
  return indexed(Buffer.concat([head, ...Array<Buffer>(16_384).fill(zeros)]));
};
