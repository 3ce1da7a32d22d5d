/**
 * The snapshots of a node: what actors/snapshots.ts decides, made true in the event log and on the disk.
 *
 *     ROOT/snapshots/<id>/fs      what the snapshot holds by itself: the upper layer while it is active, a lower one
 *                                 when it is committed
 *     ROOT/snapshots/<id>/work    overlayfs's own, while it is active
 *     ROOT/flats/<chain>          a flat image, mounted by the engine while snapshots stand on it
 *
 * A snapshot that stands on a flat image has that one folder below it however many layers the image has:
 *
 *     lowerdir=<unpacked layer>:…:<flat image>,upperdir=<id>/fs,workdir=<id>/work
 *
 * Order: folders are made before the fact is appended and removed after it. A crash in between leaves folders that no
 * snapshot has; containerd's Cleanup removes them. Changes of the table go one after the
 * other (`#serially`); nothing slow is done inside.
 */
import { execFile } from 'node:child_process';
import { chmod, chown, lstat, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Logger } from 'pino';
import {
  type Decision,
  type FlatLayer,
  type Moment,
  SnapshotError,
  type SnapshotEvent,
  type SnapshotFacts,
  type SnapshotTable,
  TARGET_LABEL,
} from '../../actors/snapshots.ts';
import { checkMaps } from '../../actors/id-maps.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import { type DiskUsage, diskUsage } from './disk-usage.ts';
import { type Fields, FilterError, parseFilters } from './filters.ts';
import type { FlatMounts, Hold } from './flat-mounts.ts';

export interface SnapshotStoreOptions {
  /** ROOT/snapshots */
  dir: string;
  table: SnapshotTable;
  flats: FlatMounts;
  /** Stores a fact; rejects when the log does not take it. */
  append: (id: string, event: Decision['event']) => Promise<SnapshotEvent>;
  /** The flat layer that has what a client wants to unpack, if there is one. */
  cover: (wanted: WantedLayer) => Promise<FlatLayer | undefined>;
  /** Bytes that a layer's device takes on this node's disk. */
  deviceUsage: (diffId: string) => Promise<number>;
  now: () => Moment;
  /** Letters and digits that never come again. */
  newId: () => string;
  log: Logger;
}

/** A layer as a client names it before it unpacks it. */
export interface WantedLayer {
  /** ChainID. */
  target: string;
  labels: Readonly<Record<string, string>>;
}

/** As mount(8) would be called. */
export interface SnapshotMount {
  type: 'bind' | 'overlay';
  source: string;
  options: string[];
}

export interface NewSnapshot {
  key: string;
  parent: string;
  labels: Record<string, string>;
}

/** Every method throws SnapshotError for what the caller did wrong, and what the system fails with otherwise. */
export class SnapshotStore {
  readonly #options: SnapshotStoreOptions;
  /** Flat images that active snapshots and views stand on, by snapshot id. */
  readonly #holds = new Map<string, Promise<Hold>>();
  /** Folders of snapshots that are not in the table yet. */
  readonly #making = new Set<string>();
  #tail: Promise<unknown> = Promise.resolve();

  constructor(options: SnapshotStoreOptions) {
    this.#options = options;
    // What snapshots stand on is mounted again; a call that needs it waits for it, and tries again where it failed.
    for (const facts of options.table.all()) {
      if (facts.kind !== 'committed') void this.#holdOf(facts.name, facts.id)?.catch(() => {});
    }
  }

  stat(name: string): SnapshotFacts {
    return this.#options.table.stat(name);
  }

