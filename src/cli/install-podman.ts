/** `cofa install podman|crio`: podman, buildah and CRI-O of this machine find the images of the engine. */
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { CRIO_FOLDER, planCrio, planCrioUninstall } from '../install/crio.ts';
import type { FileChange, ReadFile } from '../install/plans.ts';
import { planPodman, planPodmanUninstall, STORAGE_CONF } from '../install/podman.ts';
import { makeFolder } from '../kernel/make-folder.ts';

export interface PodmanFlags {
  storageConf: string;
  crioFolder: string;
}

/** Both read storage.conf. */
export type StorageTarget = 'podman' | 'crio';
export const STORAGE_TARGETS: readonly StorageTarget[] = ['podman', 'crio'];

export const addPodmanFlags = (command: Command): Command =>
  command
    .option('--storage-conf <file>', 'podman, crio: the configuration of their storage', STORAGE_CONF)
    .option('--crio-folder <folder>', 'crio: where its further settings are', CRIO_FOLDER);

/** Errors: `unsupported` where the file is not understood, or podman has another storage driver than overlay. */
export const podmanChanges = (
  target: StorageTarget,
  { storageConf, crioFolder }: PodmanFlags,
  { read, root }: { read: ReadFile; root: string },
): FileChange[] => [
  ...planPodman({ path: resolve(storageConf), read, store: join(root, 'podman') }),
  ...(target === 'crio' ? planCrio({ folder: resolve(crioFolder), read }) : []),
];

/** podman and CRI-O do not start where a store that their configuration names is missing. */
export async function makeStore(root: string): Promise<void> {
  await makeFolder(join(root, 'podman'), 0o700);
}

/** Of both: without the store the setting of CRI-O has no purpose. */
export const podmanUninstall = ({ storageConf, crioFolder }: PodmanFlags, read: ReadFile): FileChange[] => [
  ...planPodmanUninstall({ path: resolve(storageConf), read }),
  ...planCrioUninstall({ folder: resolve(crioFolder), read }),
];
