/** The four panes: events, state, the event, reads in flight. */
import { layersOfImage } from '../../../actors/device.ts';
import type { ImageFacts, LayerFacts, NodeState } from '../../../actors/node-state.ts';
import { presentRanges } from '../../../actors/node-state.ts';
import { formatBytes, formatShare } from '../../terminal/table.ts';
import type { MatchContext } from '../conditions.ts';
import { readsInFlight } from '../in-flight.ts';
import type { ReplayEvent } from '../record.ts';
import { blockBar, shares } from '../state-text.ts';
import type { TracedRead } from '../trace.ts';
import { jobsNear, jobsOf, stepsOf } from '../why-read.ts';
import { formatUs } from '../format.ts';
import type { Canvas, Style } from './canvas.ts';
import type { Session } from './session.ts';
import { blocksText, clockText, detailsOf, shortPath, styleOf, subjectOf, summaryOf } from './summary.ts';

export interface Area {
  column: number;
  row: number;
  width: number;
  height: number;
}

function heading(canvas: Canvas, { column, row, width }: Area, title: string, focused = false): void {
  canvas.fill(column, row, width, '─', 'dim');
  canvas.text(column + 1, row, ` ${title} `, focused ? 'accent' : 'bold', width - 2);
}

/** The events around the current one, which stays in the middle but near the ends. */
export function drawEvents(canvas: Canvas, session: Session, names: MatchContext, area: Area): void {
  const { log, position } = session;
  heading(
    canvas,
    area,
    `events${log.strange > 0 ? ` (${log.strange} unknown)` : ''}`,
    session.focus === 'events',
  );
  const rows = area.height - 1;
  // One more line than events: the beginning, before all of them.
  const first = Math.max(-1, Math.min(position - 1 - Math.floor(rows / 2), log.count - rows));
  for (let offset = 0; offset < rows; offset++) {
    const index = first + offset;
    const row = area.row + 1 + offset;
    if (index >= log.count) break;
    if (index < 0) {
      canvas.text(area.column + 1, row, beginningText(session), 'dim', area.width - 1);
    } else {
      drawEvent(canvas, session, names, log.timeline.eventAt(index), { ...area, row });
    }
    if (index === position - 1) canvas.paint(area.column, row, area.width, 'selected');
  }
}

function beginningText({ log }: Session): string {
  return log.beginning.seq > 0 ? `state after sequence ${log.beginning.seq}` : 'the beginning';
}

function drawEvent(
  canvas: Canvas,
  session: Session,
  names: MatchContext,
  event: ReplayEvent,
  area: Area,
): void {
  const { row, column, width } = area;
  const digits = String(session.log.seqOf(session.log.count)).length;
  const end = column + width;
  if (session.mark === event.index + 1) canvas.text(column, row, '◆', 'accent');
  let at = canvas.text(column + 1, row, String(event.seq).padStart(Math.max(4, digits)), 'dim');
  at = canvas.text(at + 1, row, width >= 60 ? clockText(event.at) : clockText(event.at).slice(6), 'dim');
  at = canvas.text(at + 1, row, event.type, styleOf(event), end - at - 1);
  const subject = subjectOf(event, names);
  if (subject !== '' && at + 2 < end)
    at = canvas.text(at + 1, row, subject, 'dim', Math.min(24, end - at - 1));
  if (at + 2 < end) canvas.text(at + 1, row, summaryOf(event), 'plain', end - at - 1);
}

/** What the node knows after the current event. */
export function drawState(canvas: Canvas, session: Session, area: Area): void {
  const state = session.log.stateAt(session.position);
  const lines = stateLines(session, state);
  const rows = area.height - 1;
  const first = Math.max(0, Math.min(session.stateScroll, lines.length - rows));
  const more =
    lines.length > rows ? `  ${first + 1}-${Math.min(lines.length, first + rows)} of ${lines.length}` : '';
  heading(
    canvas,
    area,
    `state: engine ${state.running ? 'running' : 'stopped'}${more}`,
    session.focus === 'state',
  );
  for (const [offset, draw] of lines.slice(first, first + rows).entries())
    draw(canvas, area.column + 1, area.row + 1 + offset, area.width - 1);
}

type Line = (canvas: Canvas, column: number, row: number, width: number) => void;

