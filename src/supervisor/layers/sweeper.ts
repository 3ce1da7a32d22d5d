/**
 * Removes files of the store that belong to no image and to no layer of the log. A crash leaves such files behind, never facts
 * without files: the log has that something is removed before its files are. The sweep at the next start finds them, and the one
 * after an indexing that failed.
 */
import { renameSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import type { Logger } from 'pino';
import { layerIdOf, tableNameOf } from '../../../actors/device.ts';
import { hexOf } from '../../../schemas/digest.ts';
import type { Layout } from '../../store/layout.ts';
import type { Image } from '../images/image.ts';
import type { Images } from '../images/images.ts';
import type { FrontCaller } from './front-caller.ts';

export interface SweeperOptions {
  front: FrontCaller;
  layout: Layout;
  log: Logger;
  images: Pick<Images, 'all'>;
}

/** A file or folder that is being removed bears this ending until it is gone. */
const REMOVED = '.going';
/** Files that go between two looks at the images. */
const AT_ONCE = 64;

const isOurs = (name: string): boolean =>
  /^[0-9a-f]{64}$/.test(name) || name.endsWith('.draft') || name.endsWith(REMOVED);

export class Sweeper {
  readonly #options: SweeperOptions;
  #isStopped = false;
  #hasNoDrafts = false;

  constructor(options: SweeperOptions) {
    this.#options = options;
  }

  stop(): void {
    this.#isStopped = true;
  }

  /**
   * False where it broke off since an image is being prepared: its files belong to it when it is ready. Errors: those of the front
   * end, which knows the layers of the log.
   */
  async sweep(): Promise<boolean> {
    const uses = await this.#options.front.once('uses', {});
    const known = uses.map(({ diffId }) => hexOf(diffId));
    const has = (pick: (image: Image) => readonly string[]) => () =>
      new Set([...this.#options.images.all()].flatMap((image) => pick(image).map(hexOf)));
    const hasLayer = has(preparedLayers);
    return (
      (await this.#sweepFolder(
        'images',
        has((image) => [image.manifest]),
      )) &&
      (await this.#sweepFolder('spans', has(tablesOf))) &&
      (await this.#sweepFolder('tocs', has(layersOf))) &&
      (await this.#sweepFolder('layers', () => new Set([...hasLayer(), ...known]))) &&
      (await this.#sweepDrafts())
    );
  }

  get #isHeldUp(): boolean {
    return this.#isStopped || [...this.#options.images.all()].some((image) => image.isPreparing);
  }

  /**
   * `kept`: names in it that stay, as of now. That takes a look at every image, so it is asked once for all names that may
   * go, and again for each few of them: another image may come while files are removed.
   */
  async #sweepFolder(folder: string, kept: () => ReadonlySet<string>): Promise<boolean> {
    const { layout } = this.#options;
    const names = (await readdir(layout.in(folder)).catch(() => [])).filter(isOurs);
    if (this.#isHeldUp) return false;
    let stays = kept();
    const strays = names.filter((name) => !stays.has(name));
    for (let at = 0; at < strays.length; at += AT_ONCE) {
      if (at > 0) stays = kept();
      if (this.#isHeldUp) return false;
      const going = strays.slice(at, at + AT_ONCE).filter((name) => !stays.has(name));
      // In the same turn as the look at the images, so that one that comes now finds nothing half.
      await Promise.all(going.map((name) => this.#remove(layout.in(folder, name))));
    }
    return true;
  }

  async #remove(path: string): Promise<void> {
    const { log } = this.#options;
    const removed = path.endsWith(REMOVED) ? path : `${path}${REMOVED}`;
    try {
      if (removed !== path) renameSync(path, removed);
      await rm(removed, { recursive: true, force: true });
      log.info({ path }, 'a file that belongs to nothing was removed');
    } catch (error) {
      log.warn({ path, error }, 'a file that belongs to nothing stays');
    }
  }

  /** Drafts beside devices, where an older cofa wrote them: none comes after the first sweep. */
  async #sweepDrafts(): Promise<boolean> {
    const { layout } = this.#options;
    if (this.#hasNoDrafts) return true;
    for (const folder of await readdir(layout.in('layers')).catch(() => [])) {
      const names = await readdir(layout.in('layers', folder)).catch(() => []);
      const drafts = names.filter((name) => name.endsWith('.draft'));
      if (drafts.length === 0) continue;
      if (this.#isHeldUp) return false;
      for (const name of drafts) await rm(layout.in('layers', folder, name), { force: true });
    }
    this.#hasNoDrafts = true;
    return true;
  }
}

/** diffIDs of an image's layers; all of them, for one that is yet to be prepared may use any. */
export function layersOf(image: Image): string[] {
  return [...new Set([...preparedLayers(image), ...image.resolved.layers.map(({ diffId }) => diffId)])];
}

const preparedLayers = (image: Image): string[] => image.prepared?.devices.map(layerIdOf) ?? [];

const tablesOf = (image: Image): string[] => [
  ...[...image.generations()].flatMap(({ prepared }) => prepared?.devices.map(tableNameOf) ?? []),
  ...image.resolved.layers.map(({ blob }) => blob),
];
