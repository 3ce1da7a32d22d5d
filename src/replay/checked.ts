/** Events of a log that may come from anywhere, as what their schema says. */
import type { EventOf, EventType } from '../../schemas/events.ts';
import type { ReplayEvent } from './record.ts';

/** Undefined where it is another event, or not what its schema says. */
export function checkedEvent<T extends EventType>(event: ReplayEvent, type: T): EventOf<T> | undefined {
  if (event.type !== type || event.strange !== undefined) return undefined;
  return { v: 1, type, at: event.at, ...event.data } as unknown as EventOf<T>;
}
