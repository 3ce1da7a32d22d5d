/**
 * One mount: an actor (actors/mount.ts) whose effects are here. Mounting: the image's devices, the file system, the fact in
 * the log, and what stands on the mount. Unmounting is the way back. The log has each change before a caller hears of it.
 */
import type { Logger } from 'pino';
import { mountMachine } from '../../../actors/mount.ts';
import type { MountFacts } from '../../../actors/node-state.ts';
import { type Return, returnOf } from '../../../actors/restore.ts';
import { defined } from '../../../schemas/defined.ts';
import { CofaError, type ErrorRecord, toErrorRecord } from '../../../schemas/errors.ts';
import type { Ran } from '../../../schemas/ran.ts';
import { detachMount, findMount, type MountEntry, unmountEntry } from '../../kernel/mount.ts';
import { ActorHost } from '../../process/actor-host.ts';
import type { Layout } from '../../store/layout.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { AttachedImage } from '../images/attachment.ts';
import type { Image } from '../images/image.ts';
import type { Images } from '../images/images.ts';
import { lookupOf, makeFor, prepareDirectory, removeMade } from './directory.ts';
import type { Failures } from './failures.ts';
import { KERNEL, type MountKernel } from './kernel.ts';
import { refuseOverlaid } from './overlays.ts';
import { mountOn, type Owner, takeAway, unmountEarlier } from './standing.ts';
import type { StartSteps } from './start-steps.ts';

/** What is mounted where, and how; does not change while the mount lives. */
export type MountRequest = Readonly<Omit<MountFacts, 'state'>>;

/** What stands on a mount. */
export interface Above {
  mount(): Promise<void>;
  /** Also where it was not mounted, or not quite. */
  unmount(): Promise<void>;
}

export interface MountContext {
  layout: Layout;
  images: Images;
  live: LiveFold;
  owner: Owner;
  failures: Failures;
  log: Logger;
  kernel?: MountKernel | undefined;
  /** It is out of the kernel and the log has that: the directory is free. */
  onUnmounted: (actor: MountActor) => void;
}

/** What only a call knows; nothing of it is known of a mount that is brought back. */
export interface MountExtras {
  /** Which of the image's commands is about to run. */
  start?: string | undefined;
  /** First word of that command; undefined: it is the image's own, or not known. */
  program?: string | undefined;
  above?: Above | undefined;
  steps?: StartSteps | undefined;
}

/** An image that is not the right one when it is there is prepared again so often. */
const MOST_TURNS = 8;

export class MountActor {
  readonly request: MountRequest;
  readonly host: ActorHost<typeof mountMachine>;
  image: Image;
  /** Why the last change failed; undefined: it did not. */
  error: ErrorRecord | undefined;
  /** The directory was made for the mount and goes with it. */
  madeDir: boolean;
  /** It is being brought back: a failure leaves it in the log, for the next try. */
  restoring = false;
  /** How it was brought back. */
  restored: Return = 'anew';
  /** The call that asked for it has ended; resolved where an earlier engine was asked. */
  asked: Promise<void> = Promise.resolve();
  /** Unmounted: its image has been let go when this resolves. */
  released: Promise<void> = Promise.resolve();
  readonly #context: MountContext;
  readonly #extras: MountExtras;
  /** The kernel reads the flat metadata ahead; never rejects. */
  #loaded: Promise<void> = Promise.resolve();
  /** Its state when it was to be unmounted: a failure of that leads back there. */
  #before = 'mounted';
  #ran: Ran | undefined;

  constructor(context: MountContext, request: MountRequest, image: Image, extras: MountExtras = {}) {
    this.#context = context;
    this.#extras = extras;
    this.request = request;
    this.image = image;
    this.madeDir = request.made === true;
    this.host = new ActorHost(mountMachine, {
      mount: () => void this.#mount(),
      unmount: () => void this.#unmount(),
    });
  }

  /** When it had come how far; undefined: it is being brought back. */
  get steps(): StartSteps | undefined {
    return this.restoring ? undefined : this.#extras.steps;
  }

  /** The mount at its directory, where it is the one that this engine made, and not another engine's or a user's. */
  get standing(): MountEntry | undefined {
    return mountOn(this.request.dir, this.image.attached?.metadata.path);
  }

