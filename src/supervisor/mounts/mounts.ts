/**
 * The mounts of a node: each is an actor (actors/mount.ts) whose effects are here. A mount's facts are in the log
 * before anybody hears of them; after a restart the log says which mounts to bring back.
 */
import { mkdir, readdir, rmdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { mountMachine } from '../../../actors/mount.ts';
import type { MountFacts } from '../../../actors/node-state.ts';
import type { Mount as MountReply, Progress } from '../../../schemas/api.ts';
import { CofaError, type ErrorRecord, fromErrorRecord, toErrorRecord } from '../../../schemas/errors.ts';
import type { NewEvent } from '../../../schemas/events.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import type { TrustPolicy } from '../../../schemas/trust.ts';
import { mountErofs } from '../../kernel/erofs.ts';
import { dismissLoop, type LoopDevice } from '../../kernel/loop.ts';
import { detachMount, findMount, listMounts, type MountEntry, unmount } from '../../kernel/mount.ts';
import type { EventLog } from '../../store/event-log.ts';
import type { NodeFacts } from '../../store/live-fold.ts';
import type { Layout } from '../../store/layout.ts';
import { ActorHost } from '../../process/actor-host.ts';
import type { AttachedImage, Image, Images } from '../images/images.ts';

export interface MountsOptions {
  layout: Layout;
  log: Logger;
  events: EventLog;
  names: Subjects;
  images: Images;
  /** A fresh id of 16 hex digits. */
  newId: () => string;
  /** A mount that had not come back is there after all. */
  onRestored?: (dir: string) => void;
}

export interface MountOrder {
  ref: string;
  /** The image, where it is not what `ref` names. */
  image?: Image | undefined;
  dir: string;
  platform: string | undefined;
  prefetch: boolean;
  /** Bytes per second in the background; undefined: no limit. */
  prefetchLimit?: number | undefined;
  container: string | undefined;
  /** Which of the image's commands is about to run. */
  start: string;
  /** First word of that command; undefined: it is the image's own, or not known. */
  program?: string | undefined;
  /** Which sidecars may be used before they are proven; undefined: the engine's policy. */
  trust?: TrustPolicy | undefined;
  /** What stands on the mount: it is mounted while the log is told of it, and the mount fails with it. */
  above?: Above | undefined;
  onProgress: (progress: Progress) => void;
}

export interface Above {
  mount(): Promise<void>;
  /** Also where it was not mounted, or not quite. */
  unmount(): Promise<void>;
}

/** How the mounts of an earlier engine came back. */
export interface Restored {
  /** Mounts that were still there and go on as they are. */
  kept: number;
  /** Mounts that were not there, as after `down` or a reboot. */
  anew: number;
  /** Mounts whose loops were about to go away: who used them keeps them, new users get new ones. */
  replaced: number;
  /** Folders whose mount could not be repaired: who used it before reads errors. */
  lost: string[];
  /** Those that did not come back yet: they are tried again. */
  failures: Array<{ dir: string; sentence: string }>;
}

/** How often and how long a request is withdrawn, ms. */
const WITHDRAW_ROUNDS = 600;
const WITHDRAW_MS = 1_000;

class MountActor {
  readonly facts: MountFacts;
  image: Image;
  readonly host: ActorHost<typeof mountMachine>;
  error: ErrorRecord | undefined;
  /** Its state when it was to be unmounted: a failure of that leads back there. */
  before = 'mounted';
  /** Which of the image's commands is about to run; undefined for a mount that is brought back. */
  start: string | undefined;
  program: string | undefined;
  above: Above | undefined;
  /** The directory was made for the mount and goes with it. */
  madeDir = false;
  /** It is being brought back: a failure leaves it in the log, for the next try. */
  restoring = false;
  /** Unmounted: its image has been let go when this resolves. */
  released: Promise<void> = Promise.resolve();
  /** How it was brought back: `kept` is the very mount that was there, repaired. */
  restored: 'kept' | 'anew' | 'replaced' = 'anew';

  constructor(facts: MountFacts, image: Image, effects: { mount(): void; unmount(): void }) {
    this.facts = facts;
    this.image = image;
    this.host = new ActorHost(mountMachine, effects);
  }
}

export class Mounts {
  readonly #options: MountsOptions;
  /** By directory: at most one mount each. */
  readonly #mounts = new Map<string, MountActor>();
  /** Images that are being let go, of mounts that are gone. */
  readonly #releasing = new Set<Promise<void>>();
  /** By id: mounts that have failed, as the log does not know yet. */
  readonly #failed = new Map<string, { dir: string; error: ErrorRecord }>();

  constructor(options: MountsOptions) {
    this.#options = options;
  }

  /** Mounts an image at a directory. Errors: `conflict` when the directory is taken, those of the image. */
  async mount(order: MountOrder): Promise<MountReply> {
    const asked = Date.now();
    const dir = cleanPath(order.dir);
    this.#refuseTaken(dir);
    const { images } = this.#options;
    const image =
      order.image === undefined
        ? await images.resolve(order.ref, order.platform, order.trust)
        : await images.suited(order.image, order.trust);
    this.#refuseTaken(dir);
    const facts: MountFacts = {
      id: this.#options.newId(),
      dir,
      ref: image.resolved.ref,
      manifest: image.manifest,
      prefetch: order.prefetch,
      prefetchLimit: order.prefetchLimit,
      container: order.container,
      trust: order.trust,
      state: 'requested',
    };
    const actor = this.#create(facts, image);
    actor.start = order.start;
    actor.program = order.program;
    actor.above = order.above;
    image.progress.add(order.onProgress);
    let requested = false;
    try {
      // At no time does the log have two mounts of one directory: a start that knows of no success takes what is there away.
      await this.#sayFailedAt(dir);
      // First the fact, then the folder: a crash in between leaves none that nobody knows.
      const made = await isMissing(dir);
      actor.madeDir = made;
      requested = true;
      const { id, ref, manifest, prefetch, prefetchLimit, container, trust } = facts;
      await this.#append(id, {
        type: 'mount.requested',
        asked,
        id,
        dir,
        ref,
        manifest,
        prefetch,
        ...(prefetchLimit === undefined ? {} : { prefetchLimit }),
        ...(container === undefined ? {} : { container }),
        ...(made ? { made } : {}),
        ...(trust === undefined ? {} : { trust }),
      });
      if (made) await mkdir(dir, { recursive: true });
      actor.host.send({ type: 'MOUNT' });
      await actor.host.until('mounted', 'failed');
      if (actor.host.state === 'failed')
        throw fromErrorRecord(actor.error ?? { code: 'internal', message: 'mount failed' });
      return this.describe(actor);
    } catch (error) {
      this.#mounts.delete(dir);
      if (requested && actor.host.state === 'requested') {
        this.#failed.set(facts.id, { dir, error: toErrorRecord(error) });
        void this.#withdraw(facts.id);
      }
      if (actor.madeDir) await rmdir(dir).catch(() => {});
      throw error;
    } finally {
      image.progress.delete(order.onProgress);
    }
  }

  /**
   * Unmounts. `early`: done when it is out of the kernel and the log has that, and the directory is free; the devices, where
   * no other mount has them, are let go behind (`released`). Errors: `not-found`, `busy` (then nothing has changed),
   * `unavailable` also where nothing is mounted, when the log has a mount that failed and does not take that: the next
   * engine would bring it back.
   */
  async unmount(path: string, { early = false } = {}): Promise<{ id: string; dir: string }> {
    const dir = cleanPath(path);
    if (!this.#mounts.has(dir)) await this.#sayFailedAt(dir);
    const actor = this.#mounts.get(dir);
    if (actor === undefined) {
      throw new CofaError('not-found', `nothing of cofa is mounted at ${dir}`, {
        hint: 'cofa ps lists the mounts',
      });
    }
    // One that is just being mounted is unmounted when it is there: whoever was interrupted wants it gone.
    await actor.host.until('mounted', 'detached', 'failed', 'unmounting', 'unmounted');
    if (this.#mounts.get(dir) !== actor)
      throw new CofaError('not-found', `nothing of cofa is mounted at ${dir} any more`);
    if (!['mounted', 'detached', 'failed'].includes(actor.host.state)) {
      throw new CofaError('busy', `the mount at ${dir} is ${actor.host.state}`);
    }
    actor.error = undefined;
    actor.before = actor.host.state;
    actor.host.send({ type: 'UNMOUNT' });
    await actor.host.until('unmounted', 'mounted', 'detached', 'failed');
    if (actor.error !== undefined) throw fromErrorRecord(actor.error);
    // `down` was faster: it stays in the log.
    if (actor.host.state !== 'unmounted')
      throw new CofaError('not-running', `the engine is stopping: the mount at ${dir} comes back with it`);
    if (!early) await actor.released;
    return { id: actor.facts.id, dir };
  }

  /** Resolves when the devices of all mounts that are gone have been let go, or after this time, ms. */
  async released(withinMs: number): Promise<void> {
    if (this.#releasing.size > 0)
      await Promise.race([Promise.all(this.#releasing), sleep(withinMs, undefined, { ref: false })]);
  }

  /** Where there are or were mounts, as far as the log still tells, and whether the folder was made for the last of them. */
  async past(): Promise<Map<string, boolean>> {
    const { events, names } = this.#options;
    const made = new Map<string, boolean>();
    for await (const { event } of events.replay(names.event('mount', '*')))
      if (event.type === 'mount.requested') made.set(event.dir, event.made === true);
    return made;
  }

  /** Removes those of the folders, where mounts have ended, that were made for them, as far as the log still tells. */
  async removeFolders(dirs: readonly string[]): Promise<void> {
    const made = await this.past();
    for (const dir of dirs) if (made.get(dir) === true) await rmdir(dir).catch(() => {});
  }

  /** Whether the log has a mount at the directory, in whatever state. */
  has(dir: string): boolean {
    return this.#mounts.has(dir);
  }

  list(): MountReply[] {
    return [...this.#mounts.values()].map((actor) => this.describe(actor));
  }

  describe(actor: MountActor): MountReply {
    const { id, dir, ref, manifest, container } = actor.facts;
    const state = actor.host.state;
    return {
      id,
      dir,
      ref,
      manifest,
      config: actor.image.resolved.config,
      configPath: this.#options.layout.config(manifest),
      origin: actor.image.prepared?.origin ?? 'sidecar',
      trust: actor.image.proof ?? 'unproven',
      ...(container === undefined ? {} : { container }),
      state: state === 'requested' || state === 'unmounted' ? 'mounting' : (state as MountReply['state']),
    };
  }

  /**
   * Brings back every mount that the log knows. Where an earlier engine left it in the kernel and its loops could be
   * taken over, it stays as it is, with all who use it; else it is mounted anew, and what was there is detached: those
   * who use that keep it, new users get the new mount. One that fails is reported and stays in the log, for a later
   * start.
   */
  async restore(state: NodeFacts): Promise<Restored> {
    const outcome: Restored = { kept: 0, anew: 0, replaced: 0, lost: [], failures: [] };
    await Promise.all(
      [...state.mounts.values()].map(async (facts) => {
        if (facts.state === 'requested') return await this.#giveUp(facts, state);
        const known = this.#options.images.get(facts.manifest);
        if (known === undefined) return;
        const image = this.#options.images.restored(known, facts.trust);
        const actor = this.#create(facts, image);
        actor.restoring = true;
        actor.madeDir = facts.made === true;
        actor.host.send({ type: 'MOUNT' });
        await actor.host.until('mounted', 'failed');
        if (actor.host.state === 'failed') {
          const sentence = `mount ${facts.dir} did not come back: ${actor.error?.message ?? 'unknown'}`;
          outcome.failures.push({ dir: facts.dir, sentence });
          void this.#restoreAgain(actor);
        } else if (actor.restored === 'replaced' && actor.image.hasLost()) outcome.lost.push(facts.dir);
        else outcome[actor.restored] += 1;
        actor.restoring = false;
      }),
    );
    return outcome;
  }

  /** Until it is back or somebody unmounts it: it was promised, and what is in its way may pass. */
  async #restoreAgain(actor: MountActor): Promise<void> {
    const { dir } = actor.facts;
    // An unmount that is under way may fail as well.
    const isWanted = () =>
      this.#mounts.get(dir) === actor && ['failed', 'unmounting'].includes(actor.host.state);
    for (let pause = RESTORE_AGAIN_MS; ; pause = Math.min(2 * pause, RESTORE_LONGEST_MS)) {
      await sleep(pause, undefined, { ref: false });
      if (!isWanted()) return;
      if (actor.host.state === 'unmounting') continue;
      actor.restoring = true;
      actor.host.send({ type: 'MOUNT' });
      await actor.host.until('mounted', 'failed');
      actor.restoring = false;
      if (actor.host.state === 'mounted') return this.#options.onRestored?.(dir);
    }
  }

  /** The engine ended before the mount was there: whoever asked for it has heard of no success. */
  async #giveUp({ id, dir, made }: MountFacts, { mounts }: NodeFacts): Promise<void> {
    const there = findMount(dir);
    // A log may have its failure still to come, and another mount there that was acknowledged.
    const isAnothers = [...mounts.values()].some((other) => other.dir === dir && other.state !== 'requested');
    if (there?.type === 'erofs' && !isAnothers) await this.#takeAway(there).catch(() => {});
    if (made === true) await rmdir(dir).catch(() => {});
    const message = 'the engine ended before it was mounted';
    await this.#fail({ id, dir }, { code: 'unavailable', message });
  }

  /**
   * Takes every mount out of the kernel, keeping it in the log for the next start. One that is in use stays when its
   * image is complete, since its reads need no engine. Returns the directories that are in use and are not complete:
   * then nothing has changed; with `force` these are detached as well and their reads end with the engine.
   */
  async detachAll(force: boolean): Promise<string[]> {
    const busy: string[] = [];
    const detached: MountActor[] = [];
    await this.released(RELEASE_MS);
    await this.#detachMapped();
    for (const actor of this.#mounts.values()) {
      if (actor.host.state !== 'mounted') continue;
      const complete = actor.image.isDirect();
      try {
        if (ownMount(actor) !== undefined) await unmount(actor.facts.dir, { lazy: force && !complete });
      } catch (error) {
        if (toErrorRecord(error).code === 'busy') {
          if (!complete) busy.push(actor.facts.dir);
          continue;
        }
      }
      detached.push(actor);
    }
    if (busy.length > 0) {
      // Nothing stops: what was unmounted comes back.
      for (const actor of detached) await this.#mountErofs(actor);
      return busy;
    }
    for (const actor of detached) {
      // A log that is full or away is no reason to stay: the mount comes back all the same.
      await this.#append(actor.facts.id, { type: 'mount.detached', reason: 'engine-stopped' }).catch(
        (error: unknown) => {
          this.#options.log.warn(
            { mount: actor.facts.id, error },
            'the log does not take that it is detached',
          );
        },
      );
      actor.host.send({ type: 'DETACHED' });
      await actor.image.release(actor.facts.id);
    }
    return [];
  }

  /** The snapshotter's views of flat images (src/snapshotter/mapped-mounts.ts), which it makes again when it needs them. */
  async #detachMapped(): Promise<void> {
    const beginning = `${this.#options.layout.mapped()}/`;
    for (const entry of listMounts().toReversed()) {
      if (!entry.mountPoint.startsWith(beginning)) continue;
      await detachMount(entry).catch((error: unknown) =>
        this.#options.log.warn({ dir: entry.mountPoint, error }, 'a mount with other owners stays'),
      );
    }
  }

  /**
   * Takes this engine's mounts and their loops out of the kernel and says nothing to the log: another engine owns them
   * now. What is in use goes with its last user.
   */
  async abandon(): Promise<void> {
    await this.#detachMapped();
    const loops = new Set<LoopDevice>();
    for (const actor of this.#mounts.values()) {
      const { facts, image } = actor;
      const { attached } = image;
      for (const loop of attached === undefined ? [] : [attached.metadata, ...attached.devices])
        loops.add(loop);
      // The other engine may have mounted the directory already, or do it just now.
      const there = ownMount(actor);
      if (there === undefined) continue;
      await detachMount(there).catch((error: unknown) =>
        this.#options.log.error({ mount: facts.id, error }, 'the mount stays'),
      );
    }
    for (const loop of loops) {
      await dismissLoop(loop).catch((error: unknown) =>
        this.#options.log.warn({ loop: loop.path, error }, 'a loop stays'),
      );
    }
  }

  /**
   * The log may have taken a request although nobody could tell, or may take it yet: says that it failed as soon as
   * the log is back, so that the mount does not come with the next start.
   */
  async #withdraw(id: string): Promise<void> {
    for (let round = 0; round < WITHDRAW_ROUNDS; round++) {
      try {
        await this.#sayFailed(id);
        return;
      } catch (error) {
        if (toErrorRecord(error).code !== 'unavailable') return;
      }
      await sleep(WITHDRAW_MS, undefined, { ref: false });
    }
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

  #create(facts: MountFacts, image: Image): MountActor {
    const actor: MountActor = new MountActor(facts, image, {
      mount: () => void this.#mountEffect(actor),
      unmount: () => void this.#unmountEffect(actor),
    });
    this.#mounts.set(facts.dir, actor);
    return actor;
  }

  async #mountErofs(actor: MountActor): Promise<void> {
    const { id, dir } = actor.facts;
    const { metadata, devices } = await this.#useImage(actor);
    // What is mounted there may be the new owner's.
    if (this.#options.events.isFenced) throw new CofaError('conflict', 'another engine owns the mount now');
    if (actor.restoring) {
      const there = findMount(dir);
      actor.restored =
        there?.type !== 'erofs' ? 'anew' : there.source === metadata.path ? 'kept' : 'replaced';
      if (actor.restored === 'kept') return;
      if (there !== undefined && actor.restored === 'replaced') await this.#takeAway(there);
      await prepareDirectory(dir).catch((error: unknown) => {
        this.#options.log.warn({ mount: id, dir, error }, 'mount point is not as it was left');
      });
    }
    await mountErofs({ metadata, devices, target: dir });
  }

  /**
   * Takes away what an earlier engine left. `there` was looked up before this engine is seen to own the node, so it is no
   * successor's; and only that very mount goes. Errors: `conflict` when another engine owns the node, or something else is
   * mounted there by now; `unavailable` when NATS does not say whose the node is: it may be another one's.
   */
  async #takeAway(there: MountEntry): Promise<void> {
    await this.#confirmOwner();
    if (!(await detachMount(there)) && findMount(there.mountPoint) !== undefined) throw replaced(there);
  }

  /** The same, unless it is in use: error `busy`. */
  async #unmountEarlier(dir: string): Promise<void> {
    const there = findMount(dir);
    if (there?.type !== 'erofs') return;
    await this.#confirmOwner();
    const now = findMount(dir);
    if (now === undefined) return;
    if (now.id !== there.id || now.source !== there.source) throw replaced(there);
    await unmount(dir);
  }

  async #confirmOwner(): Promise<void> {
    const { events, names } = this.#options;
    await events.confirmOwner(names.event('engine', 'main'));
  }

  /**
   * The image's devices. What the mount must not use by the time that they are there is not used: it may have been refuted
   * meanwhile, or prepared for another mount with a laxer policy.
   */
  async #useImage(actor: MountActor): Promise<AttachedImage> {
    const { images } = this.#options;
    const { id, prefetch, prefetchLimit = Number.POSITIVE_INFINITY, trust } = actor.facts;
    const rate = prefetch ? prefetchLimit : 0;
    for (let turn = 0; turn < MOST_TURNS; turn++) {
      const before = actor.image;
      actor.image = images.forMount(before);
      if (actor.image !== before) void before.release(id);
      const attached = await actor.image.use(id, rate, actor.start, actor.program);
      // A mount that could not be taken away comes back as it was.
      if (actor.host.state !== 'mounting') return attached;
      if (actor.restoring ? actor.image.proof !== 'refuted' : await images.mayUse(actor.image, trust))
        return attached;
      await actor.image.release(id);
      actor.image = actor.restoring
        ? images.restored(actor.image, trust)
        : await images.suited(actor.image, trust);
    }
    throw new CofaError('busy', `${actor.image.resolved.ref} is being prepared for other mounts`, {
      hint: 'try again',
    });
  }

  async #mountEffect(actor: MountActor): Promise<void> {
    const { id, dir } = actor.facts;
    try {
      await this.#mountErofs(actor);
      try {
        // After a crash the log says so already.
        const isTold = actor.restoring && actor.facts.state === 'mounted';
        const told = isTold ? undefined : this.#append(id, { type: 'mount.mounted' });
        const done = await Promise.allSettled([actor.above?.mount(), told]);
        for (const one of done) if (one.status === 'rejected') throw one.reason;
      } catch (error) {
        await actor.above?.unmount().catch(() => {});
        // Somebody may be in it already. An engine that was replaced finds the other one's mount in its place.
        const there = ownMount(actor);
        if (there !== undefined) await detachMount(there);
        throw error;
      }
      actor.host.send({ type: 'MOUNTED' });
    } catch (error) {
      actor.error = toErrorRecord(error);
      await actor.image.release(id).catch(() => {});
      const { code, message } = actor.error;
      if (!actor.restoring) {
        // Before the log forgets that it was made.
        if (actor.madeDir) await rmdir(dir).catch(() => {});
        await this.#fail(actor.facts, { code, message });
      }
      actor.host.send({ type: 'FAILED', error: actor.error });
    }
  }

  async #unmountEffect(actor: MountActor): Promise<void> {
    const { id, dir } = actor.facts;
    let isGone = false;
    try {
      // Gone already when somebody used umount(8). Where it did not come back, an earlier engine may have left one.
      if (actor.before === 'mounted') {
        if (ownMount(actor) !== undefined) await unmount(dir);
      } else await this.#unmountEarlier(dir);
      isGone = true;
      if (actor.madeDir) await rmdir(dir).catch(() => {});
      await this.#append(id, { type: 'mount.unmounted' });
    } catch (error) {
      actor.error = toErrorRecord(error);
      await this.#stayMounted(actor, isGone);
      return;
    }
    this.#mounts.delete(dir);
    actor.released = this.#release(actor);
    actor.host.send({ type: 'UNMOUNTED' });
  }

  async #release({ facts, image }: MountActor): Promise<void> {
    const releasing = image.release(facts.id).catch((error: unknown) => {
      this.#options.log.error({ mount: facts.id, error }, 'devices were not let go');
    });
    this.#releasing.add(releasing);
    await releasing;
    this.#releasing.delete(releasing);
  }

  /** An unmount has failed, or is not in the log: nothing shall have changed. `isGone`: out of the kernel it is. */
  async #stayMounted(actor: MountActor, isGone: boolean): Promise<void> {
    const { dir } = actor.facts;
    // `down` has detached it meanwhile.
    if (actor.host.state !== 'unmounting') return;
    if (actor.before === 'failed' && actor.error !== undefined) {
      actor.host.send({ type: 'FAILED', error: actor.error });
      return;
    }
    const again = async () => {
      // Another engine owns the mount now, and may have it back already.
      if (this.#options.events.isFenced || findMount(dir) !== undefined)
        throw new CofaError('conflict', 'another engine owns the mount now');
      if (actor.madeDir) await mkdir(dir, { recursive: true });
      await this.#mountErofs(actor);
    };
    const isBack = actor.before === 'mounted' && (!isGone || (await again().then(yes, no)));
    actor.host.send({ type: isBack ? 'BUSY' : 'DETACHED' });
  }

  async #append(id: string, event: NewEvent): Promise<void> {
    await this.#options.events.append(this.#options.names.event('mount', id), event);
  }

  async #fail({ id, dir }: Pick<MountFacts, 'id' | 'dir'>, error: ErrorRecord): Promise<void> {
    this.#failed.set(id, { dir, error });
    await this.#sayFailed(id).catch((failure: unknown) => {
      this.#options.log.error({ mount: id, error: failure }, 'the log does not take a failed mount yet');
      void this.#withdraw(id);
    });
  }

  async #sayFailedAt(dir: string): Promise<void> {
    for (const [id, failed] of this.#failed) if (failed.dir === dir) await this.#sayFailed(id);
  }

  async #sayFailed(id: string): Promise<void> {
    const failed = this.#failed.get(id);
    if (failed === undefined) return;
    const { code, message } = failed.error;
    await this.#append(id, { type: 'mount.failed', code, message });
    this.#failed.delete(id);
  }
}

