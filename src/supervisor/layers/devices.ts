/**
 * Loop devices over layer devices, shared by all images that have the layer. A lazy layer's loop reads the FUSE file
 * that the front end serves; a complete layer's loop reads the device file itself, and a loop is moved from the one to
 * the other below the mounted file system (LOOP_CHANGE_FD). One layer: attached-layer.ts.
 */
import type { Logger } from 'pino';
import { type ImageDevice, layerIdOf } from '../../../actors/device.ts';
import type { EventOf } from '../../../schemas/events.ts';
import type { OpenLayerReply } from '../../../schemas/front.ts';
import type { LoopDevice } from '../../kernel/loop.ts';
import type { Layout } from '../../store/layout.ts';
import { KERNEL, type MountKernel } from '../mounts/kernel.ts';
import type { Leftovers } from '../mounts/leftovers.ts';
import { Topic } from '../topic.ts';
import { AttachedLayer, type LayerDemand } from './attached-layer.ts';
import type { FrontCalls } from './front-caller.ts';

export type { LayerDemand } from './attached-layer.ts';

/** What the front end needs to serve a layer of an image. */
export function layerDemand(resolved: EventOf<'image.resolved'>, device: ImageDevice): LayerDemand {
  const { registry, repository, layers } = resolved;
  const { diffId, size, spans, root, table } = device;
  const blob = layers.find((layer) => layer.blob === spans && layer.diffId === diffId);
  return {
    diffId: layerIdOf(device),
    ...(root === undefined ? {} : { content: diffId }),
    ...(table === undefined ? {} : { table }),
    size,
    source: { registry, repository, digest: spans, size: blob?.blobSize ?? 0 },
    built: false,
  };
}

export interface DevicesOptions {
  front: FrontCalls;
  layout: Layout;
  /** Begins the name of every loop of this engine, so that the next one finds them: its `leftovers`. */
  label: string;
  log: Logger;
  /** Loops of an earlier engine. */
  leftovers: Leftovers;
  /** The FUSE mount is that engine's, too: reads of layers that are not open again wait until `areBack`. */
  returning?: boolean;
  kernel?: MountKernel | undefined;
  /** As in `AttachedLayerOptions`. */
  isEnding?: () => boolean;
}

export class Devices {
  /** An attached layer that the kernel reads by itself from now on, or does no longer; by diffID. */
  readonly direct = new Topic<string>();
  readonly #options: DevicesOptions;
  readonly #attached = new Map<string, AttachedLayer>();
  /** Layers that were released while a change of their device was under way, until it has ended. */
  readonly #leaving = new Map<string, Promise<void>>();

  /** Mounts of an earlier engine are on their way. */
  #isReturning: boolean;

  constructor(options: DevicesOptions) {
    this.#options = options;
    this.#isReturning = options.returning ?? false;
  }

