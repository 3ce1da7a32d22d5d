/**
 * A layer that is attached: its loop device, the loops of an earlier engine that stand on it too, and which file they read.
 *
 *     FUSE file ── hand-over ──▶ device file     the kernel reads it by itself
 *               ◀── take back ──
 *
 * The front end hears of a hand-over before it happens, and of a take-back before and after: while the kernel may read the device
 * file, no block leaves it.
 */
import { join } from 'node:path';
import type { Logger } from 'pino';
import { isWhole } from '../../../actors/layer-life.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import type { BlobSource } from '../../../schemas/fetch.ts';
import {
  type OpenLayer,
  type OpenLayerReply,
  type Supply,
  supplyKey,
  supplyOf,
} from '../../../schemas/front.ts';
import { backingFileOf, changeBacking, dismissLoop, type LoopDevice } from '../../kernel/loop.ts';
import { hexOf } from '../../../schemas/digest.ts';
import type { Layout } from '../../store/layout.ts';
import { KERNEL, type MountKernel } from '../mounts/kernel.ts';
import { layerLabel, type Leftovers } from '../mounts/leftovers.ts';
import type { FrontCalls } from './front-caller.ts';

export interface LayerDemand {
  /** The layer's id, as in schemas/front.ts. */
  diffId: string;
  /** What its device must hash to; absent: its id. */
  content?: string;
  /** Digest of its span table; absent: the blob's names it. */
  table?: string;
  /** raw bytes */
  size: number;
  source: BlobSource;
  built: boolean;
}

export interface AttachedLayerOptions {
  front: FrontCalls;
  layout: Layout;
  /** Begins the label of the loop. */
  label: string;
  log: Logger;
  leftovers: Leftovers;
  kernel?: MountKernel | undefined;
  /** Whether the engine is about to end: what the kernel reads by itself then has to stay so. */
  isEnding?: (() => boolean) | undefined;
  /** Whether an image uses it still. */
  isWanted: (layer: AttachedLayer) => boolean;
  /** The kernel reads it by itself from now on, or does no longer. */
  onDirect: (diffId: string) => void;
}

export class AttachedLayer {
  readonly demand: LayerDemand;
  /** Images that use it. */
  users = 1;
  /** The loop of new mounts. */
  readonly loop: Promise<LoopDevice>;
  readonly #options: AttachedLayerOptions;
  /** By user: bytes per second of the rest of the layer that it wants in the background; Infinity: no limit. */
  readonly #rates = new Map<string, number>();
  /** By user: images may name the same. */
  readonly #supplies = new Map<string, Supply>();
  /** Further loops of the layer, under file systems that an earlier engine left: the last user of each detaches it. */
  #others: LoopDevice[] = [];
  #isLost = false;
  #isDirect = false;
  /** The kernel reads the device file, or is about to, or has just stopped: what a front end that starts now has to know. */
  #isPinned = false;
  /** Changes come one after the other. */
  #tail: Promise<void>;

