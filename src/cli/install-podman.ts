/** `cofa install podman`: podman, buildah and CRI-O of this machine find the images of the engine. */
import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import type { FileChange, ReadFile } from '../install/plans.ts';
import { planPodman, planPodmanUninstall, STORAGE_CONF } from '../install/podman.ts';

export interface PodmanFlags {
  storageConf: string;
}

export const addPodmanFlags = (command: Command): Command =>
  command.option('--storage-conf <file>', 'podman: the configuration of its storage', STORAGE_CONF);

/** Errors: `unsupported` where the file is not understood, or podman has another storage driver than overlay. */
export const podmanChanges = ({ storageConf }: PodmanFlags, read: ReadFile, root: string): FileChange[] =>
  planPodman({ path: resolve(storageConf), read, store: join(root, 'podman') });

/** podman does not start where a store that its configuration names is missing. */
export async function makeStore(root: string): Promise<void> {
  await mkdir(join(root, 'podman'), { recursive: true, mode: 0o700 });
}

export const podmanUninstall = ({ storageConf }: PodmanFlags, read: ReadFile): FileChange[] =>
  planPodmanUninstall({ path: resolve(storageConf), read });
