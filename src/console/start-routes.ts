/** The documents of the view A start. */
import { z } from 'zod';
import { CofaError } from '../../schemas/errors.ts';
import { compareStarts } from '../replay/compare-starts.ts';
import { recentStarts } from '../replay/recent-starts.ts';
import type { ReplayLog } from '../replay/replay-log.ts';
import { findMount, type MountStory } from '../replay/start-phases.ts';
import { waterfallOf } from '../replay/waterfall.ts';
import { explainStart } from '../replay/why-start.ts';
import { route } from './route.ts';

const mount = z.string().min(1).max(4_096);
/** Entries of the lists of one start. */
const TOP = 50;
/** Bars of each kind. */
const MOST_BARS = 3_000;

export const START_ROUTES = [
  route('starts', z.strictObject({}), ({ log }) => ({ starts: recentStarts(log) })),
  route('start', z.strictObject({ mount }), ({ log }, words) => {
    const story = findMount(log, words.mount);
    const why = explainStart(log, story, { top: TOP });
    return { why, fall: waterfallOf(log, story, readyAt(log, story), { most: MOST_BARS }) };
  }),
  route('compare', z.strictObject({ mount, with: mount }), ({ log }, words) => {
    const [first, second] = [words.with, words.mount].map((id) =>
      explainStart(log, findMount(log, id), { top: TOP }),
    );
    if (first === undefined || second === undefined)
      throw new CofaError('internal', 'two starts are compared');
    return compareStarts(first, second);
  }),
];

function readyAt(log: ReplayLog, { mountedAt, id }: MountStory): number {
  if (mountedAt !== undefined) return mountedAt;
  throw new CofaError('not-found', `the log of ${log.node} does not tell of mount ${id} being ready`);
}
