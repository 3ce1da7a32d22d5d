import type { ErrorCode } from '../../schemas/errors.ts';
import type { Random } from './random.ts';
import type { Plan } from './simulation-plan.ts';

/** A block of a job; `bad`: its bytes are. */
interface JobBlock {
  block: number;
  bad: boolean;
}

/** From the front end. */
export type JobMessage =
  | {
      kind: 'job';
      front: number;
      job: number;
      layer: number;
      layerJob: number;
      blocks: JobBlock[];
    }
  | { kind: 'stop'; front: number; job: number }
  | { kind: 'hold'; front: number; job: number; ms: number };

interface AboutJob {
  fetcher: string;
  front: number;
  job: number;
  layer: number;
  layerJob: number;
}
export type FetcherMessage =
  | { kind: 'hello'; fetcher: string; slots: number; life: number }
  | ({ kind: 'blocks'; firstBlock: number; count: number } & AboutJob)
  | ({ kind: 'done' } & AboutJob)
  | ({ kind: 'failed'; code: ErrorCode; retryable: boolean } & AboutJob);

interface World {
  random: Random;
  plan: () => Plan;
  /** Void after a power cut. */
  after: (ms: number, run: () => void) => void;
  write: (layer: number, block: number) => void;
  send: (message: FetcherMessage) => void;
}

/** A fetcher process: slow, mortal, and at times silent about a job for good. */
export class SimFetcher {
  readonly name: string;
  readonly #slots: number;
  readonly #world: World;
  readonly #running = new Set<string>();
  #hung = new Set<string>();
  /** Jobs that rest for a while, by the order that let them. */
  readonly #held = new Map<string, object>();
  /** Counts its processes. */
  life = 1;
  isUp = true;

  constructor(name: string, slots: number, world: World) {
    this.name = name;
    this.#slots = slots;
    this.#world = world;
  }

  hello(): void {
    this.#world.send({ kind: 'hello', fetcher: this.name, slots: this.#slots, life: this.life });
  }

  crash(): void {
    this.isUp = false;
    this.life += 1;
    this.#running.clear();
    this.#hung.clear();
    this.#held.clear();
  }

  start(): void {
    this.isUp = true;
    this.hello();
  }

  heal(): void {
    for (const key of this.#hung) this.#running.delete(key);
    this.#hung = new Set();
  }

  receive(message: JobMessage): void {
    if (!this.isUp) return;
    const key = `${message.front}/${message.job}`;
    if (message.kind === 'stop') {
      // A fetcher may heed it or not.
      if (this.#world.random.chance(0.5)) this.#running.delete(key);
      return;
    }
    if (message.kind === 'hold') {
      const order = {};
      this.#held.delete(key);
      if (message.ms === 0) return;
      this.#held.set(key, order);
      this.#world.after(message.ms, () => {
        if (this.#held.get(key) === order) this.#held.delete(key);
      });
      return;
    }
    if (this.#running.has(key)) return;
    this.#running.add(key);
    const { random, plan } = this.#world;
    if (random.chance(plan().hang)) {
      this.#hung.add(key);
      return;
    }
    const { front, job, layer, layerJob } = message;
    const about = { fetcher: this.name, front, job, layer, layerJob };
    this.#later(key, plan().latencyMs, () => this.#step(key, about, message.blocks, 0, 0));
  }

  /** Loads the job's block at `next`; those from `reported` on, neighbours, are written and not yet told. */
  #step(key: string, about: AboutJob, blocks: readonly JobBlock[], next: number, reported: number): void {
    const { random, plan, send, write } = this.#world;
    const end = blocks.length;
    const [first, here, behind] = [reported, next, next + 1].map((at) => blocks[at]);
    const report = () => {
      if (first === undefined || next === reported) return;
      send({ kind: 'blocks', firstBlock: first.block, count: next - reported, ...about });
    };
    const isBad = here?.bad === true && random.chance(0.6);
    const isLastOfBad = here?.bad === true && behind?.bad !== true;
    if (next < end && (isBad || isLastOfBad || random.chance(plan().fail))) {
      report();
      this.#running.delete(key);
      const isIntegrity = isBad || isLastOfBad;
      send({
        kind: 'failed',
        code: isIntegrity ? 'integrity' : 'unavailable',
        retryable: !isIntegrity,
        ...about,
      });
      return;
    }
    if (here === undefined) {
      report();
      this.#running.delete(key);
      send({ kind: 'done', ...about });
      return;
    }
    write(about.layer, here.block);
    next += 1;
    const isDue = next - reported >= plan().reportBlocks || behind?.block !== here.block + 1;
    if (isDue) report();
    const from = isDue ? next : reported;
    this.#later(key, plan().blockMs, () => this.#step(key, about, blocks, next, from));
  }

  #later(key: string, meanMs: number, run: () => void): void {
    const { life } = this;
    this.#world.after(meanMs * (0.5 + this.#world.random.next()), () => {
      if (this.life !== life || !this.#running.has(key)) return;
      if (this.#held.has(key)) this.#later(key, meanMs, run);
      else run();
    });
  }
}
