/**
 * Images of sizes that no package has: as many bytes, files and layers as the caller wants, made of their numbers
 * alone. Of each 4 KiB of file data half is noise and half is text, so that compression halves it.
 */
import { spawn } from 'node:child_process';
import { createCipheriv, createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { TarBytes } from '../../test/images/tar-bytes.ts';
import { describeLayer, type ImageLayout, type LayerFile, writeLayout } from './layout.ts';

export interface Size {
  layers: number;
  filesPerLayer: number;
  /** A multiple of 4096. */
  fileBytes: number;
}

const PAGE = 4096;

/** Writes the image's layout into `directory`, an empty folder; layers are compressed by pigz. */
export async function syntheticImage(
  directory: string,
  size: Size,
  say: (line: string) => void,
): Promise<ImageLayout> {
  const layers: LayerFile[] = [];
  for (let n = 0; n < size.layers; n++) {
    if (size.layers < 20) say(`layer ${n + 1} of ${size.layers}`);
    const file = join(directory, `layer-${n}.tar.gz`);
    const hash = createHash('sha256');
    const pigz = spawn('pigz', ['-n', '-1'], { stdio: ['pipe', 'pipe', 'inherit'] });
    await Promise.all([
      pipeline(Readable.from(members(n, size, hash)), pigz.stdin),
      pipeline(pigz.stdout, createWriteStream(file)),
    ]);
    layers.push(await describeLayer(file, 'gzip', `sha256:${hash.digest('hex')}`, `synthetic ${n}`));
  }
  const layout = await writeLayout(join(directory, 'layout'), {
    kind: 'oci',
    layers,
    config: {},
    created: '2020-01-01T00:00:00Z',
  });
  for (const { file } of layers) await rm(file);
  return layout;
}

/** A layer's tar, piece by piece: a folder of its own, and files in folders of a hundred. */
function* members(
  layer: number,
  { filesPerLayer, fileBytes }: Size,
  hash: { update: (bytes: Buffer) => unknown },
): Generator<Buffer> {
  const noise = createCipheriv('aes-128-ctr', Buffer.alloc(16, layer), Buffer.alloc(16));
  const zeros = Buffer.alloc(PAGE / 2);
  const data = Buffer.alloc(fileBytes, 'a line of text that says nothing at all, again and again\n');
  const piece = (tar: TarBytes, end?: Buffer) => {
    const bytes = tar.bytes(end ?? Buffer.alloc(0));
    hash.update(bytes);
    return bytes;
  };
  yield piece(new TarBytes().dir(`layer${layer}/`));
  for (let n = 0; n < filesPerLayer; n++) {
    const folder = `layer${layer}/${Math.floor(n / 100)}/`;
    if (n % 100 === 0) yield piece(new TarBytes().dir(folder));
    for (let at = 0; at < fileBytes; at += PAGE) noise.update(zeros).copy(data, at);
    yield piece(new TarBytes().file(`${folder}${n}`, data));
  }
  yield piece(new TarBytes(), Buffer.alloc(1024));
}
