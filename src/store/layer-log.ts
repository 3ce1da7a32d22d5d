/** What a front end knows of layers, and the one door through which it says more. */
import { foldLayer, type LayerFacts } from '../../actors/node-state.ts';
import type { EventOf, LayerEventType, NewEvent } from '../../schemas/events.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import type { AppendOptions, EventLog } from './event-log.ts';
import { hexOf } from '../../schemas/digest.ts';

/** A fact about a layer, without `v` and `at`. */
export type NewLayerEvent = NewEvent<LayerEventType>;

export interface LayerLog {
  /** By diffID; folded on in place, so look again after each `await`. */
  readonly layers: ReadonlyMap<string, LayerFacts>;
  /** Resolves when the fact is in the log and in `layers`; `early` as there. Errors: those of `EventLog.append`. */
  append(diffId: string, event: NewLayerEvent, options?: Pick<AppendOptions, 'early'>): Promise<void>;
}

/** Appends to a node's log. `layers`: where the `onStored` of `events` folds what the log has taken. */
export const layerLog = (
  events: Pick<EventLog, 'append'>,
  names: Subjects,
  layers: ReadonlyMap<string, LayerFacts>,
): LayerLog => ({
  layers,
  append: async (diffId, event, options) => {
    await events.append(names.event('layer', hexOf(diffId)), event, options);
  },
});

/** Folds, and has no log: for rehearsals and tests. `onAppend` may refuse. */
export function layersAlone(
  layers: Map<string, LayerFacts>,
  onAppend: (event: NewLayerEvent) => void = () => {},
): LayerLog {
  return {
    layers,
    append: async (diffId, event) => {
      onAppend(event);
      foldLayer(layers, diffId, { v: 1, at: 0, ...event } as EventOf<LayerEventType>);
    },
  };
}
