/**
 * The images of a node: each is an actor (actors/image.ts) whose effects are here: prepare the flat image, attach its
 * devices, let them go.
 */
import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import type { Logger } from 'pino';
import { imageMachine } from '../../actors/image.ts';
import type { NodeState } from '../../actors/node-state.ts';
import type { Progress } from '../../schemas/api.ts';
import { CofaError, fromErrorRecord, toErrorRecord } from '../../schemas/errors.ts';
import type { EventOf, NewEvent } from '../../schemas/events.ts';
import type { PackSource } from '../../schemas/fetch.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import { checkFlat } from '../image/erofs-check.ts';
import { SpanTable } from '../image/span-table.ts';
import { attachLoop, detachLoop, dismissLoop, type LoopDevice } from '../kernel/loop.ts';
import type { RegistryClient, ResolvedImage } from '../registry/client.ts';
import { parseReference } from '../registry/reference.ts';
import { findSidecar, type SidecarHandle } from '../registry/sidecars.ts';
import { START_REFERRERS } from '../registry/start-referrers.ts';
import type { EventLog } from '../store/event-log.ts';
import { hexOf, type Layout, writeWhole } from '../store/layout.ts';
import { ActorHost } from './actor-host.ts';
import { prepareChain } from './chain-image.ts';
import type { Devices } from './devices.ts';
import { indexOnNode } from './index-on-node.ts';
import type { Startups } from './startups.ts';
import { flatLabel, type Leftovers } from './leftovers.ts';

type Prepared = EventOf<'image.prepared'>;
type Resolved = EventOf<'image.resolved'>;

export interface ImagesOptions {
  layout: Layout;
  log: Logger;
  events: EventLog;
  names: Subjects;
  registry: RegistryClient;
  devices: Devices;
  startups: Startups;
  label: string;
  /** Loops of an earlier engine. */
  leftovers: Leftovers;
}

/** The loops of an image that is in use. */
export interface AttachedImage {
  metadata: LoopDevice;
  devices: LoopDevice[];
}

export class Image {
  readonly manifest: string;
  resolved: Resolved;
  prepared: Prepared | undefined;
  attached: AttachedImage | undefined;
  /** A mount wants the rest of the image in the background. */
  prefetch = false;
  readonly host: ActorHost<typeof imageMachine>;
  readonly progress = new Set<(progress: Progress) => void>();
  /** Its files are going. */
  removed = false;
  readonly #options: ImagesOptions;
  /** What the registry said, while it is fresh. */
  #image: ResolvedImage | undefined;
  #start: string | undefined;
  #pack: Promise<PackSource | undefined> | undefined;

  constructor(
    options: ImagesOptions,
    manifest: string,
    resolved: Resolved,
    image: ResolvedImage | undefined,
  ) {
    this.#options = options;
    this.manifest = manifest;
    this.resolved = resolved;
    this.#image = image;
    this.host = new ActorHost(imageMachine, {
      prepare: () => this.#effect(() => this.#prepare(), 'PREPARED'),
      attach: () => this.#effect(() => this.#attach(), 'ATTACHED'),
      detach: () => this.#effect(() => this.#detach(), 'DETACHED'),
    });
  }

  /**
   * `start`: which of the image's commands is about to run; undefined: none, as when a mount is brought back.
   * Resolves when the image's devices are attached for `mount`; throws what the preparation failed with. */
  async use(mount: string, prefetch: boolean, start?: string): Promise<AttachedImage> {
    if (this.removed) {
      throw new CofaError('conflict', `image ${this.resolved.ref} was removed meanwhile`, {
        hint: 'try again',
      });
    }
    this.prefetch ||= prefetch;
    // One that fetches nothing by itself has no use for a pack.
    this.#start ??= prefetch ? start : undefined;
    this.host.send({ type: 'USE', mount });
    if ((await this.host.until('attached', 'failed')) === 'failed' || this.attached === undefined) {
      const { error } = this.host.snapshot.context;
      throw fromErrorRecord(error ?? { code: 'internal', message: `image ${this.manifest} has no devices` });
    }
    return this.attached;
  }

  async release(mount: string): Promise<void> {
    this.host.send({ type: 'RELEASE', mount });
    await this.host.until('known', 'ready', 'attached', 'failed');
  }

  /** Whether a mount has it, or is about to. */
  get isInUse(): boolean {
    return (
      this.host.snapshot.context.users.length > 0 || !['known', 'ready', 'failed'].includes(this.host.state)
    );
  }

  /** Whether its files are being made. */
  get isPreparing(): boolean {
    return this.host.state === 'preparing';
  }

