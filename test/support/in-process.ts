/**
 * What a program of the engine is handed instead of a process of its own: a parent, a clock that knows what it still runs, and a
 * transport without a kernel. With it a test constructs front ends and fetchers beside itself.
 */
import { readdirSync } from 'node:fs';
import type { StandbyTransport } from '../../src/front-end/devices.ts';
import {
  BLOCK_PRESENT,
  type ColdRead,
  type DeviceFile,
  type FuseTransport,
  type TransportCounters,
} from '../../src/fuse/transport.ts';
import type { FromChild, ToChild } from '../../src/process/parent-link.ts';
import { type Clock, realPorts, type Timer } from '../../src/process/ports.ts';
import type { ChildSelf } from '../../src/process/self.ts';

/** The real clock; `running` counts the timers that have neither run nor been cancelled. */
export function countedClock(): { clock: Clock; running: () => number } {
  const { clock } = realPorts();
  const timers = new Set<object>();
  const counted = (make: (done: () => void) => Timer): Timer => {
    const key = {};
    timers.add(key);
    const timer = make(() => timers.delete(key));
    const made: Timer = {
      cancel: () => {
        timers.delete(key);
        timer.cancel();
      },
      unref: () => {
        timer.unref();
        return made;
      },
    };
    return made;
  };
  return {
    clock: {
      ...clock,
      after: (ms, run) =>
        counted((done) =>
          clock.after(ms, () => {
            done();
            run();
          }),
        ),
      every: (ms, run) => counted(() => clock.every(ms, run)),
    },
    running: () => timers.size,
  };
}

/** The supervisor's end of a link, and the process that has the other one. */
export class SelfInTest implements ChildSelf {
  readonly pid = process.pid;
  /** What the program has said. */
  readonly said: Array<FromChild['kind']> = [];
  /** How the process would have ended, once it would have. */
  readonly ended: Promise<'exit' | 'kill'>;
  readonly #ended = Promise.withResolvers<'exit' | 'kill'>();
  readonly #listeners: Array<(message: ToChild) => void> = [];
  readonly #heard: Array<{ kind: FromChild['kind']; resolve: () => void }> = [];
  readonly #signals = new Set<() => void>();
  readonly parent = {
    send: ({ kind }: FromChild) => {
      this.said.push(kind);
      for (const heard of this.#heard) if (heard.kind === kind) heard.resolve();
    },
    onMessage: (take: (message: ToChild) => void) => void this.#listeners.push(take),
    onGone: () => {},
  };

  constructor() {
    this.ended = this.#ended.promise;
  }

  /** As the supervisor says it. */
  tell(kind: 'begin' | 'retire' | 'work'): void {
    for (const take of this.#listeners) take({ kind });
  }

  /** Resolves when the program has said it. */
  hears(kind: FromChild['kind']): Promise<void> {
    if (this.said.includes(kind)) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#heard.push({ kind, resolve });
    return promise;
  }

  signal(): void {
    for (const listener of this.#signals) listener();
  }

  onSignal(listener: () => void): () => void {
    this.#signals.add(listener);
    return () => void this.#signals.delete(listener);
  }

  onFailure(): void {}

  exit(): void {
    this.#ended.resolve('exit');
  }

  kill(): void {
    this.#ended.resolve('kill');
  }
}

/** Serves what a test reads, as src/fuse/kernel-transport.ts serves the kernel. */
export class TransportInTest implements FuseTransport {
  readonly files = new Map<string, DeviceFile>();
  readonly ended: Promise<Error | undefined>;
  isServing = false;
  isSettled = false;
  readonly #cold: ColdRead;
  readonly #ended = Promise.withResolvers<Error | undefined>();
  readonly #counters: TransportCounters = { reads: 0, hits: 0, misses: 0, errors: 0, bytes: 0 };

  constructor(cold: ColdRead) {
    this.#cold = cold;
    this.ended = this.#ended.promise;
  }

  get standby(): StandbyTransport {
    return {
      begin: async () => {
        this.isServing = true;
        return this;
      },
      settled: () => void (this.isSettled = true),
      trouble: () => undefined,
    };
  }

  /** Resolves with the errno of the read, 0: its bytes are in the device file. */
  read(name: string, offset: number, length: number): Promise<number> {
    const file = this.files.get(name);
    if (file === undefined) throw new Error(`${name} is not served`);
    const states = new Uint8Array(file.blocks);
    const first = Math.floor(offset / file.blockSize);
    const end = Math.ceil((offset + length) / file.blockSize);
    this.#counters.reads += 1;
    if (states.subarray(first, end).every((state) => state === BLOCK_PRESENT)) {
      this.#counters.hits += 1;
      return Promise.resolve(0);
    }
    this.#counters.misses += 1;
    return new Promise((resolve) => this.#cold(file, offset, length, resolve));
  }

  add(file: DeviceFile): void {
    this.files.set(file.name, file);
  }

  remove(inode: number): void {
    for (const [name, file] of this.files) if (file.inode === inode) this.files.delete(name);
  }

  async stop(): Promise<void> {
    this.isServing = false;
    this.#ended.resolve(undefined);
  }

  async quiesce(): Promise<void> {}

  counters(): TransportCounters {
    return { ...this.#counters };
  }
}

/** How many descriptors this process has open. */
export const openDescriptors = (): number => readdirSync('/proc/self/fd').length;
