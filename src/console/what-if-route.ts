/** What a start would take under other conditions, as `cofa replay what-if` says it. */
import { z } from 'zod';
import { findMount } from '../replay/start-phases.ts';
import type { ReplayLog } from '../replay/replay-log.ts';
import { RATE_HINT, rateOf } from '../replay/what-if/conditions-text.ts';
import { recordingOf } from '../replay/what-if/extract.ts';
import type { Recording } from '../replay/what-if/recording.ts';
import { whatIfSteps } from '../replay/what-if/what-if.ts';
import { number, route } from './route.ts';
import { Turns } from './turns.ts';

/** Of running; a start of a hundred thousand reads takes some seconds. */
const LIMIT_MS = 30_000;
/** Those that wait for their turn. */
const MOST_WAITING = 4;

const turns = new Turns(MOST_WAITING);

const rate = z.string().transform((text, context) => {
  const bits = rateOf(text);
  if (bits === undefined)
    context.addIssue({
      code: 'custom',
      message: `${JSON.stringify(text.slice(0, 40))} is not a rate in bits a second, ${RATE_HINT}`,
    });
  return bits ?? 0;
});
const milliseconds = z
  .string()
  .regex(/^\d{1,5}(\.\d{1,3})?$/, 'must be milliseconds, up to 60000')
  .transform(Number)
  .pipe(z.number().max(60_000));
const prefetch = z
  .string()
  .regex(/^(on|off|[1-9]\d{0,11})$/, 'must be on, off or bytes a second')
  .transform((text) => (text === 'on' ? true : text === 'off' ? false : Number(text)));

/** Bytes, a power of two, as `--block` takes it. */
const block = number(4_096, 4 << 20).refine((size) => Number.isInteger(Math.log2(size)), {
  error: 'must be a power of two from 4096 to 4194304',
});

const Query = z.strictObject({
  mount: z.string().min(1).max(4_096),
  rate: rate.optional(),
  rtt: milliseconds.optional(),
  ahead: z.enum(['pack', 'none', 'nothing']).optional(),
  prefetch: prefetch.optional(),
  fetchers: number(1, 256).optional(),
  cores: number(1, 1_024).optional(),
  block: block.optional(),
  best: z.literal('yes').optional(),
});

export const WHAT_IF_ROUTES = [
  route('what-if', Query, async ({ log }, words, { signal }) => {
    const { mount, rtt: rttMs, best, ...same } = words;
    const options = { best: best !== undefined };
    return await turns.take(
      function* () {
        const recording = recordingFor(log, mount);
        yield;
        return yield* whatIfSteps(recording, { ...same, rttMs }, options);
      },
      LIMIT_MS,
      signal,
    );
  }),
];

/** The recording that was asked for last, of each log: the same start is asked for again and again. */
const known = new WeakMap<ReplayLog, { count: number; mount: string; recording: Recording }>();

function recordingFor(log: ReplayLog, mount: string): Recording {
  const before = known.get(log);
  if (before?.count === log.count && before.mount === mount) return before.recording;
  const recording = recordingOf(log, findMount(log, mount));
  known.set(log, { count: log.count, mount, recording });
  return recording;
}
