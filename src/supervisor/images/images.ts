/**
 * The images of a node. Which there are is what the log says; for each, this registry keeps the actor (image.ts) of its
 * newest generation, made when it is first asked for. Which generation a mount may use is decided here, by actors/trust.ts.
 */
import { renameSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ImageDevice, layerIdOf } from '../../../actors/device.ts';
import { isRefused, policyFor } from '../../../actors/trust.ts';
import type { CompleteLayers } from '../../index/rebuild-flat.ts';
import { isErrno } from '../../kernel/errno.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import type { NewEvent } from '../../../schemas/events.ts';
import type { TrustPolicy } from '../../../schemas/trust.ts';
import type { ResolvedImage } from '../../registry/client.ts';
import { parseReference } from '../../registry/reference.ts';
import type { LaterSync } from '../../store/later-sync.ts';
import { findSidecar } from '../../registry/sidecars.ts';
import { digestOf } from '../../digest/digest.ts';
import { idOf } from '../../../actors/node-state.ts';
import { hexOf } from '../../../schemas/digest.ts';
import type { LogRecord } from '../../store/log-reader.ts';
import type { Access } from './access.ts';
import { Image, type ImageContext } from './image.ts';
import type { Indexers } from './indexers.ts';
import { Preparation, preparedBy } from './preparation.ts';
import { knownDevices, provenLike } from './proven.ts';
import type { Rebuilt } from '../../index/orders.ts';
import { Refutations } from './refutations.ts';
import { Resolver, resolvedBy } from './resolver.ts';
import { listedFor } from './sidecar-choice.ts';

export interface ImagesOptions
  extends Omit<ImageContext, 'preparation' | 'refutations' | 'sameLayers' | 'refutedSidecars'> {
  indexers: Indexers;
  /** Of mounts that name none. */
  trust: TrustPolicy;
  /** Layers of which a device is whole and proven. */
  completeLayers: () => Promise<CompleteLayers>;
  /** For the files of one image. */
  newFiles: () => LaterSync;
}

/** A refutation that the log does not take is appended again after this, ms. */
const REFUTE_AGAIN_MS = 1_000;

export class Images {
  readonly #options: ImagesOptions;
  readonly #context: ImageContext;
  readonly #resolver: Resolver;
  readonly #refutations = new Refutations();
  /** The newest generation of each image that was asked for. */
  readonly #newest = new Map<string, Image>();
  /** Images whose removal is on its way into the log: they are resolved anew. */
  readonly #removing = new Set<string>();
  /** Folders that were deleted so far. */
  #deletions = 0;

  constructor(options: ImagesOptions) {
    this.#options = options;
    this.#context = {
      ...options,
      preparation: new Preparation({
        ...options,
        knownDevices: () => this.knownDevices(),
        state: options.live.state,
      }),
      refutations: this.#refutations,
      sameLayers: (image) => provenLike(this.all(), image),
      refutedSidecars: () => this.#refutedSidecars(),
    };
    this.#resolver = new Resolver({ ...options, images: this });
    options.live.listen((record) => this.#onEvent(record));
  }

