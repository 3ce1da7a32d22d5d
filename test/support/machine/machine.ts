/**
 * A machine of simulated time on which the engine's own programs run: `src/supervisor/main.ts`, `src/front-end/main.ts`
 * and all that they import, unchanged. Everything below them is simulated: clock, chance, files, kernel (stand-ins/),
 * NATS, registry, fetchers.
 *
 * Every program runs inside an asynchronous context that names its process (AsyncLocalStorage). The ambient functions
 * of Node (timers, clock, random bytes, files, spawn, process.kill …) are replaced by ones that look there: in the
 * context of a simulated process they are simulated, outside of any they are Node's own. A killed process never gets
 * what it waits for: its promises stay pending and are collected.
 *
 * The machine takes one event at a time from the queue. Everything that follows from it without waiting runs to its end
 * before the next one (microtasks are drained), so a run follows from its seed alone.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { EventEmitter } from 'node:events';
import { Random } from '../random.ts';

/** A rule was broken. */
export class Violation extends Error {}

export interface Handle {
  readonly at: number;
  readonly order: number;
  run: (() => void) | undefined;
}

const context = new AsyncLocalStorage<SimProcess>();

/** The simulated process in whose context this runs. */
export const currentProcess = (): SimProcess | undefined => context.getStore();

/** The machine that runs now; there is one at a time. */
let running: Machine | undefined;
export function machine(): Machine {
  if (running === undefined) throw new Error('no simulated machine runs');
  return running;
}

function makeRunning(next: Machine): void {
  running = next;
}

export const realTimers = { setImmediate: globalThis.setImmediate };

export class SimProcess {
  readonly pid: number;
  readonly name: string;
  readonly argv: string[];
  readonly parent: SimProcess | undefined;
  /** Inherited descriptors from 3 on. */
  readonly descriptors: unknown[];
  readonly machine: Machine;
  /** Signal from the kernel when its parent dies. */
  readonly deathSignal: 'SIGTERM' | 'SIGKILL' | undefined;
  /** Emits signals and the end. */
  readonly events = new EventEmitter();
  readonly #onEnd: Array<() => void> = [];
  isAlive = true;
  /** Folder of the engine that it belongs to. */
  readonly root: string | undefined;
  /** The channel to its parent (IPC), where it has one. */
  send: ((message: unknown) => void) | undefined;

  constructor(
    machine: Machine,
    options: {
      pid: number;
      name: string;
      argv: string[];
      parent?: SimProcess | undefined;
      descriptors?: unknown[];
      deathSignal?: 'SIGTERM' | 'SIGKILL' | undefined;
      root?: string | undefined;
    },
  ) {
    this.root = options.root ?? options.parent?.root;
    this.machine = machine;
    this.pid = options.pid;
    this.name = options.name;
    this.argv = options.argv;
    this.parent = options.parent;
    this.descriptors = options.descriptors ?? [];
    this.deathSignal = options.deathSignal;
  }

