/** What the stand-ins find on the simulated machine: disk, kernel, NATS servers, registry, descriptors. */
import { createHash } from 'node:crypto';
import { CofaError } from '../../../schemas/errors.ts';
import type { FetchJob, Job } from '../../../schemas/fetch.ts';
import type { LocalHandler } from '../../../src/bus/local-socket.ts';
import { decode, encode } from './wire.ts';
import { SimBlackBox } from './black-box.ts';
import { BLOCK, FORGED, GARBAGE, RIGHT, SimDisk, type SimFile } from './disk.ts';
import { besideOf, forgeryOf, poisonedBy } from './forgeries.ts';
import { digest, flatOf } from './names.ts';
import { Kernel } from './kernel.ts';
import { currentProcess, Machine, type SimProcess } from './machine.ts';
import { NatsServer, NatsStore } from './nats.ts';
import { drawPlan, type Plan } from './plan.ts';
import type { Sabotage } from './sabotage.ts';

export interface SimLayer {
  diffId: string;
  /** Block root, and so the id of the layer where it comes with a table that says so. */
  root: string;
  blob: string;
  /** Blocks of each span. */
  spans: number[];
  blockCount: number;
  size: number;
  /** What an attacker's table says of the layer: his bytes pass its checks, but for the last block. */
  isForged?: boolean;
}

export interface SimImage {
  ref: string;
  manifest: string;
  layers: SimLayer[];
  isIndexed: boolean;
  /** The metadata that the layers give. */
  flat: Buffer;
  /** The metadata in the sidecar. */
  offered: Buffer;
  sidecar: string;
  /** A sidecar of an attacker's beside it: genuine metadata, and tables of his where `layers` are forged. */
  beside?: { digest: string; layers: SimLayer[]; isPreferred: boolean } | undefined;
  /** It is the attacker's own: its blobs are not what its config says. */
  isAttackers?: true;
}

/** A block that has gone bad on the disk. */
export interface Rot {
  /** The layer's id. */
  diffId: string;
  file: SimFile;
  block: number;
  at: number;
  /** A scrub that began later has ended: from then on no read may get the block. */
  foundAt: number;
}

/** The front end may give up a fetcher that is silent for so long, ms. */
const GIVEN_UP_MS = 4_000;

export type LocalHandlers = Readonly<Record<string, LocalHandler>>;

let present: World | undefined;
export function world(): World {
  if (present === undefined) throw new Error('no simulated world');
  return present;
}

function makePresent(next: World): void {
  present = next;
}

