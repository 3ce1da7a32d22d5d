/**
 * The images of a node: each is an actor (actors/image.ts) whose effects are here: prepare the flat image, attach its
 * devices, let them go.
 */
import { renameSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { imageMachine } from '../../../actors/image.ts';
import { type ImageFacts, type Proof, proofOf } from '../../../actors/node-state.ts';
import type { Progress } from '../../../schemas/api.ts';
import { CofaError, fromErrorRecord, toErrorRecord } from '../../../schemas/errors.ts';
import type { EventOf, NewEvent } from '../../../schemas/events.ts';
import type { PackSource } from '../../../schemas/fetch.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import type { TrustPolicy } from '../../../schemas/trust.ts';
import { SpanTable } from '../../image/span-table.ts';
import {
  attachLoop,
  backingFileOf,
  detachLoop,
  type LoopDevice,
  type LoopStatus,
} from '../../kernel/loop.ts';
import { setReadAhead } from '../../kernel/read-ahead.ts';
import type { RegistryClient, ResolvedImage } from '../../registry/client.ts';
import { parseReference, type Reference } from '../../registry/reference.ts';
import { findSidecar, SIDECAR_REVISION } from '../../registry/sidecars.ts';
import { startReferrers } from '../../registry/start-referrers.ts';
import type { EventLog } from '../../store/event-log.ts';
import type { NodeFacts } from '../../store/live-fold.ts';
import { hexOf, type Layout, writeWhole } from '../../store/layout.ts';
import { ActorHost } from '../../process/actor-host.ts';
import { Expected } from './expected.ts';
import { prepareChain } from './chain-image.ts';
import type { Devices } from '../layers/devices.ts';
import { hintsFor } from './hints.ts';
import { indexOnNode } from './index-on-node.ts';
import type { Indexers } from './indexers.ts';
import type { Startups } from './startups.ts';
import { flatLabel, type Leftovers } from '../mounts/leftovers.ts';
import { type Rebuilt, rebuiltPath } from '../../index/orders.ts';
import { rebuild } from './rebuild.ts';
import {
  type ChoiceOptions,
  chooseSidecar,
  digestOf,
  hasUsableSidecar,
  type PreparedEvent,
  trustedSidecars,
} from './sidecar-choice.ts';

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
  indexers: Indexers;
  label: string;
  /** Loops of an earlier engine. */
  leftovers: Leftovers;
  /** Of mounts that name none. */
  trust: TrustPolicy;
  /** Layers whose device is whole and proven, with the bytes of their tar. */
  completeLayers: () => Promise<Map<string, number>>;
}

interface ImageContext extends ImagesOptions {
  /** Digest of flat metadata that this node has proven for an image of the same layers. */
  sameLayers: (image: Image) => string | undefined;
  /** Digests of sidecars that were refuted, whatever image it was for. */
  refutedSidecars: () => ReadonlySet<string>;
}

/** A pack that was found is asked for after so long, ms, in any case: of a link with long ways nothing should be wasted. */
const PACK_HELD_BACK_MS = 50;
/** What the registry said for a mount that is expected is that mount's for so long, ms. */
const EXPECTED_MS = 2_000;
const expectedKey = (ref: string, platform: string | undefined, policy: TrustPolicy): string =>
  JSON.stringify([ref, platform, policy]);

/**
 * How far the kernel reads ahead in files of an image that is whole, and of one that is not, KiB. In a file that is mapped it
 * reads as much around each page that is missing (do_sync_mmap_readahead in mm/filemap.c): what of it nobody wants costs next
 * to nothing where it lies on the node, and else is fetched, decoded and learned by startup packs as well.
 */
const READ_AHEAD = { whole: 1024, part: 128 };

/** Images that there have been. */
let users = 0;

/** The loops of an image that is in use. */
export interface AttachedImage {
  metadata: LoopDevice;
  devices: LoopDevice[];
}

/**
 * One image with one flat image. Where its flat image must be another one (because it was refuted, or because a mount's
 * policy does not take it), a new object succeeds it: mounts that are there keep the old one to their end.
 */
