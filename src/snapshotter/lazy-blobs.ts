/**
 * Layers that a client need not fetch, shown to it in containerd's content store all the same (lazy-content.ts): docker
 * lists an image only when it has all of its blobs, and saves, pushes and exports what it has.
 *
 * Entries are made when containerd hears that a layer need not be unpacked. The manifest is in containerd's store by then,
 * with the labels by which garbage collection finds them (SetChildrenMappedLabels in core/images/handlers.go). The answer
 * to the uppermost layer waits for all entries, so that the image is whole to containerd when its pull ends.
 *
 * Nothing of this is remembered here. After a start, when an image got a name, and every few minutes containerd says which
 * entries it has, and of which images it misses layers that stand on a flat image. After `cofa uninstall` there are to be none
 * (src/store/hidden-blobs.ts), while this process may run on.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { isDigest } from '../../schemas/digest.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import { type ContainerdClient, connectContainerd } from '../containerd/client.ts';
import { imageLayers, type KnownLayers } from '../containerd/image-layers.ts';
import { IMAGE_LABELS } from '../containerd/labels.ts';
import {
  addLazy,
  type BlobName,
  contentFolder,
  forgetLazy,
  knownContent,
  layersOf,
  type LazyBlob,
  linkBlob,
} from '../containerd/lazy-content.ts';
import { parseReference } from '../registry/reference.ts';
import type { BlobFiles } from './blob-files.ts';

export interface LazyBlobsOptions {
  /** containerd's socket. */
  containerd: string;
  /** containerd's namespaces whose clients get them. */
  namespaces: readonly string[];
  /** Those of them where `cofa uninstall` has taken the entries out, as of now. */
  hidden: () => ReadonlySet<string>;
  files: Pick<BlobFiles, 'add' | 'remove' | 'digests' | 'pathOf' | 'settled'>;
  /** Whether the layers up to this ChainID are a flat image. */
  isFlat: (chain: string) => boolean;
  /** Absent: `connectContainerd`. */
  connect?: (containerd: string, namespace: string) => ContainerdClient;
  log: Logger;
}

/** A layer that a client need not unpack. */
export interface AdoptedLayer {
  /** NAMESPACE/NUMBER/KEY: as containerd makes it of a client's key (`createKey` in core/metadata). */
  key: string;
  /** As the client sent them. */
  labels: Readonly<Record<string, string>>;
}

interface Image {
  layers: Promise<BlobName[]>;
  /** Place of the uppermost layer that was asked for. */
  top: number;
  /** Entries of this pull, by digest. */
  making: Map<string, Promise<void>>;
}

/** The pull is answered without the entries then, ms. */
const PATIENCE_MS = 5_000;
/** A client asks for one layer after the other, ms. */
const PULL_MS = 10_000;
/** containerd may start after the engine; then it is asked so often, ms. */
const RETRY_MS = 2_000;
const LOOK_MS = 300_000;
/** Names come together, ms. */
const SOON_MS = 100;

export class LazyBlobs {
  readonly #options: LazyBlobsOptions;
  readonly #clients: ReadonlyMap<string, ContainerdClient>;
  /** Pulls of the last moments, by namespace and manifest. */
  readonly #images = new Map<string, Image>();
  readonly #known: KnownLayers = new Map();
  readonly #leaving = new AbortController();
  #folder: Promise<string> | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Ends when the look that is under way does. */
  #look: Promise<void>;
  /** Calls of `show` so far, and those that make entries just now. */
  #shown = 0;
  #making = 0;

  constructor(options: LazyBlobsOptions) {
    this.#options = options;
    const { containerd, namespaces, connect = connectContainerd } = options;
    this.#clients = new Map(namespaces.map((name) => [name, connect(containerd, name)]));
    this.#look = this.#lookAround();
    void this.#listen();
  }

  /** Never rejects: what has no entry is missing to containerd, as the layers of a lazy pull are. */
  async show({ key: given, labels }: AdoptedLayer): Promise<void> {
    const [namespace = ''] = given.split('/', 1);
    const containerd = this.#clients.get(namespace);
    const { [IMAGE_LABELS.manifest]: manifest, [IMAGE_LABELS.layer]: layer } = labels;
    if (containerd === undefined || !isDigest(manifest) || !isDigest(layer)) return;
    this.#shown += 1;
    this.#making += 1;
    const image = this.#image(containerd, `${namespace} ${manifest}`, manifest);
    const making = this.#upTo(namespace, image, layer, labels[IMAGE_LABELS.ref] ?? '')
      .catch((error: unknown) =>
        this.#options.log.warn({ layer, error: toErrorRecord(error) }, 'containerd will miss a layer'),
      )
      .finally(() => {
        this.#making -= 1;
      });
    // Of the uppermost layer it names no further one.
    if (labels[IMAGE_LABELS.layers] === layer) await within(PATIENCE_MS, making);
  }

