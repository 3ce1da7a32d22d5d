/** Which events `cofa events` shows: by type, image, mount and beginning. */
import type { EventLine } from '../client/client.ts';
import { readEndpoint } from '../client/endpoint.ts';
import { parseCondition, type Condition, canMatch } from './conditions.ts';
import type { LiveLog, LiveLogOptions } from './live-log.ts';
import { type Moment, parseMoment, timeOfMoment } from './moments.ts';
import { Selection } from './selection.ts';

export interface EventFilter {
  /** Sequence to begin with. */
  fromSeq: number | undefined;
  /** The beginning is a time: the log has to be read from its start. */
  byTime: boolean;
  accepts(event: EventLine): boolean;
}

/** The first event to show, where the log has to be read up to it. */
type Beginning = { at: number } | { position: number };

/** Errors: `invalid-argument`; `not-found` where no image or mount fits; those of the log. */
export async function eventFilter(
  source: LiveLogOptions,
  options: { from?: string; type?: string; image?: string; mount?: string },
): Promise<EventFilter> {
  const moment = options.from === undefined ? undefined : parseMoment(options.from);
  const type: Condition | undefined =
    options.type === undefined ? undefined : parseCondition(`event ${JSON.stringify(options.type)}`);
  const selection = new Selection(options);
  const needsStart = moment?.kind === 'after-start' || moment?.kind === 'position';
  const firstAt = !selection.isAll || needsStart ? await readLog(source, selection, moment) : undefined;
  const from = beginningOf(moment, firstAt);
  let seen = 0;
  let started = from === undefined;
  return {
    fromSeq: moment?.kind === 'seq' ? Math.max(1, moment.seq) : undefined,
    byTime: from !== undefined || moment?.kind === 'start',
    accepts(event) {
      seen += 1;
      if (!started && from !== undefined)
        started = 'at' in from ? Date.parse(event.time) >= from.at : seen >= from.position;
      if (!selection.isAll) {
        selection.learnFacts(event.subject, event.type, event.data);
        if (!selection.acceptsSubject(event.subject)) return false;
      }
      return started && (type === undefined || canMatch(type, event.type));
    },
  };
}

/** Teaches the selection its images and mounts. Returns the time of the first event where the moment counts from it. */
async function readLog(
  source: LiveLogOptions,
  selection: Selection,
  moment: Moment | undefined,
): Promise<number | undefined> {
  const { openLiveLog } = await import('./live-log.ts');
  // A running engine alone adds events: for a stopped one there is cofa replay.
  await readEndpoint(source.root);
  const live = await openLiveLog(source);
  try {
    if (!selection.isAll) {
      for (const kind of ['image', 'mount'] as const)
        for await (const raw of live.records({ kind })) selection.learn(raw);
      selection.check();
    }
    return moment?.kind === 'after-start' ? await firstTimeOf(live) : undefined;
  } finally {
    await live.close();
  }
}

/** Time of the first event, ms since the epoch; undefined for an empty log. */
async function firstTimeOf(live: LiveLog): Promise<number | undefined> {
  const { decodeRecord } = await import('./record.ts');
  for await (const raw of live.records()) return decodeRecord(raw.bytes).at ?? 0;
  return undefined;
}

function beginningOf(moment: Moment | undefined, firstAt: number | undefined): Beginning | undefined {
  if (moment?.kind === 'position') return { position: moment.position };
  const at =
    moment === undefined ? undefined : timeOfMoment(moment, { firstAt: firstAt ?? 0, endAt: Date.now() });
  return at === undefined ? undefined : { at };
}