export class Image {
  readonly manifest: string;
  resolved: Resolved;
  prepared: Prepared | undefined;
  /** Digest of flat metadata that the node has built from the layers by itself. */
  verified: string | undefined;
  refuted: ImageFacts['refuted'];
  /** Policy that it is prepared under. */
  trust: TrustPolicy;
  /** New mounts use that one. */
  successor: Image | undefined;
  /** Mounts that are there may still have that one. */
  #predecessor: Image | undefined;
  /** Its layers are being read for a proof, and its files may be written. */
  isProving = false;
  readonly #removal = new AbortController();
  /** Every block of every device was written when it was indexed here, a moment ago. */
  #built = false;
  attached: AttachedImage | undefined;
  /** One change after the other: the last one knows what is right. */
  #readAheadSet: Promise<void> = Promise.resolve();
  /** By mount: bytes per second of the rest of the image that it wants in the background; Infinity: no limit, 0: none. */
  readonly #rates = new Map<string, number>();
  /** Names it to the devices: there may be another one of the same manifest. */
  readonly #user: string;
  readonly host: ActorHost<typeof imageMachine>;
  readonly progress = new Set<(progress: Progress) => void>();
  /** Its files are going. */
  removed = false;
  readonly #options: ImageContext;
  /** What the registry said, while it is fresh. */
  #image: ResolvedImage | undefined;
  #start: string | undefined;
  /** First word of the command that is about to run, where it is not the image's own. */
  #program: string | undefined;
  #pack: Promise<PackSource | undefined> | undefined;

  constructor(options: ImageContext, manifest: string, resolved: Resolved, image: ResolvedImage | undefined) {
    this.#options = options;
    this.manifest = manifest;
    this.#user = `${manifest}.${++users}`;
    this.resolved = resolved;
    this.trust = options.trust;
    this.#image = image;
    this.host = new ActorHost(imageMachine, {
      prepare: () => this.#effect(() => this.#prepare(), 'PREPARED'),
      attach: () => this.#effect(() => this.#attach(), 'ATTACHED'),
      detach: () => this.#effect(() => this.#detach(), 'DETACHED'),
    });
  }

  /**
   * `rate`: bytes per second of the rest of the image that the mount wants in the background; Infinity: no limit, 0: none.
   * Mounts of one image share the highest. `start`: which of the image's commands is about to run; undefined: none, as when
   * a mount is brought back. `program`: its first word, where it is not the image's own. Resolves when the image's devices are attached for `mount`; throws what the preparation failed
   * with.
   */
  async use(mount: string, rate: number, start?: string, program?: string): Promise<AttachedImage> {
    if (this.removed) {
      throw new CofaError('conflict', `image ${this.resolved.ref} was removed meanwhile`, {
        hint: 'try again',
      });
    }
    this.#rates.set(mount, rate);
    this.#tellRate();
    // One that fetches nothing by itself has no use for a pack.
    if (this.#start === undefined && rate > 0) {
      this.#start = start;
      this.#program = program;
    }
    this.host.send({ type: 'USE', mount });
    if ((await this.host.until('attached', 'failed')) === 'failed' || this.attached === undefined) {
      const { error } = this.host.snapshot.context;
      throw fromErrorRecord(error ?? { code: 'internal', message: `image ${this.manifest} has no devices` });
    }
    return this.attached;
  }

