/**
 * The processors of the node: fetchers decode, each in one thread, while the program computes. Where more want to run than there
 * are cores, all get the same share. Work of the rest of the image runs at idle priority while no reader waits: it gets what
 * others leave.
 */
import type { SimulatedClock } from './clock.ts';

interface Task {
  left: number;
  readonly isIdle: boolean;
  readonly done: () => void;
}

/** What others leave of a busy processor to work at idle priority. */
const LEAST_SHARE = 0.02;

export class Processors {
  readonly #clock: SimulatedClock;
  readonly #cores: number;
  /** By thread, what it is to do; the first one runs. */
  readonly #threads = new Map<string, Task[]>();
  /** What the program computes before its next reads: one thread, however many reads follow. */
  readonly #program = new Set<Task>();
  #hasReaders = false;
  #since = 0;
  #cancel: (() => void) | undefined;

  constructor(clock: SimulatedClock, cores: number) {
    this.#clock = clock;
    this.#cores = cores;
  }

  /** So many ms of work for a thread, behind what it has. */
  work(thread: string, ms: number, done: () => void, isIdle = false): void {
    this.#change(() => {
      const task = { left: ms, isIdle, done };
      const tasks = this.#threads.get(thread);
      if (tasks === undefined) this.#threads.set(thread, [task]);
      else tasks.push(task);
    });
  }

  /** The program computes for so many ms. */
  compute(ms: number, done: () => void): void {
    this.#change(() => this.#program.add({ left: ms, isIdle: false, done }));
  }

  /** A reader waits, or none does any more: fetchers are raised, or may run at idle priority again. */
  set hasReaders(hasReaders: boolean) {
    if (hasReaders !== this.#hasReaders) this.#change(() => (this.#hasReaders = hasReaders));
  }

  #isIdle({ isIdle }: Task): boolean {
    return isIdle && !this.#hasReaders;
  }

  #change(change: () => void): void {
    this.#advance();
    change();
    this.#plan();
  }

  /** How fast threads go, by their priority. */
  #speeds(): { normal: number; idle: number } {
    let normal = this.#program.size > 0 ? 1 : 0;
    let idle = 0;
    for (const [task] of this.#threads.values()) {
      if (task === undefined) continue;
      if (this.#isIdle(task)) idle += 1;
      else normal += 1;
    }
    const left = Math.max(LEAST_SHARE * this.#cores, this.#cores - normal);
    return {
      normal: Math.min(1, this.#cores / Math.max(1, normal)),
      idle: Math.min(1, left / Math.max(1, idle)),
    };
  }

  *#running(): IterableIterator<Task> {
    yield* this.#program;
    for (const [task] of this.#threads.values()) if (task !== undefined) yield task;
  }

  #advance(): void {
    const ms = this.#clock.now - this.#since;
    this.#since = this.#clock.now;
    if (ms === 0) return;
    const { normal, idle } = this.#speeds();
    for (const task of this.#running()) task.left -= ms * (this.#isIdle(task) ? idle : normal);
  }

  #plan(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    const { normal, idle } = this.#speeds();
    let next = Number.POSITIVE_INFINITY;
    for (const task of this.#running())
      next = Math.min(next, Math.max(0, task.left) / (this.#isIdle(task) ? idle : normal));
    if (next < Number.POSITIVE_INFINITY) this.#cancel = this.#clock.after(next, () => this.#end());
  }

  #end(): void {
    this.#cancel = undefined;
    this.#advance();
    const ended: Task[] = [];
    // What is left of a nanosecond is rounding.
    for (const task of this.#program) if (task.left <= 1e-6) ended.push(task);
    for (const task of ended) this.#program.delete(task);
    for (const [thread, tasks] of this.#threads) {
      const [task] = tasks;
      if (task === undefined || task.left > 1e-6) continue;
      tasks.shift();
      if (tasks.length === 0) this.#threads.delete(thread);
      ended.push(task);
    }
    this.#plan();
    for (const { done } of ended) done();
  }
}
