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
 * Where a client's labels say that the container has other ids than the node, the lower ones are those of mapped-mounts.ts.
 *
 * Order: folders are made before the fact is appended and removed after it. A crash in between leaves folders that no
 * snapshot has; containerd's Cleanup removes them. Changes that have a snapshot in common
 * go one after the other, from the decision until the log has the fact (turns.ts); the others share a sync of the log.
 */
import { execFile } from 'node:child_process';
import { chmod, chown, lstat, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Logger } from 'pino';
import { digestOf } from '../digest/digest.ts';
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
import { copyNames, hostIds, type IdMaps, idMapsOf, isCopyFor, mapText } from '../../actors/id-maps.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type { TraceContext } from '../../schemas/trace-context.ts';
import { removeSmallFolder } from '../kernel/small-folder.ts';
import { type DiskUsage, diskUsage } from './disk-usage.ts';
import { type Fields, FilterError, parseFilters } from './filters.ts';
import type { FlatMounts } from './flat-mounts.ts';
import type { Asked } from './grpc-calls.ts';
import type { MappedHold, MappedMounts } from './mapped-mounts.ts';
import { completeFolders, isUnpackedAlone } from './rebase.ts';
import { Turns } from './turns.ts';

export interface SnapshotStoreOptions {
  /** ROOT/snapshots */
  dir: string;
  table: SnapshotTable;
  flats: FlatMounts;
  mapped: MappedMounts;
  /** Stores a fact; rejects when the log does not take it. */
  append: (id: string, event: Decision['event']) => Promise<SnapshotEvent>;
  /** The flat layer that has what a client wants to unpack, if there is one. */
  cover: (wanted: WantedLayer) => Promise<FlatLayer | undefined>;
  /** A client need not unpack a layer; resolves when it may hear of it. */
  adopted?: (layer: Pick<NewSnapshot, 'key' | 'labels'>) => Promise<void>;
  /** What a layer's devices take on this node's disk. */
  deviceUsage: (diffId: string) => Promise<DiskUsage>;
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
  /** Of the client's call. */
  trace: TraceContext | undefined;
}

/** As mount(8) would be called. */
export interface SnapshotMount {
  type: 'bind' | 'overlay';
  source: string;
  options: string[];
}

/** What lies below an active snapshot or view, kept mounted for it. */
interface Below {
  flat: FlatLayer | undefined;
  /** Folder that shows the flat image with the node's ids. */
  flatDir: string | undefined;
  maps: IdMaps | undefined;
  /** Mounts what was unmounted behind our back. */
  check(): Promise<void>;
  release(): void;
}

export interface NewSnapshot {
  key: string;
  parent: string;
  labels: Record<string, string>;
  /** The call that wants it. */
  asked?: Asked | undefined;
}

/** Every method throws SnapshotError for what the caller did wrong, and what the system fails with otherwise. */
export class SnapshotStore {
  readonly #options: SnapshotStoreOptions;
  /** What active snapshots and views stand on, by snapshot id. */
  readonly #holds = new Map<string, Promise<Below>>();
  /** Folders of snapshots that are not in the table yet. */
  readonly #making = new Set<string>();
  readonly #turns = new Turns();

