/** Reads that waited at a moment. A trace is written when its reads have ended, so this looks ahead in the log. */
import type { ReplayLog } from './replay-log.ts';
import { type TracedRead, traceOf } from './trace.ts';

/** Reads that had arrived by `at` (ms since the epoch) without an answer yet; the longest waiting first. */
export function readsInFlight(log: ReplayLog, at: number, most = 1_000): TracedRead[] {
  const reads: TracedRead[] = [];
  for (const index of log.traces.between(at, at)) {
    for (const read of traceOf(log.timeline.eventAt(index)).reads) {
      if (read.at <= at && at < read.at + read.us / 1000) reads.push(read);
      if (reads.length >= most) return reads;
    }
  }
  return reads.sort((a, b) => a.at - b.at);
}

/** The read that arrived next after `at`, or last before it. */
export function neighbourRead(log: ReplayLog, at: number, direction: 1 | -1): TracedRead | undefined {
  let best: TracedRead | undefined;
  for (const { index, from, to } of log.traces.spans()) {
    // Only where it may hold a nearer one.
    if (direction > 0 ? to <= at || (best !== undefined && from >= best.at) : from >= at) continue;
    if (direction < 0 && best !== undefined && to <= best.at) continue;
    for (const read of traceOf(log.timeline.eventAt(index)).reads) {
      const isNearer =
        direction > 0
          ? read.at > at && (best === undefined || read.at < best.at)
          : read.at < at && (best === undefined || read.at > best.at);
      if (isNearer) best = read;
    }
  }
  return best;
}