  #image(containerd: ContainerdClient, key: string, manifest: string): Image {
    const before = this.#images.get(key);
    if (before !== undefined) return before;
    const image: Image = { layers: layersOf(containerd, manifest), top: -1, making: new Map() };
    this.#images.set(key, image);
    setTimeout(() => this.#images.delete(key), PULL_MS).unref();
    return image;
  }

  async close(): Promise<void> {
    this.#leaving.abort();
    clearTimeout(this.#timer);
    for (const client of this.#clients.values()) client.close();
    await this.#look;
  }

  /** Layers below a flat one may have been unpacked, and removed since. */
  async #upTo(namespace: string, image: Image, layer: string, ref: string): Promise<void> {
    const source = parseReference(ref);
    const layers = await image.layers;
    const at = layers.findIndex(({ digest }) => digest === layer);
    // A pull asks upwards: this is another one, and entries of the one before may have been collected.
    if (at <= image.top) image.making.clear();
    image.top = at;
    const making = layers.slice(0, at + 1).map(({ digest, size }) => {
      const one = image.making.get(digest) ?? this.#make(namespace, { digest, size, source });
      image.making.set(digest, one);
      return one;
    });
    await Promise.all(making);
  }

  async #make(namespace: string, blob: LazyBlob): Promise<void> {
    const containerd = this.#clients.get(namespace) as ContainerdClient;
    const folder = await this.#contentFolder(containerd);
    const { files, hidden } = this.#options;
    if (!(await files.add(blob)) || hidden().has(namespace)) return;
    await addLazy(containerd, folder, blob, files.pathOf(blob.digest));
  }

  #contentFolder(containerd: ContainerdClient): Promise<string> {
    this.#folder ??= contentFolder(containerd).catch((error: unknown) => {
      this.#folder = undefined;
      throw error;
    });
    return this.#folder;
  }

  /** Looks when an image has got a name: also where no layer was asked for, since its snapshots were there. */
  async #listen(): Promise<void> {
    const { signal } = this.#leaving;
    const filters = ['topic=="/images/create"', 'topic=="/images/update"'];
    while (!signal.aborted) {
      try {
        const [client] = this.#clients.values();
        if (client === undefined) return;
        for await (const { namespace } of client.events.subscribe({ filters }, { signal, timeoutMs: 0 }))
          if (this.#clients.has(namespace)) this.#lookIn(SOON_MS);
      } catch {
        // containerd has ended, or is not there yet.
      }
      await sleep(RETRY_MS, undefined, { signal }).catch(() => {});
    }
  }

  #lookIn(ms: number): void {
    if (this.#leaving.signal.aborted) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#look = this.#look.then(() => this.#lookAround());
    }, ms);
  }

  async #lookAround(): Promise<void> {
    const { files, log } = this.#options;
    // A file comes before its entry.
    const before = this.#making === 0 ? files.digests() : [];
    const shown = this.#shown;
    let next = LOOK_MS;
    try {
      const lazy = new Set<string>();
      for (const [namespace, client] of this.#clients)
        for (const digest of await this.#restore(namespace, client)) lazy.add(digest);
      const gone = shown === this.#shown ? before.filter((digest) => !lazy.has(digest)) : [];
      for (const digest of gone) await files.remove(digest);
    } catch (error) {
      log.debug({ error: toErrorRecord(error) }, 'containerd does not say which blobs it misses');
      next = RETRY_MS;
    }
    await files.settled().catch(() => {});
    this.#lookIn(next);
  }

  /**
   * Gives each entry its file and its link, and each layer that stands on a flat image an entry; returns their digests. Where
   * entries are hidden, those that are there all the same are taken out.
   */
  async #restore(namespace: string, containerd: ContainerdClient): Promise<string[]> {
    const { files, isFlat, hidden } = this.#options;
    if (hidden().has(namespace)) {
      await forgetLazy(containerd);
      return [];
    }
    const { all, lazy } = await knownContent(containerd);
    for (const blob of lazy) {
      const folder = await this.#contentFolder(containerd);
      if (await files.add(blob)) await linkBlob(folder, blob.digest, files.pathOf(blob.digest));
    }
    // All that was there before is there again; what follows may take its time.
    await files.settled();
    const found = lazy.map(({ digest }) => digest);
    for (const { source, layers } of await imageLayers(containerd, this.#known)) {
      const top = layers.findLastIndex(({ chain }) => isFlat(chain));
      for (const { digest, size } of layers.slice(0, top + 1)) {
        if (all.has(digest)) continue;
        await this.#make(namespace, { digest, size, source });
        found.push(digest);
        all.add(digest);
      }
    }
    return found;
  }
}

/** Resolves when the work does, or after so long. */
async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  await Promise.race([work, promise]);
  clearTimeout(timer);
}