  /** The newest generation of an image that the log knows. */
  get(manifest: string): Image | undefined {
    const facts = this.#removing.has(manifest) ? undefined : this.#options.live.state.images.get(manifest);
    if (facts === undefined) return undefined;
    const known = this.#newest.get(manifest);
    // One that was removed and resolved again has facts of its own.
    if (known?.facts === facts) return known;
    const { trust } = this.#options;
    const image = new Image(this.#context, { manifest, facts, trust, prepared: facts.prepared });
    this.#newest.set(manifest, image);
    return image;
  }

  /** Whether an image may use what this node has. */
  get access(): Access {
    return this.#resolver.access;
  }

  /** In the order in which they were first resolved. */
  *all(): IterableIterator<Image> {
    for (const manifest of this.#options.live.state.images.keys()) {
      const image = this.get(manifest);
      if (image !== undefined) yield image;
    }
  }

  /** Of mounts that name none. */
  get policy(): TrustPolicy {
    return this.#options.trust;
  }

  // ── Which there are ──

  /**
   * The image that a reference means now. `trust`: which sidecars may be used; the engine's policy by default. Errors: the
   * registry's, `integrity` where the image was refuted and the policy would use it.
   */
  async resolve(text: string, platform: string | undefined, trust?: TrustPolicy): Promise<Image> {
    const policy = trust ?? this.#options.trust;
    const found = await this.#resolver.find({ text, platform, policy });
    return await this.suited(
      found instanceof Image ? await this.#kept(found) : await this.#remember(found),
      trust,
    );
  }

  /** A mount is about to come: the registry is asked already. Errors are the mount's. */
  expect(text: string, platform: string | undefined, trust?: TrustPolicy): void {
    this.#resolver.expect({ text, platform, policy: trust ?? this.#options.trust });
  }

  /** The image of the lowest layers of another; `chain` is their ChainID and the new image's id. */
  async ofChain(whole: Image, layers: number, chain: string): Promise<Image> {
    const { ref, registry, repository, manifest, config, layers: all } = whole.resolved;
    return (
      this.get(chain) ??
      (await this.#add(chain, {
        type: 'image.resolved',
        ref: `${ref} (${layers} of ${all.length} layers)`,
        registry,
        repository,
        manifest,
        config,
        layers: all.slice(0, layers),
        chain,
      }))
    );
  }

  /** Forgets an image; its layers are others' business. Error `busy` where a mount has it. */
  async remove(manifest: string): Promise<void> {
    const image = this.get(manifest);
    if (image === undefined) return;
    if (image.isInUse) throw new CofaError('busy', `${image.resolved.ref} is in use`);
    const { live, layout } = this.#options;
    // From here on the same reference is resolved anew.
    this.#removing.add(manifest);
    image.removed = true;
    try {
      await live.append(hexOf(manifest), { type: 'image.removed' });
    } catch (error) {
      // Where NATS did not say whether the log took it, the image counts as removed until it is resolved again.
      image.removed = toErrorRecord(error).code === 'unavailable';
      throw error;
    } finally {
      this.#removing.delete(manifest);
    }
    if (!live.state.images.has(manifest)) await this.#deleteFiles(layout.image(manifest));
  }

  /** In the same turn as the look at the log: an image that comes again finds nothing half. A crash leaves the rest to the sweeper. */
  async #deleteFiles(folder: string): Promise<void> {
    let going = `${folder}.${process.pid}.${++this.#deletions}.going`;
    try {
      renameSync(folder, going);
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return;
      // A crash of a process of this number has left one.
      going = folder;
    }
    await rm(going, { recursive: true, force: true });
  }

  async #remember(image: ResolvedImage): Promise<Image> {
    const event = resolvedBy(image);
    const known = this.get(event.manifest);
    known?.refresh(image);
    const isSame = known?.resolved.ref === event.ref && known.resolved.repository === event.repository;
    if (known !== undefined && isSame && !known.removed) return known;
    const added = await this.#add(event.manifest, event);
    added.refresh(image);
    return added;
  }

  /** `id`: the manifest, or the ChainID of an image of some of its layers. */
  async #add(id: string, event: NewEvent<'image.resolved'>): Promise<Image> {
    // A power cut may take it, with all that stands on it: no caller has heard of that then.
    await this.#options.live.append(hexOf(id), event, { early: true });
    const image = this.get(id);
    if (image === undefined)
      throw new CofaError('conflict', `image ${event.ref} was removed meanwhile`, { hint: 'try again' });
    image.removed = false;
    return image;
  }

  /** The image, or the one that takes its place where the log may have taken its removal without a word. */
  async #kept(image: Image): Promise<Image> {
    if (!image.removed) return image;
    const { v: _v, at: _at, ...event } = image.resolved;
    return await this.#add(image.manifest, event);
  }

  #onEvent({ subject, event }: LogRecord): void {
    if (event.type !== 'image.removed') return;
    const manifest = `sha256:${idOf(subject)}`;
    this.#refutations.forget(manifest);
    const image = this.#newest.get(manifest);
    this.#newest.delete(manifest);
    for (const generation of image?.generations() ?? []) generation.hasGone();
  }

  /** The kernel reads the layer by itself from now on, or does no longer. */
  async changedDirect(layer: string): Promise<void> {
    const using = [...this.all()]
      .flatMap((image) => [...image.generations()])
      .filter(({ prepared }) => prepared?.devices.some((device) => layerIdOf(device) === layer));
    await Promise.all(using.map((image) => image.setReadAhead()));
  }

  // ── Which generation a mount uses ──

  /**
   * The image as the policy allows it; it may be another generation. Error `integrity` where it was refuted and the policy
   * would use it.
   */
  async suited(image: Image, trust?: TrustPolicy): Promise<Image> {
    const policy = trust ?? this.#options.trust;
    const listed = await this.#listed(policy);
    let newest = newestOf(image);
    if (isRefused(policy, newest.refuted !== undefined)) {
      if (!(await this.#isPutRight(newest))) throw refusal(newest);
      newest = newestOf(newest);
    }
    return newest.claim(policy, listed) ? newest : this.#succeed(newest, policy);
  }

  /** The sidecars that the operator lists; the keys are those of now as well. */
  async #listed(policy: TrustPolicy): Promise<ReadonlySet<string>> {
    const { layout, keys } = this.#options;
    const [listed] = await Promise.all([listedFor(policy, layout), keys.refresh()]);
    return listed;
  }

  /** Whether a mount of this policy may use it as it is. */
  async mayUse(image: Image, trust?: TrustPolicy): Promise<boolean> {
    const policy = trust ?? this.#options.trust;
    return image.accepts(policy, await this.#listed(policy));
  }

  /**
   * Whether it can be mounted under the engine's policy without its layers being read first: it was prepared here or by
   * others, and that was not refuted. `isPinned`: the user's reference names a digest.
   */
  async isPrepared(image: Image, isPinned = false): Promise<boolean> {
    const trust = policyFor(this.#options.trust, isPinned);
    if (isRefused(trust, image.refuted !== undefined)) return false;
    const listed = await this.#listed(trust);
    if (image.prepared !== undefined) return image.accepts(trust, listed);
    return await image.hasSidecarFor(trust);
  }

  /**
   * For a mount of an earlier engine, which was acknowledged: it comes back with what it had, unless that was refuted;
   * then with what the node builds itself.
   */
  restored(image: Image, trust?: TrustPolicy): Image {
    const newest = newestOf(image);
    const policy = trust ?? this.#options.trust;
    if (newest.standing === 'refuted') return this.#succeed(newest, policy);
    newest.tighten(policy);
    return newest;
  }

  /**
   * What a mount is to use that was made for `image`: its newest generation, unless its devices are attached and nothing
   * speaks against it.
   */
  forMount(image: Image): Image {
    return image.attached === undefined || image.standing === 'refuted' ? newestOf(image) : image;
  }

  #succeed(image: Image, policy: TrustPolicy): Image {
    const next = image.succeed(policy);
    this.#newest.set(next.manifest, next);
    return next;
  }

  // ── What is proven ──

  /** Layers that images have, with span tables whose block root is proven, the best tables first. */
  knownDevices(): ImageDevice[] {
    return knownDevices(this.all(), this.#options.live.state);
  }

  /** Digest of flat metadata that this node has proven for the image's layers by the builder's present revision. */
  provenFlat(image: Image): string | undefined {
    return provenLike(this.all(), image).next().value?.prepared.flat;
  }

  /** The flat metadata in use are those of the layers. */
  async prove(image: Image): Promise<void> {
    const { prepared } = image;
    if (prepared === undefined) return;
    const { flat, sidecar } = prepared;
    const event = { type: 'image.verified', flat, ...(sidecar === undefined ? {} : { sidecar }) } as const;
    await image.recorded();
    await this.#options.live.append(hexOf(image.manifest), event);
  }

  /**
   * The flat metadata in use are not those of the layers; `message`: how they differ. No mount is made with them from
   * here on, and the log is told, however long it takes no events. Errors: the signal's reason.
   */
  async refute(image: Image, message: string, signal: AbortSignal): Promise<void> {
    const { prepared, manifest } = image;
    if (prepared === undefined) return;
    const { flat, sidecar } = prepared;
    const { live, log } = this.#options;
    const refuted = { flat, sidecar, message };
    const named = sidecar === undefined ? {} : { sidecar };
    this.#refutations.found(manifest, refuted);
    for (;;) {
      signal.throwIfAborted();
      try {
        await image.recorded();
        await live.append(hexOf(manifest), { type: 'image.refuted', flat, ...named, message });
        this.#refutations.told(manifest, refuted);
        return;
      } catch (error) {
        log.error({ image: image.resolved.ref, error }, 'a refutation waits for the log');
        await sleep(REFUTE_AGAIN_MS, undefined, { signal, ref: false }).catch(() => {});
      }
    }
  }

  /** From now on new mounts use what the node has built from the layers, if they may at all. */
  async replace(image: Image, built: Rebuilt): Promise<void> {
    const { live, layout } = this.#options;
    const id = hexOf(image.manifest);
    const isOver = () => image.successor !== undefined || image.removal.aborted;
    // A mount may have asked for another flat image meanwhile.
    if (isOver()) return;
    await image.recorded();
    const { event: prepared } = await live.append(id, preparedBy(built));
    await live.append(id, { type: 'image.verified', flat: prepared.flat });
    await image.settled();
    if (isOver()) return;
    // In one turn: a mount that attaches the file afterwards belongs to the successor.
    renameSync(built.path, layout.flat(image.manifest));
    const next = image.succeed('never', prepared);
    this.#newest.set(next.manifest, next);
  }

  /** Whether the registry now prefers a sidecar that holds what this node has built. */
  async #isPutRight(image: Image): Promise<boolean> {
    const { registry, live, log } = this.#options;
    const flat = image.proof === 'proven' ? image.prepared?.flat : undefined;
    const { refuted, resolved } = image;
    if (flat === undefined || refuted === undefined) return false;
    try {
      const source = `${resolved.registry}/${resolved.repository}@${resolved.manifest}`;
      const found = await findSidecar(registry, await registry.resolve(parseReference(source)));
      if (found === undefined || found.descriptor.digest === refuted.sidecar) return false;
      // Of a chain the sidecar holds the tables of contents alone; what this node has built from the layers stays in use.
      if (resolved.chain === undefined && digestOf(await found.flat()) !== flat) return false;
      const sidecar = found.descriptor.digest;
      await live.append(hexOf(image.manifest), { type: 'image.verified', flat, sidecar });
      this.#refutations.told(image.manifest, refuted);
      return true;
    } catch (error) {
      log.warn({ image: resolved.ref, error }, 'whether its sidecar was put right is not known');
      return false;
    }
  }

  #refutedSidecars(): ReadonlySet<string> {
    return new Set([...this.all()].flatMap(({ refuted }) => refuted?.sidecar ?? []));
  }
}

function newestOf(image: Image): Image {
  let newest = image;
  while (newest.successor !== undefined) newest = newest.successor;
  return newest;
}

const refusal = (image: Image): CofaError =>
  new CofaError(
    'integrity',
    `the sidecar of ${image.resolved.ref} is not the image's: its flat metadata are not what the layers give (${image.refuted?.message})`,
    {
      hint: 'with --trust never it is mounted with what this node built from the layers; cofa index --force puts a right sidecar into the registry',
    },
  );
