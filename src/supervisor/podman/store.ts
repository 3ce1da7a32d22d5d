/**
 * podman's additional image store: images of this node that podman, buildah and CRI-O take for images of their own, without a
 * layer of theirs on the disk. The log has which there are (`podman.added`), and its mounts: one for each prefix of an
 * image's layers, which images have in common as they have layers. Documents and links are made from both (files.ts), anew at
 * each start.
 */
import type { Logger } from 'pino';
import { type ImageDevice, layerIdOf } from '../../../actors/device.ts';
import type { PodmanFacts } from '../../../actors/node-state.ts';
import type { AcceptedOf, PodmanImage, Progress } from '../../../schemas/api.ts';
import { defined } from '../../../schemas/defined.ts';
import { hexOf } from '../../../schemas/digest.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import type { EventOf } from '../../../schemas/events.ts';
import { policyNamed } from '../../../schemas/trust.ts';
import type { ToSplitter } from '../../index/orders.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { RegistryClient } from '../../registry/client.ts';
import { parseReference, type Reference } from '../../registry/reference.ts';
import type { Layout } from '../../store/layout.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { LogRecord } from '../../store/log-reader.ts';
import type { Chains } from '../images/chains.ts';
import type { Image } from '../images/image.ts';
import type { Images } from '../images/images.ts';
import type { Mounts } from '../mounts/mounts.ts';
import { layerIds } from './documents.ts';
import { itemsOfImage } from './items.ts';
import { sizeOfBlob } from './small-layers.ts';
import { StoreFiles } from './files.ts';
import { type Split, Splits, splitInProcess } from './splits.ts';
import { PodmanView } from './view.ts';

export interface PodmanStoreOptions {
  layout: Layout;
  log: Logger;
  live: LiveFold;
  images: Images;
  chains: Chains;
  mounts: Mounts;
  registry: RegistryClient;
  conditions: Conditions;
  split?: Split;
}

/** Prefixes that are mounted side by side: each takes a process that builds its metadata. */
const AT_ONCE = 2;

export class PodmanStore {
  readonly #options: PodmanStoreOptions;
  readonly #files: StoreFiles;
  readonly #view: PodmanView;
  readonly #splits: Splits;
  /** Additions and removals go one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: PodmanStoreOptions) {
    const { layout, live, log, split = splitInProcess } = options;
    this.#options = options;
    this.#files = new StoreFiles(layout);
    this.#view = new PodmanView({ ...options, files: this.#files });
    this.#splits = new Splits({
      due: () => this.#dueSplits(),
      made: (diffId) => this.#madeSplit(diffId),
      split,
      log,
    });
    live.listen((record) => this.#onEvent(record));
  }

  // ── Starts and ends ──

  /** Before mounts are brought back: their folders are root's alone. */
  async prepare(): Promise<void> {
    if (this.#entries.size > 0) await this.#files.prepare();
  }

  /** Mounts are back: those that no image needs are unmounted, and podman sees what is whole. */
  async begin(): Promise<void> {
    if (this.#entries.size === 0 && !this.#mountedLayers().some(() => true)) return;
    await this.#files.prepare();
    await this.#unmountRest();
    for (const manifest of Array.from(this.#entries.keys())) await this.#placeLayers(manifest);
    await this.show();
    this.#splits.poke();
  }

  async close(): Promise<void> {
    await this.#splits.close();
  }

  /** podman sees none of the images while `detach` takes the mounts away; it sees them again where that refuses. */
  async behind(detach: () => Promise<string[]>): Promise<string[]> {
    if (this.#entries.size === 0) return await detach();
    let stays = true;
    try {
      await this.#view.hide();
      const busy = await detach();
      stays = busy.length > 0;
      return busy;
    } finally {
      if (stays) await this.#view.unhide();
    }
  }

  /** What there is, for `status`. */
  list(): PodmanImage[] {
    return this.#view.list();
  }

  /** As `PodmanView.show`. */
  async show(): Promise<void> {
    await this.#view.show();
  }

  get #entries(): ReadonlyMap<string, PodmanFacts> {
    return this.#options.live.state.podman;
  }

  #resolved(manifest: string): EventOf<'image.resolved'> | undefined {
    return this.#options.live.state.images.get(manifest)?.resolved;
  }

  // ── Changes ──

  /**
   * Puts an image there: prepared, mounted, in the log, and then seen by podman. Errors: those of a mount, `unsupported` where it
   * is no container image.
   */
  async add(
    request: AcceptedOf<'podman-add'>,
    onProgress: (progress: Progress) => void,
  ): Promise<PodmanImage> {
    return await this.#inTurn(async () => {
      const { images, live } = this.#options;
      const { ref, platform, trust } = request;
      const image = await images.resolve(ref, platform, trust && policyNamed(trust));
      refuseOthers(image);
      await this.#files.prepare();
      const { manifest } = image;
      const before = this.#entries.get(manifest);
      try {
        await this.#mountAll(image, request, onProgress);
        const items = await itemsOfImage(image, parseReference(ref), this.#options);
        await this.#files.placeItems(hexOf(image.resolved.config), items.list);
        const names = [...new Set([...(before?.names ?? []), nameOf(parseReference(ref))])];
        const sizes = before?.sizes ?? (await this.#sizesOf(image));
        const index = items.index ?? before?.index;
        const facts = { ref: image.resolved.ref, names, sizes: [...sizes], index };
        await this.#placeLayers(manifest);
        await this.#takeNames(manifest, names);
        await live.append(hexOf(manifest), defined({ type: 'podman.added' as const, ...facts }));
      } catch (error) {
        await this.#unmountRest();
        throw error;
      }
      await this.show();
      this.#splits.retry();
      const added = this.#entries.get(manifest);
      const described = added && this.#view.describe(manifest, added);
      if (described === undefined) throw new CofaError('conflict', `${ref} was removed meanwhile`);
      if (described.reason !== undefined) throw new CofaError('unavailable', described.reason);
      return described;
    });
  }

  /** Takes a name away, and the image with its last one. Errors: `not-found`, `invalid-argument` where several could be meant. */
  async remove(text: string): Promise<{ ref: string; manifest: string; left: string[] }> {
    return await this.#inTurn(async () => {
      const { manifest, facts, name } = this.#find(text);
      const left = name === undefined ? [] : facts.names.filter((one) => one !== name);
      if (left.length > 0) await this.#rename(manifest, facts, left);
      else await this.#options.live.append(hexOf(manifest), { type: 'podman.removed' });
      this.#view.forget(manifest);
      await this.show();
      await this.#unmountRest();
      return { ref: facts.ref, manifest, left };
    });
  }

  async #rename(manifest: string, facts: PodmanFacts, names: string[]): Promise<void> {
    const { ref, index, sizes } = facts;
    const kept = { type: 'podman.added' as const, ref, names, index, sizes: [...sizes] };
    await this.#options.live.append(hexOf(manifest), defined(kept));
  }