  constructor(options: SnapshotStoreOptions) {
    this.#options = options;
    // What snapshots stand on is mounted again; a call that needs it waits for it, and tries again where it failed.
    const held = [...options.table.all()]
      .filter(({ kind }) => kind !== 'committed')
      .map(async ({ name, id }) => await this.#holdOf(name, id));
    void Promise.allSettled(held).then(() => options.mapped.removeStrays());
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
    return this.#turns.run({ alone: [name] }, async () => {
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
    await (await this.#holdOf(key, snapshot.id)).check();
    return this.#mountsOf(key);
  }

  async commit(name: string, order: NewSnapshot): Promise<void> {
    const { table, now } = this.#options;
    const { key, parent, labels } = order;
    const active = table.stat(key);
    const { id, kind } = active;
    if (parent !== '' && isUnpackedAlone(active)) await this.#completeFolders(id, parent);
    const usage = kind === 'committed' ? { size: 0, inodes: 0 } : await diskUsage(this.#folder(id));
    await this.#turns.run({ alone: [key, name], beside: [parent] }, () =>
      this.#record(table.commit({ name, key, parent, labels, time: now(), usage })),
    );
    this.#letGo(id);
  }

  async remove(name: string): Promise<void> {
    const { table } = this.#options;
    const beside = [table.find(name)?.parent ?? ''];
    const { id, flat } = await this.#turns.run({ alone: [name], beside }, async () => {
      const facts = table.stat(name);
      await this.#record(table.remove(name));
      return facts;
    });
    this.#letGo(id);
    // The snapshot is gone whatever becomes of its folder.
    if (flat === undefined) await this.#removeFolder(id);
    // A kubelet that removes an image wants its room now.
    else if (!this.#isElsewhere(flat)) this.#options.flats.dismiss(flat.chain);
  }

  /** What it takes on this disk now. Of a lazy layer that is what has arrived: bytes that are not here take no room. */
  async usage(name: string): Promise<DiskUsage> {
    const { id, kind, usage, flat } = this.#options.table.stat(name);
    if (kind === 'active') return diskUsage(this.#folder(id));
    if (flat === undefined) return usage;
    return await this.#options.deviceUsage(flat.diffId);
  }

  /** Whether another snapshot is the same flat layer, in another namespace for example. */
  #isElsewhere({ chain }: FlatLayer): boolean {
    for (const { flat } of this.#options.table.all()) if (flat?.chain === chain) return true;
    return false;
  }

  /** Those that any of the filters matches. */
  list(filters: readonly string[]): SnapshotFacts[] {
    const matches = this.#parse(filters);
    return [...this.#options.table.all()].filter((facts) => matches(fieldsOf(facts)));
  }

  /** Removes folders that no snapshot has. */
  async cleanup(): Promise<void> {
    const { dir, table } = this.#options;
    const names = await readdir(dir);
    for (const name of names) {
      if (!table.has(name) && !this.#making.has(name)) await this.#removeFolder(name);
    }
  }

  /** Waits for changes that are under way. */
  async settle(): Promise<void> {
    await this.#turns.settle();
  }

  /**
   * Throws `already-exists` when the client finds what it wants as a committed snapshot. That one is here is no reason: the
   * table has the snapshots of all of containerd's namespaces, and a chain's name is no secret. The engine is asked each
   * time whether the image that the client pulls may have it; one that may not is unpacked from what the client has got.
   */
  async #adopt(target: string, order: NewSnapshot): Promise<void> {
    const { table, cover, now, newId } = this.#options;
    const { parent, labels, asked } = order;
    const flat = await cover({ target, labels, trace: asked?.trace });
    if (flat === undefined) return;
    await this.#turns.run({ alone: [target], beside: [parent] }, async () => {
      const decision = table.adopt({ id: newId(), target, parent, labels, time: now(), flat, asked });
      if (decision !== undefined) await this.#record(decision);
    });
    await this.#options.adopted?.(order);
    throw new SnapshotError('already-exists', `target snapshot ${JSON.stringify(target)} exists`);
  }

  async #create(kind: 'active' | 'view', order: NewSnapshot): Promise<SnapshotMount[]> {
    const { table, now, newId } = this.#options;
    const { key, parent, labels, asked } = order;
    const id = newId();
    const maps = this.#mapsOf(labels, parent);
    const decide = () => table.prepare({ id, kind, key, parent, labels, time: now(), asked });
    // What is wrong with the call is said before anything is mounted for it.
    decide();
    const { folders, flat } = table.below(parent);
    const below = await this.#hold({ flat, hasFolders: folders.length > 0, maps, trace: asked?.trace });
    this.#making.add(id);
    try {
      const [lower] = folders;
      await this.#makeFolder({
        id,
        kind,
        maps,
        lower: lower === undefined ? below.flatDir : this.#folder(lower),
      });
      // The parent may have gone meanwhile, and the key may have been taken.
      await this.#turns.run({ alone: [key], beside: [parent] }, () => this.#record(decide()));
    } catch (error) {
      below.release();
      await this.#removeFolder(id);
      throw error;
    } finally {
      this.#making.delete(id);
    }
    this.#holds.set(id, Promise.resolve(below));
    return this.#mountsOf(key);
  }

  /** What was unpacked alone gets what it lacks of the layers that it is put upon. */
  async #completeFolders(id: string, parent: string): Promise<void> {
    const { table, flats } = this.#options;
    const { folders, flat } = table.below(parent);
    const hold = flat === undefined ? undefined : await flats.hold(flat);
    try {
      const lowers = folders.map((lower) => this.#folder(lower));
      await completeFolders(this.#folder(id), hold === undefined ? lowers : [...lowers, hold.dir]);
    } finally {
      hold?.release();
    }
  }

  #mountsOf(key: string): SnapshotMount[] {
    const { snapshot, folders, flat } = this.#options.table.parts(key);
    if (isUnpackedAlone(snapshot))
      return [{ type: 'overlay', source: 'overlay', options: [`upperdir=${this.#folder(snapshot.id)}`] }];
    const maps = this.#mapsOf(snapshot.labels, snapshot.parent);
    const lowers = folders.map((id) => this.#lowerFolder(id, maps));
    if (flat !== undefined) lowers.push(this.#flatFolder(flat, maps));
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

  /** What lies below a snapshot, kept mounted until the snapshot goes. */
  #holdOf(key: string, id: string): Promise<Below> {
    const { snapshot, folders, flat } = this.#options.table.parts(key);
    const maps = this.#mapsOf(snapshot.labels, snapshot.parent);
    const before = this.#holds.get(id);
    const mine = (before ?? Promise.resolve(undefined))
      .catch(() => undefined)
      .then(async (held) => {
        // A client may have changed its labels.
        if (held !== undefined && sameMaps(held.maps, maps)) return held;
        const next = await this.#hold({ flat, hasFolders: folders.length > 0, maps });
        held?.release();
        return next;
      });
    this.#holds.set(id, mine);
    mine.catch((error: unknown) => {
      this.#options.log.warn({ snapshot: id, error: toErrorRecord(error) }, 'what lies below is not mounted');
    });
    return mine;
  }

  async #hold({
    flat,
    hasFolders,
    maps,
    trace,
  }: {
    flat: FlatLayer | undefined;
    hasFolders: boolean;
    maps: IdMaps | undefined;
    trace?: TraceContext | undefined;
  }): Promise<Below> {
    const { flats, mapped, dir } = this.#options;
    const hold = flat === undefined ? undefined : await flats.hold(flat, trace);
    const views: MappedHold[] = [];
    const release = () => {
      // The flat image can only go when nothing stands on it.
      void Promise.all(views.map((view) => view.release())).then(() => hold?.release());
    };
    try {
      if (maps !== undefined && hold !== undefined)
        views.push(await mapped.hold(maps, { dir: hold.dir, isFlat: true }));
      if (maps !== undefined && hasFolders) views.push(await mapped.hold(maps, { dir, isFlat: false }));
    } catch (error) {
      release();
      throw explainMapped(error);
    }
    const check = async () => {
      await hold?.check();
      for (const view of views) await view.check();
    };
    return { flat, flatDir: hold?.dir, maps, check, release };
  }

  /** Undefined: the snapshot's ids are the node's. */
  #mapsOf(labels: Readonly<Record<string, string>>, parent: string): IdMaps | undefined {
    const maps = idMapsOf(labels);
    const { table } = this.#options;
    const facts = table.find(parent);
    if (maps === undefined || facts === undefined) return maps;
    return isCopyFor(maps, copyNames(facts, table.find(facts.parent)), digestOf) ? undefined : maps;
  }

  #letGo(id: string): void {
    const hold = this.#holds.get(id);
    this.#holds.delete(id);
    hold?.then(
      ({ release }) => release(),
      () => {},
    );
  }

  /** The upper folder's owner and mode are those of the root below, as the container sees them: overlayfs shows the upper one's. */
  async #makeFolder(order: {
    id: string;
    kind: 'active' | 'view';
    /** What is right below, with the node's ids. */
    lower: string | undefined;
    maps: IdMaps | undefined;
  }): Promise<void> {
    const { id, kind, lower, maps } = order;
    const upper = this.#folder(id);
    await mkdir(upper, { recursive: true, mode: 0o755 });
    await chmod(upper, 0o755);
    if (kind === 'active') await mkdir(this.#work(id), { mode: 0o711 });
    const below = lower === undefined ? { uid: 0, gid: 0, mode: 0o755 } : await lstat(lower);
    // Where the root's owner has no id in the container, the container's root is better than the node's.
    const { uid, gid } =
      maps === undefined ? below : (hostIds(maps, below) ?? hostIds(maps, { uid: 0, gid: 0 }) ?? below);
    const mode = below.mode & 0o7777;
    if (uid !== 0 || gid !== 0) await chown(upper, uid, gid);
    if (mode !== 0o755) await chmod(upper, mode);
  }

  async #removeFolder(name: string): Promise<void> {
    const folder = join(this.#options.dir, name);
    if (await removeSmallFolder(folder)) return;
    try {
      // rm(1) takes names of any bytes, and does not leave the file system where something is mounted.
      await promisify(execFile)('rm', ['-rf', '--one-file-system', '--', folder]);
    } catch (error) {
      this.#options.log.warn({ folder: name, error }, 'a folder of a snapshot that has gone stays');
    }
  }

  async #record({ id, event }: Decision): Promise<void> {
    this.#options.table.apply(id, await this.#options.append(id, event));
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

  #lowerFolder(id: string, maps: IdMaps | undefined): string {
    const { dir, mapped } = this.#options;
    return maps === undefined ? this.#folder(id) : join(mapped.dirOf(maps, dir), id, 'fs');
  }

  #flatFolder(flat: FlatLayer, maps: IdMaps | undefined): string {
    const { flats, mapped } = this.#options;
    const dir = flats.dirOf(flat.chain);
    return maps === undefined ? dir : mapped.dirOf(maps, dir);
  }
}

/**
 * `index=off`: an upper folder can be mounted again after a crash; containerd does the same. `redirect_dir=on`: a folder
 * of a layer below can be renamed, without which mv(1) would copy, and fetch, what is in it.
 */
const OVERLAY_OPTIONS = ['index=off', 'redirect_dir=on'];

const sameMaps = (a: IdMaps | undefined, b: IdMaps | undefined): boolean =>
  a === undefined || b === undefined
    ? a === b
    : mapText(a.uid) === mapText(b.uid) && mapText(a.gid) === mapText(b.gid);

/** Where the machine cannot do it, clients have another way. */
function explainMapped(error: unknown): unknown {
  if (
    !(error instanceof CofaError) ||
    !['unsupported', 'environment', 'invalid-argument'].includes(error.code)
  )
    return error;
  if (error.code === 'invalid-argument') return new SnapshotError('invalid-argument', error.message);
  return new SnapshotError(
    'failed-precondition',
    `layers of cofa cannot be mounted with other ids here (${error.message}); without --remap-labels, and without the capability remap-ids in its configuration, containerd copies them`,
  );
}

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
