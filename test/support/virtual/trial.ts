/** One system under trial: its machine, what is outside, and which step it is at. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../random.ts';
import { patient, type VirtualMachine } from './machine.ts';
import { LIBRARY, type World } from './world.ts';

/** A scenario does not apply to this system; the message says why. */
export class NotHere extends Error {}

/** What did not go as it should: the step, and what was seen. */
export class StepFailed extends Error {
  readonly step: string;
  constructor(step: string, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause));
    this.step = step;
  }
}

export interface TrialOptions {
  system: string;
  /** `6.12.48+deb13-amd64` */
  kernel: string;
  machine: VirtualMachine;
  world: World;
  random: Random;
  /** Of the scenario with power cuts. */
  cuts: number;
  say: (line: string) => void;
}

export class Trial {
  readonly system: string;
  readonly machine: VirtualMachine;
  readonly world: World;
  readonly random: Random;
  readonly cuts: number;
  readonly say: (line: string) => void;
  /** 6008 of Linux 6.8. */
  readonly kernel: number;
  /** Scenarios that have passed, which others build upon. */
  readonly passed = new Set<string>();

  constructor({ kernel, ...options }: TrialOptions) {
    ({
      system: this.system,
      machine: this.machine,
      world: this.world,
      random: this.random,
      cuts: this.cuts,
      say: this.say,
    } = options);
    const [, major, minor] = /^(\d+)\.(\d+)/.exec(kernel) ?? [];
    this.kernel = 1000 * Number(major) + Number(minor);
  }

  /** The first image; `slow`: over the slow link. */
  ref(number = 0, link: 'slow' | 'quick' = 'quick'): string {
    return `${link === 'slow' ? this.world.slow : this.world.registry}/${this.world.images[number]}:1`;
  }

  /** Names what is done, so that a failure says where. */
  async step<T>(name: string, work: () => Promise<T>): Promise<T> {
    this.say(name);
    try {
      return await work();
    } catch (error) {
      if (error instanceof NotHere || error instanceof StepFailed) throw error;
      throw new StepFailed(name, error);
    }
  }

  /** A step that is a script in the machine, with `same` and `sums`; what it said. */
  async sh(name: string, script: string, timeoutMs?: number): Promise<string> {
    return await this.step(name, () => this.machine.sh(LIBRARY + script, timeoutMs));
  }

  /** A step that waits until a script ends with 0. */
  async until(name: string, script: string, timeoutMs = 60_000): Promise<string> {
    return await this.step(name, async () => {
      for (const end = performance.now() + patient(timeoutMs); ; await sleep(500)) {
        const { code, said } = await this.machine.tried(LIBRARY + script, timeoutMs);
        if (code === 0) return said;
        if (performance.now() > end) throw new Error(`not within ${timeoutMs / 1000} s\n${said.trim()}`);
      }
    });
  }
}

/** The JSON that a command has printed last. */
export function jsonOf<T>(said: string): T {
  const start = said.search(/^[[{]/m);
  if (start < 0) throw new Error(`no JSON in: ${said.slice(0, 500)}`);
  return JSON.parse(said.slice(start)) as T;
}