/** An image that is not the right one when it is there is prepared again so often. */
const MOST_TURNS = 8;
/** An engine that ends waits so long for loops of mounts that are gone, ms; the next one takes over what is left. */
const RELEASE_MS = 5_000;
/** A mount that did not come back is tried again after this, then after twice as long, and so on, ms. */
const RESTORE_AGAIN_MS = 5_000;
const RESTORE_LONGEST_MS = 60_000;
const yes = (): boolean => true;
const no = (): boolean => false;

/** The mount at its directory, where it is the one that this engine made, and not another engine's or somebody else's. */
function ownMount({ facts, image }: MountActor): MountEntry | undefined {
  const found = findMount(facts.dir);
  return found !== undefined && found.source === image.attached?.metadata.path ? found : undefined;
}

const replaced = ({ mountPoint }: MountEntry): CofaError =>
  new CofaError('conflict', `something else is mounted at ${mountPoint} by now`);

/** The path without doubled or trailing slashes, `.` and `..`. */
function cleanPath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  if (parts.length === 0) throw new CofaError('invalid-argument', 'cofa does not mount over /');
  return `/${parts.join('/')}`;
}

/** Makes the directory where it is missing; one with something in it is refused. */
async function prepareDirectory(dir: string): Promise<void> {
  if (await isMissing(dir)) await mkdir(dir, { recursive: true });
}

/** Whether there is no such directory. Error `conflict` where something else is there, or something is in it. */
async function isMissing(dir: string): Promise<boolean> {
  let names: string[];
  try {
    names = await readdir(dir);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOTDIR') throw new CofaError('conflict', `${dir} is not a directory`, { cause });
    if (code !== 'ENOENT') throw cause;
    return true;
  }
  if (names.length > 0) {
    throw new CofaError('conflict', `${dir} is not empty`, { hint: 'mount at an empty or a new directory' });
  }
  return false;
}