function stateLines(session: Session, state: NodeState): Line[] {
  const event = session.current === undefined ? undefined : session.log.timeline.eventAt(session.current);
  const lines = [
    ...(state.processes.size > 0 ? [processesLine(state, event)] : []),
    ...(state.members.size + state.leftOut.size > 0 ? [fleetLine(state, event)] : []),
    ...[...state.mounts.values()].map((mount) => mountLine(mount, event)),
    ...imageLines(state, event),
    ...(state.snapshots.size > 0 ? [plainLine(`${state.snapshots.size} snapshots`)] : []),
  ];
  return lines.length > 0 ? lines : [plainLine('nothing is known')];
}

const plainLine =
  (text: string): Line =>
  (canvas, column, row) =>
    void canvas.text(column, row, text, 'dim');

function processesLine(state: NodeState, event: ReplayEvent | undefined): Line {
  return (canvas, column, row, room) => {
    let at = column;
    for (const [name, process] of state.processes) {
      if (at >= column + room - 4) break;
      const fresh = event?.type.startsWith('process.') === true && event.data.name === name;
      const style = process.pid === undefined ? 'bad' : fresh ? 'fresh' : 'good';
      at = canvas.text(at, row, name, style, column + room - at) + 1;
      if (process.starts > 1)
        at = canvas.text(at - 1, row, `×${process.starts}`, 'warn', column + room - at) + 1;
    }
  };
}

function fleetLine({ members, leftOut }: NodeState, event: ReplayEvent | undefined): Line {
  return (canvas, column, row, room) => {
    const style = event?.type.startsWith('fleet.') === true ? 'fresh' : 'dim';
    const at = canvas.text(column, row, `fleet: ${members.size} other members`, style, room);
    const out = [...leftOut.keys()].join(', ');
    if (out !== '') canvas.text(at + 1, row, `left out: ${out}`, 'warn', column + room - at - 1);
  };
}

function mountLine(mount: { id: string; dir: string; state: string }, event: ReplayEvent | undefined): Line {
  return (canvas, column, row, room) => {
    const style = event?.id === mount.id ? 'fresh' : 'mount';
    const at = canvas.text(column, row, shortPath(mount.dir, room - 11), style);
    const word = mount.state === 'mounted' ? 'good' : 'warn';
    canvas.text(at + 1, row, mount.state, word, column + room - at - 1);
  };
}

/** Each image with those of its layers that no image above shows, then the layers of no image. */
function imageLines(state: NodeState, event: ReplayEvent | undefined): Line[] {
  const left = new Map(state.layers);
  const lines: Line[] = [];
  for (const [manifest, image] of state.images) {
    lines.push(imageLine(manifest, image, event));
    for (const id of layersOfImage(image)) {
      const layer = left.get(id);
      if (layer !== undefined) lines.push(layerLine(id, layer, event));
      left.delete(id);
    }
  }
  return [...lines, ...[...left].map(([id, layer]) => layerLine(id, layer, event))];
}

function imageLine(
  manifest: string,
  { resolved, prepared, failure }: ImageFacts,
  event: ReplayEvent | undefined,
): Line {
  return (canvas, column, row, room) => {
    const end = column + room;
    const fresh = event?.kind === 'image' && `sha256:${event.id}` === manifest;
    const at = canvas.text(column, row, resolved.ref, fresh ? 'fresh' : 'image', Math.max(10, room - 12));
    const word = failure !== undefined ? `failed: ${failure.message}` : (prepared?.origin ?? 'resolved');
    canvas.text(at + 1, row, word, failure !== undefined ? 'bad' : 'dim', end - at - 1);
  };
}

function layerLine(id: string, layer: LayerFacts, event: ReplayEvent | undefined): Line {
  return (canvas, column, row, room) => {
    const mine = event !== undefined && event.kind === 'layer' && `sha256:${event.id}` === id;
    canvas.text(column, row, ` ${(layer.diffId ?? id).slice(7, 15)}`, mine ? 'fresh' : 'layer');
    const word = layer.handedOver
      ? 'direct'
      : layer.complete
        ? 'whole'
        : formatShare(layer.presentCount, layer.blockCount);
    canvas.right(column + 16, row, word, layer.complete ? 'good' : 'plain');
    const size = formatBytes(layer.size);
    const barAt = column + 17;
    const barWidth = Math.max(4, room - 17 - size.length - 1);
    drawBar(canvas, { column: barAt, row, width: barWidth }, layer, mine ? event : undefined);
    canvas.right(column + room, row, size, 'dim');
  };
}