  /** Attaches its loop `after` the layer's former one has been detached. */
  constructor(demand: LayerDemand, after: Promise<void>, options: AttachedLayerOptions) {
    this.demand = demand;
    this.#options = options;
    this.#tail = after;
    this.loop = after.then(() => this.#attach());
  }

  /** The kernel reads the device file by itself: no read needs a front end. */
  get isDirect(): boolean {
    return this.#isDirect;
  }

  /** A loop that an earlier engine left could not be repaired: what stands on it must be mounted anew. */
  get isLost(): boolean {
    return this.#isLost;
  }

  /** Resolves when the changes that are under way are over. */
  get settled(): Promise<void> {
    return this.#tail;
  }

  /** What a user's image names as the place of the layer's blocks; undefined: it has it no longer. Returns whether that is a change. */
  supply(user: string, demand: LayerDemand | undefined): boolean {
    const keys = () => [...this.#distinct.keys()].join();
    const before = keys();
    if (demand === undefined) this.#supplies.delete(user);
    else if (this.#supplies.size < MOST_SUPPLIES) this.#supplies.set(user, supplyOf(demand));
    return before !== keys();
  }

  /** Returns whether that is a change. 0: the user wants nothing in the background. */
  setRate(user: string, rate: number): boolean {
    if ((this.#rates.get(user) ?? 0) === rate) return false;
    if (rate > 0) this.#rates.set(user, rate);
    else this.#rates.delete(user);
    return true;
  }

  /** Has a front end serve it, as things are when it answers. Undefined: no image used the layer any more before that. */
  open(isWanted: () => boolean): Promise<OpenLayerReply | undefined> {
    const request = (): OpenLayer => {
      const [first, ...others] = this.#distinct.values();
      const supplied = { ...this.demand, ...first, ...(others.length === 0 ? {} : { others }) };
      return { ...supplied, ...pacing(this.#rates), direct: this.#isPinned };
    };
    return this.#options.front.askWhile('open', request, isWanted);
  }

  /** The device is whole and proven: the kernel reads it by itself from now on. */
  handOver(): Promise<void> {
    return this.#change('hand-over failed', async (loop) => {
      if (this.#isDirect || !(await this.#mayHandOver())) return;
      try {
        await this.#move(loop, this.#deviceFile);
      } catch (error) {
        // Reads go on through the front end: slower, as right as before.
        await this.#unpin();
        throw error;
      }
      this.#isDirect = true;
      this.#options.onDirect(this.demand.diffId);
    });
  }

  /** Reads come through the front end again, so that bytes of the device may be punched out. */
  takeBack(): Promise<void> {
    const { front, layout, onDirect, isEnding = () => false } = this.#options;
    const { diffId } = this.demand;
    // Where it fails the kernel may still read the device: nothing of it is punched out, and a front end that starts is told so.
    return this.#change('a device was not taken back', async (loop) => {
      if (!this.#isDirect || isEnding()) return;
      await front.ask('take-back', { diffId });
      if (isEnding()) throw new CofaError('not-running', 'the engine is stopping');
      // A `down` that looks meanwhile counts on it no longer.
      this.#isDirect = false;
      try {
        // The kernel waits for what is in flight to the device file; afterwards nothing reads it any more.
        await this.#move(loop, join(layout.devices(), hexOf(diffId)));
      } catch (error) {
        this.#isDirect = true;
        throw error;
      }
      onDirect(diffId);
      await this.#unpin();
    });
  }

  /** The FUSE mount is another one: what stood on the old one gives errors until it is moved. */
  moveToFuse(name: string): Promise<void> {
    return this.#change('a loop cannot be repaired', async (loop) => {
      if (!this.#isDirect) await this.#move(loop, join(this.#options.layout.devices(), name));
    });
  }

  get #distinct(): Map<string, Supply> {
    return new Map(Array.from(this.#supplies.values(), (supply) => [supplyKey(supply), supply]));
  }

  get #deviceFile(): string {
    return this.#options.layout.device(this.demand.diffId);
  }

  /** In turn, and not when the layer has no loop or no user any more. A failure is logged as `failure`. */
  #change(failure: string, change: (loop: LoopDevice) => Promise<void>): Promise<void> {
    const { log, isWanted } = this.#options;
    const { diffId } = this.demand;
    this.#tail = this.#tail.then(async () => {
      const loop = await this.loop.catch(() => undefined);
      if (loop === undefined || !isWanted(this)) return;
      await change(loop).catch((error: unknown) => log.error({ layer: diffId, error }, failure));
    });
    return this.#tail;
  }

  async #attach(): Promise<LoopDevice> {
    const { layout, label: engine, kernel = KERNEL } = this.#options;
    const opened = (await this.open(() => true)) as OpenLayerReply;
    this.#isDirect = isWhole(opened.state) && (await this.#mayHandOver());
    const file = this.#isDirect ? this.#deviceFile : join(layout.devices(), opened.name);
    const label = layerLabel(engine, this.demand.diffId);
    return (
      (await this.#adopt(label, file)) ??
      (await kernel.attachLoop(file, { directIo: true, readOnly: true, label }))
    );
  }

  /**
   * Takes over the loops that an earlier engine left for the layer, and moves them to `file`: file systems on them go
   * on where they are. The best one is returned, the others are kept right until their last user has gone.
   */
  async #adopt(label: string, file: string): Promise<LoopDevice | undefined> {
    const { leftovers, log } = this.#options;
    let best: LoopDevice | undefined;
    for (const { number, path, autoclear } of leftovers.take(label)) {
      const loop = { number, path, label };
      try {
        // One that reads the device file is as it should be; what looks like our FUSE file is the dead one's.
        if (!this.#isDirect || backingFileOf(loop) !== file) await changeBacking(loop, file);
        if (best === undefined && !autoclear) best = loop;
        else this.#others.push(loop);
      } catch (error) {
        this.#isLost = true;
        log.error({ layer: this.demand.diffId, loop: path, error }, 'a loop cannot be repaired');
      }
      if (best !== loop) await dismissLoop(loop).catch(() => {});
    }
    return best;
  }

  /** Moves the layer's loops to another file. A loop of an earlier engine may be gone, or stay where it is. */
  async #move(loop: LoopDevice, file: string): Promise<void> {
    await changeBacking(loop, file);
    const moveOther = async (other: LoopDevice) => {
      try {
        await changeBacking(other, file);
      } catch (error) {
        if (toErrorRecord(error).code === 'not-found') return [];
        const layer = this.demand.diffId;
        this.#options.log.error({ layer, loop: other.path, error }, 'a loop was not moved');
      }
      return [other];
    };
    this.#others = (await Promise.all(this.#others.map(moveOther))).flat();
  }

  /** The front end hears of a hand-over before it happens: no block may leave the device file afterwards. */
  async #mayHandOver(): Promise<boolean> {
    this.#isPinned = true;
    const reply = await this.#options.front.ask('handed-over', { diffId: this.demand.diffId });
    if (reply.state === 'handed-over') return true;
    await this.#unpin();
    return false;
  }

  async #unpin(): Promise<void> {
    this.#isPinned = false;
    await this.#options.front.ask('taken-back', { diffId: this.demand.diffId });
  }
}

/** Images that a layer remembers what they name; it is shared by more of them all the same. */
const MOST_SUPPLIES = 16;

/** One user without a limit is enough for there to be none. */
function pacing(rates: ReadonlyMap<string, number>): Pick<OpenLayer, 'prefetch' | 'limits'> {
  const limits = [...rates];
  const isLimited = limits.length > 0 && limits.every(([, rate]) => Number.isFinite(rate));
  return { prefetch: limits.length > 0, ...(isLimited ? { limits } : {}) };
}