  /** Runs something as this process: after its stop has ended, and never when it is dead. */
  enter(run: () => void): void {
    if (!this.isAlive) return;
    if (this.#held !== undefined) this.#held.push(run);
    else context.run(this, run);
  }

  onEnd(run: () => void): void {
    this.#onEnd.push(run);
  }

  /** Ends the process, with everything that it waits for. */
  end(code: number | null, signal: string | null): void {
    if (!this.isAlive) return;
    this.isAlive = false;
    this.machine.trace(`${this.name} ${this.pid} ends: ${signal ?? code}`);
    for (const run of this.#onEnd) run();
    this.machine.ended(this, code, signal);
  }

  /** Calls that wait for the end of a stop (SIGSTOP). */
  #held: Array<() => void> | undefined;

  signal(name: string): void {
    if (!this.isAlive) return;
    if (name === 'SIGSTOP') this.#held ??= [];
    if (name === 'SIGCONT') {
      const held = this.#held ?? [];
      this.#held = undefined;
      for (const run of held) this.enter(run);
    }
    if (name === 'SIGSTOP' || name === 'SIGCONT') {
      this.machine.trace(`${this.name} ${this.pid}: ${name}`);
      return;
    }
    if (name !== 'SIGKILL' && (this.#held !== undefined || this.events.listenerCount(name) > 0))
      this.enter(() => this.events.emit(name));
    else this.end(null, name);
  }
}

export class Machine {
  readonly random: Random;
  readonly seed: number;
  now = 0;
  /** Counts boots; calls that the kernel began before are void. */
  boot = 1;
  events = 0;
  readonly processes = new Map<number, SimProcess>();
  readonly met: Record<string, number> = {};
  #broken: Violation | undefined;
  readonly #heap: Handle[] = [];
  #order = 0;
  #nextPid = 100;
  #hash = 0x811c9dc5;
  readonly #recent: string[] = [];
  readonly #onTrace: ((line: string) => void) | undefined;

  constructor(seed: number, onTrace?: (line: string) => void) {
    this.seed = seed;
    this.random = new Random(seed);
    this.#onTrace = onTrace;
    makeRunning(this);
  }

  // ── Time ──

  after(ms: number, run: () => void): Handle {
    const handle: Handle = { at: this.now + Math.max(0, ms), order: this.#order++, run };
    if (Number.isFinite(handle.at)) push(this.#heap, handle);
    return handle;
  }

  /** Runs the next event; false when there is none before `end`. */
  async step(end: number): Promise<boolean> {
    for (;;) {
      const next = this.#heap[0];
      if (next === undefined || next.at > end) {
        this.now = Math.max(this.now, end);
        return false;
      }
      pop(this.#heap);
      const { run } = next;
      if (run === undefined) continue;
      this.now = Math.max(this.now, next.at);
      this.events += 1;
      run();
      await this.drain();
      // The program may have caught a violation thrown inside of it.
      if (this.#broken !== undefined) throw this.#broken;
      return true;
    }
  }

  /** Runs everything that follows without waiting. */
  drain(): Promise<void> {
    return new Promise((resolve) => realTimers.setImmediate(resolve));
  }

  // ── What happened ──

  trace(line: string): void {
    const text = `${this.now.toFixed(2)} ${line}`;
    for (let at = 0; at < text.length; at++)
      this.#hash = Math.imul(this.#hash ^ text.charCodeAt(at), 0x01000193);
    this.#recent.push(text);
    this.#onTrace?.(text);
    if (this.#recent.length > 600) this.#recent.splice(0, 300);
  }

  get hash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0');
  }

  meet(what: string, count = 1): void {
    this.met[what] = (this.met[what] ?? 0) + count;
  }

  fail(rule: string): never {
    const recent = this.#recent.slice(-60).join('\n  ');
    this.#broken ??= new Violation(`seed ${this.seed}, ${this.now.toFixed(2)} ms: ${rule}\n  ${recent}`);
    throw this.#broken;
  }

  check(isOk: boolean, rule: () => string): void {
    if (!isOk) this.fail(rule());
  }

  // ── Processes ──

  start(options: {
    name: string;
    argv: string[];
    parent?: SimProcess | undefined;
    descriptors?: unknown[];
    deathSignal?: 'SIGTERM' | 'SIGKILL' | undefined;
    root?: string | undefined;
  }): SimProcess {
    const process = new SimProcess(this, { ...options, pid: this.#nextPid++ });
    this.processes.set(process.pid, process);
    this.trace(`${process.name} ${process.pid} starts`);
    return process;
  }

  /** Ends the children that die with a process. */
  ended(process: SimProcess, code: number | null, signal: string | null): void {
    this.processes.delete(process.pid);
    for (const child of Array.from(this.processes.values()))
      if (child.parent === process && child.deathSignal !== undefined)
        this.after(0, () => child.signal(child.deathSignal as string));
    const { parent } = process;
    if (parent === undefined) return;
    this.after(this.random.next() * 3, () => parent.enter(() => process.events.emit('reaped', code, signal)));
  }

  /**
   * A system call of the present process that takes a while. `effect` happens in the kernel at some moment in it,
   * whether or not the process lives to see its end; the process gets what it throws or returns.
   */
  call<T>(ms: number, effect: () => T): Promise<T> {
    const process = currentProcess();
    const { boot } = this;
    if (process === undefined) throw new Error('a system call outside of any process');
    return new Promise((resolve, reject) => {
      this.after(ms * this.random.next(), () => {
        if (this.boot !== boot) return;
        // A killed process may have entered the kernel before its end, or not.
        if (!process.isAlive && this.random.chance(0.5)) return;
        let done: () => void;
        try {
          const value = effect();
          done = () => resolve(value);
        } catch (error) {
          if (error instanceof Violation) throw error;
          done = () => reject(error);
        }
        this.after(ms * this.random.next() * 0.5, () => process.enter(done));
      });
    });
  }

  /** Waits in the context of the present process. */
  sleep(ms: number): Promise<void> {
    const process = currentProcess();
    return new Promise((resolve) => this.after(ms, () => process?.enter(resolve)));
  }

  /** Stops everything, processes first; the kernel forgets its state, and the disk keeps what is durable. */
  cutPower(): void {
    this.trace('power cut');
    this.boot += 1;
    for (const process of Array.from(this.processes.values())) {
      process.isAlive = false;
      this.processes.delete(process.pid);
    }
  }
}

// A binary heap by time, then by order.

function isBefore(a: Handle, b: Handle): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

function push(heap: Handle[], item: Handle): void {
  let at = heap.length;
  heap.push(item);
  while (at > 0) {
    const up = (at - 1) >> 1;
    if (!isBefore(item, heap[up] as Handle)) break;
    heap[at] = heap[up] as Handle;
    at = up;
  }
  heap[at] = item;
}

function pop(heap: Handle[]): void {
  const item = heap.pop() as Handle;
  if (heap.length === 0) return;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && isBefore(heap[child + 1] as Handle, heap[child] as Handle)) child += 1;
    if (!isBefore(heap[child] as Handle, item)) break;
    heap[at] = heap[child] as Handle;
    at = child;
  }
  heap[at] = item;
}
