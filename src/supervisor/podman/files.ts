/**
 * The additional image store on the disk. What must not outlive the mounts lies in a folder of /run, which a reboot empties:
 * without it podman finds no image here, and a container that stands on one does not start, instead of on an empty folder.
 * The list of layers stays: podman fails altogether where its own images stand on layers that it does not know.
 *
 *     ROOT/podman/overlay-images/images.json ──▶ RUN/images.json      which images there are
 *                 overlay-images/<image>/…                            manifest, configuration
 *                 overlay-layers/layers.json                          which layers
 *                 overlay-layers/<layer>.tar-split.gz ──▶ ../splits/… what `podman save` needs beside the files
 *                 overlay/<layer>/diff ──▶ RUN/layers/<layer>         the flat tree of this layer and all below it
 *                 overlay/l/<link> ──▶ ../<layer>/diff
 *                 splits/                                             tar-split files by diffID
 *
 * A layer names none below it (`lower`): what stands on it has the flat tree alone.
 */
import { randomBytes } from 'node:crypto';
import {
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  rmdir,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { z } from 'zod';
import { hexOf } from '../../../schemas/digest.ts';
import { digestOf, sha256Hex } from '../../digest/digest.ts';
import { type Layout, writeWhole } from '../../store/layout.ts';
import {
  type BigItem,
  fileOf,
  imagesJson,
  layerIds,
  layersJson,
  linkOf,
  type StoredImage,
} from './documents.ts';

/** For layers that are not whole: podman fails with this, instead of writing what it finds in the flat tree. */
const NOT_WHOLE = 'cofa: this layer has not arrived as a whole; cofa podman ls says when it has';
const NOT_WHOLE_FILE = 'not-whole.gz';

/** Where a root's mounts are, and what names them. */
export const runFolder = (root: string): string => `/run/cofa/${sha256Hex(root).slice(0, 12)}/podman`;

export class StoreFiles {
  readonly #store: string;
  readonly #run: string;
  #isPrepared = false;

  constructor(layout: Layout) {
    this.#store = layout.podman();
    this.#run = runFolder(layout.root);
  }

  /** Where the flat tree of a layer is mounted. */
  mountPoint = (layer: string): string => join(this.#run, 'layers', layer);

  /** Of a directory: which layer is mounted there; undefined: none of these. */
  layerAt(dir: string): string | undefined {
    const beginning = join(this.#run, 'layers/');
    return dir.startsWith(beginning) ? dir.slice(beginning.length) : undefined;
  }

  split = (diffId: string): string => join(this.#store, 'splits', `${hexOf(diffId)}.gz`);

  /** Makes what is missing; once. Setuid programs work in the mounts, so only root may reach these. */
  async prepare(): Promise<void> {
    if (this.#isPrepared) return;
    for (const path of [this.#store, this.#run]) await mkdir(path, { recursive: true, mode: 0o700 });
    for (const folder of ['overlay-images', 'overlay-layers', 'overlay/l', 'splits'])
      await mkdir(join(this.#store, folder), { recursive: true, mode: 0o700 });
    await mkdir(join(this.#run, 'layers'), { recursive: true, mode: 0o700 });
    await link(this.#document('images'), join(this.#store, 'overlay-images/images.json'));
    for (const name of ['images', 'layers'] as const)
      await writeFile(this.#lock(name), '', { flag: 'a', mode: 0o644 });
    const entry = {
      type: 1,
      name: NOT_WHOLE,
      size: 1,
      payload: Buffer.alloc(8).toString('base64'),
      position: 0,
    };
    await writeWhole(join(this.#store, 'splits', NOT_WHOLE_FILE), gzipSync(`${JSON.stringify(entry)}\n`));
    this.#isPrepared = true;
  }

  /** Puts an image's documents there. */
  async placeItems(image: string, items: ReadonlyArray<BigItem & { bytes: Buffer }>): Promise<void> {
    const folder = join(this.#store, 'overlay-images', image);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const { key, bytes } of items) {
      const path = join(folder, fileOf(key));
      // The manifest is one file under two keys: podman looks for one of them by the name of the other.
      await writeWhole(path, bytes);
    }
  }

  /** A document, where it is there and is what its digest says. */
  async item(image: string, key: string, digest: string): Promise<Buffer | undefined> {
    const bytes = await readFile(join(this.#store, 'overlay-images', image, fileOf(key))).catch(
      () => undefined,
    );
    return bytes !== undefined && digestOf(bytes) === digest ? bytes : undefined;
  }

  /** Makes what podman finds of a layer beside its mount. `isWhole`: its tar-split file is there. */
  async placeLayer(layer: string, diffId: string, isWhole: boolean): Promise<void> {
    const folder = join(this.#store, 'overlay', layer);
    // podman mounts images on `merged`, with `empty` below those that have nothing there.
    for (const name of ['empty', 'merged', 'work'])
      await mkdir(join(folder, name), { recursive: true, mode: 0o700 });
    await link(this.mountPoint(layer), join(folder, 'diff'));
    await link(`../${layer}/diff`, join(this.#store, 'overlay/l', linkOf(layer)));
    await writeFile(join(folder, 'link'), linkOf(layer), { mode: 0o644 });
    await this.setWhole(layer, diffId, isWhole);
  }

  async setWhole(layer: string, diffId: string, isWhole: boolean): Promise<void> {
    const split = isWhole ? `${hexOf(diffId)}.gz` : NOT_WHOLE_FILE;
    await link(`../splits/${split}`, join(this.#store, 'overlay-layers', `${layer}.tar-split.gz`));
  }

  /** Removes what belongs to none of these: ids of layers and images, diffIDs. What podman uses stays until the next time. */
  async sweep(needed: {
    layers: ReadonlySet<string>;
    images: ReadonlySet<string>;
    diffIds: ReadonlySet<string>;
  }): Promise<void> {
    const splits = new Set([
      NOT_WHOLE_FILE,
      ...Array.from(needed.diffIds, (diffId) => `${hexOf(diffId)}.gz`),
    ]);
    for (const layer of await this.#ids('overlay'))
      if (!needed.layers.has(layer)) await this.#removeLayer(layer).catch(() => {});
    for (const image of await this.#ids('overlay-images'))
      if (!needed.images.has(image))
        await rm(join(this.#store, 'overlay-images', image), { recursive: true, force: true });
    // A draft is one that is being written.
    for (const split of await readdir(join(this.#store, 'splits')))
      if (split.endsWith('.gz') && !splits.has(split))
        await rm(join(this.#store, 'splits', split), { force: true });
  }

  #ids = async (folder: string): Promise<string[]> =>
    (await readdir(join(this.#store, folder))).filter((name) => /^[0-9a-f]{64}$/.test(name));

  /** Errors: `ENOTEMPTY`, `EBUSY` where podman has something there. */
  async #removeLayer(layer: string): Promise<void> {
    const folder = join(this.#store, 'overlay', layer);
    for (const name of ['empty', 'merged', 'work']) await removeFolder(join(folder, name));
    await rm(join(this.#store, 'overlay-layers', `${layer}.tar-split.gz`), { force: true });
    await rm(join(this.#store, 'overlay/l', linkOf(layer)), { force: true });
    for (const name of ['diff', 'link']) await rm(join(folder, name), { force: true });
    await removeFolder(folder);
  }

  async hasSplit(diffId: string): Promise<boolean> {
    return (await lstat(this.split(diffId)).catch(() => undefined)) !== undefined;
  }

  /**
   * Shows these images, and no others; `all`: those whose layers are known. At no moment is there an image whose layers are
   * not. Programs that keep the documents in memory see by the lock's contents that they were changed: these are written after
   * them.
   */
  async show(
    images: readonly StoredImage[],
    all: ReadonlyArray<Pick<StoredImage, 'layers' | 'added'>>,
  ): Promise<void> {
    const before = await readFile(this.#document('layers'), 'utf8').catch(() => '[]');
    const known = new Set(all.flatMap(({ layers }) => layerIds(layers.map(({ diffId }) => diffId))));
    // What is to be forgotten stays until no image has it.
    await this.#write('layers', layersJson(all, leftOf(before, known)));
    await this.#write('images', imagesJson(images));
    await this.#write('layers', layersJson(all));
  }

  async #write(name: 'images' | 'layers', text: string): Promise<void> {
    const path = this.#document(name);
    if ((await readFile(path, 'utf8').catch(() => undefined)) === text) return;
    const draft = `${path}.draft`;
    await writeFile(draft, text, { mode: 0o600, flush: true });
    await rename(draft, path);
    const lock = await open(this.#lock(name), 'r+');
    // 64 bytes that no other writer has chosen (pkg/lockfile, lastwrite.go).
    await lock.write(randomBytes(64), 0, 64, 0).finally(() => lock.close());
  }

  #document = (name: 'images' | 'layers'): string =>
    name === 'images' ? join(this.#run, 'images.json') : join(this.#store, 'overlay-layers/layers.json');
  #lock = (name: 'images' | 'layers'): string => join(this.#store, `overlay-${name}`, `${name}.lock`);
}

/** The layers of a document that are not among the known ones. */
function leftOf(document: string, known: ReadonlySet<string>): object[] {
  try {
    return Layers.parse(JSON.parse(document)).filter(({ id }) => !known.has(id));
  } catch {
    // A crash may have left less than a document; it is written anew.
    return [];
  }
}

const Layers = z.array(z.looseObject({ id: z.string() }));

/** A symbolic link that says so, whatever was there; at no moment is there none. */
async function link(target: string, path: string): Promise<void> {
  if ((await readlink(path).catch(() => undefined)) === target) return;
  const draft = `${path}.draft`;
  await rm(draft, { force: true });
  await symlink(target, draft);
  await rename(draft, path);
}

async function removeFolder(path: string): Promise<void> {
  await rmdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
}
