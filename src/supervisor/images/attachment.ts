/**
 * The loop devices of an image that is in use: one under its flat metadata, one for each layer. Images share layers, so
 * `Devices` has those; this class acquires and releases them for one image.
 */
import { isDeepStrictEqual as isDeepEqual } from 'node:util';
import type { Logger } from 'pino';
import { type ImageDevice, layerIdOf } from '../../../actors/device.ts';
import type { EventOf } from '../../../schemas/events.ts';
import { backingFileOf, type LoopDevice, type LoopStatus } from '../../kernel/loop.ts';
import type { Layout } from '../../store/layout.ts';
import { type Devices, type LayerDemand, layerDemand } from '../layers/devices.ts';
import { KERNEL, type MountKernel } from '../mounts/kernel.ts';
import { flatLabel, type Leftovers } from '../mounts/leftovers.ts';
import { readAheadOf } from './read-ahead.ts';

export interface AttachmentOptions {
  layout: Layout;
  log: Logger;
  devices: Devices;
  /** Begins the labels of all loops of this engine. */
  label: string;
  /** Loops of an earlier engine. */
  leftovers: Leftovers;
  kernel?: MountKernel | undefined;
}

export interface AttachedImage {
  metadata: LoopDevice;
  devices: LoopDevice[];
}

/** What is attached. `isBuilt`: every block of every device was written when it was indexed here, a moment ago. */
export interface AttachOrder {
  manifest: string;
  resolved: EventOf<'image.resolved'>;
  prepared: EventOf<'image.prepared'>;
  isBuilt: boolean;
}

/** A layer, and whose name it was acquired in. */
interface Acquired {
  id: string;
  user: string;
}

/** Layers with less data than that, in bytes, are not acquired ahead: the flat image may well have no data in them. */
const LEAST_AHEAD = 64 << 10;
/** Layers that one image acquires ahead. */
const MOST_AHEAD = 32;

export class Attachment {
  readonly #options: AttachmentOptions;
  readonly #kernel: MountKernel;
  /** Names the image to the devices: there may be another one of the same manifest. */
  readonly #user: string;
  #loops: AttachedImage | undefined;
  /** The layers whose devices are attached, by id: whose name each was acquired in. */
  #layers: ReadonlyMap<string, string> = new Map();
  /** By mount: bytes per second of the rest of the image that it wants in the background; Infinity: no limit, 0: none. */
  readonly #rates = new Map<string, number>();
  /** Layers that were acquired before their flat image was known to be sound; by id. */
  readonly #ahead = new Map<string, Acquired & { demand: LayerDemand; loop: Promise<LoopDevice> }>();
  /** How many there have been: each is acquired in a name of its own, so that letting go of it takes nothing from a later one. */
  #namesAhead = 0;
  /** Resolves when those that were of no use are let go. */
  #dropped: Promise<void> = Promise.resolve();
  /** One change after the other: the last one knows what is right. */
  #readAheadSet: Promise<void> = Promise.resolve();

  constructor(options: AttachmentOptions, user: string) {
    this.#options = options;
    this.#kernel = options.kernel ?? KERNEL;
    this.#user = user;
  }

  /** Undefined while the image is not attached. */
  get loops(): AttachedImage | undefined {
    return this.#loops;
  }

  /** Mounts of one image share the highest rate. */
  want(mount: string, rate: number): void {
    this.#rates.set(mount, rate);
    this.#tellRate();
  }

