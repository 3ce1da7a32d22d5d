/** What the supervisor takes of the world beside its children's ports: its own process. */
import { hostname } from 'node:os';
import { programsOf } from '../kernel/programs.ts';
import { childrenUs, machineUsage, processUsage } from '../kernel/usage.ts';
import { realChildPorts } from '../process/child.ts';
import { Tidying } from '../process/heap.ts';
import type { NatsPorts } from '../process/nats-server.ts';
import { type Ports, realPorts } from '../process/ports.ts';
import type { RunRehearsal } from '../process/rehearsal/idle.ts';
import type { KeepIncidents } from './incidents/watch.ts';
import { realSelf, type Self } from '../process/self.ts';
import type { UsagePort } from './processes/usage-meter.ts';

export interface SupervisorPorts extends Ports, NatsPorts {
  self: SupervisorSelf;
  /** Collects garbage in the pauses of the process. */
  tidying: Pick<Tidying, 'worked' | 'now'>;
  /** What is measured during starts; absent: nothing is. */
  usage?: UsagePort;
  /** Goes through a start when there is nothing to do; absent: no rehearsal. */
  rehearse?: RunRehearsal;
  /** Has a process look at the log for incidents and keep them; absent: none are kept. */
  keepIncidents?: KeepIncidents;
}

/** The process that the supervisor runs in. When it is killed, the kernel kills its children with it. */
export interface SupervisorSelf extends Self {
  /** Name of the machine. */
  readonly host: string;
}

/** The real machine: clock, random, files, children, /proc. */
export const realSupervisorPorts = (): SupervisorPorts => ({
  ...realPorts(),
  ...realChildPorts(),
  self: { ...realSelf(), host: hostname() },
  tidying: new Tidying(),
  usage: { machine: machineUsage, process: processUsage, endedUs: childrenUs, programs: programsOf },
  rehearse: async (rehearsal) => await (await import('./rehearse.ts')).rehearseStart(rehearsal),
  keepIncidents: async (...order) => await (await import('./incidents/black-box.ts')).keepIncidents(...order),
});
