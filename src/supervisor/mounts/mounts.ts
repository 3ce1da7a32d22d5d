/**
 * The mounts of a node, at most one a directory: each is an actor (mount-actor.ts). The log has what was asked for before
 * anything happens, and what has happened before a caller hears of it; after a restart it says which mounts to bring back
 * (restore.ts).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { AcceptedOf, Mount as MountReply, Progress } from '../../../schemas/api.ts';
import type { Counts } from '../../../actors/counts.ts';
import { policyFor } from '../../../actors/trust.ts';
import { defined } from '../../../schemas/defined.ts';
import { CofaError, fromErrorRecord, toErrorRecord } from '../../../schemas/errors.ts';
import type { NewEvent } from '../../../schemas/events.ts';
import type { Ran } from '../../../schemas/ran.ts';
import { type TraceContext, traceContextOf } from '../../../schemas/trace-context.ts';
import { policyNamed, type TrustPolicy } from '../../../schemas/trust.ts';
import { findMount } from '../../kernel/mount.ts';
import { parseReference } from '../../registry/reference.ts';
import type { Layout } from '../../store/layout.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { Image } from '../images/image.ts';
import type { Images } from '../images/images.ts';
import { cleanPath, isMissing, makeFor, removeMade } from './directory.ts';
import { abandon, detachAll, overlaid } from './end.ts';
import { Failures } from './failures.ts';
import type { MountKernel } from './kernel.ts';
import {
  type Above,
  MountActor,
  type MountContext,
  type MountExtras,
  type MountRequest,
} from './mount-actor.ts';
import { bringBackAll, type Restored } from './restore.ts';
import type { Owner } from './standing.ts';
import { StartSteps } from './start-steps.ts';

export interface MountsOptions {
  layout: Layout;
  log: Logger;
  live: LiveFold;
  owner: Owner;
  images: Images;
  kernel?: MountKernel | undefined;
  /** Mounts that fail before the log hears of them are counted here; those that it has are counted from it. */
  counts?: Pick<Counts, 'add'> | undefined;
  /** A fresh id of 16 hex digits. */
  newId: () => string;
  /** A mount that had not come back is there after all. */
  onRestored?: (dir: string) => void;
  /** No mount is wanted there any more. */
  onUnmounted?: (dir: string) => void;
}

export interface MountOrder {
  request: AcceptedOf<'mount'>;
  /** The image, where it is not what the request's `ref` names. */
  image?: Image | undefined;
  /** What stands on the mount: it is mounted while the log is told of it, and the mount fails with it. */
  above?: Above | undefined;
  onProgress: (progress: Progress) => void;
}

/** An engine that ends waits so long for loops of mounts that are gone, ms; the next one takes over what is left. */
const RELEASE_MS = 5_000;

export class Mounts {
  readonly #options: MountsOptions;
  readonly #context: MountContext;
  readonly #failures: Failures;
  /** By directory. */
  readonly #mounts = new Map<string, MountActor>();
  /** Images that are being let go, of mounts that are gone. */
  readonly #releasing = new Set<Promise<void>>();

