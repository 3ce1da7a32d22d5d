/** What the supervisor takes of the world beside its children's ports: its own process. */
import { hostname } from 'node:os';
import { type ChildPorts, realChildPorts } from '../process/child.ts';
import { type Ports, realPorts } from '../process/ports.ts';
import { realSelf, type Self } from '../process/self.ts';

export interface SupervisorPorts extends Ports, ChildPorts {
  self: SupervisorSelf;
}

/** The process that the supervisor runs in. When it is killed, the kernel kills its children with it. */
export interface SupervisorSelf extends Self {
  /** Name of the machine. */
  readonly host: string;
}

export const realSupervisorPorts = (): SupervisorPorts => ({
  ...realPorts(),
  ...realChildPorts(),
  self: { ...realSelf(), host: hostname() },
});
