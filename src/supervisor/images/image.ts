/**
 * One image with one flat image: an actor (actors/image.ts) whose effects are here. A mount uses it; then it is prepared
 * (preparation.ts), its devices are attached (attachment.ts), its start begins (start.ts); the last mount lets them go.
 *
 * What the log says of the image is read from the fold: `facts` changes with each event. What only this process knows is
 * kept here: who uses the image, what is attached, what the registry has just said.
 *
 * Where the flat image must be another one, because it was refuted or because a mount's policy does not take it, a new
 * *generation* succeeds this object: mounts that are there keep the old one to their end. The log knows the flat image of
 * the newest generation alone, so each generation keeps the event `image.prepared` that it stands on.
 */
import type { Logger } from 'pino';
import { imageMachine } from '../../../actors/image.ts';
import { type ImageDevice, jobLayerOf, layerIdOf, rootsOfImage, withTable } from '../../../actors/device.ts';
import { type ImageFacts, type Proof, proofOf, type RootStanding } from '../../../actors/node-state.ts';
import { accepts, claim, type Evidence, isStricter, isWrong } from '../../../actors/trust.ts';
import type { Progress } from '../../../schemas/api.ts';
import { CofaError, fromErrorRecord, toErrorRecord } from '../../../schemas/errors.ts';
import { EVENT_VERSION, type EventOf } from '../../../schemas/events.ts';
import type { TrustPolicy } from '../../../schemas/trust.ts';
import { ActorHost } from '../../process/actor-host.ts';
import type { RegistryClient, ResolvedImage } from '../../registry/client.ts';
import { parseReference } from '../../registry/reference.ts';
import { hexOf } from '../../../schemas/digest.ts';
import type { Layout } from '../../store/layout.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { Devices } from '../layers/devices.ts';
import { type AttachedImage, Attachment, type AttachmentOptions } from './attachment.ts';
import type { Made, Preparation, PreparationOrder, Terms } from './preparation.ts';
import type { Same } from './proven.ts';
import { Recording } from './recording.ts';
import type { Refutations, Refuted } from './refutations.ts';
import type { Keys } from './keys.ts';
import { ImageStart } from './start.ts';
import type { Startups } from './startups.ts';
import type { Witnesses } from './witnesses.ts';

export interface ImageContext extends AttachmentOptions {
  layout: Layout;
  log: Logger;
  live: LiveFold;
  registry: RegistryClient;
  devices: Devices;
  startups: Startups;
  preparation: Preparation;
  refutations: Refutations;
  /** Flat images of the same layers that this node has proven. */
  sameLayers: (image: Image) => Iterable<Same>;
  /** Digests of sidecars that this node has refuted for any image. */
  refutedSidecars: () => ReadonlySet<string>;
  /** The operator's keys. */
  keys: Keys;
  /** The node's fleet; undefined: it is of none. */
  witnesses?: Pick<Witnesses, 'wordOn' | 'disbelieved'> | undefined;
}

/** Generations that there have been, of all images. */
let users = 0;

export class Image {
  readonly manifest: string;
  /** What the log says; when the image is removed, what it said last. */
  readonly facts: Readonly<ImageFacts>;
  /** The flat image of this generation; undefined: it is yet to be prepared. */
  prepared: EventOf<'image.prepared'> | undefined;
  /** Policy that it is prepared under. */
  trust: TrustPolicy;
  /** New mounts use that one. */
  successor: Image | undefined;
  /** Mounts that are there may still have that one. */
  #predecessor: Image | undefined;
  /** Its layers are being read for a proof, and its files may be written. */
  isProving = false;
  /** A span table is being made for one of its layers. */
  isMending = false;
  /** Its files are about to go: nothing may use it any more. */
  removed = false;
  readonly host: ActorHost<typeof imageMachine>;
  readonly progress = new Set<(progress: Progress) => void>();
  readonly #context: ImageContext;
  readonly #attachment: Attachment;
  readonly #start: ImageStart;
  readonly #removal = new AbortController();
  /** What the registry said, while it is fresh. */
  #image: ResolvedImage | undefined;
  /** Every block of every device was written a moment ago, and the log does not say so yet. */
  #isBuilt = false;
  /** The log hears of `prepared`; undefined: it has told this process of it. */
  #recording: Recording | undefined;

  constructor(
    context: ImageContext,
    order: {
      manifest: string;
      facts: Readonly<ImageFacts>;
      trust: TrustPolicy;
      prepared: EventOf<'image.prepared'> | undefined;
    },
  ) {
    this.#context = context;
    this.manifest = order.manifest;
    this.facts = order.facts;
    this.trust = order.trust;
    this.prepared = order.prepared;
    this.#attachment = new Attachment(context, `${order.manifest}.${++users}`);
    this.#start = new ImageStart(context);
    this.host = new ActorHost(imageMachine, {
      prepare: () => this.#effect(() => this.#prepare(), 'PREPARED'),
      attach: () => this.#effect(() => this.#attach(), 'ATTACHED'),
      detach: () => this.#effect(() => this.#detach(), 'DETACHED'),
    });
  }

