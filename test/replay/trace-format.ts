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
  const used = new Set<string>();
  const named = new Set<string>();
  const processes = new Map<number, number>();
  const marks = new Set<string>();
  for (const event of events) {
    const thread = `${event.pid}/${event.tid}`;
    if (event.ph === 'M' && event.name === 'thread_name') named.add(thread);
    if (event.ph === 'M' && event.name === 'process_name') named.add(`${event.pid}`);
    // Perfetto gives each process a main thread of its number, and makes a thread of each other number.
    if (event.ph === 'M' && event.name !== 'thread_name' && event.tid !== event.pid)
      flaws.push(`${event.name} of process ${event.pid} is in thread ${event.tid}`);
    // Perfetto names the last thread with a number, and looks at no process.
    if ((processes.get(event.tid) ?? event.pid) !== event.pid)
      flaws.push(`thread ${event.tid} is of two processes`);
    processes.set(event.tid, event.pid);
    if (event.ph === 'X') threads.set(thread, [...(threads.get(thread) ?? []), event]);
    if (event.ph === 'X' || event.ph === 'i') used.add(thread);
    if (event.ph !== 'i') continue;
    // Perfetto lays marks of one moment into one another.
    if (marks.has(`${thread} ${event.ts}`)) flaws.push(`two marks of thread ${thread} at ${event.ts}`);
    marks.add(`${thread} ${event.ts}`);
  }
  for (const thread of used) {
    if (!named.has(thread)) flaws.push(`thread ${thread} has no name`);
    const [process = ''] = thread.split('/');
    if (!named.has(process)) flaws.push(`process ${process} has no name`);
  }
  for (const thread of named)
    if (thread.includes('/') && !used.has(thread)) flaws.push(`thread ${thread} is empty`);
  for (const [thread, slices] of threads) {
    const open: Slice[] = [];
    for (const slice of slices.toSorted((a, b) => a.ts - b.ts || b.dur - a.dur)) {
      const { name, ts, dur } = slice;
      // Perfetto takes the longer one of two that begin together to be around the other.
      if (dur === 0 && open.some((one) => one.ts === ts || one.ts + one.dur === ts))
        flaws.push(`${name} of thread ${thread} has no length, and another begins or ends there`);
      while (open.length > 0 && endOf(open.at(-1)) <= ts) open.pop();
      if (open.length > 0 && ts + dur > endOf(open.at(-1)))
        flaws.push(`${name} of thread ${thread} crosses the one around it`);
      open.push(slice);
    }
  }
  const flows = new Map<number, Array<TraceEvent & { ph: 's' | 'f' }>>();
  for (const event of events)
    if (event.ph === 's' || event.ph === 'f') flows.set(event.id, [...(flows.get(event.id) ?? []), event]);
  for (const [id, ends] of flows) {
    const [from, to] = ends;
    if (ends.length !== 2 || from?.ph !== 's' || to?.ph !== 'f') flaws.push(`arrow ${id} has not two ends`);
    else if (to.ts < from.ts) flaws.push(`arrow ${id} leads back in time`);
    const slices = ends.map(({ pid, tid, ts }) => innermostAt(threads.get(`${pid}/${tid}`) ?? [], ts));
    if (slices.includes(undefined)) flaws.push(`arrow ${id} has an end in no slice`);
    // Perfetto would turn it.
    const [first, next] = slices;
    if (first !== undefined && next !== undefined && first.ts > next.ts)
      flaws.push(`arrow ${id} leads to a slice that began before its own`);
  }
  return flaws;
}

const endOf = (slice: Slice | undefined): number => (slice === undefined ? 0 : slice.ts + slice.dur);

/** The slice that Perfetto ties an arrow's end to. */
function innermostAt(slices: readonly Slice[], at: number): Slice | undefined {
  let found: Slice | undefined;
  for (const slice of slices) {
    const isAround = slice.ts <= at && (at < endOf(slice) || (slice.dur === 0 && slice.ts === at));
    if (isAround && (found === undefined || slice.ts > found.ts || slice.dur < found.dur)) found = slice;
  }
  return found;
}