  /**
   * A container of `cofa run` ends with the power, and its mount with it: its client waits for no disk. The log has the fact all
   * the same before the client hears of it, and keeps it when any process is killed.
   */
  get #durability(): { early?: boolean } {
    return { early: this.request.container !== undefined };
  }

  /** Resolves when it is mounted, or has failed. */
  async mount(): Promise<void> {
    this.host.send({ type: 'MOUNT' });
    await this.host.until('mounted', 'failed');
  }

  /** Resolves when it is unmounted, or is what it was before; then `error` says why. `ran`: what its client ran in it. */
  async unmount(ran?: Ran): Promise<void> {
    this.error = undefined;
    this.#ran = ran;
    this.#before = this.host.state;
    this.host.send({ type: 'UNMOUNT' });
    await this.host.until('unmounted', 'mounted', 'detached', 'failed');
  }

  /** Mounts the file system, where a mount of an earlier engine does not do. Errors: those of the image and of mount(2). */
  async mountErofs(): Promise<void> {
    const { owner, log, kernel = KERNEL } = this.#context;
    const { id, dir, nosuid = false, nodev = false } = this.request;
    const { metadata, devices } = await this.#useImage();
    this.steps?.attached(this.image.preparedAt);
    // What is mounted there may be the new owner's.
    if (owner.isFenced) throw new CofaError('conflict', 'another engine owns the mount now');
    if (this.restoring) {
      const there = findMount(dir);
      this.restored = returnOf(there, metadata.path);
      if (this.restored === 'kept') return;
      if (this.restored === 'replaced' && there !== undefined) await takeAway(there, owner);
      await prepareDirectory(this.request).catch((error: unknown) => {
        log.warn({ mount: id, dir, error }, 'mount point is not as it was left');
      });
    }
    await kernel.mountErofs({
      metadata,
      devices,
      target: dir,
      lookup: lookupOf(this.request),
      suid: !nosuid,
      dev: !nodev,
    });
    this.steps?.standing();
    this.#loaded = kernel.loadMetadata(metadata);
  }

  /**
   * The image's devices. What the mount must not use by the time that they are there is not used: it may have been refuted
   * meanwhile, or prepared for another mount with a laxer policy.
   */
  async #useImage(): Promise<AttachedImage> {
    const { images } = this.#context;
    const { id, prefetch, prefetchLimit = Number.POSITIVE_INFINITY, trust } = this.request;
    const { start, program } = this.#extras;
    const rate = prefetch ? prefetchLimit : 0;
    for (let turn = 0; turn < MOST_TURNS; turn++) {
      const before = this.image;
      this.image = images.forMount(before);
      if (this.image !== before) void before.release(id);
      const attached = await this.image.use(id, rate, start, program);
      // A mount that could not be taken away comes back as it was.
      if (this.host.state !== 'mounting') return attached;
      const mayUse = this.restoring
        ? this.image.standing !== 'refuted'
        : await images.mayUse(this.image, trust);
      if (mayUse) return attached;
      await this.image.release(id);
      this.image = this.restoring
        ? images.restored(this.image, trust)
        : await images.suited(this.image, trust);
    }
    throw new CofaError('busy', `${this.image.resolved.ref} is being prepared for other mounts`, {
      hint: 'try again',
    });
  }

  // ── Effects ──

  async #mount(): Promise<void> {
    const { failures } = this.#context;
    const { id } = this.request;
    try {
      await this.mountErofs();
      await this.#tell();
      this.host.send({ type: 'MOUNTED' });
    } catch (error) {
      const failure = toErrorRecord(error);
      this.error = failure;
      await this.image.release(id).catch(() => {});
      if (!this.restoring) {
        // Before the log forgets that it was made.
        if (this.madeDir) await removeMade(this.request);
        await failures.tell(this.request, failure);
      }
      this.host.send({ type: 'FAILED', error: failure });
    }
  }

  /** The log is told while that is mounted which stands on the mount. What fails takes the mount with it. */
  async #tell(): Promise<void> {
    const { live } = this.#context;
    const { id } = this.request;
    const { above } = this.#extras;
    try {
      // After a crash the log says so already.
      const isTold = this.restoring && live.state.mounts.get(id)?.state === 'mounted';
      const told = this.image.recorded().then(async () => {
        if (!isTold)
          await live.append(
            id,
            defined({ type: 'mount.mounted' as const, steps: this.steps?.take() }),
            this.#durability,
          );
      });
      const done = await Promise.allSettled([above?.mount(), told, this.#loaded]);
      for (const one of done) if (one.status === 'rejected') throw one.reason;
    } catch (error) {
      await above?.unmount().catch(() => {});
      // A user may be in it already. An engine that was replaced finds the other one's mount in its place.
      const there = this.standing;
      if (there !== undefined) await detachMount(there);
      throw error;
    }
  }

  async #unmount(): Promise<void> {
    const { live, owner, onUnmounted } = this.#context;
    const { id, dir } = this.request;
    let isGone = false;
    try {
      // Gone already when a user has called umount(8). Where it did not come back, an earlier engine may have left one.
      if (this.#before === 'mounted') {
        const there = this.standing;
        if (there !== undefined) {
          await this.#refuseOverlaid(there);
          await unmountEntry(there);
        }
      } else await unmountEarlier(dir, owner);
      isGone = true;
      if (this.madeDir) await removeMade(this.request);
      await live.append(id, defined({ type: 'mount.unmounted' as const, ran: this.#ran }), this.#durability);
    } catch (error) {
      // An append without an answer may be in the log: then a mount that came back would be none that the log knows.
      const isTold = isGone && live.state.mounts.get(id) === undefined && this.host.state === 'unmounting';
      if (!isTold) {
        this.error = toErrorRecord(error);
        await this.#stayMounted(this.error, isGone);
        return;
      }
    }
    onUnmounted(this);
    this.host.send({ type: 'UNMOUNTED' });
  }

  /** Reads of a complete image need no engine. `cofa run` keeps its own image busy, and takes the overlay away first. */
  async #refuseOverlaid(there: MountEntry): Promise<void> {
    const { layout, kernel } = this.#context;
    if (this.request.container === undefined && !this.image.isDirect())
      await refuseOverlaid(there, layout, kernel);
  }

  /** An unmount has failed, or is not in the log: nothing shall have changed. `isGone`: it is out of the kernel. */
  async #stayMounted(error: ErrorRecord, isGone: boolean): Promise<void> {
    // `down` has detached it meanwhile.
    if (this.host.state !== 'unmounting') return;
    if (this.#before === 'failed') {
      this.host.send({ type: 'FAILED', error });
      return;
    }
    const isBack = this.#before === 'mounted' && (!isGone || (await this.#comesBack()));
    this.host.send({ type: isBack ? 'BUSY' : 'DETACHED' });
  }

  async #comesBack(): Promise<boolean> {
    const { dir } = this.request;
    try {
      // Another engine owns the mount now, and may have it back already.
      if (this.#context.owner.isFenced || findMount(dir) !== undefined) return false;
      if (this.madeDir) await makeFor(this.request);
      await this.mountErofs();
      return true;
    } catch {
      return false;
    }
  }
}