  // ── Facts ──

  get resolved(): EventOf<'image.resolved'> {
    return this.facts.resolved;
  }

  /** What the registry offers for the image and is not the image's; undefined: nothing. */
  get refuted(): Refuted | undefined {
    return this.#context.refutations.of(this.manifest, this.facts);
  }

  /** What is known of this generation's flat metadata; undefined while there are none. */
  get proof(): Proof | undefined {
    const { prepared, facts, manifest } = this;
    const refuted = this.#context.refutations.against(manifest, prepared?.flat, facts);
    return proofOf({ prepared, verified: facts.verified, refuted });
  }

  /** What is known of the block roots of this generation's layers, the worst; undefined while it is not prepared. */
  get roots(): RootStanding | undefined {
    return this.prepared && rootsOfImage(this.prepared, this.#context.live.state);
  }

  /** What is known of this generation: of its metadata and of its data. Undefined while it is not prepared. */
  get standing(): Proof | undefined {
    const { proof, roots } = this;
    if (proof === undefined || roots === undefined) return undefined;
    if (isWrong({ proof, roots })) return 'refuted';
    return proof === 'proven' && roots === 'proven' ? 'proven' : 'unproven';
  }

  /** `registry/repository` that it was taken from. */
  get repository(): string {
    return `${this.resolved.registry}/${this.resolved.repository}`;
  }

  /** Its configuration, where the registry has given it to this process. */
  get config(): { digest: string; bytes: Buffer } | undefined {
    return this.#image && { digest: this.#image.configDescriptor.digest, bytes: this.#image.config };
  }

  /** Whether the kernel reads all of the image's devices itself, so that its mounts outlive the engine. */
  isDirect(): boolean {
    const { devices } = this.#context;
    return this.prepared?.devices.every((device) => devices.isDirect(layerIdOf(device))) ?? false;
  }

  /** Whether a file system that an earlier engine left lost a layer for good. */
  hasLost(): boolean {
    const { devices } = this.#context;
    return this.prepared?.devices.some((device) => devices.isLost(layerIdOf(device))) ?? false;
  }

  /**
   * Resolves when the log has this generation's flat image: before that no caller is told that it is mounted, and nothing is said
   * of it in the log. Errors: those of the disk and the log.
   */
  async recorded(): Promise<void> {
    await this.#recording?.done();
  }

  // ── Mounts use it ──

  /** When its flat image was there, ms since the epoch; undefined: this process has not prepared it. */
  preparedAt: number | undefined;

  /** Undefined while it is not attached. */
  get attached(): AttachedImage | undefined {
    return this.#attachment.loops;
  }

  /**
   * `rate`: bytes per second of the rest of the image that the mount wants in the background; Infinity: no limit, 0: none.
   * Mounts of one image share the highest. `start`: which of the image's commands is about to run; undefined: none, as when
   * a mount is brought back. `program`: its first word, where it is not the image's own. Resolves when the image's devices
   * are attached for `mount`; throws what the preparation failed with.
   */
  async use(mount: string, rate: number, start?: string, program?: string): Promise<AttachedImage> {
    if (this.removed) {
      throw new CofaError('conflict', `image ${this.resolved.ref} was removed meanwhile`, {
        hint: 'try again',
      });
    }
    this.#attachment.want(mount, rate);
    // One that fetches nothing by itself has no use for a pack.
    if (rate > 0) this.#start.want(start, program);
    this.host.send({ type: 'USE', mount });
    if ((await this.host.until('attached', 'failed')) === 'failed' || this.attached === undefined) {
      const { error } = this.host.snapshot.context;
      throw fromErrorRecord(error ?? { code: 'internal', message: `image ${this.manifest} has no devices` });
    }
    return this.attached;
  }

  async release(mount: string): Promise<void> {
    this.#attachment.release(mount);
    this.host.send({ type: 'RELEASE', mount });
    await this.host.until('known', 'ready', 'attached', 'failed');
    if (this.host.state === 'ready') await this.#attachment.dropAhead(this.resolved.ref);
  }

  /** Whether a mount has it, or one that it succeeded, or is about to. */
  get isInUse(): boolean {
    return this.isUsed || this.#predecessor?.isInUse === true;
  }

  /** The same of this generation alone. */
  get isUsed(): boolean {
    return this.host.snapshot.context.users.length > 0 || !this.#isIdle('ready');
  }

  /** Whether its files are being made. */
  get isPreparing(): boolean {
    if (this.host.state === 'preparing' || this.isProving || this.isMending) return true;
    return this.#predecessor?.isPreparing === true;
  }

  /** Resolves when the flat image in the store may be replaced: nothing is being made of it at the moment. */
  async settled(): Promise<void> {
    while (['preparing', 'attaching'].includes(this.host.state)) {
      await this.host.until('known', 'ready', 'attached', 'detaching', 'failed');
    }
  }

  /** As far as is right for what of the image is on the node now. */
  async setReadAhead(): Promise<void> {
    const { manifest, resolved, prepared } = this;
    if (prepared !== undefined)
      await this.#attachment.setReadAhead({ manifest, resolved, prepared }, () => this.isDirect());
  }

  // ── Trust ──

  /** Whether a mount of this policy may use it as it is. `listed`: sidecars that policy `own` takes. */
  accepts(policy: TrustPolicy, listed: ReadonlySet<string>): boolean {
    const { prepared, proof, roots } = this;
    if (prepared === undefined || roots === undefined) return false;
    const { refutedSidecars, keys, witnesses } = this.#context;
    const evidence: Evidence = {
      listed,
      keys: keys.namesFor(this.resolved),
      refuted: refutedSidecars(),
      disbelieved: witnesses?.disbelieved,
    };
    const { sidecar, vouched } = prepared;
    return accepts(policy, { proof, roots, sidecar, vouched }, evidence);
  }

  /**
   * Whether a mount of this policy may use the image; one that is not prepared yet will be prepared so that it may. False:
   * another generation has to succeed it.
   */
  claim(policy: TrustPolicy, listed: ReadonlySet<string>): boolean {
    const before = this.#predecessor;
    const decision = claim(policy, {
      isAccepted: this.prepared === undefined ? undefined : this.accepts(policy, listed),
      isIdle: this.#isIdle(),
      trust: this.trust,
      isEarlierAccepted: before?.prepared === undefined ? undefined : before.accepts(policy, listed),
    });
    if (decision === 'go-back') {
      this.prepared = before?.prepared;
      this.#recording = before && before.#recording;
    }
    if (decision === 'go-back' || decision === 'prepare') this.trust = policy;
    return decision !== 'succeed';
  }

  /** Should it have to be prepared again, then under the strictest policy of its mounts. */
  tighten(policy: TrustPolicy): void {
    if (isStricter(policy, this.trust)) this.trust = policy;
  }

  /** Whether one of the registry's sidecars would do for this policy. Errors: the registry's. */
  async hasSidecarFor(policy: TrustPolicy): Promise<boolean> {
    const image = await this.#fromRegistry();
    const terms = { ...this.#terms(), policy };
    return await this.#context.preparation.hasSidecar({ ...this.#order(), terms: () => terms }, image);
  }

  /**
   * The node has made a span table for one of the layers: blocks come by that from now on, also after a restart. Returns whether
   * the image had another one. Errors: those of the log.
   */
  async retable(made: ImageDevice): Promise<boolean> {
    const { prepared: before, facts } = this;
    const mended = before && withTable(before, made);
    if (mended === undefined) return false;
    this.prepared = mended;
    this.#supply();
    const { v: _v, at: _at, ...event } = mended;
    await this.recorded();
    // The log knows the flat image of the newest generation alone; a later table brings this one along.
    const isNewest = this.successor === undefined && this.prepared === mended && !this.removed;
    if (isNewest && facts.prepared?.flat === mended.flat)
      await this.#context.live.append(hexOf(this.manifest), event);
    return true;
  }

  /** Says where blocks come from by now. */
  #supply(): void {
    for (const device of this.prepared?.devices ?? []) this.#attachment.supply(this.resolved, device);
  }

  // ── Generations and the end ──

  /** Another generation takes over, for new mounts. It is prepared under `trust`, or is what `prepared` says. */
  succeed(trust: TrustPolicy, prepared?: EventOf<'image.prepared'>): Image {
    const { manifest, facts } = this;
    const next = new Image(this.#context, { manifest, facts, trust, prepared });
    next.#image = this.#image;
    next.#predecessor = this;
    this.successor = next;
    return next;
  }

  /** This object, and those before it that mounts still have; the others are let go. */
  *generations(): IterableIterator<Image> {
    yield this;
    const before = this.#predecessor;
    if (before === undefined) return;
    if (before.isInUse || this.prepared === undefined) yield* before.generations();
    else this.#predecessor = undefined;
  }

  /** A fresh answer of the registry for the same manifest. */
  refresh(image: ResolvedImage): void {
    this.#image = image;
  }

  /** Aborted when the image has been removed. */
  get removal(): AbortSignal {
    return this.#removal.signal;
  }

  /** The image's files go. */
  hasGone(): void {
    this.#removal.abort(new CofaError('not-found', `image ${this.resolved.ref} was removed`));
  }

  // ── Effects ──

  #effect(work: () => Promise<void>, done: 'PREPARED' | 'ATTACHED' | 'DETACHED'): void {
    work().then(
      () => {
        this.host.send({ type: done });
        // Its mounts have gone meanwhile.
        if (this.host.state === 'ready') void this.#attachment.dropAhead(this.resolved.ref);
      },
      (error: unknown) => {
        this.#context.log.error({ image: this.resolved.ref, error }, `${done.toLowerCase()}: failed`);
        this.host.send({ type: 'FAILED', error: toErrorRecord(error) });
      },
    );
  }

  async #prepare(): Promise<void> {
    const { live, preparation } = this.#context;
    const { manifest } = this;
    const id = hexOf(manifest);
    await this.#predecessor?.settled();
    if (this.prepared !== undefined && (await preparation.isInStore(manifest, this.prepared))) {
      this.preparedAt = Date.now();
      return;
    }
    try {
      const made = await this.#make();
      const { prepared, isProven, isBuilt } = made;
      const recording = new Recording(() => this.#record(made));
      recording.begin();
      const { flat, sidecar } = prepared;
      // What is proven counts as that once the log says so.
      if (sidecar === undefined || isProven) await recording.done();
      this.preparedAt = Date.now();
      this.prepared = { v: EVENT_VERSION, at: this.preparedAt, ...prepared };
      this.#recording = recording;
      this.#isBuilt ||= isBuilt;
      if (isProven && sidecar !== undefined) await live.append(id, { type: 'image.verified', flat, sidecar });
    } catch (error) {
      const { code, message } = toErrorRecord(error);
      await this.#attachment.dropAhead(this.resolved.ref);
      await live.append(id, { type: 'image.failed', code, message });
      throw error;
    }
  }

  /** The log has the newest generation alone. Errors: those of the disk and the log. */
  async #record({ prepared, files }: Made): Promise<void> {
    await Promise.all([files.synced(), this.#predecessor?.recorded().catch(() => {})]);
    if (this.removed || this.successor?.prepared !== undefined) return;
    await this.#context.live.append(hexOf(this.manifest), prepared, { early: true });
  }

  async #make(): Promise<Made> {
    return await this.#context.preparation.make(
      this.#order(),
      () => this.#fromRegistry(),
      (image, fetched) => this.#start.ahead(this, image, fetched, () => this.host.state === 'preparing'),
      (device) => {
        if (this.host.snapshot.context.users.length > 0) this.#attachment.ahead(this.resolved, device);
      },
    );
  }

