/**
 * What lies below containers in user namespaces: flat images and unpacked layers, mounted a second time with the ids of the
 * container, at ROOT/mapped/<maps>/<what>. overlayfs keeps what it stands on by itself, so such a mount has to be there only while
 * containerd mounts a snapshot; no call says when that is over, so it stays until the last snapshot that needs it has gone.
 *
 * containerd 2 can map layers by itself, when a snapshotter leaves that to it; 2.1 and 2.2 then take the folder that all have in common,
 * without the mounts below it (core/mount there), and would find the empty folders below flat images.
 */
import { mkdir, readdir, rmdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Logger } from 'pino';
import { sha256Hex } from '../digest/digest.ts';
import { type IdMaps, mapText } from '../../actors/id-maps.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { mountMapped } from '../kernel/id-mapped.ts';
import { detachMount, findMount } from '../kernel/mount.ts';

export interface MappedMountsOptions {
  /** ROOT/mapped */
  dir: string;
  /** Makes `target` show `source` with other owners, unless it does already. */
  show: (order: { source: MappedSource; target: string; maps: IdMaps }) => Promise<void>;
  /** Undoes that, as far as it is there. */
  hide: (target: string) => Promise<void>;
  log: Logger;
}

export interface MappedSource {
  dir: string;
  /** It is a mount of EROFS, and nothing else will do: without it there is an empty folder in its place. */
  isFlat: boolean;
}

export interface MappedHold {
  /** Folder that shows it. */
  dir: string;
  /** It is mounted again where it is not, or where the flat image was replaced. */
  check(): Promise<void>;
  /** Resolves when it is unmounted, or others need it. */
  release(): Promise<void>;
}

interface Entry {
  users: number;
  /** Mounting and unmounting of one folder go one after the other. */
  tail: Promise<void>;
}

export class MappedMounts {
  readonly #options: MappedMountsOptions;
  readonly #entries = new Map<string, Entry>();

  constructor(options: MappedMountsOptions) {
    this.#options = options;
  }

  /** Where a folder is shown with these maps; folders are known by their last name. */
  dirOf(maps: IdMaps, source: string): string {
    const text = `${mapText(maps.uid)};${mapText(maps.gid)}`;
    const key = sha256Hex(text).slice(0, 16);
    return join(this.#options.dir, key, basename(source));
  }

  /** Throws what mounting fails with. */
  async hold(maps: IdMaps, source: MappedSource): Promise<MappedHold> {
    const dir = this.dirOf(maps, source.dir);
    const entry = this.#entry(dir);
    entry.users += 1;
    const check = () => this.#inTurn(entry, () => this.#options.show({ source, target: dir, maps }));
    let held = true;
    const release = async () => {
      if (!held) return;
      held = false;
      entry.users -= 1;
      await this.#inTurn(entry, () => this.#hideUnused(dir, entry));
    };
    try {
      await check();
    } catch (error) {
      await release();
      throw error;
    }
    return { dir, check, release };
  }

  /** Unmounts those of an earlier life that no snapshot holds. Call it when all that are needed are held. */
  async removeStrays(): Promise<void> {
    const { dir } = this.#options;
    for (const key of await readdir(dir).catch(() => [])) {
      for (const name of await readdir(join(dir, key)).catch(() => [])) {
        const target = join(dir, key, name);
        const entry = this.#entry(target);
        await this.#inTurn(entry, () => this.#hideUnused(target, entry));
      }
      await rmdir(join(dir, key)).catch(() => {});
    }
  }

  async #hideUnused(dir: string, entry: Entry): Promise<void> {
    if (entry.users > 0) return;
    try {
      await this.#options.hide(dir);
    } catch (error) {
      this.#options.log.warn({ dir, error: toErrorRecord(error) }, 'a mount with other owners stays');
    }
    if (entry.users === 0) this.#entries.delete(dir);
  }

  #entry(dir: string): Entry {
    let entry = this.#entries.get(dir);
    if (entry === undefined) {
      entry = { users: 0, tail: Promise.resolve() };
      this.#entries.set(dir, entry);
    }
    return entry;
  }

  #inTurn(entry: Entry, work: () => Promise<void>): Promise<void> {
    const mine = entry.tail.then(work);
    entry.tail = mine.catch(() => {});
    return mine;
  }
}

/** `MappedMountsOptions.show` in the kernel. */
export async function showMapped(order: {
  source: MappedSource;
  target: string;
  maps: IdMaps;
}): Promise<void> {
  const { source, target, maps } = order;
  const below = findMount(source.dir);
  if (source.isFlat && below?.type !== 'erofs')
    throw new CofaError('unavailable', `the flat image at ${source.dir} is not mounted`);
  const there = findMount(target);
  if (there !== undefined) {
    // The folder of unpacked layers is on the disk of the root, always the same one.
    if (!source.isFlat || isSameDevice(there, below)) return;
    await detachMount(there);
  }
  await mkdir(target, { recursive: true, mode: 0o700 });
  await mountMapped({ source: source.dir, target, maps });
  // It may have been unmounted a moment before.
  if (source.isFlat && !isSameDevice(findMount(target), below)) {
    await hideMapped(target);
    throw new CofaError('unavailable', `the flat image at ${source.dir} was just unmounted`);
  }
}

/** `MappedMountsOptions.hide` in the kernel. Who stands on it keeps it. */
export async function hideMapped(target: string): Promise<void> {
  for (let there = findMount(target); there !== undefined; there = findMount(target)) {
    if (!(await detachMount(there))) break;
  }
  await rmdir(target).catch(() => {});
  // Where it was the last one with these maps.
  await rmdir(dirname(target)).catch(() => {});
}

interface OnDevice {
  major: number;
  minor: number;
}

const isSameDevice = (a: OnDevice | undefined, b: OnDevice | undefined): boolean =>
  a !== undefined && b !== undefined && a.major === b.major && a.minor === b.minor;
