/** What podman sees of the store: images whose layers are all mounted. Why it does not see one is a condition. */
import type { Logger } from 'pino';
import type { PodmanFacts } from '../../../actors/node-state.ts';
import type { PodmanImage } from '../../../schemas/api.ts';
import { defined } from '../../../schemas/defined.ts';
import { hexOf } from '../../../schemas/digest.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { Mounts } from '../mounts/mounts.ts';
import { layerIds, type StoredImage } from './documents.ts';
import type { StoreFiles } from './files.ts';
import { storedItems } from './items.ts';

export interface PodmanViewOptions {
  live: Pick<LiveFold, 'state'>;
  mounts: Pick<Mounts, 'list'>;
  files: StoreFiles;
  conditions: Conditions;
  log: Logger;
}

const keyOf = (manifest: string): string => `podman:${manifest}`;

export class PodmanView {
  readonly #options: PodmanViewOptions;
  /** diffIDs of layers that podman can save. */
  readonly whole = new Set<string>();
  /** By manifest, why podman does not see the image. */
  readonly #reasons = new Map<string, string>();
  /** One after the other. */
  #showing: Promise<void> = Promise.resolve();
  /** The mounts are about to be detached. */
  #isHidden = false;

  constructor(options: PodmanViewOptions) {
    this.#options = options;
  }

  list(): PodmanImage[] {
    return Array.from(this.#entries).flatMap(([manifest, facts]) => this.describe(manifest, facts) ?? []);
  }

  /** Undefined where the node does not know the image. */
  describe(manifest: string, { ref, names }: PodmanFacts): PodmanImage | undefined {
    const resolved = this.#options.live.state.images.get(manifest)?.resolved;
    if (resolved === undefined) return undefined;
    const reason = this.#reasons.get(manifest);
    return defined({
      ref,
      id: hexOf(resolved.config),
      manifest,
      names: [...names],
      layers: resolved.layers.length,
      shown: reason === undefined,
      reason,
      whole: resolved.layers.every(({ diffId }) => this.whole.has(diffId)),
    });
  }

  /** Shows podman what it can have by now. What fails is in the log: the next change tries again. */
  async show(): Promise<void> {
    this.#showing = this.#showing.then(async () => {
      try {
        await this.#show();
      } catch (error) {
        this.#options.log.error({ error }, 'what podman sees is not what it should be');
      }
    });
    await this.#showing;
  }

  /** podman sees none of the images until `unhide`. */
  async hide(): Promise<void> {
    this.#isHidden = true;
    await this.show();
  }

  async unhide(): Promise<void> {
    this.#isHidden = false;
    await this.show();
  }

  /** It is not in the store any more. */
  forget(manifest: string): void {
    this.#options.conditions.clear(keyOf(manifest));
    this.#reasons.delete(manifest);
  }

  get #entries(): ReadonlyMap<string, PodmanFacts> {
    return this.#options.live.state.podman;
  }

  async #show(): Promise<void> {
    const { files, conditions } = this.#options;
    await files.prepare();
    const shown: StoredImage[] = [];
    for (const [manifest, facts] of Array.from(this.#entries)) {
      const found = this.#isHidden ? undefined : await this.#stored(manifest, facts);
      if (found === undefined) continue;
      if (typeof found !== 'string') {
        shown.push(found);
        this.forget(manifest);
      } else {
        this.#reasons.set(manifest, found);
        conditions.set(keyOf(manifest), `podman does not see ${facts.ref}: ${found}`);
      }
    }
    const all = Array.from(this.#entries, ([manifest, facts]) => ({
      layers: this.#layersOf(manifest, facts),
      added: new Date(facts.at),
    }));
    await files.show(this.#isHidden ? [] : shown, all);
  }

  #layersOf(manifest: string, { sizes }: PodmanFacts): StoredImage['layers'] {
    const layers = this.#options.live.state.images.get(manifest)?.resolved.layers ?? [];
    return layers.map((layer, at) => ({ ...layer, size: sizes[at] ?? 0 }));
  }

  /** The image, or why podman cannot have it. */
  async #stored(manifest: string, facts: PodmanFacts): Promise<StoredImage | string> {
    const { live, mounts, files } = this.#options;
    const image = live.state.images.get(manifest);
    if (image === undefined) return 'the image was removed';
    const { config, layers } = image.resolved;
    if (layers.length !== facts.sizes.length) return 'its layers are not those of before';
    const there = new Map(mounts.list().map((mount) => [mount.dir, mount]));
    for (const id of layerIds(layers.map(({ diffId }) => diffId))) {
      const mount = there.get(files.mountPoint(id));
      if (mount?.state !== 'mounted') return `a layer is not mounted (${mount?.state ?? 'missing'})`;
      if (mount.trust === 'refuted') return 'its sidecar is not the image’s: remove it, and add it again';
    }
    const items = await storedItems(hexOf(config), { manifest, config, index: facts.index }, files);
    if (items === undefined) return 'its manifest or configuration is not in the store: add it again';
    return {
      manifest,
      config,
      names: facts.names,
      layers: this.#layersOf(manifest, facts),
      created: items.created,
      added: new Date(facts.at),
      items: items.list,
    };
  }
}
