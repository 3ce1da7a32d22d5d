/** Notes when a run had come how far, for the log: the engine sees the mount of a container and nothing of its processes. */
import { statSync } from 'node:fs';
import { commandName } from '../../schemas/program-name.ts';
import type { Ran } from '../../schemas/ran.ts';
import { childrenUs } from '../kernel/usage.ts';

export class RunWatch {
  readonly #pidFile: string;
  #answered: number | undefined;
  #spawned: number | undefined;
  #program: number | undefined;
  #ended: number | undefined;
  #command: string | undefined;
  /** Processor time of children so far, µs. */
  #cpuUs = 0;

  /** `pidFile`: runc writes it when the program begins. */
  constructor(pidFile: string) {
    this.#pidFile = pidFile;
  }

  /** The engine has said that the mount is there. */
  answered(): void {
    this.#answered = Date.now();
  }

  /** runc is being started. `word`: the first one of the container's command. */
  spawned(word: string | undefined): void {
    this.#command = word === undefined ? undefined : commandName(word);
    this.#spawned = Date.now();
    this.#cpuUs = childrenUs();
  }

  /** runc has ended, and with it the container. */
  ended(): void {
    this.#ended = Date.now();
    this.#cpuUs = Math.max(0, childrenUs() - this.#cpuUs);
    try {
      this.#program = statSync(this.#pidFile).mtimeMs;
    } catch {
      // The container did not start.
    }
  }

  /** Undefined where it did not come to its end. */
  take(): Ran | undefined {
    const [answered, spawned, ended] = [this.#answered, this.#spawned, this.#ended];
    if (answered === undefined || spawned === undefined || ended === undefined) return undefined;
    const program = this.#program;
    const known = program === undefined ? undefined : Math.min(ended, Math.max(spawned, program));
    return {
      answered,
      spawned,
      ...(known !== undefined && { program: known }),
      ...(this.#command !== undefined && { command: this.#command }),
      ended,
      cpuUs: this.#cpuUs,
    };
  }
}