  release(mount: string): void {
    this.#rates.delete(mount);
    // With its last mount the image lets go of the devices, and that says it all.
    if (this.#rates.size > 0) this.#tellRate();
  }

  /**
   * Acquires a layer that the flat image is likely to have, while that is still looked at: `attach` takes it from here.
   * When the image is prepared the caller calls `attach`, which acquires a layer again that failed here. When its preparation fails
   * the caller calls `dropAhead`, which releases the layers.
   */
  ahead(resolved: EventOf<'image.resolved'>, device: ImageDevice): void {
    const id = layerIdOf(device);
    if (device.size < LEAST_AHEAD || this.#ahead.size >= MOST_AHEAD || this.#ahead.has(id)) return;
    const demand = layerDemand(resolved, device);
    const user = `${this.#user}.ahead-${++this.#namesAhead}`;
    const loop = this.#options.devices.acquire(demand, user, this.#rate);
    loop.catch(() => {});
    this.#ahead.set(id, { id, user, demand, loop });
  }

  /** Lets go of the layers that were acquired ahead and not attached. Resolves when all that were ever let go so are gone. */
  async dropAhead(ref: string): Promise<void> {
    const left = [...this.#ahead.values()];
    this.#ahead.clear();
    const before = this.#dropped;
    const drop = async () => {
      const acquired = await Promise.allSettled(left.map(({ loop }) => loop));
      await this.#release(
        ref,
        left.filter((_, at) => acquired[at]?.status === 'fulfilled'),
      );
    };
    this.#dropped = Promise.all([before, left.length === 0 ? undefined : drop()]).then(() => {});
    await this.#dropped;
  }

  /** Attaches all of them, or none. Errors: those of `Devices.acquire` and of loop devices. */
  async attach(order: AttachOrder): Promise<void> {
    const { leftovers } = this.#options;
    const taken: Acquired[] = [];
    const wanted = order.prepared.devices.map(async (device) => {
      const { loop, ...acquired } = await this.#acquire(demandOf(order, device), order.resolved.ref);
      taken.push(acquired);
      return loop;
    });
    // This flat image has no use for what is left of those ahead.
    void this.dropAhead(order.resolved.ref);
    // Whether a layer was lost with an earlier engine's loops is known when they have been looked at; mostly there are none.
    const looked = leftovers.size > 0 ? Promise.allSettled(wanted) : Promise.resolve();
    const metadata = looked.then(() => this.#attachMetadata(order));
    const results = await Promise.allSettled([metadata, ...wanted]);
    const failure = results.find((result) => result.status === 'rejected');
    if (failure !== undefined) {
      const [first] = results;
      // What went wrong first is what the mount fails for; the kernel detaches a loop that is in use with its last user.
      await this.#release(order.resolved.ref, taken, first?.status === 'fulfilled' ? first.value : undefined);
      throw failure.reason;
    }
    this.#loops = { metadata: await metadata, devices: await Promise.all(wanted) };
    this.#layers = new Map(taken.map(({ id, user }) => [id, user]));
    // Mounts may have come and gone meanwhile.
    this.#tellRate();
  }

  /** The image names another span table for a layer that is attached. */
  supply(resolved: EventOf<'image.resolved'>, device: ImageDevice): void {
    const user = this.#layers.get(layerIdOf(device));
    if (this.#loops !== undefined && user !== undefined)
      this.#options.devices.supply(layerDemand(resolved, device), user);
  }

  /** Lets go of what is attached. A loop that is still in use goes with its last user. */
  async detach(ref: string): Promise<void> {
    const loops = this.#loops;
    this.#loops = undefined;
    if (loops === undefined) return;
    const layers = Array.from(this.#layers, ([id, user]) => ({ id, user }));
    await this.#release(ref, layers, loops.metadata);
  }

  /** As far as is right for what of the image is on the node now. `isWhole`: all of it. */
  async setReadAhead(
    { manifest, resolved, prepared }: Omit<AttachOrder, 'isBuilt'>,
    isWhole: () => boolean,
  ): Promise<void> {
    this.#readAheadSet = this.#readAheadSet.then(async () => {
      const loops = this.#loops;
      if (loops === undefined) return;
      try {
        const flat = this.#options.layout.flat(manifest);
        await this.#kernel.setReadAhead(loops.metadata, await readAheadOf(flat, prepared, isWhole()));
      } catch (error) {
        this.#options.log.warn({ image: resolved.ref, error }, 'reads ahead as the kernel chooses');
      }
    });
    await this.#readAheadSet;
  }

  get #rate(): number {
    return Math.max(0, ...this.#rates.values());
  }

  #tellRate(): void {
    if (this.#loops === undefined) return;
    for (const [id, user] of this.#layers) this.#options.devices.setRate(id, user, this.#rate);
  }

  /** The one that was acquired ahead, where it is as the flat image wants it. */
  async #acquire(demand: LayerDemand, ref: string): Promise<Acquired & { loop: LoopDevice }> {
    const { diffId: id } = demand;
    const ahead = this.#ahead.get(id);
    this.#ahead.delete(id);
    const early = await ahead?.loop.catch(() => undefined);
    if (ahead !== undefined && early !== undefined && isDeepEqual(ahead.demand, demand))
      return { id, user: ahead.user, loop: early };
    const loop = await this.#options.devices.acquire(demand, this.#user, this.#rate);
    // It was of a sidecar that was passed over for its flat metadata.
    if (ahead !== undefined && early !== undefined) await this.#release(ref, [ahead]);
    return { id, user: this.#user, loop };
  }

  /**
   * A loop that something still holds, such as a copy of the mount in another mount namespace, is no reason to keep the
   * others: the log hears of it.
   */
  async #release(ref: string, layers: readonly Acquired[], metadata?: LoopDevice): Promise<void> {
    const gone = await Promise.allSettled([
      ...(metadata === undefined ? [] : [this.#kernel.detachLoop(metadata)]),
      ...layers.map(({ id, user }) => this.#options.devices.release(id, user)),
    ]);
    for (const result of gone) {
      if (result.status === 'rejected')
        this.#options.log.warn({ image: ref, error: result.reason }, 'a loop device is still in use');
    }
  }

  /**
   * The loop under the flat metadata: the one that an earlier engine left, unless what stands on it has lost a layer.
   * The kernel would give a new mount of the same loop the file system that is there.
   */
  async #attachMetadata({ manifest, prepared }: AttachOrder): Promise<LoopDevice> {
    const { layout, label: engine, leftovers, devices } = this.#options;
    const label = flatLabel(engine, manifest);
    const file = layout.flat(manifest);
    const hasLost = prepared.devices.some((device) => devices.isLost(layerIdOf(device)));
    let best: LoopDevice | undefined;
    const rest: LoopStatus[] = [];
    for (const loop of leftovers.take(label)) {
      const { number, path, autoclear } = loop;
      // As it is now: since the loop was found its file may have been replaced by what the layers give.
      const isFit = !hasLost && !autoclear && backingFileOf(loop) === file;
      if (best === undefined && isFit) best = { number, path, label };
      else rest.push(loop);
    }
    leftovers.giveBack(label, rest);
    return best ?? (await this.#kernel.attachLoop(file, { directIo: false, readOnly: true, label }));
  }
}

function demandOf({ resolved, isBuilt }: AttachOrder, device: ImageDevice): LayerDemand {
  return { ...layerDemand(resolved, device), built: isBuilt };
}
