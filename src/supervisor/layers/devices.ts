/**
 * Loop devices over layer devices, shared by all images that have the layer. A lazy layer's loop reads the FUSE file
 * that the front end serves; a complete layer's loop reads the device file itself, and a loop is moved from the one to
 * the other below the mounted file system (LOOP_CHANGE_FD).
 */
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { isWhole } from '../../../actors/layer-life.ts';
import type { BlobSource } from '../../../schemas/fetch.ts';
import type { OpenLayer, OpenLayerReply } from '../../../schemas/front.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import { toErrorRecord } from '../../../schemas/errors.ts';
import {
  attachLoop,
  backingFileOf,
  changeBacking,
  detachLoop,
  dismissLoop,
  type LoopDevice,
} from '../../kernel/loop.ts';
import { hexOf, type Layout } from '../../store/layout.ts';
import { layerLabel, type Leftovers } from '../mounts/leftovers.ts';
import { Topic } from '../topic.ts';
import { askFront as ask, askFrontWhile as askWhile, frontIsReady } from './front-calls.ts';

export interface LayerDemand {
  diffId: string;
  /** raw bytes */
  size: number;
  source: BlobSource;
  built: boolean;
}

interface Attached {
  demand: LayerDemand;
  users: number;
  /** By user: bytes per second of the rest of the layer that it wants in the background; Infinity: no limit. */
  rates: Map<string, number>;
  loop: Promise<LoopDevice>;
  /** Further loops of the layer, under file systems that an earlier engine left: they go with their last user. */
  others: LoopDevice[];
  /** A loop that an earlier engine left could not be repaired: what stands on it must be mounted anew. */
  lost: boolean;
  /** The kernel reads the device file itself. */
  direct: boolean;
  /** It does, or is about to, or has just stopped doing so: what a front end that starts now has to know. */
  pinned: boolean;
  /** Changes of one device go one after the other. */
  tail: Promise<void>;
}

export class Devices {
  /** An attached layer that the kernel reads by itself from now on, or does no longer; by diffID. */
  readonly direct = new Topic<string>();
  readonly #attached = new Map<string, Attached>();
  /** Layers that were let go while a change of their device was under way, until it has ended. */
  readonly #leaving = new Map<string, Promise<void>>();
  readonly #bus: NatsConnection;
  readonly #names: Subjects;
  readonly #layout: Layout;
  readonly #label: string;
  readonly #log: Logger;
  readonly #leftovers: Leftovers;

  /** `label` begins the name of every loop of this engine, so that it finds them again: `leftovers`. */
  constructor(options: {
    bus: NatsConnection;
    names: Subjects;
    layout: Layout;
    label: string;
    log: Logger;
    leftovers: Leftovers;
  }) {
    this.#bus = options.bus;
    this.#names = options.names;
    this.#layout = options.layout;
    this.#label = options.label;
    this.#log = options.log;
    this.#leftovers = options.leftovers;
  }

