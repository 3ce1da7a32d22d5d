/**
 * A current containerd, tuned as its documentation allows: what an operator can have who wants fast starts and no lazy
 * ones. It is built with Go where that is at hand (Debian 12 has 1.6).
 *
 * The settings are those of containerd's transfer service (plugins/transfer/plugin.go, `transferConfig`), which `ctr
 * images pull` uses; the CRI plugin has the same under `io.containerd.cri.v1.images`. Defaults are 3 downloads, ranges
 * off, one unpack at a time.
 */
import { appendFile } from 'node:fs/promises';
import { delimiter } from 'node:path';
import type { ContainerdOptions } from '../../test/support/services.ts';
import { newerErofs } from '../images/debs.ts';
import { builtJudge } from '../images/judges.ts';
import { withContainerd, type Way } from './ways.ts';

export const TUNED_NAME = 'containerd 2.4, tuned';
const EROFS_NAME = 'containerd 2.4, EROFS';
export const CURRENT_NAMES = [TUNED_NAME, EROFS_NAME];

/** 4 layers unpacked at once (overlayfs can `rebase`), each fetched in ranges of 8 MiB by as many requests as wanted. */
export const TUNED = [
  `[plugins."io.containerd.transfer.v1.local"]`,
  '  max_concurrent_downloads = 8',
  `  concurrent_layer_fetch_buffer = ${8 << 20}`,
  '  max_concurrent_unpacks = 4',
  '',
].join('\n');

/** The same with layers that become EROFS images instead of folders (docs/snapshotters/erofs.md of containerd). */
const EROFS = [
  TUNED,
  '[[plugins."io.containerd.transfer.v1.local".unpack_config]]',
  `  platform = "linux/${process.arch === 'x64' ? 'amd64' : process.arch}"`,
  '  snapshotter = "erofs"',
  '  differ = "erofs"',
  '[plugins."io.containerd.service.v1.diff-service"]',
  '  default = ["erofs", "walking"]',
  '',
].join('\n');

/** The two ways, or none where it cannot be built: `say` hears why. */
export async function currentContainerd(say: (line: string) => void): Promise<Way[]> {
  const options = await optionsOf(say);
  if (options === undefined) return [];
  return [
    withContainerd(TUNED_NAME, { snapshotter: 'overlayfs', ...options(TUNED) }),
    withContainerd(EROFS_NAME, { snapshotter: 'erofs', ...options(EROFS) }),
  ];
}

/** How to start the tuned one; undefined where it cannot be built. */
export async function tunedContainerd(say: (line: string) => void): Promise<ContainerdOptions | undefined> {
  return (await optionsOf(say))?.(TUNED);
}

async function optionsOf(
  say: (line: string) => void,
): Promise<((settings: string) => ContainerdOptions) | undefined> {
  const folder = await builtJudge('containerd-2.4', { onProgress: say });
  if (folder === undefined) return undefined;
  const erofs = await newerErofs({ onProgress: say });
  return (settings) => ({
    path: [folder, erofs, process.env.PATH].join(delimiter),
    configVersion: 3,
    configure: (config) => appendFile(config, settings),
  });
}
