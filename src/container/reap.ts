/**
 * Containers and their remains. A `cofa run` cleans up after itself. When it is killed, its runc and its container
 * continue (their input and output are their own), and folder and mounts stay until they are reaped: by the engine when
 * it starts and now and then, by `cofa rm` by hand.
 */
import { lstat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CofaError } from '../../schemas/errors.ts';
import { unmount } from '../kernel/mount.ts';
import { isAlive } from './host.ts';
import { unmountOverlay } from './overlay.ts';
import { ContainerFolder, type ContainerRecord, readFolders } from './record.ts';
import { mountsBelow, removeFolder } from './remove-folder.ts';
import { Runc, type RuncState } from './runc.ts';

/**
 * - `starting`, `running`: as the words say; its `cofa run` lives.
 * - `orphaned`: its `cofa run` was killed, the container itself still runs.
 * - `dead`: neither lives; folder and mounts are left over.
 * - `kept`: ended in order, with an order to keep its upper layer.
 */
export type ContainerState = 'starting' | 'running' | 'orphaned' | 'dead' | 'kept';

export interface ContainerInfo {
  id: string;
  state: ContainerState;
  folder: ContainerFolder;
  /** Undefined where the start was interrupted before it wrote the record. */
  record: ContainerRecord | undefined;
  /** Of the container's first process, on the host; undefined when none runs. */
  pid: number | undefined;
}

/** A folder without a record may belong to a `cofa run` that is about to write it; at this age it does not, ms. */
const YOUNG = 60_000;

/** Every container of this root with its state, by name. */
export async function listContainers(root: string, now: Date): Promise<ContainerInfo[]> {
  const folders = await readFolders(root);
  if (folders.length === 0) return [];
  const known = new Map<string, RuncState>();
  // Without runc no container can run; the folders can still be shown and removed.
  const runc = await Runc.find(root).catch(() => undefined);
  for (const row of (await runc?.list()) ?? []) known.set(row.id, row);
  const infos: ContainerInfo[] = [];
  for (const { folder, record } of folders) {
    const row = known.get(folder.id);
    const runs = row !== undefined && row.status !== 'stopped' && row.pid > 0;
    infos.push({
      id: folder.id,
      folder,
      record,
      pid: runs ? row.pid : undefined,
      state: await stateOf(folder, record, runs, now),
    });
  }
  return infos;
}

export interface Reaped {
  id: string;
  /** Why it could not be removed; undefined: it has been removed. */
  error?: unknown;
}

export interface ReapOptions {
  root: string;
  /** Unmounts the image of a container, normally by the engine; `not-found` counts as done. */
  unmountImage: (dir: string, id: string) => Promise<void>;
  now: Date;
  /** This container alone, also if it is kept. */
  only?: string;
  /** Kill containers that run, too. */
  force?: boolean;
}

/**
 * Removes dead containers: runc's state, mounts, folder. One that cannot be removed does not hold up the others. With
 * `only`, errors: `not-found` for an unknown name, `busy` for a container that runs (unless `force`).
 */
export async function reapContainers(options: ReapOptions): Promise<Reaped[]> {
  const infos = await listContainers(options.root, options.now);
  const chosen = options.only === undefined ? infos : infos.filter((info) => info.id === options.only);
  if (options.only !== undefined && chosen[0] === undefined) {
    throw new CofaError('not-found', `there is no container named ${options.only}`, { hint: 'see: cofa ps' });
  }
  const reaped: Reaped[] = [];
  for (const info of chosen) {
    const ended = info.state === 'dead' || (options.only !== undefined && info.state === 'kept');
    if (!ended && options.force !== true) {
      if (options.only === undefined) continue;
      throw new CofaError('busy', `the container ${info.id} runs`, {
        hint: `end it first, or kill it: cofa rm --force ${info.id}`,
      });
    }
    if (info.state === 'kept' && options.only === undefined) continue;
    try {
      await removeContainer(info, options);
      reaped.push({ id: info.id });
    } catch (error) {
      if (options.only !== undefined) throw error;
      reaped.push({ id: info.id, error });
    }
  }
  return reaped;
}

/**
 * Unmounts a container: first the overlay, then the image below it. Either may be unmounted already. Error: `busy` when
 * the engine cannot unmount the image.
 */
export async function unmountContainer(
  folder: ContainerFolder,
  unmountImage: (dir: string, id: string) => Promise<void>,
): Promise<void> {
  await unmountOverlay(folder.rootfs);
  try {
    await unmountImage(folder.image, folder.id);
  } catch (error) {
    if (!(error instanceof CofaError) || error.code !== 'not-found') throw error;
    // The engine does not know of it (any more), so a mount that is still there has no owner.
    if (mountsBelow(folder.image).length > 0) await unmount(folder.image, { lazy: true });
  }
}

/** The processes of a container that was killed hold its files for a moment longer than runc knows of it. */
async function unmountEnded(
  folder: ContainerFolder,
  unmountImage: ReapOptions['unmountImage'],
): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      return await unmountContainer(folder, unmountImage);
    } catch (error) {
      const isBusy = error instanceof CofaError && error.code === 'busy';
      if (!isBusy || tries === END_TRIES) throw error;
      await sleep(END_PAUSE_MS);
    }
  }
}

const END_TRIES = 20;
const END_PAUSE_MS = 100;

async function removeContainer(info: ContainerInfo, options: ReapOptions): Promise<void> {
  const runc = await Runc.find(options.root).catch(() => undefined);
  await runc?.delete(info.id);
  await unmountEnded(info.folder, options.unmountImage);
  await removeFolder(info.folder.path);
}

async function stateOf(
  folder: ContainerFolder,
  record: ContainerRecord | undefined,
  runs: boolean,
  now: Date,
): Promise<ContainerState> {
  const owned = record !== undefined && isAlive(record.owner);
  if (owned) return runs ? 'running' : record.exit !== undefined ? 'kept' : 'starting';
  if (runs) return 'orphaned';
  if (record?.exit !== undefined) return 'kept';
  if (record === undefined) {
    const stats = await lstat(folder.path).catch(() => undefined);
    if (stats !== undefined && now.getTime() - stats.mtimeMs < YOUNG) return 'starting';
  }
  return 'dead';
}
