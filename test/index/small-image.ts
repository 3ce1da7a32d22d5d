/** A real image of a few MB in a registry: layers by GNU tar and gzip, zstd or neither. */
import { createHash, randomBytes } from 'node:crypto';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import {
  describeLayer,
  type ImageConfig,
  type LayerFile,
  pushLayout,
  writeLayout,
} from '../../ops/images/layout.ts';
import { exec } from '../../src/container/exec.ts';

export interface SmallImage {
  /** `HOST/REPOSITORY:TAG` */
  ref: string;
  layers: LayerFile[];
  /** The uncompressed tars, lowest first. */
  tars: Buffer[];
}

export interface SmallLayer {
  compression: LayerFile['compression'];
  /** Path → content; a program where the path starts with `bin/`. */
  files: Record<string, Buffer | string>;
  /** A folder to take, with `files` added to it. */
  tree?: string;
}

/** Builds the image in `directory` and pushes it. */
export async function pushSmallImage(
  directory: string,
  registry: string,
  repository: string,
  layers: SmallLayer[],
  config: ImageConfig = {},
): Promise<SmallImage> {
  const files: LayerFile[] = [];
  const tars: Buffer[] = [];
  for (const [index, layer] of layers.entries()) {
    const tree = layer.tree ?? join(directory, `tree-${index}`);
    for (const [path, content] of Object.entries(layer.files)) {
      const file = join(tree, path);
      await mkdir(join(file, '..'), { recursive: true });
      await writeFile(file, content);
      if (path.startsWith('bin/')) await chmod(file, 0o755);
    }
    await mkdir(tree, { recursive: true });
    const tar = join(directory, `layer-${index}.tar`);
    const made = await exec('tar', [
      '-C',
      tree,
      '--sort=name',
      '--mtime=@1700000000',
      '--owner=0',
      '--group=0',
      '-cf',
      tar,
      '.',
    ]);
    if (made.code !== 0) throw new Error(made.stderr);
    const bytes = await readFile(tar);
    const blob = join(directory, `layer-${index}.blob`);
    await writeFile(
      blob,
      layer.compression === 'gzip'
        ? gzipSync(bytes)
        : layer.compression === 'zstd'
          ? zstdCompressSync(bytes)
          : bytes,
    );
    const diffId = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
    files.push(await describeLayer(blob, layer.compression, diffId, `layer ${index}`));
    tars.push(bytes);
  }
  const layout = await writeLayout(join(directory, 'layout'), {
    kind: 'oci',
    layers: files,
    config,
    created: '2024-01-01T00:00:00Z',
  });
  await pushLayout(layout, registry, repository, '1');
  return { ref: `${registry}/${repository}:1`, layers: files, tars };
}

/** Bytes that compress to about half. */
export function halfRandom(size: number): Buffer {
  return Buffer.from(randomBytes(size / 2).toString('hex'));
}