/** The layer's block map; parts that the event has changed stand out. */
function drawBar(
  canvas: Canvas,
  { column, row, width }: { column: number; row: number; width: number },
  layer: LayerFacts,
  event: ReplayEvent | undefined,
): void {
  const present = presentRanges(layer.present);
  canvas.text(column, row, blockBar(present, layer.blockCount, width), 'bar');
  for (const [cell, share] of shares(present, layer.blockCount, width).entries())
    if (share === 0) canvas.paint(column + cell, row, 1, 'dim');
  const ranges = event?.data.ranges;
  if (!Array.isArray(ranges)) return;
  for (const [cell, share] of shares(ranges as Array<[number, number]>, layer.blockCount, width).entries())
    if (share > 0) canvas.paint(column + cell, row, 1, 'fresh');
}

export function drawDetails(canvas: Canvas, session: Session, area: Area): void {
  const { log, current } = session;
  const event = current === undefined ? undefined : log.timeline.eventAt(current);
  heading(canvas, area, event === undefined ? 'the beginning' : 'event');
  const lines =
    event === undefined
      ? [
          {
            text:
              log.beginning.seq > 0
                ? 'the log begins with a state that was folded before'
                : 'nothing has happened yet',
            style: 'dim' as const,
          },
          ...log.notes.map((text) => ({ text, style: 'warn' as const })),
        ]
      : detailsOf(event);
  for (const [offset, { text, style }] of lines.slice(0, area.height - 1).entries())
    canvas.text(area.column + 1, area.row + 1 + offset, text, style, area.width - 1);
  if (lines.length > area.height - 1)
    canvas.right(
      area.column + area.width,
      area.row + area.height - 1,
      ` ${lines.length - area.height + 2} more: Enter`,
      'dim',
    );
}

/** What waits at this moment, and for what. */
export function drawFlight(canvas: Canvas, session: Session, area: Area): void {
  const { log, clock } = session;
  const reads = readsInFlight(log, clock, 200);
  heading(canvas, area, reads.length === 0 ? 'reads in flight' : `reads in flight: ${reads.length}`);
  if (reads.length === 0) {
    const text = log.traces.count === 0 ? 'the log has no traces of reads' : 'none waits at this moment';
    canvas.text(area.column + 1, area.row + 1, text, 'dim', area.width - 1);
    return;
  }
  const rows = area.height - 1;
  const [first] = reads;
  const jobs = jobsNear(log, first?.at ?? clock, clock);
  for (const [offset, read] of reads.slice(0, rows).entries()) {
    const row = area.row + 1 + offset;
    if (offset === rows - 1 && reads.length > rows) {
      canvas.text(area.column + 1, row, `and ${reads.length - rows + 1} more`, 'dim');
      break;
    }
    drawRead(canvas, read, clock, stepNow(read, clock, jobs), { ...area, row });
  }
}

function stepNow(read: TracedRead, clock: number, jobs: Parameters<typeof jobsOf>[1]): string {
  const waited = (clock - read.at) * 1000;
  const step = stepsOf(read, jobsOf(read, jobs)).findLast(({ startUs }) => startUs <= waited);
  return step?.step ?? 'wait';
}

function drawRead(canvas: Canvas, read: TracedRead, clock: number, step: string, area: Area): void {
  const { column, row, width } = area;
  const end = column + width;
  const waited = (clock - read.at) * 1000;
  const share = Math.min(1, waited / Math.max(1, read.us));
  const style: Style = read.errno !== 0 ? 'bad' : read.us >= 100_000 ? 'warn' : 'plain';
  let at = canvas.text(column + 1, row, read.layer.slice(7, 15), 'layer');
  const blocks = blocksText(read.block, read.blocks);
  at = canvas.text(
    at + 1,
    row,
    width < 50 ? blocks.replace(/^blocks? /, '') : blocks,
    'plain',
    end - at - 22,
  );
  const times = `${formatUs(waited)} of ${formatUs(read.us)}`;
  canvas.right(end, row, times, style);
  const room = end - times.length - 1 - (at + 1);
  if (room < STEP_WIDTH) return;
  canvas.text(at + 1, row, step, 'accent');
  const bar = room - STEP_WIDTH - 1;
  if (bar < 5) return;
  const full = Math.round(share * bar);
  canvas.text(at + 1 + STEP_WIDTH, row, '█'.repeat(full), 'trace');
  canvas.text(at + 1 + STEP_WIDTH + full, row, '░'.repeat(bar - full), 'dim');
}

/** Columns of the longest name of a step, and a blank. */
const STEP_WIDTH = 11;
