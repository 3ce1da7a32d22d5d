/** What Chrome's Trace Event Format and Perfetto's importer say of a trace, as a judge of what is written. */
import { z } from 'zod';
import type { TraceEvent } from '../../src/replay/trace-events.ts';

/** "Trace Event Format", its common fields and those of each phase that is used here. Times are µs. */
const number = z.int().min(0);
const common = { name: z.string().min(1), pid: number, tid: number };
const args = z.record(z.string(), z.unknown());
const ENTRY = z.discriminatedUnion('ph', [
  z.strictObject({ ph: z.literal('M'), ...common, args }),
  z.strictObject({ ph: z.literal('X'), cat: z.string(), ...common, ts: number, dur: number, args }),
  z.strictObject({
    ph: z.literal('i'),
    cat: z.string(),
    ...common,
    ts: number,
    s: z.enum(['g', 'p', 't']),
    args,
  }),
  z.strictObject({ ph: z.literal('s'), cat: z.string(), ...common, ts: number, id: number }),
  z.strictObject({
    ph: z.literal('f'),
    cat: z.string(),
    ...common,
    ts: number,
    id: number,
    bp: z.literal('e'),
  }),
]);
export const FILE = z.strictObject({
  displayTimeUnit: z.enum(['ms', 'ns']),
  otherData: args,
  traceEvents: z.array(ENTRY),
});

export type Slice = TraceEvent & { ph: 'X' };

/** Sentences about every rule of the format that the entries break. */
export function flawsOf(events: readonly TraceEvent[]): string[] {
  const flaws: string[] = [];
  for (const event of events) {
    const { success, error } = ENTRY.safeParse(event);
    if (!success) flaws.push(`${JSON.stringify(event)}: ${z.prettifyError(error)}`);
  }
  const threads = new Map<string, Slice[]>();
  const named = new Set<string>();
  const processes = new Map<number, number>();
  for (const event of events) {
    const thread = `${event.pid}/${event.tid}`;
    if (event.ph === 'M' && event.name === 'thread_name') named.add(thread);
    // Perfetto names the last thread of a number, whatever its process.
    if ((processes.get(event.tid) ?? event.pid) !== event.pid)
      flaws.push(`thread ${event.tid} is of two processes`);
    processes.set(event.tid, event.pid);
    if (event.ph === 'X') threads.set(thread, [...(threads.get(thread) ?? []), event]);
  }
  for (const [thread, slices] of threads) {
    if (!named.has(thread)) flaws.push(`thread ${thread} has no name`);
    const open: number[] = [];
    for (const { name, ts, dur } of slices.toSorted((a, b) => a.ts - b.ts || b.dur - a.dur)) {
      while (open.length > 0 && (open.at(-1) as number) <= ts) open.pop();
      const end = open.at(-1);
      if (end !== undefined && ts + dur > end)
        flaws.push(`${name} of thread ${thread} crosses the one around it`);
      open.push(ts + dur);
    }
  }
  const flows = new Map<number, Array<TraceEvent & { ph: 's' | 'f' }>>();
  for (const event of events)
    if (event.ph === 's' || event.ph === 'f') flows.set(event.id, [...(flows.get(event.id) ?? []), event]);
  for (const [id, ends] of flows) {
    const [from, to] = ends;
    if (ends.length !== 2 || from?.ph !== 's' || to?.ph !== 'f') flaws.push(`arrow ${id} has not two ends`);
    else if (to.ts < from.ts) flaws.push(`arrow ${id} leads back in time`);
    for (const { pid, tid, ts } of ends) {
      const around = threads
        .get(`${pid}/${tid}`)
        ?.some((slice) => slice.ts <= ts && ts <= slice.ts + slice.dur);
      if (around !== true) flaws.push(`arrow ${id} has an end in no slice`);
    }
  }
  return flaws;
}
