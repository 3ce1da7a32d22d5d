/**
 * What an engine that did not end by itself left in the kernel: loop devices, and the file systems that stand on them.
 * Containers may be using them, so they are repaired rather than replaced: a loop is taken over by the engine that
 * starts, and where it stood on a file of the dead FUSE mount it is moved to the new one (LOOP_CHANGE_FD) below the
 * mounted file system.
 *
 * - A loop says whose it is by its label, which the kernel tells for as long as it still has the attributes of the
 *   file behind it. Where it has not, the path of that file says it, until the dead FUSE mount is detached: so loops
 *   are looked for before that.
 * - There may be several loops of one layer: a file system that an earlier engine could not take over keeps its own.
 * - After a reboot there is nothing here, and everything is attached anew.
 */
import type { Logger } from 'pino';
import { dismissLoop, listLoops, type LoopStatus } from '../../kernel/loop.ts';
import { detachMount, listMounts, type MountEntry } from '../../kernel/mount.ts';
import { hexOf } from '../../../schemas/digest.ts';
import type { Layout } from '../../store/layout.ts';

/** Name of a layer's loop; `engine` begins the names of all loops of one engine. */
export const layerLabel = (engine: string, diffId: string): string =>
  `${engine}/${hexOf(diffId).slice(0, 40)}`;
/** Name of the loop under an image's flat metadata. */
export const flatLabel = (engine: string, manifest: string): string =>
  `${engine}/flat-${hexOf(manifest).slice(0, 32)}`;

export class Leftovers {
  /** By label; those that a mount may stand on first. */
  readonly #loops = new Map<string, LoopStatus[]>();
  /** Paths of those that somebody took. */
  readonly #taken = new Set<string>();
  readonly #layout: Layout;
  readonly #engine: string;

  private constructor(layout: Layout, engine: string, loops: Iterable<LoopStatus>) {
    this.#layout = layout;
    this.#engine = engine;
    for (const loop of loops) {
      const same = this.#loops.get(loop.label);
      if (same === undefined) this.#loops.set(loop.label, [loop]);
      // One that goes away with its last user is nothing to build on.
      else if (loop.autoclear) same.push(loop);
      else same.unshift(loop);
    }
  }

  /** Of an engine that is the first. */
  static none(layout: Layout): Leftovers {
    return new Leftovers(layout, '', []);
  }

  /** Looks for them; call it before the dead FUSE mount is detached. `engine`: how their labels begin. */
  static async find(layout: Layout, engine: string): Promise<Leftovers> {
    const devices = `${layout.devices()}/`;
    const loops = await loopsBelow(layout);
    const mine: LoopStatus[] = [];
    for (const loop of loops) {
      if (loop.label.startsWith(`${engine}/`)) mine.push(loop);
      else if (loop.label === '' && loop.backingFile.startsWith(devices)) {
        const hex = loop.backingFile.slice(devices.length, devices.length + 40);
        mine.push({ ...loop, label: `${engine}/${hex}` });
      }
    }
    return new Leftovers(layout, engine, mine);
  }

  get size(): number {
    let size = 0;
    for (const loops of this.#loops.values()) size += loops.length;
    return size;
  }

  /** The loops of a label, the best one first; from now on they are the caller's. */
  take(label: string): LoopStatus[] {
    const loops = this.#loops.get(label) ?? [];
    this.#loops.delete(label);
    for (const { path } of loops) this.#taken.add(path);
    return loops;
  }

  /** They are of no use to whoever took them; another one may take them, or they go with the rest. */
  giveBack(label: string, loops: LoopStatus[]): void {
    if (loops.length > 0) this.#loops.set(label, loops);
  }

  /**
   * Lets go of those that nobody took; one that is in use goes with its last user. A mount on them that the log does not
   * know goes first: its end came into the log, and the engine died before it heard of that. It may share its loop with
   * one that has come back; then it goes only from where the log tells of a mount (`past`), since else it may be
   * somebody's bind mount of that one. Those that `isWanted` says so of are back, or about to be. Returns how many loops
   * there were, and where mounts went.
   */
  async dismissRest(
    log: Logger,
    isWanted: (dir: string) => boolean,
    past: () => Promise<ReadonlySet<string>>,
  ): Promise<{ loops: number; dirs: string[] }> {
    const dirs: string[] = [];
    const rest = [...this.#loops.values()].flat();
    this.#loops.clear();
    const paths = new Set(rest.map(({ path }) => path));
    const unwanted = listMounts().filter(({ type, mountPoint }) => type === 'erofs' && !isWanted(mountPoint));
    const shared = await this.#onTaken(unwanted);
    const told = shared.size > 0 ? await past() : new Set<string>();
    const strays = unwanted.filter(
      (mount) => paths.has(mount.source) || (shared.has(mount) && told.has(mount.mountPoint)),
    );
    for (const stray of strays.toReversed()) {
      log.warn({ dir: stray.mountPoint }, 'a mount that the log does not know is taken away');
      await detachMount(stray).then(
        (isGone) => isGone && dirs.push(stray.mountPoint),
        (error: unknown) => log.warn({ dir: stray.mountPoint, error }, 'a mount stays'),
      );
    }
    for (const loop of rest) {
      await dismissLoop(loop).catch((error: unknown) => log.warn({ loop: loop.path, error }, 'a loop stays'));
    }
    return { loops: rest.length, dirs };
  }

  /** Those of the mounts that stand on loops which were taken over. */
  async #onTaken(mounts: readonly MountEntry[]): Promise<ReadonlySet<MountEntry>> {
    const on = mounts.filter(({ source, root }) => root === '/' && this.#taken.has(source));
    if (on.length === 0) return new Set();
    // One that has gone since may have left its number to somebody else's.
    const loops = await loopsBelow(this.#layout);
    const paths = new Set(
      loops.filter(({ label }) => label.startsWith(`${this.#engine}/`)).map(({ path }) => path),
    );
    return new Set(on.filter(({ source }) => paths.has(source)));
  }
}

/**
 * Loops of the machine on files of a root, as far as one can tell: a file of a FUSE mount that is detached has a name only;
 * one that an engine in a container attached has a path from wherever the root was mounted there, once that namespace is gone.
 */
const loopsBelow = (layout: Layout): Promise<LoopStatus[]> =>
  listLoops((file) => file.startsWith(`${layout.root}/`) || OF_SOME_ENGINE.test(file));
const OF_SOME_ENGINE =
  /^\/[0-9a-f]{64}( |$)|\/(layers\/[0-9a-f]{64}\/device|images\/[0-9a-f]{64}\/flat\.erofs)( \(deleted\))?$/;
