/** The image of the DaemonSet, as ops/release builds it, in a registry. */
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pushLayout } from '../../ops/images/layout.ts';
import { buildRelease } from '../../ops/release.ts';
import { runCommand } from '../support/services.ts';

/** Builds and pushes it as `cofa:1`, and once more as `cofa:2`. */
export async function pushEngineImage(work: string, host: string): Promise<void> {
  const [out, directory] = [join(work, 'release'), join(work, 'engine')];
  const arch = process.arch === 'arm64' ? 'arm64' : 'x64';
  await buildRelease({ out, arch, kinds: ['oci'], onProgress: () => {} });
  const file = (await readdir(out)).find((name) => name.includes('-oci-')) as string;
  await mkdir(directory);
  await runCommand('tar', ['-C', directory, '-xf', join(out, file)]);
  const index = JSON.parse(await readFile(join(directory, 'index.json'), 'utf8')) as {
    manifests: [{ mediaType: string; digest: string; size: number }];
  };
  for (const tag of ['1', '2'])
    await pushLayout({ directory, manifest: index.manifests[0] }, host, 'cofa', tag);
}
