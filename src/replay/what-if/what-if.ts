/** What a recorded start would take under other conditions, and which policy would have been fastest. */
import { defined } from '../../../schemas/defined.ts';
import { CofaError } from '../../../schemas/errors.ts';
import type { WhatIf } from '../../../schemas/replay.ts';
import type { Outcome, Policy, Recording } from './recording.ts';
import { type Conditions, finished, simulation } from './simulate.ts';

/** What the user wants to be otherwise; undefined: as it was. */
export interface Changes {
  rate?: number | undefined;
  rttMs?: number | undefined;
  /** `pack`: as if a start had been recorded before; `none`: as if there were no pack; `nothing`: nor hints. */
  ahead?: 'pack' | 'none' | 'nothing' | undefined;
  /** A number: so many bytes a second. */
  prefetch?: boolean | number | undefined;
  fetchers?: number | undefined;
  cores?: number | undefined;
  block?: number | undefined;
}

/** In one go. Errors: as of `whatIfSteps`. */
export const whatIf = (recording: Recording, changes: Changes, options: { best?: boolean } = {}): WhatIf =>
  finished(whatIfSteps(recording, changes, options));

/**
 * Pauses every some milliseconds. `best`: tries every policy over this link too. Errors: `invalid-argument` where the
 * recording has nothing for it.
 */
export function* whatIfSteps(
  recording: Recording,
  changes: Changes,
  { best = false }: { best?: boolean } = {},
): Generator<void, WhatIf> {
  const was: Conditions = { link: recording.link, policy: recording.policy };
  const wanted = changed(recording, changes);
  const model = yield* simulation(recording, was);
  const predicted = yield* runs(recording, [wanted]);
  const tried = best ? ranked(yield* runs(recording, policiesFor(recording, wanted))) : undefined;
  const { mount, ref, manifest, dir, notes } = recording;
  return {
    kind: 'what-if',
    mount,
    ref,
    manifest,
    dir,
    time: new Date(recording.at).toISOString(),
    recorded: {
      conditions: toldOf(was),
      measured: defined(recording.measured),
      model: defined(model),
    },
    predicted: predicted[0],
    ...(tried === undefined ? {} : { best: tried }),
    notes,
  } as WhatIf;
}

type Ran = { conditions: WhatIf['predicted']['conditions']; outcome: Outcome };

function* runs(recording: Recording, all: readonly Conditions[]): Generator<void, Ran[]> {
  const done: Ran[] = [];
  for (const conditions of all) {
    const outcome = yield* simulation(recording, conditions);
    done.push({ conditions: toldOf(conditions), outcome: defined(outcome) as Outcome });
    yield;
  }
  return done;
}

function changed(recording: Recording, changes: Changes): Conditions {
  const { link, policy } = recording;
  const { rate = link.rate, rttMs = link.rttMs, ahead, prefetch, ...rest } = changes;
  if (ahead === 'pack' && recording.packBytes === undefined)
    throw new CofaError('invalid-argument', 'the start read nothing that a pack could hold', {
      hint: 'choose another start: cofa replay what-if --mount ID',
    });
  return {
    link: { rate, rttMs },
    policy: {
      ...policy,
      ...(defined(rest) as Partial<Policy>),
      ...(prefetch === undefined ? {} : prefetchOf(prefetch)),
      ahead: aheadOf(recording, ahead),
    },
  };
}

const prefetchOf = (prefetch: boolean | number): Pick<Policy, 'prefetch' | 'prefetchLimit'> => ({
  prefetch: prefetch !== false,
  prefetchLimit: typeof prefetch === 'number' ? prefetch : undefined,
});

function aheadOf({ policy, foretold }: Recording, wanted: Changes['ahead']): Policy['ahead'] {
  if (wanted === 'pack' || wanted === 'nothing') return wanted;
  return wanted === 'none' ? foretold.by : policy.ahead;
}

/** Fetcher processes that are tried. */
const FETCHERS: readonly number[] = [1, 2, 4, 8];

/** Every policy that an operator can choose, over this link. A block's size is none: it is that of the format. */
function policiesFor(recording: Recording, { link, policy }: Conditions): Conditions[] {
  const aheads = new Set<Policy['ahead']>(['nothing', recording.foretold.by]);
  if (recording.packBytes !== undefined) aheads.add('pack');
  const fetchers = new Set([policy.fetchers, ...FETCHERS]);
  return [...aheads].flatMap((ahead) =>
    [true, false].flatMap((prefetch) =>
      [...fetchers].map((count) => ({ link, policy: { ...policy, ahead, prefetch, fetchers: count } })),
    ),
  );
}

/** Less than this share more time is as fast: then fewer bytes and requests win. */
const SAME = 1.01;

function ranked<
  One extends { outcome: Pick<Outcome, 'us' | 'bytes' | 'requests'>; conditions: { fetchers: number } },
>(all: readonly One[]): One[] {
  const least = Math.min(...all.map(({ outcome }) => outcome.us));
  const cost = ({ outcome }: One) => Object.values(outcome.bytes).reduce((sum, one) => sum + one, 0);
  const timeOf = ({ outcome }: One) => (outcome.us <= least * SAME ? least : outcome.us);
  return all.toSorted(
    (a, b) =>
      timeOf(a) - timeOf(b) ||
      cost(a) - cost(b) ||
      a.outcome.requests - b.outcome.requests ||
      a.conditions.fetchers - b.conditions.fetchers,
  );
}

function toldOf({ link, policy }: Conditions): WhatIf['predicted']['conditions'] {
  const { ahead, prefetch, prefetchLimit, fetchers, slots, cores, block } = policy;
  return defined({
    rate: Number.isFinite(link.rate) ? Math.round(link.rate) : null,
    rttMs: Math.round(link.rttMs * 10) / 10,
    ahead,
    prefetch,
    prefetchLimit,
    fetchers,
    slots,
    cores,
    block,
  }) as WhatIf['predicted']['conditions'];
}