  async update(
    name: string,
    labels: Record<string, string>,
    paths: readonly string[],
  ): Promise<SnapshotFacts> {
    const { table, now } = this.#options;
    return this.#serially(async () => {
      await this.#record(table.update({ name, labels, paths, time: now() }));
      return table.stat(name);
    });
  }

  /** A writable snapshot; or `already-exists` when the layer that the client wants to unpack into it needs no unpacking. */
  async prepare(order: NewSnapshot): Promise<SnapshotMount[]> {
    const target = order.labels[TARGET_LABEL] ?? '';
    if (target !== '') await this.#adopt(target, order);
    return this.#create('active', order);
  }

  view(order: NewSnapshot): Promise<SnapshotMount[]> {
    return this.#create('view', order);
  }

  async mounts(key: string): Promise<SnapshotMount[]> {
    const { snapshot } = this.#options.table.parts(key);
    await this.#holdOf(key, snapshot.id);
    return this.#mountsOf(key);
  }

  async commit(name: string, order: NewSnapshot): Promise<void> {
    const { table, now } = this.#options;
    const { key, parent, labels } = order;
    const { id, kind } = table.stat(key);
    const usage = kind === 'committed' ? { size: 0, inodes: 0 } : await diskUsage(this.#folder(id));
    await this.#serially(() => this.#record(table.commit({ name, key, parent, labels, time: now(), usage })));
    this.#letGo(id);
  }

  async remove(name: string): Promise<void> {
    const { table } = this.#options;
    const { id, flat } = await this.#serially(async () => {
      const facts = table.stat(name);
      await this.#record(table.remove(name));
      return facts;
    });
    this.#letGo(id);
    // The snapshot is gone whatever becomes of its folder.
    if (flat === undefined) await this.#removeFolder(id);
  }

  async usage(name: string): Promise<DiskUsage> {
    const { id, kind, usage, flat } = this.#options.table.stat(name);
    if (kind === 'active') return diskUsage(this.#folder(id));
    if (flat === undefined) return usage;
    return { size: await this.#options.deviceUsage(flat.diffId), inodes: 0 };
  }

  /** Those that any of the filters matches. */
  list(filters: readonly string[]): SnapshotFacts[] {
    const matches = this.#parse(filters);
    return [...this.#options.table.all()].filter((facts) => matches(fieldsOf(facts)));
  }

  /** Removes folders that no snapshot has. */
  async cleanup(): Promise<void> {
    const { dir, table } = this.#options;
    const names = await this.#serially(() => readdir(dir));
    for (const name of names) {
      if (!table.has(name) && !this.#making.has(name)) await this.#removeFolder(name);
    }
  }

  /** Waits for changes that are under way. */
  async settle(): Promise<void> {
    await this.#serially(async () => {});
  }

  /** Throws `already-exists` when the client finds what it wants as a committed snapshot. */
  async #adopt(target: string, order: NewSnapshot): Promise<void> {
    const { table, cover, now, newId } = this.#options;
    let isThere = table.findTarget(target, order.parent) !== undefined;
    if (!isThere) {
      const flat = await cover({ target, labels: order.labels });
      if (flat === undefined) return;
      const { parent, labels } = order;
      isThere = await this.#serially(async () => {
        const decision = table.adopt({ id: newId(), target, parent, labels, time: now(), flat });
        if (decision !== undefined) await this.#record(decision);
        return true;
      });
    }
    if (isThere)
      throw new SnapshotError('already-exists', `target snapshot ${JSON.stringify(target)} exists`);
  }

  async #create(kind: 'active' | 'view', order: NewSnapshot): Promise<SnapshotMount[]> {
    const { table, flats, now, newId } = this.#options;
    const { key, parent, labels } = order;
    const id = newId();
    checkMaps(labels, parent);
    const decide = () => table.prepare({ id, kind, key, parent, labels, time: now() });
    // What is wrong with the call is said before anything is mounted for it.
    decide();
    const below = table.below(parent);
    const hold = below.flat === undefined ? undefined : await flats.hold(below.flat);
    this.#making.add(id);
    try {
      await this.#makeFolder(id, kind, hold?.dir, below.folders[0]);
      // The parent may have gone meanwhile, and the key may have been taken.
      await this.#serially(() => this.#record(decide()));
    } catch (error) {
      hold?.release();
      await this.#removeFolder(id);
      throw error;
    } finally {
      this.#making.delete(id);
    }
    if (hold !== undefined) this.#holds.set(id, Promise.resolve(hold));
    return this.#mountsOf(key);
  }

  #mountsOf(key: string): SnapshotMount[] {
    const { snapshot, folders, flat } = this.#options.table.parts(key);
    const lowers = folders.map((id) => this.#folder(id));
    if (flat !== undefined) lowers.push(this.#flatFolder(flat));
    const isView = snapshot.kind === 'view';
    const [lower = this.#folder(snapshot.id)] = lowers;
    // overlayfs wants an upper folder or two lower ones.
    if (lowers.length === 0 || (isView && lowers.length === 1)) {
      return [{ type: 'bind', source: lower, options: [isView ? 'ro' : 'rw', 'rbind'] }];
    }
    const options = isView
      ? []
      : [`workdir=${this.#work(snapshot.id)}`, `upperdir=${this.#folder(snapshot.id)}`];
    options.push(`lowerdir=${lowers.join(':')}`, ...OVERLAY_OPTIONS);
    return [{ type: 'overlay', source: 'overlay', options }];
  }

  /** The flat image below a snapshot, kept mounted until the snapshot goes; undefined where there is none. */
  #holdOf(key: string, id: string): Promise<Hold> | undefined {
    const { flat } = this.#options.table.parts(key);
    if (flat === undefined) return undefined;
    let hold = this.#holds.get(id);
    if (hold === undefined) {
      const mine = this.#options.flats.hold(flat);
      hold = mine;
      this.#holds.set(id, mine);
      mine.catch((error: unknown) => {
        this.#options.log.warn(
          { snapshot: id, error: toErrorRecord(error) },
          'the flat image below is not mounted',
        );
        if (this.#holds.get(id) === mine) this.#holds.delete(id);
      });
    }
    return hold;
  }

  #letGo(id: string): void {
    const hold = this.#holds.get(id);
    this.#holds.delete(id);
    hold?.then(
      ({ release }) => release(),
      () => {},
    );
  }

  /** The upper folder's owner and mode are those of the root below: overlayfs shows the upper one's. */
  async #makeFolder(id: string, kind: 'active' | 'view', flat?: string, folder?: string): Promise<void> {
    const upper = this.#folder(id);
    await mkdir(upper, { recursive: true, mode: 0o755 });
    await chmod(upper, 0o755);
    if (kind === 'active') await mkdir(this.#work(id), { mode: 0o711 });
    const lower = folder === undefined ? flat : this.#folder(folder);
    if (lower === undefined) return;
    const { uid, gid, mode } = await lstat(lower);
    if (uid !== 0 || gid !== 0) await chown(upper, uid, gid);
    if ((mode & 0o7777) !== 0o755) await chmod(upper, mode & 0o7777);
  }

  async #removeFolder(name: string): Promise<void> {
    try {
      // rm(1) takes names of any bytes, and does not leave the file system where something is mounted.
      await promisify(execFile)('rm', ['-rf', '--one-file-system', '--', join(this.#options.dir, name)]);
    } catch (error) {
      this.#options.log.warn({ folder: name, error }, 'a folder of a snapshot that has gone stays');
    }
  }

  async #record({ id, event }: Decision): Promise<void> {
    this.#options.table.apply(id, await this.#options.append(id, event));
  }

  #serially<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#tail.then(work);
    this.#tail = mine.catch(() => {});
    return mine;
  }

  #parse(filters: readonly string[]): (fields: Fields) => boolean {
    try {
      return parseFilters(filters);
    } catch (error) {
      if (error instanceof FilterError) throw new SnapshotError('invalid-argument', error.message);
      throw error;
    }
  }

  #folder(id: string): string {
    return join(this.#options.dir, id, 'fs');
  }

  #work(id: string): string {
    return join(this.#options.dir, id, 'work');
  }

  #flatFolder(flat: FlatLayer): string {
    return this.#options.flats.dirOf(flat.chain);
  }
}

/**
 * `index=off`: an upper folder can be mounted again after a crash; containerd does the same. `redirect_dir=on`: a folder
 * of a layer below can be renamed, without which mv(1) would copy, and fetch, what is in it.
 */
const OVERLAY_OPTIONS = ['index=off', 'redirect_dir=on'];

function fieldsOf(facts: SnapshotFacts): Fields {
  return ([first, ...rest]) => {
    switch (first) {
      case 'name':
      case 'parent':
      case 'kind':
        return facts[first];
      case 'labels': {
        const label = rest.join('.');
        return Object.hasOwn(facts.labels, label) ? facts.labels[label] : undefined;
      }
      default:
        return undefined;
    }
  };
}
