/**
 * Independent unpackers: other projects' programs take the same image from the registry and lay it out as a folder.
 * They do not agree with each other in everything; test/e2e/README.md says where and why.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageLayout } from '../../ops/images/layout.ts';
import { chainIds } from '../../src/digest/chain-id.ts';
import { type Containerd, runCommand } from './services.ts';

/** Copies `docker://REFERENCE` (plain HTTP allowed) into an OCI layout and unpacks it; returns the root folder. */
export async function unpackWithUmoci(reference: string, directory: string): Promise<string> {
  await mkdir(directory, { recursive: true });
  const layout = join(directory, 'layout');
  await runCommand('skopeo', [
    'copy',
    '--quiet',
    '--src-tls-verify=false',
    `docker://${reference}`,
    `oci:${layout}:image`,
  ]);
  const root = join(directory, 'root');
  await runCommand('umoci', ['raw', 'unpack', '--image', `${layout}:image`, root]);
  return root;
}

/**
 * As `unpackWithUmoci`, of an image that is pushed as `reference`. Kept in $COFA_CACHE, where large images are as well: unpacking
 * one takes longer than reading it. The folder must not be changed.
 */
export async function keptTruth({ manifest }: ImageLayout, reference: string): Promise<string> {
  const cache = process.env.COFA_CACHE ?? '/var/cache/cofa/images';
  const how = `${manifest.digest} ${await runCommand('umoci', ['--version'])}`;
  const folder = join(cache, `truth-${createHash('sha256').update(how).digest('hex').slice(0, 12)}`);
  // The root itself is never renamed: its times belong to the truth.
  const root = join(folder, 'root');
  if (existsSync(root)) return root;
  await mkdir(cache, { recursive: true });
  const scratch = await mkdtemp(join(cache, 'truth-new-'));
  const remove = (path: string) => runCommand('rm', ['-rf', '--one-file-system', '--', path]);
  try {
    await unpackWithUmoci(reference, scratch);
    await remove(join(scratch, 'layout'));
    await rename(scratch, folder).catch((error: unknown) => {
      // Another test was faster.
      if (!existsSync(root)) throw error;
    });
  } finally {
    await remove(scratch);
  }
  return root;
}

/**
 * Pulls `reference` and mounts its snapshot read-only at `target`. `unmount` unmounts it again; the image stays in that
 * containerd. `ctr images mount` would be shorter, but fails in containerd 2.2.0 and 2.2.1, which Ubuntu 24.04 has
 * (containerd/containerd issue 12549).
 */
export async function unpackWithContainerd(
  containerd: Containerd,
  reference: string,
  target: string,
): Promise<{ root: string; unmount: () => Promise<void> }> {
  await containerd.ctr(['images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', reference]);
  await mkdir(target, { recursive: true });
  const snapshots = ['snapshots', '--snapshotter', 'overlayfs'];
  const mount = await containerd.ctr([
    ...snapshots,
    'view',
    '--target',
    target,
    target,
    await topChain(reference),
  ]);
  await runCommand('sh', ['-euc', mount], { env: FORCE_MOUNT2 });
  return {
    root: target,
    unmount: async () => {
      await runCommand('umount', [target]);
      await containerd.ctr([...snapshots, 'rm', target]).catch((error: unknown) => {
        // Nothing names the view, so containerd's garbage collection may have been faster.
        if (!/not found/.test(String(error))) throw error;
      });
    },
  };
}

/** By fsconfig(2), which mount(8) takes from util-linux 2.39 on, a list of layers ends at 256 bytes. */
const FORCE_MOUNT2 = { LIBMOUNT_FORCE_MOUNT2: 'always' };

/** What containerd names the snapshot of an image's highest layer. */
async function topChain(reference: string): Promise<string> {
  const config = await runCommand('skopeo', [
    'inspect',
    '--config',
    '--tls-verify=false',
    `docker://${reference}`,
  ]);
  const { rootfs } = JSON.parse(config) as { rootfs: { diff_ids: string[] } };
  return chainIds(rootfs.diff_ids).at(-1) ?? '';
}
