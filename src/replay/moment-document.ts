/** A moment of a log as the page shows it: the state, what its last event changed, and what waits. */
import { layersBarred } from './state-text.ts';
import type { DifferenceDocument, EventDocument, EventLine, MomentDocument } from './documents.ts';
import { readsInFlight } from './in-flight.ts';
import type { ReplayLog } from './replay-log.ts';
import { contextOf } from './search.ts';
import { describeState, diffStates } from './state-document.ts';
import { changeLines, diffLines } from './state-text.ts';
import { blocksText, detailsOf, styleOf, subjectOf, summaryOf } from './view/summary.ts';
import { formatUs } from './format.ts';

/** Parts of a layer's bar. */
const BAR_CELLS = 64;
/** Reads that are named. */
const MOST_WAITING = 20;

/** `clock`: ms since the epoch, between the event before `position` and the one behind it. */
export function describeMoment(log: ReplayLog, position: number, clock: number): MomentDocument {
  const before = position > 0 ? describeState(log, position - 1, { digest: false }) : undefined;
  const state = describeState(log, position);
  return {
    ...state,
    layers: layersBarred(state.layers, BAR_CELLS),
    changes: before === undefined ? [] : changeLines(diffStates(before, state)),
    waiting: readsInFlight(log, clock, MOST_WAITING).map(({ id, block, blocks, layer, at, us }) => ({
      id,
      text: `${blocksText(block, blocks)} of ${layer.slice(7, 15)} for ${formatUs((clock - at) * 1000)}, ${formatUs(us)} in all`,
    })),
  };
}

export function describeDifference(log: ReplayLog, from: number, to: number): DifferenceDocument {
  const diff = diffStates(describeState(log, from), describeState(log, to));
  return { from: diff.from, to: diff.to, lines: diffLines(diff) };
}

/** Error: RangeError where there is no such event. */
export function describeEvent(log: ReplayLog, index: number): EventDocument {
  const event = log.timeline.eventAt(index);
  const { seq, at, type, subject, strange, data } = event;
  return {
    index,
    seq,
    time: new Date(at).toISOString(),
    type,
    subject,
    style: styleOf(event),
    ...(strange === undefined ? {} : { strange }),
    // Type, time and subject stand above.
    details: detailsOf(event).slice(3),
    data,
  };
}

/** Events as a list shows them. */
export function linesOf(log: ReplayLog, first: number, end: number): EventLine[] {
  const context = contextOf(log);
  const lines: EventLine[] = [];
  for (let index = first; index < Math.min(end, log.count); index++) {
    const event = log.timeline.eventAt(index);
    lines.push({ subject: subjectOf(event, context), summary: summaryOf(event), style: styleOf(event) });
  }
  return lines;
}