  /** Whether it can be mounted without its layers being read first: somebody has prepared it. */
  async isPrepared(): Promise<boolean> {
    if (this.prepared !== undefined) return true;
    return (await findSidecar(this.#options.registry, await this.#fromRegistry())) !== undefined;
  }

  /** Whether the kernel reads all of the image's devices itself, so that its mounts outlive the engine. */
  isDirect(): boolean {
    return this.prepared?.devices.every(({ diffId }) => this.#options.devices.isDirect(diffId)) ?? false;
  }

  /** Whether a file system that an earlier engine left lost a layer for good. */
  hasLost(): boolean {
    return this.prepared?.devices.some(({ diffId }) => this.#options.devices.isLost(diffId)) ?? false;
  }

  /** A fresh answer of the registry for the same manifest. */
  refresh(image: ResolvedImage): void {
    this.#image = image;
  }

  #effect(work: () => Promise<void>, done: 'PREPARED' | 'ATTACHED' | 'DETACHED'): void {
    work().then(
      () => this.host.send({ type: done }),
      (error: unknown) => {
        this.#options.log.error({ image: this.resolved.ref, error }, `${done.toLowerCase()}: failed`);
        this.host.send({ type: 'FAILED', error: toErrorRecord(error) });
      },
    );
  }

  #report(progress: Progress): void {
    for (const listener of this.progress) listener(progress);
  }

  async #append(event: NewEvent): Promise<void> {
    await this.#options.events.append(this.#options.names.event('image', hexOf(this.manifest)), event);
  }

  async #prepare(): Promise<void> {
    if (this.prepared !== undefined && (await this.#isInStore(this.prepared))) return;
    try {
      const image = await this.#fromRegistry();
      void this.#findPack();
      const { layout } = this.#options;
      await writeWhole(layout.config(this.manifest), image.config);
      await writeWhole(layout.manifest(this.manifest), image.manifestBytes);
      this.#report({ phase: 'sidecar' });
      const sidecar = await findSidecar(this.#options.registry, image);
      const { chain, layers } = this.resolved;
      const prepared =
        chain !== undefined
          ? await prepareChain({ layout, chain, image, layers: layers.length, sidecar })
          : sidecar === undefined
            ? await this.#indexHere(image)
            : await this.#takeSidecar(image, sidecar);
      await this.#append(prepared);
      this.prepared = { v: 1, at: 0, ...prepared };
    } catch (error) {
      const { code, message } = toErrorRecord(error);
      await this.#append({ type: 'image.failed', code, message });
      throw error;
    }
  }

  /** Takes the flat metadata and the span tables from the registry; both are checked before anything uses them. */
  async #takeSidecar(
    image: ResolvedImage,
    sidecar: SidecarHandle,
  ): Promise<NewEvent & { type: 'image.prepared' }> {
    const { layout } = this.#options;
    const [flat, ...tables] = await Promise.all([
      sidecar.flat(),
      ...image.layers.map(async (_, layer) => {
        const bytes = await sidecar.spans(layer);
        return { bytes, table: SpanTable.decode(bytes) };
      }),
    ]);
    const used = checkFlat(flat).devices.map((device) => {
      const at = image.layers.findIndex((layer) => layer.diffId === device.diffId);
      const layer = image.layers[at];
      const table = tables[at]?.table;
      if (layer === undefined || table === undefined) {
        throw new CofaError(
          'integrity',
          `the sidecar's flat image uses ${device.diffId}, no layer of ${image.reference.text}`,
        );
      }
      if (table.diffId !== layer.diffId || table.blobDigest !== layer.blob.digest) {
        throw new CofaError(
          'integrity',
          `the sidecar's span table of layer ${layer.diffId} is another layer's`,
        );
      }
      if (device.size < table.rawSize || device.size - table.rawSize >= 512) {
        throw new CofaError('integrity', `the sidecar gives layer ${layer.diffId} two different sizes`);
      }
      return {
        diffId: layer.diffId,
        size: table.rawSize,
        spans: layer.blob.digest,
        bytes: tables[at]?.bytes,
      };
    });
    await writeWhole(layout.flat(this.manifest), flat);
    await Promise.all(used.map(({ spans, bytes }) => writeWhole(layout.spans(spans), bytes as Buffer)));
    return {
      type: 'image.prepared',
      origin: 'sidecar',
      sidecar: sidecar.descriptor.digest,
      flat: digestOf(flat),
      devices: used.map(({ diffId, size, spans }) => ({ diffId, size, spans })),
    };
  }

  /** Nobody prepared the image: its layers stream through the indexer straight into their devices. */
  async #indexHere(image: ResolvedImage): Promise<NewEvent & { type: 'image.prepared' }> {
    const { layout, log } = this.#options;
    log.info({ image: image.reference.text }, 'no sidecar: the image is indexed on this node');
    const built = await indexOnNode({
      layout,
      manifest: this.manifest,
      image,
      onProgress: (p) => this.#report(p),
    });
    return { type: 'image.prepared', origin: 'node', flat: built.flat, devices: built.devices };
  }

  async #fromRegistry(): Promise<ResolvedImage> {
    if (this.#image !== undefined) return this.#image;
    this.#report({ phase: 'resolve' });
    const { registry, repository, manifest } = this.resolved;
    this.#image = await this.#options.registry.resolve(
      parseReference(`${registry}/${repository}@${manifest}`),
      { referrers: true },
    );
    return this.#image;
  }