  /**
   * The loop over a layer's device; attached at the first call, shared afterwards. Pair it with `release`. `user`: whose
   * `rate` it is, in bytes per second of what nobody waits for; Infinity: no limit, 0: none.
   */
  async acquire(demand: LayerDemand, user: string, rate: number): Promise<LoopDevice> {
    const known = this.#attached.get(demand.diffId);
    if (known !== undefined) {
      known.users += 1;
      this.setRate(demand.diffId, user, rate);
      return known.loop;
    }
    const mine: Attached = {
      demand,
      users: 1,
      rates: new Map(rate > 0 ? [[user, rate]] : []),
      direct: false,
      pinned: false,
      // What the front end is told of this one comes after all that it was told of the one before.
      tail: this.#leaving.get(demand.diffId) ?? Promise.resolve(),
      loop: null as never,
      others: [],
      lost: false,
    };
    mine.loop = mine.tail.then(() => this.#attach(mine));
    this.#attached.set(demand.diffId, mine);
    try {
      return await mine.loop;
    } catch (error) {
      if (this.#attached.get(demand.diffId) === mine) this.#attached.delete(demand.diffId);
      throw error;
    }
  }

  /** How fast the rest of the layer may come for this user; the front end hears of it as soon as it can. */
  setRate(diffId: string, user: string, rate: number): void {
    const mine = this.#attached.get(diffId);
    if (mine === undefined || (mine.rates.get(user) ?? 0) === rate) return;
    if (rate > 0) mine.rates.set(user, rate);
    else mine.rates.delete(user);
    // What it hears is how it is by then.
    void mine.loop
      .then(() => this.#openAgain(mine))
      .catch((error: unknown) => this.#log.warn({ diffId, error }, 'the front end did not hear of a limit'));
  }

  /** Lets go; with the last user the loop is detached and the front end closes the layer. */
  async release(diffId: string, user: string): Promise<void> {
    const mine = this.#attached.get(diffId);
    if (mine === undefined) return;
    mine.users -= 1;
    if (mine.users > 0) {
      this.setRate(diffId, user, 0);
      return;
    }
    this.#attached.delete(diffId);
    const { tail } = mine;
    this.#leaving.set(diffId, tail);
    await tail;
    if (this.#leaving.get(diffId) === tail) this.#leaving.delete(diffId);
    const loop = await mine.loop.catch(() => undefined);
    try {
      if (loop !== undefined) await detachLoop(loop);
    } finally {
      await this.#close(diffId);
    }
  }

  /** A front end has started: it is told what to serve. `move`: it serves another FUSE mount than the last one. */
  async reopenAll(move = false): Promise<void> {
    frontIsReady(this.#bus);
    const fronts = await Promise.all(
      [...this.#attached.values()].map(async (mine) => {
        const opened = await this.#openAgain(mine);
        if (opened === undefined) return [];
        if (move && this.#isWanted(mine)) await this.#moveToFuse(mine, opened.name);
        return [opened.front];
      }),
    );
    await ask(this.#bus, this.#names.front('settled'), { fronts: fronts.flat() });
  }

  /** The layer's device is whole and proven: the kernel reads it by itself from now on. */
  async handOver(diffId: string): Promise<void> {
    const mine = this.#attached.get(diffId);
    if (mine === undefined) return;
    mine.tail = mine.tail.then(async () => {
      const loop = await mine.loop.catch(() => undefined);
      if (loop === undefined || mine.direct || this.#attached.get(diffId) !== mine) return;
      try {
        if (!(await this.#mayHandOver(mine))) return;
        try {
          await this.#move(mine, loop, this.#layout.device(diffId));
          mine.direct = true;
          this.direct.publish(diffId);
        } catch (error) {
          await this.#unpin(mine);
          throw error;
        }
      } catch (error) {
        // Reads go on through the front end: slower, as right as before.
        this.#log.error({ diffId, error }, 'hand-over failed');
      }
    });
    await mine.tail;
  }

  /** Reads of the layer come through the front end again, so that bytes of its device may go. */
  async takeBack(diffId: string): Promise<void> {
    const mine = this.#attached.get(diffId);
    if (mine === undefined) return;
    mine.tail = mine.tail.then(async () => {
      const loop = await mine.loop.catch(() => undefined);
      if (loop === undefined || !mine.direct || this.#attached.get(diffId) !== mine) return;
      try {
        await ask(this.#bus, this.#names.front('take-back'), { diffId });
        // The kernel waits for what is in flight to the device file; afterwards nothing reads it any more.
        await this.#move(mine, loop, join(this.#layout.devices(), hexOf(diffId)));
        mine.direct = false;
        this.direct.publish(diffId);
        await this.#unpin(mine);
      } catch (error) {
        // Still under the kernel, nothing of it goes; else a front end that starts is told so.
        this.#log.error({ diffId, error }, 'a device was not taken back');
      }
    });
    await mine.tail;
  }

  /** Whether reads of the layer still need a front end. */
  isDirect(diffId: string): boolean {
    return this.#attached.get(diffId)?.direct ?? false;
  }

  /** Whether a file system of an earlier engine lost this layer for good: it has to be mounted anew. */
  isLost(diffId: string): boolean {
    return this.#attached.get(diffId)?.lost ?? false;
  }

  async #attach(mine: Attached): Promise<LoopDevice> {
    const { diffId } = mine.demand;
    const opened = await this.#openFor(mine);
    mine.direct = isWhole(opened.state) && (await this.#mayHandOver(mine));
    const file = mine.direct ? this.#layout.device(diffId) : join(this.#layout.devices(), opened.name);
    const label = layerLabel(this.#label, diffId);
    const loop =
      (await this.#adopt(mine, label, file)) ??
      (await attachLoop(file, { directIo: true, readOnly: true, label }));
    return loop;
  }

  /**
   * Takes over the loops that an earlier engine left for the layer, and moves them to `file`: file systems on them go
   * on where they are. The best one is returned, the others are kept right until their last user has gone.
   */
  async #adopt(mine: Attached, label: string, file: string): Promise<LoopDevice | undefined> {
    let best: LoopDevice | undefined;
    for (const { number, path, autoclear } of this.#leftovers.take(label)) {
      const loop = { number, path, label };
      try {
        // One that reads the device file is as it should be; what looks like our FUSE file is the dead one's.
        if (!mine.direct || backingFileOf(loop) !== file) await changeBacking(loop, file);
        if (best === undefined && !autoclear) best = loop;
        else mine.others.push(loop);
      } catch (error) {
        mine.lost = true;
        this.#log.error({ layer: mine.demand.diffId, loop: path, error }, 'a loop cannot be repaired');
      }
      if (best !== loop) await dismissLoop(loop).catch(() => {});
    }
    return best;
  }

  /** The FUSE mount is another one: what stood on the old one gives errors until it is moved. */
  async #moveToFuse(mine: Attached, name: string): Promise<void> {
    mine.tail = mine.tail.then(async () => {
      const { diffId } = mine.demand;
      const loop = await mine.loop.catch(() => undefined);
      if (loop === undefined || mine.direct || this.#attached.get(diffId) !== mine) return;
      await this.#move(mine, loop, join(this.#layout.devices(), name)).catch((error: unknown) => {
        this.#log.error({ layer: diffId, error }, 'a loop cannot be repaired');
      });
    });
    await mine.tail;
  }

  /** Moves the layer's loops to another file. */
  async #move(mine: Attached, loop: LoopDevice, file: string): Promise<void> {
    await changeBacking(loop, file);
    const others = await Promise.all(
      mine.others.map((other) =>
        changeBacking(other, file).then(
          () => [other],
          (error: unknown) => {
            if (toErrorRecord(error).code === 'not-found') return [];
            this.#log.error({ layer: mine.demand.diffId, loop: other.path, error }, 'a loop was not moved');
            return [other];
          },
        ),
      ),
    );
    mine.others = others.flat();
  }

  /** The front end hears of a hand-over before it happens: no block may leave the device file afterwards. */
  async #mayHandOver(mine: Attached): Promise<boolean> {
    const { diffId } = mine.demand;
    mine.pinned = true;
    const reply = await ask(this.#bus, this.#names.front('handed-over'), { diffId });
    if (reply.state === 'handed-over') return true;
    await this.#unpin(mine);
    return false;
  }

  async #unpin(mine: Attached): Promise<void> {
    mine.pinned = false;
    await ask(this.#bus, this.#names.front('taken-back'), { diffId: mine.demand.diffId });
  }

  async #openFor(mine: Attached): Promise<OpenLayerReply> {
    return (await this.#open(mine, () => true)) as OpenLayerReply;
  }

  /** Tells the front end how it is now. Undefined: the layer was let go before it heard. */
  async #openAgain(mine: Attached): Promise<OpenLayerReply | undefined> {
    const opened = await this.#open(mine, () => this.#isWanted(mine));
    // Let go while the front end was silent: what it has opened now nobody else would close.
    if (opened !== undefined && !this.#isWanted(mine)) await this.#close(mine.demand.diffId);
    return opened;
  }

  #isWanted(mine: Attached): boolean {
    return this.#attached.get(mine.demand.diffId) === mine;
  }

  #open(mine: Attached, isWanted: () => boolean): Promise<OpenLayerReply | undefined> {
    // A front end that comes later has to hear how it is then: what the kernel reads by itself must keep its bytes.
    const request = (): OpenLayer => ({ ...mine.demand, ...pacing(mine.rates), direct: mine.pinned });
    return askWhile(this.#bus, this.#names.front('open'), request, isWanted);
  }

  /** Unless somebody has opened it again meanwhile. */
  async #close(diffId: string): Promise<void> {
    const isWanted = () => !this.#attached.has(diffId);
    await askWhile(this.#bus, this.#names.front('close'), () => ({ diffId }), isWanted);
  }
}

/** One user without a limit is enough for there to be none. */
function pacing(rates: ReadonlyMap<string, number>): Pick<OpenLayer, 'prefetch' | 'limits'> {
  const limits = [...rates];
  const isLimited = limits.length > 0 && limits.every(([, rate]) => Number.isFinite(rate));
  return { prefetch: limits.length > 0, ...(isLimited ? { limits } : {}) };
}
