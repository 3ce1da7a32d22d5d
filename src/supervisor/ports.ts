/** What the supervisor takes of the world beside its children's ports: its own process. */
import { hostname } from 'node:os';
import { type ChildPorts, realChildPorts } from '../process/child.ts';
import { type Ports, realPorts } from '../process/ports.ts';

export interface SupervisorPorts extends Ports, ChildPorts {
  self: Self;
}

/** The process that the supervisor runs in. */
export interface Self {
  readonly pid: number;
  /** Name of the machine. */
  readonly host: string;
  /** Calls `listener` at SIGTERM and SIGINT, which end the process no more by themselves; until the returned function is called. */
  onSignal(listener: () => void): () => void;
  /** All is closed: the process ends with this code. */
  exit(code: number): void;
  /** The process ends at once; the kernel kills its children with it. */
  kill(): void;
}

export const realSupervisorPorts = (): SupervisorPorts => ({
  ...realPorts(),
  ...realChildPorts(),
  self: {
    pid: process.pid,
    host: hostname(),
    onSignal: (listener) => {
      for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, listener);
      return () => {
        for (const signal of ['SIGTERM', 'SIGINT'] as const) process.off(signal, listener);
      };
    },
    exit: (code) => process.exit(code),
    kill: () => void process.kill(process.pid, 'SIGKILL'),
  },
});
