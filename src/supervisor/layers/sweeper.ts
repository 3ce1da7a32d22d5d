/**
 * Removes files of the store that belong to no image and to no layer of the log. A crash leaves such files behind, never facts
 * without files: the log has that something is removed before its files are. The sweep at the next start finds them, and the one
 * after an indexing that failed.
 */
import { renameSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
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

export class Sweeper {
  readonly #options: SweeperOptions;
  #isStopped = false;

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
    const known = new Set(uses.map(({ diffId }) => hexOf(diffId)));
    const has = (pick: (image: Image) => readonly string[]) =>
      new Set([...this.#options.images.all()].flatMap((image) => pick(image).map(hexOf)));
    return (
      (await this.#sweepFolder('images', () => has((image) => [image.manifest]))) &&
      (await this.#sweepFolder('spans', () => has(tablesOf))) &&
      (await this.#sweepFolder('tocs', () => has(layersOf))) &&
      (await this.#sweepFolder('layers', () => new Set([...has(preparedLayers), ...known])))
    );
  }

  /** Looked at again before each step: another image may come at any time. */
  get #isHeldUp(): boolean {
    return this.#isStopped || [...this.#options.images.all()].some((image) => image.isPreparing);
  }

  /** `kept`: names in it that stay, as of now. */
  async #sweepFolder(folder: string, kept: () => ReadonlySet<string>): Promise<boolean> {
    const { layout } = this.#options;
    for (const name of await readdir(layout.in(folder)).catch(() => [])) {
      const isOurs = /^[0-9a-f]{64}$/.test(name) || name.endsWith('.draft') || name.endsWith(REMOVED);
      if (!isOurs) continue;
      if (this.#isHeldUp) return false;
      const path = layout.in(folder, name);
      if (!kept().has(name)) await this.#remove(path);
      else if (folder === 'layers') await this.#removeDrafts(path);
    }
    return true;
  }

  async #remove(path: string): Promise<void> {
    const { log } = this.#options;
    const removed = path.endsWith(REMOVED) ? path : `${path}${REMOVED}`;
    try {
      // At once, so that an image that comes now finds nothing half.
      if (removed !== path) renameSync(path, removed);
      await rm(removed, { recursive: true, force: true });
      log.info({ path }, 'a file that belongs to nothing was removed');
    } catch (error) {
      log.warn({ path, error }, 'a file that belongs to nothing stays');
    }
  }

  /** Drafts of an indexer that was killed, beside a device that is in use. */
  async #removeDrafts(folder: string): Promise<void> {
    for (const name of await readdir(folder).catch(() => []))
      if (name.endsWith('.draft') && !this.#isHeldUp) await rm(join(folder, name), { force: true });
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