  async #isInStore(prepared: Prepared): Promise<boolean> {
    try {
      const flat = await readFile(this.#options.layout.flat(this.manifest));
      if (digestOf(flat) !== prepared.flat) return false;
      for (const { spans } of prepared.devices) {
        SpanTable.decode(await readFile(this.#options.layout.spans(spans)));
      }
      await readFile(this.#options.layout.config(this.manifest));
      return true;
    } catch {
      return false;
    }
  }

  async #attach(): Promise<void> {
    const { devices } = this.#options;
    const prepared = this.prepared;
    if (prepared === undefined)
      throw new CofaError('internal', `image ${this.manifest} is attached before it is prepared`);
    this.#report({ phase: 'mount' });
    const taken: string[] = [];
    const wanted = prepared.devices.map(async ({ diffId, size, spans }) => {
      const layer = this.resolved.layers.find((candidate) => candidate.diffId === diffId);
      const { registry, repository } = this.resolved;
      const loop = await devices.acquire(
        {
          diffId,
          size,
          source: { registry, repository, digest: spans, size: layer?.blobSize ?? 0 },
          built: prepared.origin === 'node',
        },
        this.prefetch,
      );
      taken.push(diffId);
      return loop;
    });
    const metadata = Promise.allSettled(wanted).then(() => this.#attachMetadata());
    const results = await Promise.allSettled([metadata, ...wanted]);
    const failure = results.find((result) => result.status === 'rejected');
    if (failure !== undefined) {
      const [first] = results;
      if (first?.status === 'fulfilled') await detachLoop(first.value);
      await Promise.allSettled(taken.map((diffId) => devices.release(diffId)));
      throw failure.reason;
    }
    this.attached = { metadata: await metadata, devices: await Promise.all(wanted) };
    if (this.#start === undefined || this.isDirect()) return;
    const layers = prepared.devices.map(({ diffId, spans }) => ({ diffId, blob: spans }));
    this.#options.startups.begin(this.manifest, this.#start, layers, this.#findPack());
  }

  /** Looked for once, side by side with all that has to happen before it can be used. */
  #findPack(): Promise<PackSource | undefined> {
    if (this.#start === undefined) return Promise.resolve(undefined);
    this.#pack ??= this.#options.startups.find(this.manifest, this.#start, this.#image);
    return this.#pack;
  }

  /**
   * The loop under the flat metadata: the one that an earlier engine left, unless what stands on it has lost a layer.
   * The kernel would give a new mount of the same loop the file system that is there.
   */
  async #attachMetadata(): Promise<LoopDevice> {
    const { layout, label: engine, leftovers } = this.#options;
    const label = flatLabel(engine, this.manifest);
    const file = layout.flat(this.manifest);
    const lost = this.hasLost();
    let best: LoopDevice | undefined;
    for (const { number, path, backingFile, autoclear } of leftovers.take(label)) {
      const loop = { number, path, label };
      if (best === undefined && !lost && !autoclear && backingFile === file) best = loop;
      else await dismissLoop(loop).catch(() => {});
    }
    return best ?? (await attachLoop(file, { directIo: false, readOnly: true, label }));
  }

  async #detach(): Promise<void> {
    const { attached, prepared } = this;
    this.attached = undefined;
    this.prefetch = false;
    this.#start = undefined;
    this.#pack = undefined;
    if (attached === undefined || prepared === undefined) return;
    // A loop that something still holds, such as a copy of the mount in another mount namespace, goes with its last
    // user; that is no reason to keep the others.
    const gone = await Promise.allSettled([
      detachLoop(attached.metadata),
      ...prepared.devices.map(({ diffId }) => this.#options.devices.release(diffId)),
    ]);
    for (const result of gone) {
      if (result.status === 'rejected') {
        this.#options.log.warn(
          { image: this.resolved.ref, error: result.reason },
          'a loop device is still in use',
        );
      }
    }
  }
}

export class Images {
  readonly #options: ImagesOptions;
  readonly #images = new Map<string, Image>();

  /** `state`: what the log says; its images are known and, where prepared, ready. */
  constructor(options: ImagesOptions, state: NodeState) {
    this.#options = options;
    for (const [manifest, facts] of state.images) {
      const image = new Image(options, manifest, facts.resolved, undefined);
      image.prepared = facts.prepared;
      this.#images.set(manifest, image);
    }
  }

  get(manifest: string): Image | undefined {
    return this.#images.get(manifest);
  }

  all(): Iterable<Image> {
    return this.#images.values();
  }

  /**
   * The image that a reference means now. The registry decides; when it cannot be reached, a reference that was resolved
   * here before means what it meant then.
   */
  async resolve(text: string, platform: string | undefined): Promise<Image> {
    const reference = parseReference(text);
    const known = [...this.#images.values()].filter((image) => image.resolved.ref === reference.text);
    const pinned = reference.digest === undefined ? undefined : this.#images.get(reference.digest);
    if (pinned?.prepared !== undefined) return pinned;
    let image: ResolvedImage;
    try {
      image = await this.#options.registry.resolve(reference, {
        referrers: {
          wanted: (manifest) => this.#images.get(manifest)?.prepared === undefined,
          blobs: START_REFERRERS,
        },
        ...(platform === undefined ? {} : { platform }),
      });
    } catch (error) {
      const latest = known.filter((candidate) => candidate.prepared !== undefined).at(-1);
      if (latest === undefined || toErrorRecord(error).code !== 'unavailable') throw error;
      this.#options.log.warn(
        { ref: text, error },
        'the registry is away: the image is used as it was known here',
      );
      return latest;
    }
    return this.#remember(image);
  }

