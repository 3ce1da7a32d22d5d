/**
 * How an engine ends, and in which order.
 *
 *     clean      `down`, SIGTERM, SIGINT: mounts are detached first; `down` refuses while one is in use
 *     replaced   another engine owns the node: this one answers and writes nothing more, and unmounts what it mounted
 *     failed     a stage of the start failed: what the start has opened is closed
 *
 * A part registers how it is closed when it is opened, with the step (`STEPS`). So an end in the middle of a start closes
 * what there is. A part that comes when its step has passed is closed at once.
 */
import type { Logger } from 'pino';
import { CofaError } from '../../schemas/errors.ts';
import type { Clock, Timer } from '../process/ports.ts';
import type { SupervisorPorts } from './ports.ts';

export type Way = 'clean' | 'replaced' | 'failed';

/** The order of every end: each step needs what the later ones close. A step begins when the one before is over. */
export const STEPS = [
  // The engine's own work first: it begins nothing new, and what runs is waited for, a little.
  'background',
  // From here on no command finds the engine.
  'endpoint',
  // A replaced engine unmounts early: the other one mounts in the same directories.
  'mounts',
  // `engine.stopped` and the last snapshot need NATS.
  'log',
  // What is on its way to NATS and to registries is brought.
  'connections',
  // containerd's calls mount and unmount: its door closes before the readers' one.
  'snapshotter',
  // The front end answers its readers and appends what has come. Then the FUSE connection is aborted, so that no read waits
  // for a process that has ended.
  'readers',
  // All other processes append to the log to their end.
  'nats',
  // Now another engine may take the root.
  'root',
] as const;

export type Step = (typeof STEPS)[number];
export type Close = () => unknown;

/**
 * An end that takes longer is cut short, ms: what waits fails, and every process is killed. A failed start is told instead: its
 * caller ends the process.
 */
const LIMIT_MS: Record<Way, number> = { clean: 30_000, replaced: 30_000, failed: 10_000 };

export interface EndOptions {
  log: Logger;
  ports: Pick<SupervisorPorts, 'clock' | 'self'>;
}

export class End {
  readonly #options: EndOptions;
  readonly #closers = new Map<Step, Array<Partial<Record<Way, Close>>>>();
  readonly #passed = new Set<Step>();
  readonly #cuts: Close[] = [];
  readonly #over = Promise.withResolvers<void>();
  #way: Way | undefined;
  #isNear = false;
  #limit: Timer | undefined;

  constructor(options: EndOptions) {
    this.#options = options;
    this.#over.promise.catch(() => {});
  }

  /** Resolves when a clean end is over; rejects, with its reason, when another one is. */
  get over(): Promise<void> {
    return this.#over.promise;
  }

  /** It has begun; there is no way back. */
  get hasBegun(): boolean {
    return this.#way !== undefined;
  }

  /** It has begun, or `down` has mounts detached: processes may end, and new work is refused. */
  get isNear(): boolean {
    return this.#isNear;
  }

  /** Error `not-running` when the end is near. */
  refuseWhenNear(): void {
    if (this.#isNear) throw new CofaError('not-running', 'the engine is stopping');
  }

  /** Has `close` called in this step, in every way of ending or in those that are named. */
  at(step: Step, close: Close | Partial<Record<Way, Close>>): void {
    const ways = typeof close === 'function' ? { clean: close, replaced: close, failed: close } : close;
    if (this.#passed.has(step)) void this.#close(step, ways);
    else this.#closers.set(step, [...(this.#closers.get(step) ?? []), ways]);
  }

  /** Has `cut` called when an end is cut short: it makes what waits in the kernel fail. */
  atCut(cut: Close): void {
    this.#cuts.push(cut);
  }

  /**
   * `down`. `detach` takes the mounts out of the kernel and returns what is in use, a directory each and by whom. The engine ends
   * when the answer is on its way. Errors: `busy`, then nothing has changed; those of `detach`.
   */
  async down(detach: () => Promise<readonly string[]>): Promise<void> {
    this.refuseWhenNear();
    this.#isNear = true;
    try {
      const busy = await detach();
      if (busy.length > 0) {
        throw new CofaError('busy', `in use and not complete yet: ${busy.join('; ')}`, {
          hint: 'end what uses them, wait until the images are complete (cofa status), or: cofa down --force',
        });
      }
    } catch (error) {
      this.#isNear = this.hasBegun;
      throw error;
    }
    setImmediate(() => void this.#run('clean'));
  }

  /** SIGTERM and SIGINT end the engine from now on, also where mounts are in use. */
  obeySignals(detach: () => Promise<unknown>): void {
    const { log, ports } = this.#options;
    const off = ports.self.onSignal(() => {
      // `down` is at work already.
      if (this.#isNear) return;
      this.#isNear = true;
      this.#limitTo('clean');
      void detach()
        .catch((error: unknown) => log.error({ error }, 'mounts stay'))
        .then(() => this.#run('clean'));
    });
    this.at('root', off);
  }

  /** Another engine owns the node now. */
  replaced(error: CofaError): void {
    this.#options.log.fatal({ error }, 'another engine has taken over this node: this one ends');
    void this.#run('replaced', error);
  }

  /** The start failed. Nothing where the engine ends already: the failure follows from that. */
  failed(error: unknown): void {
    void this.#run('failed', error);
  }

  async #run(way: Way, reason?: unknown): Promise<void> {
    if (this.#way !== undefined) return;
    this.#way = way;
    this.#isNear = true;
    this.#limitTo(way, reason);
    for (const step of STEPS) {
      this.#passed.add(step);
      await Promise.all((this.#closers.get(step) ?? []).map((ways) => this.#close(step, ways)));
    }
    this.#limit?.cancel();
    if (way === 'clean') this.#over.resolve();
    else this.#over.reject(reason);
  }

  /** What does not close keeps none of the later steps from closing. */
  async #close(step: Step, ways: Partial<Record<Way, Close>>): Promise<void> {
    try {
      await ways[this.#way as Way]?.();
    } catch (error) {
      this.#options.log.error({ step, error }, 'a step of the end failed');
    }
  }

  #limitTo(way: Way, reason?: unknown): void {
    const { log, ports } = this.#options;
    this.#limit ??= ports.clock.after(LIMIT_MS[way], () => {
      if (way === 'failed') return this.#over.reject(reason);
      log.error('the end takes too long: what waits fails, and every process is killed');
      try {
        for (const cut of this.#cuts) cut();
      } finally {
        ports.self.kill();
      }
    });
  }
}

/** Waits for `work`, for so long, ms. */
export async function within(clock: Clock, ms: number, work: Promise<unknown>): Promise<void> {
  const late = Promise.withResolvers<void>();
  const timer = clock.after(ms, late.resolve);
  try {
    await Promise.race([work, late.promise]);
  } finally {
    timer.cancel();
  }
}