export class World {
  readonly machine: Machine;
  readonly disk = new SimDisk();
  readonly kernel: Kernel;
  plan: Plan;
  readonly sabotage: Sabotage | undefined;
  readonly layers: SimLayer[];
  /** What an attacker's tables say of layers. */
  readonly forgeries: SimLayer[];
  readonly images: SimImage[];
  readonly servers = new Map<string, NatsServer>();
  readonly stores = new Map<string, NatsStore>();
  readonly locks = new Map<string, SimProcess>();
  /** Unix sockets by path. */
  readonly sockets = new Map<string, { process: SimProcess; handlers: LocalHandlers }>();
  readonly blackBox = new SimBlackBox(this);
  /** The last death of a process on which others depend. */
  disturbedAt = 0;
  readonly #fetches = new Set<{
    job: FetchJob;
    signal: AbortSignal;
    process: SimProcess;
    since: number;
  }>();
  /** Blocks that the disk has changed: no process can know before a scrub has seen them. */
  readonly rotten: Rot[] = [];
  isDiskFull = false;
  isNatsFull = false;
  readonly #descriptors = new Map<number, unknown>();
  #nextDescriptor = 10;
  readonly #frontLostAt = new Map<string, number>();
  #nextPort = 20_000;
  readonly #onSay: ((line: string) => void) | undefined;

  constructor(
    seed: number,
    options: { sabotage?: Sabotage | undefined; onTrace?: ((line: string) => void) | undefined } = {},
  ) {
    this.machine = new Machine(seed, options.onTrace);
    this.#onSay = options.onTrace;
    this.sabotage = options.sabotage;
    this.kernel = new Kernel(this.machine, this.disk);
    this.kernel.caller = () => currentProcess()?.pid ?? 0;
    this.plan = drawPlan(this.machine.random);
    this.layers = this.plan.layers.map((spans, at) => {
      const blockCount = spans.reduce((sum, count) => sum + count, 0);
      return {
        diffId: digest(`layer ${at}`),
        root: digest(`root of layer ${at}`),
        blob: digest(`blob ${at}`),
        spans,
        blockCount,
        size: blockCount * BLOCK,
      };
    });
    this.forgeries = this.plan.attacked.map((at) => forgeryOf(this.layers[at] as SimLayer));
    const honest = this.plan.images.map((layers, at): SimImage => {
      const mine = layers.map((index) => this.layers[index] as SimLayer);
      const flat = flatOf(mine);
      const ref = `registry.sim:5000/image${at}:1`;
      return {
        ref,
        manifest: digest(`manifest ${at}`),
        layers: mine,
        isIndexed: this.plan.indexed[at] === true,
        flat,
        offered: offeredBy(flat, this.plan.forged[at]),
        sidecar: digest(`sidecar ${ref}`),
        beside: besideOf(mine, this.forgeries, this.plan.besides[at], ref),
      };
    });
    this.images = [...honest, ...poisonedBy(this.plan, this.forgeries, this.layers)];
    for (const { isAttackers, layers } of this.images)
      if (isAttackers === true) this.forgeries.push(...layers.filter(({ isForged }) => isForged === true));
    makePresent(this);
  }

  /** A descriptor for a simulated thing; numbers are never used again. */
  descriptor(what: unknown): number {
    const fd = this.#nextDescriptor++;
    this.#descriptors.set(fd, what);
    return fd;
  }

  behind(fd: number): unknown {
    return this.#descriptors.get(fd);
  }

  nextPort(): number {
    return this.#nextPort++;
  }

  /** Called before bytes are written. Throws ENOSPC. */
  spend(_bytes: number): void {
    if (!this.isDiskFull) return;
    this.machine.meet('disk full');
    throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC', errno: -28 });
  }

  /** Since when no front end of the engine has been ready, ms; undefined while one is, or before the first one. */
  frontLostAt(root: string): number | undefined {
    return this.#frontLostAt.get(root);
  }

  /** A message of a process to the one that started it. */
  told(process: SimProcess, message: unknown): void {
    const { root } = process;
    if (process.name !== 'front-end' || root === undefined) return;
    if ((message as { kind?: unknown }).kind !== 'ready') return;
    this.#frontLostAt.delete(root);
    process.onEnd(() => this.#frontLostAt.set(root, this.machine.now));
  }

  /** A line that a process writes into its log. */
  say(process: SimProcess, line: string): void {
    this.#onSay?.(`${this.machine.now.toFixed(2)} ${process.name} says ${line.trimEnd()}`);
    // A stand-in lacks what its module has; or the engine is wrong.
    this.machine.check(!line.includes('is not a function'), () => `${process.name} says ${line.trimEnd()}`);
  }

  /** By its id or its diffID. */
  layer(diffId: string): SimLayer {
    const found =
      this.forgeries.find(({ root }) => root === diffId) ??
      this.layers.find((layer) => layer.diffId === diffId || layer.root === diffId);
    if (found === undefined) throw new CofaError('not-found', `no layer ${diffId}`);
    return found;
  }

  /** What a block holds that passed the check of the layer's table. `id`: the layer's. */
  checked(id: string): number {
    return this.layer(id).isForged === true ? FORGED : RIGHT;
  }

  /** The server at a URL, made when a process serves there for the first time. */
  server(url: string, store: NatsStore): NatsServer {
    const known = this.servers.get(url);
    if (known !== undefined) return known;
    const plan = () => this.plan;
    const full = () => this.isNatsFull || this.isDiskFull;
    const faults = {
      get delayMs() {
        return plan().natsDelayMs;
      },
      get loseAck() {
        return plan().loseAck;
      },
      get isFull() {
        return full();
      },
    };
    const server = new NatsServer(this.machine, url, store, faults);
    if (this.sabotage === 'double-fetch') server.twin = (subject, bytes) => this.#doubled(subject, bytes);
    this.servers.set(url, server);
    return server;
  }

  #doubled(subject: string, bytes: Uint8Array): Uint8Array | undefined {
    if (!subject.includes('.worker.job.') || !this.machine.random.chance(0.1)) return undefined;
    const job = decode<Job>(bytes);
    return encode({ ...job, job: job.job + 1_000_000 });
  }

  /** A fetch begins. One front end must not fetch the same blocks twice at once, unless it gave the first fetch up. */
  fetching(job: FetchJob, signal: AbortSignal): () => void {
    const { machine } = this;
    const mine = { job, signal, process: currentProcess() as SimProcess, since: machine.now };
    for (const other of this.#fetches) {
      const isApart = other.job.runs.every(([first, count]) =>
        job.runs.every(([mine, mineCount]) => first + count <= mine || mine + mineCount <= first),
      );
      if (isApart || other.job.layer !== job.layer || other.job.front !== job.front) continue;
      if (!other.process.isAlive || other.signal.aborted || other.job.job === job.job) continue;
      // A front end that lost its connection to NATS or to a fetcher may believe the fetcher dead.
      if (this.disturbedAt >= other.since - 1_000 || machine.now - other.since > GIVEN_UP_MS) continue;
      machine.fail(`jobs ${other.job.job} and ${job.job} fetch the same blocks of ${job.layer} at once`);
    }
    this.#fetches.add(mine);
    return () => this.#fetches.delete(mine);
  }

  store(folder: string): NatsStore {
    const known = this.stores.get(folder) ?? new NatsStore();
    this.stores.set(folder, known);
    return known;
  }

  /** The disk changes a block that was right, on the platter and so for all readers. */
  rot(): void {
    const { random } = this.machine;
    const places: Array<Omit<Rot, 'at' | 'foundAt'>> = [];
    for (const { root: diffId, blockCount } of this.layers) {
      const file = this.device('/sim/root', diffId);
      for (let block = 0; block < blockCount; block++)
        if (file?.blocks?.[block] === RIGHT && file.isSynced(block)) places.push({ diffId, file, block });
    }
    if (places.length === 0) return;
    const place = random.pick(places);
    this.machine.meet('blocks that rot');
    this.machine.trace(`block ${place.block} of ${place.diffId.slice(0, 14)} rots`);
    (place.file.blocks as Uint8Array)[place.block] = GARBAGE;
    (place.file.durable.blocks as Uint8Array)[place.block] = GARBAGE;
    this.rotten.push({ ...place, at: this.machine.now, foundAt: Number.POSITIVE_INFINITY });
  }

  /** Whether the block has rotted, and no process could know of it at `since`. */
  isRotten(file: SimFile | undefined, block: number, since: number): boolean {
    return this.rotten.some((rot) => rot.file === file && rot.block === block && rot.foundAt > since);
  }

  /** A scrub of the layer that began at `since` has ended well. */
  scrubbed(diffId: string, since: number): void {
    for (const rot of this.rotten)
      if (rot.diffId === diffId && rot.at < since) rot.foundAt = Math.min(rot.foundAt, this.machine.now);
  }

  /** The device file of a layer below a root, if it is there. */
  device(root: string, diffId: string): SimFile | undefined {
    return this.disk.file(`${root}/layers/${diffId.slice(7)}/device`);
  }
}

function offeredBy(flat: Buffer, forged: Plan['forged'][number]): Buffer {
  if (forged === undefined) return flat;
  const { devices } = JSON.parse(flat.toString()) as { devices: object[] };
  return Buffer.from(
    JSON.stringify({ devices: forged === 'hiding' ? devices.slice(0, 1) : devices, forged }),
  );
}

export { digest } from './names.ts';

export const digestOf = (bytes: Uint8Array): string =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
