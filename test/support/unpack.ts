/**
 * Independent unpackers: other projects' programs take the same image from the registry and lay it out as a folder.
 * They do not agree with each other in everything; test/e2e/README.md says where and why.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
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
 * Pulls `reference` and mounts its snapshot read-only at `target`. `unmount` unmounts it again; the image stays in that
 * containerd.
 */
export async function unpackWithContainerd(
  containerd: Containerd,
  reference: string,
  target: string,
): Promise<{ root: string; unmount: () => Promise<void> }> {
  await containerd.ctr(['images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', reference]);
  await mkdir(target, { recursive: true });
  await containerd.ctr(['images', 'mount', '--snapshotter', 'overlayfs', reference, target]);
  return {
    root: target,
    unmount: async () => {
      await containerd.ctr(['images', 'unmount', '--rm', target]);
    },
  };
}