  /** Every mount of the engine before is back: what no mount has asked for by now is asked for by none. */
  areBack(): void {
    if (!this.#isReturning) return;
    this.#isReturning = false;
    this.reopenAll().catch((error: unknown) =>
      this.#options.log.error({ error }, 'the front end was not told that all is back'),
    );
  }

  /**
   * The loop over a layer's device; attached at the first call, shared afterwards. Pair it with `release`. `user`: whose
   * `rate` it is, in bytes per second in the background; Infinity: no limit, 0: nothing.
   */
  async acquire(demand: LayerDemand, user: string, rate: number): Promise<LoopDevice> {
    const { diffId } = demand;
    const known = this.#attached.get(diffId);
    if (known !== undefined) {
      known.users += 1;
      const isNew = [known.supply(user, demand), known.setRate(user, rate)].includes(true);
      if (isNew) this.#tellAgain(known);
      return known.loop;
    }
    // What the front end is told of this one comes after all that it was told of the one before.
    const before = this.#leaving.get(diffId) ?? Promise.resolve();
    const layer = new AttachedLayer(demand, before, {
      ...this.#options,
      isWanted: (one) => this.#isWanted(one),
      onDirect: (changed) => this.direct.publish(changed),
    });
    layer.supply(user, demand);
    layer.setRate(user, rate);
    this.#attached.set(diffId, layer);
    try {
      return await layer.loop;
    } catch (error) {
      if (this.#isWanted(layer)) this.#attached.delete(diffId);
      throw error;
    }
  }

  /** The user's image names another span table, or another place, for a layer that it has acquired. */
  supply(demand: LayerDemand, user: string): void {
    const layer = this.#attached.get(demand.diffId);
    if (layer?.supply(user, demand) === true) this.#tellAgain(layer);
  }

  /** How fast the rest of the layer may come for this user; the front end hears of it as soon as it can. */
  setRate(diffId: string, user: string, rate: number): void {
    const layer = this.#attached.get(diffId);
    if (layer?.setRate(user, rate) === true) this.#tellAgain(layer);
  }

  /** It hears what is so at that moment. */
  #tellAgain(layer: AttachedLayer): void {
    void layer.loop
      .then(() => this.#openAgain(layer))
      .catch((error: unknown) =>
        this.#options.log.warn(
          { layer: layer.demand.diffId, error },
          'the front end did not hear of a limit, or of a further source',
        ),
      );
  }

  /** With the last user the loop is detached, and the front end closes the layer. */
  async release(diffId: string, user: string): Promise<void> {
    const layer = this.#attached.get(diffId);
    if (layer === undefined) return;
    layer.users -= 1;
    if (layer.users > 0) {
      const isOther = [layer.supply(user, undefined), layer.setRate(user, 0)].includes(true);
      if (isOther) this.#tellAgain(layer);
      return;
    }
    this.#attached.delete(diffId);
    const { settled } = layer;
    this.#leaving.set(diffId, settled);
    await settled;
    if (this.#leaving.get(diffId) === settled) this.#leaving.delete(diffId);
    const loop = await layer.loop.catch(() => undefined);
    try {
      if (loop !== undefined) await (this.#options.kernel ?? KERNEL).detachLoop(loop);
    } finally {
      await this.#close(diffId);
    }
  }

  /** A front end has started: it is told what to serve. `move`: it serves another FUSE mount than the last one. */
  async reopenAll(move = false): Promise<void> {
    const { front } = this.#options;
    front.isReady();
    const reopen = async (layer: AttachedLayer) => {
      const opened = await this.#openAgain(layer);
      if (opened === undefined) return [];
      if (move && this.#isWanted(layer)) await layer.moveToFuse(opened.name);
      return [opened.front];
    };
    const fronts = await Promise.all(Array.from(this.#attached.values(), reopen));
    if (!this.#isReturning) await front.ask('settled', { fronts: fronts.flat() });
  }

  /** The layer's device is whole and proven: the kernel reads it by itself from now on. */
  async handOver(diffId: string): Promise<void> {
    await this.#attached.get(diffId)?.handOver();
  }

  /** Reads of the layer come through the front end again, so that bytes of its device may be punched out. */
  async takeBack(diffId: string): Promise<void> {
    await this.#attached.get(diffId)?.takeBack();
  }

  /** Whether the kernel reads the layer by itself: no read needs a front end. */
  isDirect(diffId: string): boolean {
    return this.#attached.get(diffId)?.isDirect ?? false;
  }

  /** Whether a file system of an earlier engine lost this layer for good: it has to be mounted anew. */
  isLost(diffId: string): boolean {
    return this.#attached.get(diffId)?.isLost ?? false;
  }

  /** Tells the front end how it is now. Undefined: the layer was released before it heard. */
  async #openAgain(layer: AttachedLayer): Promise<OpenLayerReply | undefined> {
    const opened = await layer.open(() => this.#isWanted(layer));
    // Released while the front end was silent: what it has opened now is closed here.
    if (opened !== undefined && !this.#isWanted(layer)) await this.#close(layer.demand.diffId);
    return opened;
  }

  #isWanted(layer: AttachedLayer): boolean {
    return this.#attached.get(layer.demand.diffId) === layer;
  }

  /** Unless an image has acquired it again meanwhile. */
  async #close(diffId: string): Promise<void> {
    const isWanted = () => !this.#attached.has(diffId);
    await this.#options.front.askWhile('close', () => ({ diffId }), isWanted);
  }
}
