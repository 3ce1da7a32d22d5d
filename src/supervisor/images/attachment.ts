/**
 * The loop devices of an image that is in use: one under its flat metadata, one for each layer. Images share layers, so
 * `Devices` has those; this class acquires and releases them for one image.
 */
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

export class Attachment {
  readonly #options: AttachmentOptions;
  readonly #kernel: MountKernel;
  /** Names the image to the devices: there may be another one of the same manifest. */
  readonly #user: string;
  #loops: AttachedImage | undefined;
  /** Ids of the layers whose devices are attached. */
  #layers: readonly string[] = [];
  /** By mount: bytes per second of the rest of the image that it wants in the background; Infinity: no limit, 0: none. */
  readonly #rates = new Map<string, number>();
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

  /** Attaches all of them, or none. Errors: those of `Devices.acquire` and of loop devices. */
  async attach(order: AttachOrder): Promise<void> {
    const { devices, leftovers, log } = this.#options;
    const taken: string[] = [];
    const wanted = order.prepared.devices.map(async (device) => {
      const loop = await devices.acquire(demandOf(order, device), this.#user, this.#rate);
      taken.push(layerIdOf(device));
      return loop;
    });
    // Whether a layer was lost with an earlier engine's loops is known when they have been looked at; mostly there are none.
    const looked = leftovers.size > 0 ? Promise.allSettled(wanted) : Promise.resolve();
    const metadata = looked.then(() => this.#attachMetadata(order));
    const results = await Promise.allSettled([metadata, ...wanted]);
    const failure = results.find((result) => result.status === 'rejected');
    if (failure !== undefined) {
      const [first] = results;
      const cleared = await Promise.allSettled([
        ...(first?.status === 'fulfilled' ? [this.#kernel.detachLoop(first.value)] : []),
        ...taken.map((id) => devices.release(id, this.#user)),
      ]);
      // What went wrong first is what the mount fails for; the kernel detaches a loop that is in use with its last user.
      for (const left of cleared) {
        if (left.status === 'rejected')
          log.warn({ image: order.resolved.ref, error: left.reason }, 'a loop device is still in use');
      }
      throw failure.reason;
    }
    this.#loops = { metadata: await metadata, devices: await Promise.all(wanted) };
    this.#layers = order.prepared.devices.map(layerIdOf);
    // Mounts may have come and gone meanwhile.
    this.#tellRate();
  }

  /** The image names another span table for a layer that is attached. */
  supply(resolved: EventOf<'image.resolved'>, device: ImageDevice): void {
    if (this.#loops !== undefined && this.#layers.includes(layerIdOf(device)))
      this.#options.devices.supply(layerDemand(resolved, device), this.#user);
  }

  /** Lets go of what is attached. A loop that is still in use goes with its last user. */
  async detach(ref: string): Promise<void> {
    const loops = this.#loops;
    this.#loops = undefined;
    if (loops === undefined) return;
    // A loop that something still holds, such as a copy of the mount in another mount namespace, is no reason to keep the
    // others.
    const gone = await Promise.allSettled([
      this.#kernel.detachLoop(loops.metadata),
      ...this.#layers.map((id) => this.#options.devices.release(id, this.#user)),
    ]);
    for (const result of gone) {
      if (result.status === 'rejected')
        this.#options.log.warn({ image: ref, error: result.reason }, 'a loop device is still in use');
    }
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
    for (const id of this.#layers) this.#options.devices.setRate(id, this.#user, this.#rate);
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
