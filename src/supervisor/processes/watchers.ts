/** What the supervisor notes when one of its processes starts or ends: a line in its own log, and a fact in the node's. */
import type { Logger } from 'pino';
import type { ProcessStatus } from '../../../schemas/api.ts';
import { type ChildOptions, describeEnd } from '../../process/child.ts';
import type { End } from '../end.ts';
import type { ProcessEvents } from './process-events.ts';

export type Watchers = Required<Pick<ChildOptions, 'onStart' | 'onExit'>>;
export type ChildRole = Exclude<ProcessStatus['role'], 'supervisor'>;
/** Makes the watchers of one process. */
export type Watch = (role: ChildRole, name: string) => Watchers;

/** When the engine's end is near, ends of its processes are no news. */
export function watchProcesses(given: {
  facts: ProcessEvents;
  log: Logger;
  end: Pick<End, 'isNear'>;
}): Watch {
  const { facts, log, end } = given;
  return (role, name) => ({
    onStart: (pid) => facts.add({ type: 'process.started', role, name, pid }),
    onExit: ({ pid, code, signal, reason }) => {
      if (end.isNear) return;
      log.warn({ process: name, pid }, describeEnd({ code, signal, reason }));
      facts.add({
        type: 'process.ended',
        role,
        name,
        pid,
        ...(code === null ? {} : { code }),
        ...(signal === null ? {} : { signal }),
        ...(reason === undefined ? {} : { reason }),
      });
    },
  });
}