  /** Forgets an image; its layers are others' business. Error `busy` where a mount has it. */
  async remove(manifest: string): Promise<void> {
    const image = this.#images.get(manifest);
    if (image === undefined) return;
    if (image.isInUse) throw new CofaError('busy', `${image.resolved.ref} is in use`);
    // From here on the same reference is resolved anew.
    this.#images.delete(manifest);
    image.removed = true;
    const { events, names, layout } = this.#options;
    try {
      await events.append(names.event('image', hexOf(manifest)), { type: 'image.removed' });
    } catch (error) {
      if (!this.#images.has(manifest)) {
        image.removed = false;
        this.#images.set(manifest, image);
      }
      throw error;
    }
    if (!this.#images.has(manifest)) await rm(layout.image(manifest), { recursive: true, force: true });
  }

  /** The image of the lowest layers of another; `chain` is their ChainID and the new image's id. */
  async ofChain(whole: Image, layers: number, chain: string): Promise<Image> {
    const known = this.#images.get(chain);
    if (known !== undefined) return known;
    const all = whole.resolved.layers;
    const event = {
      ...whole.resolved,
      ref: `${whole.resolved.ref} (${layers} of ${all.length} layers)`,
      layers: all.slice(0, layers),
      chain,
    };
    await this.#options.events.append(this.#options.names.event('image', hexOf(chain)), event);
    // Another call may have been faster while this one waited for the log.
    const now = this.#images.get(chain);
    if (now !== undefined) return now;
    const fresh = new Image(this.#options, chain, event, undefined);
    this.#images.set(chain, fresh);
    return fresh;
  }

  async #remember(image: ResolvedImage): Promise<Image> {
    const manifest = image.descriptor.digest;
    const { registry, repository, text } = image.reference;
    const event = {
      type: 'image.resolved' as const,
      ref: text,
      registry,
      repository,
      manifest,
      config: image.configDescriptor.digest,
      layers: image.layers.map(({ blob, diffId }) => ({
        diffId,
        blob: blob.digest,
        blobSize: blob.size,
        mediaType: blob.mediaType,
      })),
    };
    const known = this.#images.get(manifest);
    if (known !== undefined) {
      known.refresh(image);
      if (known.resolved.ref === text && known.resolved.repository === repository) return known;
    }
    await this.#options.events.append(this.#options.names.event('image', hexOf(manifest)), event);
    // Another call may have been faster while this one waited for the log.
    const now = this.#images.get(manifest);
    if (now !== undefined) {
      now.resolved = { v: 1, at: 0, ...event };
      return now;
    }
    const fresh = new Image(this.#options, manifest, { v: 1, at: 0, ...event }, image);
    this.#images.set(manifest, fresh);
    return fresh;
  }
}

const digestOf = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
