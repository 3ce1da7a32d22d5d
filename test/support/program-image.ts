/** Images that really run: programs of this machine with their libraries, and files for them to read. */
import { execFile } from 'node:child_process';
import { copyFile, mkdir, realpath, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pushLayout } from '../../ops/images/layout.ts';
import { makeRootfs } from '../container/host-rootfs.ts';
import { buildImage, noise, type Variant } from '../images/nasty.ts';

/** Pushes `HOST/REPOSITORY:1`: sh, cat, dd, sleep, perl and others, and `/data/noise-N` of so many bytes each. */
export async function pushPrograms(
  directory: string,
  host: string,
  repository: string,
  { variant = 'gzip' as Variant, files = 4, fileBytes = 2 << 20, seed = 1 } = {},
): Promise<string> {
  const rootfs = join(directory, 'rootfs');
  await makeRootfs(rootfs);
  await copyFile(await realpath('/bin/dd'), join(rootfs, 'bin/dd'));
  for (let index = 0; index < files; index++)
    await writeFile(join(rootfs, `data/noise-${index}`), noise(fileBytes, seed + index));
  await mkdir(join(directory, 'image'), { recursive: true });
  const { stdout } = await promisify(execFile)('tar', ['-C', rootfs, '--owner=0', '--group=0', '-c', '.'], {
    encoding: 'buffer',
    maxBuffer: 1 << 30,
  });
  const layout = await buildImage(join(directory, 'image'), [stdout], variant);
  await pushLayout(layout, host, repository, '1');
  return `${host}/${repository}:1`;
}
