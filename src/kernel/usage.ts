/** What the machine and single processes have worked so far, and what they waited for (proc(5), /proc/pressure, run-delay.ts). */
import { availableParallelism } from 'node:os';
import { readProc, statFields } from './proc.ts';
import { queuedMs } from './run-delay.ts';

/** ticks of /proc a second; on Linux always 100 for programs */
const TICKS = 100;
/** µs */
export const TICK_US = 1_000_000 / TICKS;

export interface MachineUsage {
  cpus: number;
  /** What all processors have worked since the machine started, µs. */
  busyUs: number;
  /** Time in which at least one task waited for it, µs; undefined: the kernel does not say. */
  stalledUs: { cpu: number; io: number; memory: number } | undefined;
}

export interface ProcessUsage {
  /** User and system time of all threads since the process started, µs. */
  cpuUs: number;
  /** Time in which its main thread could have run and had no processor, µs. */
  waitUs: number;
}

/** A look at the machine. What /proc does not say is 0, and `stalledUs` undefined. */
export function machineUsage(): MachineUsage {
  // cpu  user nice system idle iowait irq softirq steal guest guest_nice: guests count as user already
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = (
    /^cpu +(.*)$/m.exec(readProc('/proc/stat'))?.[1] ?? ''
  )
    .split(' ')
    .map(Number);
  const [cpu, io, memory] = ['cpu', 'io', 'memory'].map(stalled);
  return {
    cpus: availableParallelism(),
    busyUs: whole((user + nice + system + irq + softirq + steal) * TICK_US),
    stalledUs:
      cpu === undefined || io === undefined || memory === undefined ? undefined : { cpu, io, memory },
  };
}

/** Undefined where it has ended. */
export function processUsage(pid: number): ProcessUsage | undefined {
  const stat = readProc(`/proc/${pid}/stat`);
  if (stat === '') return undefined;
  const fields = statFields(stat);
  return {
    cpuUs: whole((Number(fields[14 - 3]) + Number(fields[15 - 3])) * TICK_US),
    waitUs: whole(queuedMs(pid) * 1000),
  };
}

/** Processor time of children that have ended and were waited for, with theirs, µs. */
export function childrenUs(): number {
  const fields = statFields(readProc('/proc/self/stat'));
  return whole((Number(fields[16 - 3]) + Number(fields[17 - 3])) * TICK_US);
}

/** some avg10=0.00 avg60=0.00 avg300=0.00 total=1234 */
function stalled(what: string): number | undefined {
  const total = /^some .*total=(\d+)/m.exec(readProc(`/proc/pressure/${what}`))?.[1];
  return total === undefined ? undefined : Number(total);
}

const whole = (value: number): number => (Number.isFinite(value) ? Math.max(0, Math.round(value)) : 0);
