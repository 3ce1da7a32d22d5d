/**
 * The process that a program runs in, as far as the program deals with it: signals, its end, its parent. `main.ts` takes the
 * real one; a test hands over one of its own, and the program runs beside the test.
 */
import { leave } from './leave.ts';
import { type ParentChannel, processChannel } from './parent-link.ts';

export interface Self {
  readonly pid: number;
  /** Calls `listener` at SIGTERM and SIGINT, which end the process no more by themselves; until the returned function is called. */
  onSignal(listener: () => void): () => void;
  /** All is closed: the process ends with this code. */
  exit(code: number): void;
  /** The process ends at once, whatever its threads do: `exit` would wait for those that block in a system call. */
  kill(): void;
}

/** The same of a process that the supervisor has started. */
export interface ChildSelf extends Self {
  /** The channel to the supervisor; undefined: the program was started by hand. */
  readonly parent: ParentChannel | undefined;
  /** An error that no part of the program has caught. */
  onFailure(failed: (error: Error) => void): void;
}

export const realSelf = (): Self => ({
  pid: process.pid,
  onSignal: (listener) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, listener);
    return () => {
      for (const signal of ['SIGTERM', 'SIGINT'] as const) process.off(signal, listener);
    };
  },
  exit: leave,
  kill: () => void process.kill(process.pid, 'SIGKILL'),
});

export const realChildSelf = (): ChildSelf => ({
  ...realSelf(),
  parent: processChannel(),
  onFailure: (failed) => void process.on('uncaughtException', failed),
});