  /** A name is one image's: the one that had it before stays without, as with a pull. Containers may stand on it. */
  async #takeNames(manifest: string, names: readonly string[]): Promise<void> {
    for (const [other, facts] of Array.from(this.#entries)) {
      const left = facts.names.filter((name) => !names.includes(name));
      if (other !== manifest && left.length < facts.names.length) await this.#rename(other, facts, left);
    }
  }

  #find(text: string): { manifest: string; facts: PodmanFacts; name: string | undefined } {
    const digits = /^(?:sha256:)?([0-9a-f]{6,64})$/.exec(text)?.[1];
    const name = digits === undefined ? nameOf(parseReference(text)) : undefined;
    const found = Array.from(this.#entries).filter(([manifest, { names }]) => {
      if (digits === undefined) return names.includes(name as string);
      const config = this.#resolved(manifest)?.config;
      return [manifest, config].some((digest) => digest !== undefined && hexOf(digest).startsWith(digits));
    });
    const [one, another] = found;
    if (one === undefined)
      throw new CofaError('not-found', `podman has no image ${text} of cofa`, { hint: 'cofa podman ls' });
    if (another !== undefined)
      throw new CofaError('invalid-argument', `${text} can be ${one[1].ref} or ${another[1].ref}`);
    return { manifest: one[0], facts: one[1], name };
  }

  async #inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => {});
    return await mine;
  }

  // ── Mounts ──

  /** The whole image first: where no client has prepared it, its layers become known by that. */
  async #mountAll(
    image: Image,
    request: AcceptedOf<'podman-add'>,
    onProgress: (progress: Progress) => void,
  ): Promise<void> {
    const { layers } = image.resolved;
    const ids = layerIds(layers.map(({ diffId }) => diffId));
    const { prefetch, prefetchLimit, trust } = request;
    const named = `${image.resolved.ref.split('@')[0]}@${image.manifest}`;
    const mountOne = async (count: number): Promise<void> => {
      const { mounts, chains } = this.#options;
      const dir = this.#files.mountPoint(ids[count - 1] as string);
      if (mounts.has(dir)) return;
      const isWhole = count === layers.length;
      // Below a container setuid programs work, and devices are the overlay's.
      const flags = { suid: true, dev: true, noSymlinks: false, start: 'default' };
      const fetched = isWhole ? { prefetch, prefetchLimit } : { prefetch: false };
      await mounts.mount({
        request: { ref: named, dir, trust, ...flags, ...fetched },
        image: isWhole ? image : await chains.image(named, count),
        onProgress: isWhole ? onProgress : () => {},
      });
    };
    await mountOne(layers.length);
    let next = layers.length - 1;
    const lane = async () => {
      for (let count = next--; count > 0; count = next--) await mountOne(count);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
  }

  /** Unmounts, and removes, what no image needs. A layer in use stays until the next time. */
  async #unmountRest(): Promise<void> {
    const { mounts, log } = this.#options;
    const needed = this.#neededLayers();
    // The overlays of containers name them by their links.
    const stay = new Set<string>();
    for (const { dir, layer } of this.#mountedLayers()) {
      if (needed.has(layer)) continue;
      try {
        await mounts.unmount(dir);
      } catch (error) {
        stay.add(layer);
        log.warn({ dir, error: toErrorRecord(error) }, 'a layer that podman had stays mounted');
      }
    }
    const images = Array.from(this.#entries.keys()).flatMap(
      (manifest) => this.#resolved(manifest)?.config ?? [],
    );
    await this.#files.sweep({
      layers: new Set([...needed.keys(), ...stay]),
      images: new Set(images.map(hexOf)),
      diffIds: new Set(needed.values()),
    });
  }

  #mountedLayers(): Array<{ dir: string; layer: string }> {
    return this.#options.mounts.list().flatMap(({ dir }) => {
      const layer = this.#files.layerAt(dir);
      return layer === undefined ? [] : [{ dir, layer }];
    });
  }

  /** By layer, its diffID. */
  #neededLayers(): Map<string, string> {
    const needed = new Map<string, string>();
    for (const manifest of this.#entries.keys()) {
      const diffIds = this.#resolved(manifest)?.layers.map(({ diffId }) => diffId) ?? [];
      for (const [at, id] of layerIds(diffIds).entries()) needed.set(id, diffIds[at] as string);
    }
    return needed;
  }

  // ── Layers ──

  async #placeLayers(manifest: string): Promise<void> {
    const diffIds = this.#resolved(manifest)?.layers.map(({ diffId }) => diffId) ?? [];
    for (const [at, id] of layerIds(diffIds).entries()) {
      const diffId = diffIds[at] as string;
      const isWhole = await this.#files.hasSplit(diffId);
      await this.#files.placeLayer(id, diffId, isWhole);
      if (isWhole) this.#view.whole.add(diffId);
      else this.#view.whole.delete(diffId);
    }
  }

  /** Bytes of each layer's tar. A layer without file data has no device: it is fetched, and its tar-split file made at once. */
  async #sizesOf(image: Image): Promise<number[]> {
    const sizes: number[] = [];
    for (const layer of image.resolved.layers) {
      const size = this.#deviceOf(layer.diffId)?.size;
      sizes.push(size ?? (await sizeOfBlob(image, layer, this.#files.split(layer.diffId), this.#options)));
    }
    return sizes;
  }

  /** The device of a layer, by what is mounted for podman: an image has none of a layer whose files others replace. */
  #deviceOf(diffId: string): ImageDevice | undefined {
    const { images } = this.#options.live.state;
    for (const { dir, manifest } of this.#options.mounts.list()) {
      if (this.#files.layerAt(dir) === undefined) continue;
      const found = images.get(manifest)?.prepared?.devices.find((device) => device.diffId === diffId);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  async #dueSplits(): Promise<ToSplitter[]> {
    const { live, layout } = this.#options;
    const due = new Map<string, ToSplitter>();
    for (const manifest of this.#entries.keys()) {
      const layers = this.#resolved(manifest)?.layers ?? [];
      for (const { diffId } of layers) {
        if (due.has(diffId) || (await this.#files.hasSplit(diffId))) continue;
        const device = this.#deviceOf(diffId);
        if (device === undefined || live.state.layers.get(layerIdOf(device))?.complete !== true) continue;
        const target = this.#files.split(diffId);
        due.set(diffId, { device: layout.device(layerIdOf(device)), size: device.size, diffId, target });
      }
    }
    return [...due.values()];
  }

  async #madeSplit(diffId: string): Promise<void> {
    for (const [layer, its] of this.#neededLayers())
      if (its === diffId) await this.#files.setWhole(layer, its, true);
    this.#view.whole.add(diffId);
  }

  #onEvent({ event }: LogRecord): void {
    if (this.#entries.size === 0) return;
    if (event.type === 'layer.completed') this.#splits.poke();
    if (event.type === 'image.refuted' || event.type === 'image.removed') void this.show();
  }
}

/** As podman writes it in full. */
export function nameOf({ domain, repository, tag, digest }: Reference): string {
  const name = `${domain}/${repository}`;
  return digest === undefined ? `${name}:${tag ?? 'latest'}` : `${name}@${digest}`;
}

function refuseOthers({ resolved: { ref, layers } }: Image): void {
  const [first] = layers;
  if (first === undefined) throw new CofaError('unsupported', `${ref} has no layers`);
  if (layers.some(({ file }) => file !== undefined))
    throw new CofaError('unsupported', `${ref} is no container image`, { hint: 'cofa mount' });
}