  #order(): PreparationOrder {
    return {
      manifest: this.manifest,
      resolved: this.resolved,
      terms: () => this.#terms(),
      earlierDevices: this.#predecessor?.prepared?.devices,
      report: (progress) => this.#report(progress),
      removal: this.removal,
    };
  }

  #terms(): Terms {
    const { sameLayers, refutedSidecars, keys } = this.#context;
    const { trust: policy, refuted } = this;
    const same = Array.from(sameLayers(this));
    return {
      policy,
      signers: keys.namesFor(this.resolved).size > 0 ? keys : undefined,
      same,
      known: same[0]?.prepared.flat,
      isRefuted: refuted !== undefined,
      refuted: { flat: refuted?.flat, sidecars: refutedSidecars() },
    };
  }

  async #fromRegistry(): Promise<ResolvedImage> {
    if (this.#image !== undefined) return this.#image;
    this.#report({ phase: 'resolve' });
    const { registry, repository, manifest } = this.resolved;
    const reference = parseReference(`${registry}/${repository}@${manifest}`);
    this.#image = await this.#context.registry.resolve(reference, { referrers: true });
    return this.#image;
  }

  async #attach(): Promise<void> {
    const { manifest, resolved, prepared } = this;
    if (prepared === undefined)
      throw new CofaError('internal', `image ${manifest} is attached before it is prepared`);
    this.#report({ phase: 'mount' });
    await this.#attachment.attach({ manifest, resolved, prepared, isBuilt: this.#isBuilt });
    // A table may have been made anew meanwhile.
    this.#supply();
    // From here on the log says which blocks there are.
    this.#isBuilt = false;
    await this.setReadAhead();
    if (this.isDirect()) return;
    this.#start.begin(this, this.#image, prepared.devices.map(jobLayerOf));
  }

  async #detach(): Promise<void> {
    this.#start.over();
    await this.#attachment.detach(this.resolved.ref);
  }

  #isIdle(...also: string[]): boolean {
    return ['known', 'failed', ...also].includes(this.host.state);
  }

  #report(progress: Progress): void {
    for (const listener of this.progress) listener(progress);
  }
}
