/** The documents of the view Layers. */
import { z } from 'zod';
import { CofaError } from '../../schemas/errors.ts';
import { BlockHistory, packed } from '../replay/block-map.ts';
import { layersOfLog } from '../replay/layer-list.ts';
import type { ReplayLog } from '../replay/replay-log.ts';
import { number, position, route } from './route.ts';

const layer = z.string().regex(/^sha256:[0-9a-f]{64}$/, 'must be the id of a layer');
const block = number(0, 2 ** 26);
/** Layers whose history is kept, of each log. */
const MOST_KEPT = 8;

export const LAYER_ROUTES = [
  route('layers', z.strictObject({}), ({ log }) => ({ count: log.count, layers: layersOfLog(log) })),
  route('layer', z.strictObject({ layer, at: position }), ({ log }, words) => {
    const at = held(log, words.at);
    const { runs: _, ...head } = historyOf(log, words.layer).document(at);
    return { ...head, seq: log.seqOf(at), time: new Date(log.timeOf(at)).toISOString() };
  }),
  route('blocks', z.strictObject({ layer, at: position }), ({ log }, words) =>
    packed(historyOf(log, words.layer).at(held(log, words.at))),
  ),
  route('block', z.strictObject({ layer, block, at: position }), ({ log }, words) =>
    historyOf(log, words.layer).block(words.block, held(log, words.at)),
  ),
];

const held = (log: ReplayLog, at: number): number => Math.min(at, log.count);

const kept = new WeakMap<ReplayLog, Map<string, BlockHistory>>();

/** Error: `not-found`. */
function historyOf(log: ReplayLog, id: string): BlockHistory {
  const histories = kept.get(log) ?? new Map<string, BlockHistory>();
  kept.set(log, histories);
  const history = histories.get(id) ?? BlockHistory.of(log, id);
  if (history === undefined) throw new CofaError('not-found', `the log does not tell of layer ${id}`);
  // The one used last at the end.
  histories.delete(id);
  histories.set(id, history);
  if (histories.size > MOST_KEPT) histories.delete(histories.keys().next().value as string);
  history.follow();
  return history;
}