  constructor(options: MountsOptions) {
    this.#options = options;
    this.#failures = new Failures(options);
    this.#context = {
      ...options,
      failures: this.#failures,
      onUnmounted: (actor) => {
        this.#forget(actor);
        actor.released = this.#release(actor);
        options.onUnmounted?.(actor.request.dir);
      },
    };
  }

  /** Mounts an image at a directory. Errors: `conflict` when the directory is taken, those of the image. */
  async mount(order: MountOrder): Promise<MountReply> {
    const asked = Date.now();
    const steps = new StartSteps(this.#options.live);
    const { request, above, onProgress } = order;
    const { start, program } = request;
    const dir = cleanPath(request.dir);
    this.#refuseTaken(dir);
    const image = await this.lookedUp(this.#imageOf(order));
    this.#refuseTaken(dir);
    steps.resolved();
    const own = { id: this.#options.newId(), dir, ref: image.resolved.ref, manifest: image.manifest };
    const trust = this.#trustOf(order);
    const config = this.#options.layout.config(own.manifest);
    const told = above && {
      ...above,
      mount: () => above.mount().then(() => onProgress({ phase: 'mount', config })),
    };
    const actor = this.#create({ ...own, ...keptOf(request), trust }, image, {
      start,
      program,
      above: told,
      steps,
    });
    image.progress.add(onProgress);
    const trace = traceContextOf(request.traceparent, request.tracestate);
    const mounting = this.#mount(actor, { asked, began: request.began, trace });
    actor.asked = mounting.then(
      () => {},
      () => {},
    );
    return await mounting.finally(() => image.progress.delete(onProgress));
  }

  /** The image of a mount that a client asks for. Where there is none the mount has failed, and no event tells of it. */
  async lookedUp(image: Promise<Image>): Promise<Image> {
    try {
      return await image;
    } catch (error) {
      this.#options.counts?.add('mount_failures_total', 1, toErrorRecord(error).code);
      throw error;
    }
  }

  async #mount(actor: MountActor, call: Call): Promise<MountReply> {
    try {
      await this.#request(actor, call);
      actor.steps?.logged();
      await actor.mount();
      if (actor.host.state === 'failed')
        throw fromErrorRecord(actor.error ?? { code: 'internal', message: 'mount failed' });
      return this.describe(actor);
    } catch (error) {
      // A caller that was interrupted may wait for this mount in order to unmount it.
      if (actor.host.state === 'requested') actor.host.send({ type: 'FAILED', error: toErrorRecord(error) });
      // Before another mount may have the directory.
      if (actor.madeDir) await removeMade(actor.request);
      this.#forget(actor);
      throw error;
    }
  }

  /** Another one may have the directory by now. */
  #forget(actor: MountActor): void {
    if (this.#mounts.get(actor.request.dir) === actor) this.#mounts.delete(actor.request.dir);
  }

  async #imageOf(order: MountOrder): Promise<Image> {
    const { images } = this.#options;
    const { image, request } = order;
    const { ref, platform } = request;
    const trust = this.#trustOf(order);
    return image === undefined
      ? await images.resolve(ref, platform, trust)
      : await images.suited(image, trust);
  }

  /** Undefined: the engine's policy. */
  #trustOf({ image, request: { ref, trust: word } }: MountOrder): TrustPolicy | undefined {
    const engines = this.#options.images.policy;
    const asked = word === undefined ? engines : policyNamed(word);
    // Clients of containerd name every image by its digest.
    const policy = image === undefined ? policyFor(asked, parseReference(ref).digest !== undefined) : asked;
    return word === undefined && policy === engines ? undefined : policy;
  }

  /** The log has the request, and the directory is there. */
  async #request(actor: MountActor, call: Call): Promise<void> {
    const { request } = actor;
    const { id, dir } = request;
    // At no time does the log have two mounts of one directory: a start that knows of no success takes what is there away.
    await this.#failures.tellAllAt(dir);
    // First the fact, then the folder: a crash in between leaves none that the log does not know. A power cut may: with the
    // mount in the kernel, and no caller has heard of it.
    actor.madeDir = await isMissing(request);
    try {
      await this.#options.live.append(id, requestedBy(request, call, actor.madeDir), { early: true });
      if (actor.madeDir) await makeFor(request);
    } catch (error) {
      this.#failures.withdraw(request, toErrorRecord(error));
      throw error;
    }
  }

  /**
   * Unmounts. `early`: done when it is out of the kernel and the log has that, and the directory is free; the devices, where
   * no other mount has them, are let go behind (`released`). Errors: `not-found`, `busy` (then nothing has changed),
   * `unavailable` also where nothing is mounted, when the log has a mount that failed and does not take that: the next
   * engine would bring it back.
   */
  async unmount(
    path: string,
    { early = false, ran }: { early?: boolean; ran?: Ran | undefined } = {},
  ): Promise<{ id: string; dir: string }> {
    const dir = cleanPath(path);
    if (!this.#mounts.has(dir)) await this.#failures.tellAllAt(dir);
    const actor = this.#mounts.get(dir);
    if (actor === undefined) {
      throw new CofaError('not-found', `nothing of cofa is mounted at ${dir}`, {
        hint: 'cofa ps lists the mounts',
      });
    }
    // One that is just being mounted is unmounted when it is there: a caller that was interrupted wants it gone.
    // Its own caller hears first how it went: one that failed is none that could be unmounted.
    await actor.asked;
    await actor.host.until('mounted', 'detached', 'failed', 'unmounting', 'unmounted');
    if (this.#mounts.get(dir) !== actor)
      throw new CofaError('not-found', `nothing of cofa is mounted at ${dir} any more`);
    if (!['mounted', 'detached', 'failed'].includes(actor.host.state)) {
      throw new CofaError('busy', `the mount at ${dir} is ${actor.host.state}`);
    }
    await actor.unmount(ran);
    if (actor.error !== undefined) throw fromErrorRecord(actor.error);
    // `down` was faster: it stays in the log.
    if (actor.host.state !== 'unmounted')
      throw new CofaError('not-running', `the engine is stopping: the mount at ${dir} comes back with it`);
    if (!early) await actor.released;
    return { id: actor.request.id, dir };
  }

  /** Resolves when the devices of all mounts that are gone have been let go, or after this time, ms. */
  async released(withinMs: number): Promise<void> {
    if (this.#releasing.size > 0)
      await Promise.race([Promise.all(this.#releasing), sleep(withinMs, undefined, { ref: false })]);
  }

  /** Whether there is a mount at the directory, in whatever state. */
  has(dir: string): boolean {
    return this.#mounts.has(dir);
  }

  list(): MountReply[] {
    return [...this.#mounts.values()].map((actor) => this.describe(actor));
  }

  describe({ request, image, host }: MountActor): MountReply {
    const { id, dir, ref, manifest, container } = request;
    const { state } = host;
    return {
      id,
      dir,
      ref,
      manifest,
      config: image.resolved.config,
      configPath: this.#options.layout.config(manifest),
      origin: image.prepared?.origin ?? 'sidecar',
      trust: image.standing ?? 'unproven',
      ...(container === undefined ? {} : { container }),
      state: state === 'requested' || state === 'unmounted' ? 'mounting' : (state as MountReply['state']),
    };
  }

  /** Brings back every mount that the log knows. */
  async restore(): Promise<Restored> {
    const { onRestored = () => {} } = this.#options;
    return await bringBackAll({
      ...this.#context,
      create: (facts, image) => this.#create(facts, image),
      isThere: (actor) => this.#mounts.get(actor.request.dir) === actor,
      onRestored,
    });
  }

  /** For `down`: as `overlaid` in end.ts. */
  overlaid(): string[] {
    return overlaid(this.#mounts.values(), this.#options.layout);
  }

  /** For `down`: as `detachAll` in end.ts. */
  async detachAll(force: boolean): Promise<string[]> {
    await this.#unmountsOver(RELEASE_MS);
    await this.released(RELEASE_MS);
    return await detachAll(this.#mounts.values(), force, this.#options);
  }

  /** Waits until each unmount that has begun has ended, for `withinMs` at most: the kernel may refuse one, and then `down` finds its mount in use. */
  async #unmountsOver(withinMs: number): Promise<void> {
    const under = [...this.#mounts.values()].filter(({ host }) => host.state === 'unmounting');
    if (under.length === 0) return;
    const over = under.map(({ host }) => host.until('mounted', 'detached', 'failed', 'unmounted'));
    await Promise.race([Promise.all(over), sleep(withinMs, undefined, { ref: false })]);
  }

  /** For an engine that was replaced: as `abandon` in end.ts. */
  async abandon(): Promise<void> {
    await abandon(this.#mounts.values(), this.#options);
  }

  #refuseTaken(dir: string): void {
    if (this.#mounts.has(dir)) {
      throw new CofaError('conflict', `cofa has mounted an image at ${dir} already`, {
        hint: `cofa unmount ${dir}`,
      });
    }
    const other = findMount(dir);
    if (other !== undefined)
      throw new CofaError('conflict', `${other.source} (${other.type}) is mounted at ${dir}`);
  }

  #create(request: MountRequest, image: Image, extras?: MountExtras): MountActor {
    const actor = new MountActor(this.#context, request, image, extras);
    this.#mounts.set(request.dir, actor);
    return actor;
  }

  async #release({ request, image }: MountActor): Promise<void> {
    const releasing = image.release(request.id).catch((error: unknown) => {
      this.#options.log.error({ mount: request.id, error }, 'devices were not let go');
    });
    this.#releasing.add(releasing);
    await releasing;
    this.#releasing.delete(releasing);
  }
}

/** What the log keeps of a request, for as long as the mount lives. */
function keptOf({ prefetch, prefetchLimit, container, suid, dev, noSymlinks }: AcceptedOf<'mount'>) {
  const flag = (isSet: boolean) => (isSet ? (true as const) : undefined);
  const flags = { nosuid: flag(!suid), nodev: flag(!dev), nosymlinks: flag(noSymlinks) };
  return { prefetch, prefetchLimit, container, ...flags };
}

/** What began a mount. */
interface Call {
  /** When it came, and when the program began that called, ms since the epoch. */
  asked: number;
  began: number | undefined;
  /** What its caller traces. */
  trace: TraceContext | undefined;
}

function requestedBy(
  request: MountRequest,
  { trace, ...call }: Call,
  made: boolean,
): NewEvent<'mount.requested'> {
  return defined({
    type: 'mount.requested' as const,
    ...call,
    ...request,
    ...trace,
    made: made || undefined,
  });
}
