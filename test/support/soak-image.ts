/**
 * Images for long runs. A reader knows every byte without a copy of the image: a page of 4 KiB follows from the file's
 * key and the page's number. Files with an even key are noise, those with an odd key compress well.
 */
import { createHash } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { constants, gzipSync } from 'node:zlib';
import { pushLayout, writeLayout } from '../../ops/images/layout.ts';
import { TarBytes } from '../images/tar-bytes.ts';

export interface PatternFile {
  path: string;
  /** bytes, a whole number of pages */
  size: number;
  key: number;
}

export interface PatternImage {
  /** `HOST/REPOSITORY:1` */
  ref: string;
  files: PatternFile[];
}

export const PAGE = 4096;
const WORDS = PAGE / 4;

/** Fills `into`, whole pages, with the bytes of a file from `offset` on, a whole number of pages. */
export function fillPattern(into: Uint32Array, key: number, offset: number): void {
  for (let at = 0; at < into.length; at += WORDS) {
    let state =
      (Math.imul(key + 1, 0x9e3779b1) ^ Math.imul(offset / PAGE + at / WORDS + 1, 0x85ebca6b)) >>> 0;
    state ||= 1;
    const fresh = key % 2 === 0 ? WORDS : 16;
    for (let word = 0; word < fresh; word++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      into[at + word] = state;
    }
    for (let word = fresh; word < WORDS; word++) into[at + word] = into[at + word - fresh] as number;
  }
}

export function patternBytes(size: number, key: number): Buffer {
  const words = new Uint32Array(size / 4);
  fillPattern(words, key, 0);
  return Buffer.from(words.buffer);
}

/** Files of one layer: `keys` from `firstKey` on, `size` bytes each. */
export function patternFiles(folder: string, firstKey: number, count: number, size: number): PatternFile[] {
  return Array.from({ length: count }, (_, at) => ({ path: `${folder}/f${at}`, size, key: firstKey + at }));
}

/** Builds an image of the given layers in `directory`, pushes it as `HOST/REPOSITORY:1`, and removes its local copy. */
export async function pushPatternImage(
  directory: string,
  host: string,
  repository: string,
  layers: PatternFile[][],
): Promise<PatternImage> {
  await mkdir(directory, { recursive: true });
  const files = await Promise.all(
    layers.map(async (layer, index) => {
      const tar = new TarBytes();
      for (const folder of new Set(layer.map(({ path }) => path.split('/')[0] as string)))
        tar.dir(`${folder}/`);
      for (const { path, size, key } of layer) tar.file(path, patternBytes(size, key));
      const bytes = tar.bytes();
      const blob = gzipSync(bytes, { level: constants.Z_BEST_SPEED });
      const file = join(directory, `layer${index}`);
      await writeFile(file, blob);
      const digest = (of: Buffer) => `sha256:${createHash('sha256').update(of).digest('hex')}`;
      return {
        file,
        compression: 'gzip' as const,
        digest: digest(blob),
        size: blob.length,
        diffId: digest(bytes),
        createdBy: `layer ${index}`,
      };
    }),
  );
  const layout = await writeLayout(join(directory, 'layout'), {
    kind: 'oci',
    layers: files,
    config: { Env: ['PATH=/bin'], Cmd: ['/bin/true'], WorkingDir: '/' },
    created: '2020-01-01T00:00:00Z',
  });
  await pushLayout(layout, host, repository, '1');
  await rm(directory, { recursive: true });
  return { ref: `${host}/${repository}:1`, files: layers.flat() };
}
