/**
 * How long tasks of this machine have waited for a processor or for the disk: the kernel's pressure stall information
 * (Documentation/accounting/psi.rst).
 */
import { readFileSync } from 'node:fs';

/** Time in which at least one task waited, since the machine started, ms. */
export interface Pressure {
  cpuMs: number;
  ioMs: number;
}

/** Undefined: the kernel does not say (before 4.20, without CONFIG_PSI, or started with psi=0). */
export function readPressure(folder = '/proc/pressure'): Pressure | undefined {
  try {
    const [cpuMs, ioMs] = ['cpu', 'io'].map((name) => someOf(readFileSync(`${folder}/${name}`, 'latin1')));
    return cpuMs === undefined || ioMs === undefined ? undefined : { cpuMs, ioMs };
  } catch {
    return undefined;
  }
}

/** Of lines such as `some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`, where the total is in µs. */
function someOf(text: string): number | undefined {
  const total = Number(/^some .*total=(\d+)/m.exec(text)?.[1] ?? Number.NaN);
  return Number.isFinite(total) ? total / 1000 : undefined;
}
