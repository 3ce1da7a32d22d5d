/** The image of the DaemonSet, as ops/release builds it, in a registry. */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pushLayout } from '../../ops/images/layout.ts';
import { keptRelease } from '../support/kept-release.ts';
import { runCommand } from '../support/services.ts';

/** Pushes it as `cofa:1`, and once more as `cofa:2`. */
export async function pushEngineImage(work: string, host: string): Promise<void> {
  const { oci } = await keptRelease(() => {});
  const directory = join(work, 'engine');
  await mkdir(directory);
  await runCommand('tar', ['-C', directory, '-xf', oci]);
  const index = JSON.parse(await readFile(join(directory, 'index.json'), 'utf8')) as {
    manifests: [{ mediaType: string; digest: string; size: number }];
  };
  for (const tag of ['1', '2'])
    await pushLayout({ directory, manifest: index.manifests[0] }, host, 'cofa', tag);
}