  async release(mount: string): Promise<void> {
    this.#rates.delete(mount);
    // With its last mount the image lets go of the devices, and that says it all.
    if (this.#rates.size > 0) this.#tellRate();
    this.host.send({ type: 'RELEASE', mount });
    await this.host.until('known', 'ready', 'attached', 'failed');
  }

  /** Whether a mount has it, or one that it succeeded, or is about to. */
  get isInUse(): boolean {
    return this.isUsed || this.#predecessor?.isInUse === true;
  }

  /** The same of this object alone. */
  get isUsed(): boolean {
    return (
      this.host.snapshot.context.users.length > 0 || !['known', 'ready', 'failed'].includes(this.host.state)
    );
  }

  /** Whether its files are being made. */
  get isPreparing(): boolean {
    return this.host.state === 'preparing' || this.isProving || this.#predecessor?.isPreparing === true;
  }

  /** `registry/repository` that it was taken from. */
  get repository(): string {
    return `${this.resolved.registry}/${this.resolved.repository}`;
  }

  /** Aborted when the image has been removed. */
  get removal(): AbortSignal {
    return this.#removal.signal;
  }

  /** The image's files go. */
  hasGone(): void {
    this.#removal.abort(new CofaError('not-found', `image ${this.resolved.ref} was removed`));
  }

  /** This object, and those before it that mounts still have; the others are let go. */
  *generations(): IterableIterator<Image> {
    yield this;
    const before = this.#predecessor;
    if (before === undefined) return;
    if (before.isInUse || this.prepared === undefined) yield* before.generations();
    else this.#predecessor = undefined;
  }

  /**
   * Whether it can be mounted under the engine's policy without its layers being read first: somebody has prepared it,
   * and nobody has refuted that.
   */
  async isPrepared(): Promise<boolean> {
    const { trust, layout } = this.#options;
    if (this.refuted !== undefined && trust === 'always') return false;
    if (this.prepared !== undefined) return this.accepts(trust, await listedFor(trust, layout));
    return await hasUsableSidecar({ ...this.#choice(await this.#fromRegistry()), policy: trust });
  }

  /** Whether the kernel reads all of the image's devices itself, so that its mounts outlive the engine. */
  isDirect(): boolean {
    return this.prepared?.devices.every(({ diffId }) => this.#options.devices.isDirect(diffId)) ?? false;
  }

  /** Whether a file system that an earlier engine left lost a layer for good. */
  hasLost(): boolean {
    return this.prepared?.devices.some(({ diffId }) => this.#options.devices.isLost(diffId)) ?? false;
  }

  /** Its configuration, where the registry has given it to this process. */
  get config(): { digest: string; bytes: Buffer } | undefined {
    return this.#image && { digest: this.#image.configDescriptor.digest, bytes: this.#image.config };
  }

  /** A fresh answer of the registry for the same manifest. */
  refresh(image: ResolvedImage): void {
    this.#image = image;
  }

  /** What is known of the flat metadata; undefined while there are none. */
  get proof(): Proof | undefined {
    return proofOf(this);
  }

  /**
   * Whether a mount of this policy may use the image; one that is not prepared yet will be prepared so that it may.
   * `listed`: sidecars that policy `own` takes.
   */
  claim(policy: TrustPolicy, listed: ReadonlySet<string>): boolean {
    const before = this.#predecessor;
    const idle = this.host.state === 'known' || this.host.state === 'failed';
    if (this.prepared === undefined && idle && before?.prepared !== undefined) {
      // It could not be prepared under a stricter policy; what there was before may do for this one.
      if (before.accepts(policy, listed)) this.prepared = before.prepared;
    }
    if (this.prepared !== undefined && !this.accepts(policy, listed)) return false;
    if (this.prepared !== undefined && !idle) return true;
    if (!idle) return STRICTNESS[this.trust] >= STRICTNESS[policy];
    this.trust = policy;
    return true;
  }

  /** Should it have to be prepared again, then under the strictest policy of its mounts. */
  tighten(policy: TrustPolicy): void {
    if (STRICTNESS[policy] > STRICTNESS[this.trust]) this.trust = policy;
  }

  accepts(policy: TrustPolicy, listed: ReadonlySet<string>): boolean {
    if (this.proof !== 'unproven') return this.proof === 'proven';
    // Another image has shown that the sidecar lies; this one's part of it may be right, and is not taken on trust.
    if (this.#options.refutedSidecars().has(this.prepared?.sidecar ?? '')) return false;
    if (policy === 'own') return listed.has(this.prepared?.sidecar ?? '');
    return policy === 'always';
  }

  /** Another object takes over, for new mounts. It is prepared under `trust`, or is what `prepared` says. */
  succeed(trust: TrustPolicy, prepared?: Prepared): Image {
    const next = new Image(this.#options, this.manifest, this.resolved, this.#image);
    next.refuted = this.refuted;
    next.trust = trust;
    next.prepared = prepared;
    next.#predecessor = this;
    this.successor = next;
    return next;
  }

  /** Resolves when the flat image in the store may be replaced: nothing is being made of it at the moment. */
  async settled(): Promise<void> {
    while (['preparing', 'attaching'].includes(this.host.state)) {
      await this.host.until('known', 'ready', 'attached', 'detaching', 'failed');
    }
  }

  async append(event: NewEvent): Promise<void> {
    await this.#append(event);
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
    await this.#predecessor?.settled();
    if (this.prepared !== undefined && (await this.#isInStore(this.prepared))) return;
    try {
      const { prepared, proven } = await this.#make();
      await this.#append(prepared);
      this.prepared = { v: 1, at: 0, ...prepared };
      if (!proven || prepared.sidecar === undefined) return;
      await this.#append({ type: 'image.verified', flat: prepared.flat, sidecar: prepared.sidecar });
      this.verified = prepared.flat;
      // As the fold has it: the registry offers what is right.
      this.refuted = undefined;
    } catch (error) {
      const { code, message } = toErrorRecord(error);
      await this.#append({ type: 'image.failed', code, message });
      throw error;
    }
  }

  /** In this order: the layers that are here, a sidecar that the policy takes, the layers in the registry. */
  async #make(): Promise<{ prepared: PreparedEvent; proven: boolean }> {
    const { layout } = this.#options;
    if (this.trust !== 'always' || this.refuted !== undefined) {
      const prepared = await this.#fromLayers();
      if (prepared !== undefined) return { prepared, proven: true };
    }
    const image = await this.#fromRegistry();
    const fetched = Promise.withResolvers<void>();
    this.#askForPack(fetched.promise);
    const written = Promise.all([
      writeWhole(layout.config(this.manifest), image.config),
      writeWhole(layout.manifest(this.manifest), image.manifestBytes),
    ]);
    written.catch(() => {});
    this.#report({ phase: 'sidecar' });
    const choice = { ...this.#choice(image), onFetched: fetched.resolve };
    const { chain, layers } = this.resolved;
    const chosen =
      chain === undefined
        ? await chooseSidecar(choice)
        : await chooseSidecar(choice, (sidecar) =>
            prepareChain({ layout, chain, image, layers: layers.length, sidecar, onFailed: choice.onPassed }),
          );
    await written;
    const { prepared, proven, passed } = chosen;
    if (prepared !== undefined) {
      // Images are prepared here: one for those that are not would hold memory for nobody.
      // To take down what it has costs ten milliseconds, which the start needs.
      this.#options.indexers.dismiss(AFTER_START_MS);
      return { prepared, proven };
    }
    const indexed =
      chain === undefined
        ? await this.#indexHere(image)
        : await prepareChain({
            layout,
            chain,
            image,
            layers: layers.length,
            sidecar: undefined,
            onFailed: choice.onPassed,
          });
    return { prepared: passed.length === 0 ? indexed : { ...indexed, passed }, proven: true };
  }

  #choice(image: ResolvedImage): ChoiceOptions {
    const { layout, registry, log, sameLayers, refutedSidecars } = this.#options;
    return {
      layout,
      registry,
      manifest: this.manifest,
      image,
      policy: this.trust,
      known: sameLayers(this),
      refuted: { flat: this.refuted?.flat, sidecars: refutedSidecars() },
      onPassed: (remark) => {
        log.warn({ image: image.reference.text }, remark);
        this.#report({ phase: 'sidecar', remark });
      },
    };
  }

  /** Every layer that has something of the image lies here whole: its flat image is built from them, without a registry. */
  async #fromLayers(): Promise<PreparedEvent | undefined> {
    const { layout, log, completeLayers } = this.#options;
    const { layers, registry, repository } = this.resolved;
    const used = this.#predecessor?.prepared?.devices ?? layers;
    try {
      const complete = await completeLayers();
      if (used.length === 0 || !used.every(({ diffId }) => complete.has(diffId))) return undefined;
      await readFile(layout.config(this.manifest));
      this.#report({ phase: 'flatten' });
      const built = await rebuild(
        layout,
        this.manifest,
        { source: { registry, repository }, layers, local: localOf(layers, complete), cached: true },
        {},
      );
      renameSync(built.path, layout.flat(this.manifest));
      return preparedBy(built);
    } catch (error) {
      log.warn({ image: this.resolved.ref, error }, 'the flat image cannot be built from the layers here');
      return undefined;
    } finally {
      await rm(rebuiltPath(layout, this.manifest, false), { force: true });
    }
  }

  /** Its layers stream through the indexer straight into their devices. */
  async #indexHere(image: ResolvedImage): Promise<PreparedEvent> {
    const { layout, log } = this.#options;
    log.info({ image: image.reference.text }, 'no sidecar to use: the image is indexed on this node');
    const built = await indexOnNode({
      layout,
      manifest: this.manifest,
      image,
      indexers: this.#options.indexers,
      onProgress: (p) => this.#report(p),
    });
    this.#built = true;
    // Where one comes unprepared others may follow.
    this.#options.indexers.prepare(AFTER_INDEX_MS);
    return preparedBy(built);
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
          built: this.#built,
        },
        this.#user,
        this.#rate,
      );
      taken.push(diffId);
      return loop;
    });
    // Whether a layer was lost with an earlier engine's loops is known when they have been looked at; mostly there are none.
    const looked = this.#options.leftovers.size > 0 ? Promise.allSettled(wanted) : Promise.resolve();
    const metadata = looked.then(() => this.#attachMetadata());
    const results = await Promise.allSettled([metadata, ...wanted]);
    const failure = results.find((result) => result.status === 'rejected');
    if (failure !== undefined) {
      const [first] = results;
      if (first?.status === 'fulfilled') await detachLoop(first.value);
      await Promise.allSettled(taken.map((diffId) => devices.release(diffId, this.#user)));
      throw failure.reason;
    }
    // From here on the log says which blocks there are.
    this.#built = false;
    this.attached = { metadata: await metadata, devices: await Promise.all(wanted) };
    // Mounts may have come and gone meanwhile.
    this.#tellRate();
    await this.setReadAhead();
    if (this.#start === undefined || this.isDirect()) return;
    const layers = prepared.devices.map(({ diffId, spans }) => ({ diffId, blob: spans }));
    const { manifest, repository } = this;
    const { layout, startups } = this.#options;
    const start = { start: this.#start, layers };
    startups.begin({ ...start, manifest, repository }, this.#findPack(), () =>
      hintsFor(layout, manifest, { ...start, program: this.#program }),
    );
  }

  /** As far as is right for what of the image is on the node now. */
  async setReadAhead(): Promise<void> {
    this.#readAheadSet = this.#readAheadSet.then(async () => {
      if (this.attached === undefined) return;
      try {
        await setReadAhead(this.attached.metadata, this.isDirect() ? READ_AHEAD.whole : READ_AHEAD.part);
      } catch (error) {
        this.#options.log.warn({ image: this.resolved.ref, error }, 'reads ahead as the kernel chooses');
      }
    });
    await this.#readAheadSet;
  }

  get #rate(): number {
    return Math.max(0, ...this.#rates.values());
  }

  #tellRate(): void {
    if (this.attached === undefined) return;
    for (const { diffId } of this.prepared?.devices ?? [])
      this.#options.devices.setRate(diffId, this.#user, this.#rate);
  }

  /**
   * What it takes to use it is on its way, and goes first: the pack is ten times as large, and its bytes would share link and
   * processors with those that everything waits for. `fetched`: these are here.
   */
  #askForPack(fetched: Promise<void>): void {
    const start = this.#start;
    if (start === undefined) return;
    void this.#findPack().then(async (pack) => {
      if (pack === undefined) return;
      await Promise.race([fetched, sleep(PACK_HELD_BACK_MS)]);
      if (this.host.state === 'preparing')
        this.#options.startups.ahead(this.manifest, start, this.repository, pack);
    });
  }

  /** Looked for once, side by side with all that has to happen before it can be used. */
  #findPack(): Promise<PackSource | undefined> {
    if (this.#start === undefined) return Promise.resolve(undefined);
    this.#pack ??= this.#options.startups.find(this.manifest, this.#start, this.repository, this.#image);
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
    const rest: LoopStatus[] = [];
    for (const loop of leftovers.take(label)) {
      const { number, path, autoclear } = loop;
      // As it is now: since the loop was found its file may have been replaced by what the layers give.
      const isFit = !lost && !autoclear && backingFileOf(loop) === file;
      if (best === undefined && isFit) best = { number, path, label };
      else rest.push(loop);
    }
    leftovers.giveBack(label, rest);
    return best ?? (await attachLoop(file, { directIo: false, readOnly: true, label }));
  }

  async #detach(): Promise<void> {
    const { attached, prepared } = this;
    this.attached = undefined;
    this.#start = undefined;
    this.#pack = undefined;
    if (attached === undefined || prepared === undefined) return;
    // A loop that something still holds, such as a copy of the mount in another mount namespace, goes with its last
    // user; that is no reason to keep the others.
    const gone = await Promise.allSettled([
      detachLoop(attached.metadata),
      ...prepared.devices.map(({ diffId }) => this.#options.devices.release(diffId, this.#user)),
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
  readonly #options: ImageContext;
  readonly #images = new Map<string, Image>();
  /** What the registry was asked for somebody who is about to mount; the next one of the same words takes it. */
  readonly #expected = new Expected<ResolvedImage>((ms) => sleep(ms, undefined, { ref: false }));

  /** `state`: what the log says; its images are known and, where prepared, ready. */
  constructor(options: ImagesOptions, state: NodeFacts) {
    this.#options = {
      ...options,
      sameLayers: (image) => this.#sameLayers(image),
      refutedSidecars: () => this.#refutedSidecars(),
    };
    for (const [manifest, facts] of state.images) {
      const image = new Image(this.#options, manifest, facts.resolved, undefined);
      image.prepared = facts.prepared;
      image.verified = facts.verified;
      image.refuted = facts.refuted;
      this.#images.set(manifest, image);
    }
  }

  get(manifest: string): Image | undefined {
    return this.#images.get(manifest);
  }

  all(): Iterable<Image> {
    return this.#images.values();
  }

  /** The kernel reads the layer by itself from now on, or does no longer. */
  async changedDirect(diffId: string): Promise<void> {
    const using = [...this.#images.values()]
      .flatMap((image) => [...image.generations()])
      .filter(({ prepared }) => prepared?.devices.some((device) => device.diffId === diffId));
    await Promise.all(using.map((image) => image.setReadAhead()));
  }

  /**
   * The image that a reference means now. The registry decides; when it cannot be reached, a reference that was resolved
   * here before means what it meant then. `trust`: which sidecars may be used; the engine's policy by default. Errors:
   * the registry's, `integrity` where the image was refuted and the policy would use it.
   */
  async resolve(text: string, platform: string | undefined, trust?: TrustPolicy): Promise<Image> {
    return await this.suited(await this.#find(text, platform, trust ?? this.#options.trust), trust);
  }

  async #find(text: string, platform: string | undefined, policy: TrustPolicy): Promise<Image> {
    const reference = parseReference(text);
    const known = [...this.#images.values()].filter((image) => image.resolved.ref === reference.text);
    const pinned = reference.digest === undefined ? undefined : this.#images.get(reference.digest);
    if (pinned?.prepared !== undefined) return pinned;
    const key = expectedKey(text, platform, policy);
    let image: ResolvedImage;
    try {
      image = await (this.#expected.take(key) ?? this.#ask(reference, platform, policy));
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

  /**
   * Somebody is about to mount the image: the registry is asked already, and the mount, if it comes soon, has the answer. Errors
   * are the mount's.
   */
  expect(text: string, platform: string | undefined, trust?: TrustPolicy): void {
    const policy = trust ?? this.#options.trust;
    const key = expectedKey(text, platform, policy);
    const reference = parseReference(text);
    const pinned = reference.digest === undefined ? undefined : this.#images.get(reference.digest);
    if (pinned?.prepared !== undefined) return;
    this.#expected.ask(key, EXPECTED_MS, () => this.#ask(reference, platform, policy));
  }

  #ask(reference: Reference, platform: string | undefined, policy: TrustPolicy): Promise<ResolvedImage> {
    return this.#options.registry.resolve(reference, {
      knownConfig: (digest) => this.#configOf(digest),
      referrers: {
        // What the kernel reads by itself takes neither sidecar nor pack.
        listed: (manifest) => this.#images.get(manifest)?.isDirect() !== true,
        wanted: (manifest) => policy !== 'never' && this.#images.get(manifest)?.prepared === undefined,
        blobsOf: startReferrers,
      },
      ...(platform === undefined ? {} : { platform }),
    });
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
    for (const generation of image.generations()) generation.hasGone();
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

  /**
   * The image as the policy allows it; it may be another object. Error `integrity` where it was refuted and the policy
   * would use it.
   */
  async suited(image: Image, trust?: TrustPolicy): Promise<Image> {
    const policy = trust ?? this.#options.trust;
    const listed = await listedFor(policy, this.#options.layout);
    let current = this.#latest(image);
    if (current.refuted !== undefined && policy === 'always') {
      if (!(await this.#isPutRight(current))) throw refusal(current);
      current = this.#latest(current);
    }
    if (current.claim(policy, listed)) return current;
    return this.#succeed(current, policy);
  }

  /** Whether a mount of this policy may use it as it is. */
  async mayUse(image: Image, trust?: TrustPolicy): Promise<boolean> {
    const policy = trust ?? this.#options.trust;
    const listed = await listedFor(policy, this.#options.layout);
    return image.accepts(policy, listed);
  }

  /**
   * For a mount of an earlier engine, which was acknowledged: it comes back with what it had, unless that was refuted;
   * then with what the node builds itself.
   */
  restored(image: Image, trust?: TrustPolicy): Image {
    const current = this.#latest(image);
    const policy = trust ?? this.#options.trust;
    if (current.proof === 'refuted') return this.#succeed(current, policy);
    current.tighten(policy);
    return current;
  }

  #succeed(image: Image, policy: TrustPolicy): Image {
    const next = image.succeed(policy);
    this.#images.set(next.manifest, next);
    return next;
  }

  /**
   * What a mount is to use that was made for `image`: its successor, unless its devices are attached and nothing speaks
   * against it.
   */
  forMount(image: Image): Image {
    return image.attached === undefined || image.proof === 'refuted' ? this.#latest(image) : image;
  }

  /** Digest of flat metadata that this node has proven for the image's layers by the builder's present revision. */
  provenFlat(image: Image): string | undefined {
    return this.#sameLayers(image);
  }

  /** The flat metadata in use are those of the layers. */
  async prove(image: Image): Promise<void> {
    const { flat, sidecar } = image.prepared as Prepared;
    await image.append({ type: 'image.verified', flat, ...(sidecar === undefined ? {} : { sidecar }) });
    image.verified = flat;
    if (sidecar !== undefined) image.refuted = undefined;
  }

  /**
   * The flat metadata in use are not those of the layers; `message`: how they differ. No mount is made with them from
   * here on, and the log is told, however long it takes no events. Errors: the signal's reason.
   */
  async refute(image: Image, message: string, signal: AbortSignal): Promise<void> {
    const { flat, sidecar } = image.prepared as Prepared;
    const refuted = { flat, sidecar, message };
    for (let next: Image | undefined = image; next !== undefined; next = next.successor)
      next.refuted = refuted;
    for (;;) {
      signal.throwIfAborted();
      try {
        await image.append({
          type: 'image.refuted',
          flat,
          ...(sidecar === undefined ? {} : { sidecar }),
          message,
        });
        return;
      } catch (error) {
        this.#options.log.error({ image: image.resolved.ref, error }, 'a refutation waits for the log');
        await sleep(REFUTE_AGAIN_MS, undefined, { signal, ref: false }).catch(() => {});
      }
    }
  }

  /** From now on new mounts use what the node has built from the layers, if they may at all. */
  async replace(image: Image, built: Rebuilt): Promise<void> {
    const prepared = preparedBy(built);
    const isOver = () => image.successor !== undefined || image.removal.aborted;
    // A mount may have asked for another flat image meanwhile.
    if (isOver()) return;
    await image.append(prepared);
    await image.append({ type: 'image.verified', flat: prepared.flat });
    await image.settled();
    if (isOver()) return;
    // In one turn: whoever attaches the file afterwards belongs to the successor.
    renameSync(built.path, this.#options.layout.flat(image.manifest));
    const next = image.succeed('never', { v: 1, at: 0, ...prepared });
    next.verified = prepared.flat;
    this.#images.set(next.manifest, next);
  }

  #latest(image: Image): Image {
    let latest = image;
    while (latest.successor !== undefined) latest = latest.successor;
    return latest;
  }

  /** Whether the registry now prefers a sidecar that holds what this node has built. */
  async #isPutRight(image: Image): Promise<boolean> {
    const { registry, log } = this.#options;
    const flat = image.proof === 'proven' ? image.prepared?.flat : undefined;
    const { refuted, resolved } = image;
    if (flat === undefined || refuted === undefined) return false;
    try {
      const source = `${resolved.registry}/${resolved.repository}@${resolved.manifest}`;
      const found = await findSidecar(registry, await registry.resolve(parseReference(source)));
      if (found === undefined || found.descriptor.digest === refuted.sidecar) return false;
      // Of a chain the sidecar holds the tables of contents alone; what this node has built from the layers stays in use.
      if (resolved.chain === undefined && digestOf(await found.flat()) !== flat) return false;
      await image.append({ type: 'image.verified', flat, sidecar: found.descriptor.digest });
      image.refuted = undefined;
      return true;
    } catch (error) {
      log.warn({ image: resolved.ref, error }, 'whether its sidecar was put right is not known');
      return false;
    }
  }

  #configOf(digest: string): Buffer | undefined {
    for (const { config } of this.#images.values()) if (config?.digest === digest) return config.bytes;
    return undefined;
  }

  #refutedSidecars(): ReadonlySet<string> {
    return new Set([...this.#images.values()].flatMap(({ refuted }) => refuted?.sidecar ?? []));
  }

  #sameLayers(image: Image): string | undefined {
    const chain = chainOf(image);
    for (const other of this.#images.values()) {
      const { prepared } = other;
      const revision = prepared?.revision ?? 1;
      if (other.proof === 'proven' && revision === SIDECAR_REVISION && chainOf(other) === chain) {
        return prepared?.flat;
      }
    }
    return undefined;
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

/** A refutation that the log does not take is appended again after this, ms. */
const REFUTE_AGAIN_MS = 1_000;
/** The container has begun by then, and its reads are over, ms. */
const AFTER_INDEX_MS = 30_000;
/** The same of a start whose image was prepared by others, ms. */
const AFTER_START_MS = 5_000;
const STRICTNESS: Record<TrustPolicy, number> = { always: 0, own: 1, never: 2 };

/** The sidecars that a policy takes because the user lists them. */
const listedFor = async (policy: TrustPolicy, layout: Layout): Promise<ReadonlySet<string>> =>
  policy === 'own' ? await trustedSidecars(layout) : new Set();

const chainOf = (image: Image): string => image.resolved.layers.map(({ diffId }) => diffId).join();

/** The image's layers whose devices are whole. */
export const localOf = (
  layers: Resolved['layers'],
  complete: ReadonlyMap<string, number>,
): Array<{ diffId: string; size: number }> =>
  layers.flatMap(({ diffId }) => {
    const size = complete.get(diffId);
    return size === undefined ? [] : [{ diffId, size }];
  });

const preparedBy = ({ flat, devices }: Pick<Rebuilt, 'flat' | 'devices'>): PreparedEvent => ({
  type: 'image.prepared',
  origin: 'node',
  revision: SIDECAR_REVISION,
  flat,
  devices,
});

const refusal = (image: Image): CofaError =>
  new CofaError(
    'integrity',
    `the sidecar of ${image.resolved.ref} is not the image's: its flat metadata are not what the layers give (${image.refuted?.message})`,
    {
      hint: 'with --trust never it is mounted with what this node built from the layers; cofa index --force puts a right sidecar into the registry',
    },
  );
