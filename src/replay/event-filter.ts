/** What `cofa events` shows: by type, image, mount and beginning. */
import { type EventLine, readEndpoint } from '../client/client.ts';
import { parseCondition, type Condition, canMatch } from './conditions.ts';
import { parseMoment, timeOfMoment } from './moments.ts';
import { Selection } from './selection.ts';

export interface EventFilter {
  /** Sequence to begin with. */
  fromSeq: number | undefined;
  /** The beginning is a time: the log has to be read from its start. */
  byTime: boolean;
  accepts(event: EventLine): boolean;
}

/** Errors: `invalid-argument`; `not-found` where no image or mount fits; those of the log. */
export async function eventFilter(
  root: string,
  options: { from?: string; type?: string; image?: string; mount?: string },
): Promise<EventFilter> {
  const moment = options.from === undefined ? undefined : parseMoment(options.from);
  const type: Condition | undefined =
    options.type === undefined ? undefined : parseCondition(`event ${JSON.stringify(options.type)}`);
  const selection = new Selection(options);
  const needsStart = moment?.kind === 'after-start' || moment?.kind === 'position';
  let from: { at: number } | { position: number } | undefined;
  if (!selection.isAll || needsStart) {
    const { openLiveLog } = await import('./live-log.ts');
    const { decodeRecord } = await import('./record.ts');
    // Following is for running engines; for a stopped one there is cofa replay.
    await readEndpoint(root);
    const live = await openLiveLog({ root });
    try {
      if (!selection.isAll) {
        for (const kind of ['image', 'mount'] as const)
          for await (const raw of live.records({ kind })) selection.learn(raw);
        selection.check();
      }
      if (moment?.kind === 'after-start') {
        for await (const raw of live.records()) {
          from = { at: (decodeRecord(raw.bytes).at ?? 0) + moment.ms };
          break;
        }
      }
    } finally {
      await live.close();
    }
  }
  if (moment?.kind === 'position') from = { position: moment.position };
  else if (moment !== undefined && from === undefined) {
    const at = timeOfMoment(moment, { firstAt: 0, endAt: Date.now() });
    if (at !== undefined) from = { at };
  }
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
