/**
 * An image with one huge file, as models are shipped: weights of two bytes each, of which the low one is noise and the
 * high one takes few values, so that compression saves about a third. The file begins as a safetensors file does: the
 * length of a header in JSON, and the header (huggingface.co/docs/safetensors, "Format").
 */
import { spawn } from 'node:child_process';
import { createCipheriv, createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { TarBytes } from '../../test/images/tar-bytes.ts';
import { describeLayer, type ImageLayout, type LayerFile, openLayout, writeLayout } from './layout.ts';

/** Where the file lies in the image. */
export const HUGE_FILE = 'models/model.safetensors';

const PIECE = 1 << 20;
const HEAD = 64 << 10;

/** Commands that compress their input to their output; pigz and zstd as build tools run them. */
const PROGRAMS: Record<LayerFile['compression'], readonly [string, ...string[]]> = {
  none: ['cat'],
  gzip: ['pigz', '-n', '-6'],
  zstd: ['zstd', '-q', '-3', '-T0', '-c'],
};

/** Writes the image's layout into `directory`, or opens the one that is there. `bytes`: the file's, whole MiB. */
export async function hugeImage(
  directory: string,
  bytes: number,
  compression: LayerFile['compression'],
): Promise<ImageLayout> {
  const there = await openLayout(join(directory, 'layout'));
  if (there !== undefined) return there;
  const file = join(directory, 'layer');
  const hash = createHash('sha256');
  const [program, ...args] = PROGRAMS[compression];
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  await Promise.all([
    pipeline(Readable.from(tarOf(bytes, hash)), child.stdin),
    pipeline(child.stdout, createWriteStream(file)),
  ]);
  const layer = await describeLayer(file, compression, `sha256:${hash.digest('hex')}`, 'one huge file');
  const layout = await writeLayout(join(directory, 'layout'), {
    kind: 'oci',
    layers: [layer],
    config: {},
    created: '2020-01-01T00:00:00Z',
  });
  await rm(file);
  return layout;
}

function* tarOf(bytes: number, hash: { update: (bytes: Buffer) => unknown }): Generator<Buffer> {
  const piece = (part: Buffer) => {
    hash.update(part);
    return part;
  };
  yield piece(new TarBytes().dir('models/').add({ name: HUGE_FILE, size: bytes }).bytes(Buffer.alloc(0)));
  const noise = createCipheriv('aes-128-ctr', Buffer.alloc(16, 7), Buffer.alloc(16));
  const zeros = Buffer.alloc(PIECE);
  for (let at = 0; at < bytes; at += PIECE) {
    const weights = noise.update(zeros);
    // Exponents lie close together: as many low bits as the byte has leading zeros are left of it.
    for (let i = 1; i < PIECE; i += 2) weights[i] = 0x38 + Math.clz32(((weights[i] as number) << 24) | 1);
    if (at === 0) headOf(bytes).copy(weights);
    yield piece(weights);
  }
  yield piece(Buffer.alloc(1024));
}

function headOf(bytes: number): Buffer {
  const count = (bytes - HEAD) / 2;
  const json = JSON.stringify({ weights: { dtype: 'BF16', shape: [count], data_offsets: [0, count * 2] } });
  const head = Buffer.alloc(HEAD, ' ');
  head.writeBigUInt64LE(BigInt(HEAD - 8));
  head.write(json, 8);
  return head;
}
