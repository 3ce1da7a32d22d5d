/** Has incidents kept, where the engine is told to. */
import type { Logger } from 'pino';
import type { Counts } from '../../../actors/counts.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { Layout } from '../../store/layout.ts';
import type { End } from '../end.ts';
import { IncidentWatch } from '../incidents/watch.ts';
import type { SupervisorOptions } from '../options.ts';
import type { SupervisorPorts } from '../ports.ts';

export function watchIncidents(given: {
  options: Pick<SupervisorOptions, 'incidents' | 'defers'>;
  live: Pick<LiveFold, 'state' | 'listen'>;
  layout: Layout;
  counts: Counts;
  log: Logger;
  end: End;
  ports: SupervisorPorts;
}): void {
  const { options, live, layout, counts, log, end, ports } = given;
  const { incidents: settings } = options;
  const { keepIncidents: keep, clock } = ports;
  if (settings === undefined || keep === undefined) return;
  const order = { root: layout.root, ...settings };
  const watch = new IncidentWatch({
    order,
    keep,
    isUrgent: options.defers === false,
    live,
    counts,
    clock,
    log,
  });
  watch.begin(live.state.crashed);
  end.at('background', () => watch.close());
}
