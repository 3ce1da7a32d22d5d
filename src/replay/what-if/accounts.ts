/** What `layer.started` events say of one start, read leniently: an entry that is none is left out. */
import type { ReplayLog } from '../replay-log.ts';
import type { LayerShape } from '../shapes.ts';
import type { MountStory } from '../start-phases.ts';
import type { StartedLayer } from './program.ts';
import type { Ahead, OrderedRun } from './recording.ts';

export interface Account {
  /** Which of the image's commands. */
  start: string;
  ahead: Ahead;
  cores: number | undefined;
  layers: StartedLayer[];
  /** In the order in which `ahead` named them. */
  foretold: OrderedRun[];
  packBytes: number | undefined;
  /** When the pack was asked for, ms since the epoch. */
  packAt: number | undefined;
  /** When the last block was read for the first time, ms since the epoch. */
  endedAt: number;
}

/** The account of a mount's start: the first of its image after it, and before the next mount of the image. */
export function accountsOf(
  log: ReplayLog,
  mount: MountStory,
  layers: ReadonlyMap<string, LayerShape>,
): Account | undefined {
  const { timeline } = log;
  let account: Account | undefined;
  const foretold: Array<OrderedRun & { place: number }> = [];
  const seen = new Set<string>();
  let nextAt = Number.POSITIVE_INFINITY;
  for (let index = mount.index + 1; index < log.count; index++) {
    const type = timeline.typeAt(index);
    if (type === 'mount.requested' && nextAt === Number.POSITIVE_INFINITY)
      if (timeline.eventAt(index).data.manifest === mount.manifest) nextAt = timeline.timeAt(index);
    if (type !== 'layer.started') continue;
    const { id, data } = timeline.eventAt(index);
    const layer = `sha256:${id}`;
    if (data.manifest !== mount.manifest || !layers.has(layer)) continue;
    const clock = pairsOf(data.clock);
    const endedAt = clock.at(-1)?.[1] ?? 0;
    // Another start of the image: of a mount before this one, or behind what was read first.
    if (endedAt < mount.requestedAt) continue;
    // Of a mount behind this one, which had no account: the log gets them in their order.
    if ((clock[0]?.[1] ?? 0) > nextAt) break;
    if (seen.has(layer)) break;
    seen.add(layer);
    account ??= {
      start: String(data.start),
      ahead: aheadOf(data.ahead),
      cores: numberIn(data, 'cores'),
      layers: [],
      foretold: [],
      packBytes: numberIn(data.pack, 'bytes'),
      packAt: numberIn(data.pack, 'at'),
      endedAt,
    };
    account.endedAt = Math.max(account.endedAt, endedAt);
    const { blockCount } = layers.get(layer) as LayerShape;
    account.layers.push({ layer, reads: placedIn(data.reads, blockCount), clock });
    for (const [first, count, place] of placedIn(data.foretold, blockCount))
      foretold.push({ layer, first, count, place });
  }
  if (account === undefined) return undefined;
  foretold.sort((a, b) => a.place - b.place);
  account.foretold = foretold.map(({ layer, first, count }) => ({ layer, first, count }));
  return account;
}

const aheadOf = (value: unknown): Ahead =>
  value === 'pack' || value === 'files' || value === 'hints' ? value : 'nothing';

const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);

function numberIn(value: unknown, field: string): number | undefined {
  const found =
    typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[field] : undefined;
  return isNumber(found) ? found : undefined;
}

const listOf = (value: unknown): unknown[][] =>
  Array.isArray(value) ? value.filter((one): one is unknown[] => Array.isArray(one)) : [];

function pairsOf(value: unknown): Array<readonly [number, number]> {
  return listOf(value).flatMap(([a, b]) => (isNumber(a) && isNumber(b) ? [[a, b] as const] : []));
}

/** Runs of blocks with their places, as far as they lie in a layer of so many blocks; no more blocks than it has. */
function placedIn(
  value: unknown,
  blockCount: number,
): Array<readonly [first: number, count: number, place: number]> {
  let left = blockCount;
  return listOf(value).flatMap((entry) => {
    const [first = -1, count = 0, place = 0] = entry.map((one) =>
      Number.isSafeInteger(one) ? Number(one) : -1,
    );
    const inside = Math.min(count, blockCount - first, left);
    if (first < 0 || inside < 1 || place < 0) return [];
    left -= inside;
    return [[first, inside, place] as const];
  });
}
