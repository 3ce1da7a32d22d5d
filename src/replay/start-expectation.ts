/**
 * What a start lets expect, beside what it took: in the median what earlier starts took that were like it, and what the
 * model (what-if/) makes of it with a startup pack.
 */
import type { StartExpectation } from './documents.ts';
import type { ReplayLog } from './replay-log.ts';
import type { MountStory } from './start-phases.ts';
import { recordingOf } from './what-if/extract.ts';
import type { Outcome, Policy, Recording } from './what-if/recording.ts';
import { simulation } from './what-if/simulate.ts';

/** Pauses of a simulation after which it is given up: a list of starts is no place for a long one. */
const MOST_PAUSES = 100;

/** A start as others are compared with it. */
export interface KnownStart {
  requestedAt: number;
  /** Starts of the same words are alike: image, command, what was brought ahead, whether some of it was here. */
  like: string;
  wallMs: number;
  /** With a startup pack; undefined: the model does not know. */
  packMs: number | undefined;
}

/** Whether the log has the account of the mount's start, or has had time for it. */
export function isAccounted(log: ReplayLog, { index, manifest }: MountStory): boolean {
  const { timeline, count } = log;
  for (let at = index + 1; at < count; at++)
    if (timeline.typeAt(at) === 'layer.started' && timeline.eventAt(at).data.manifest === manifest)
      return true;
  return false;
}

/** `wallMs`: what the start took. Undefined where the log has no account of it. */
export function knownStart(log: ReplayLog, mount: MountStory, wallMs: number): KnownStart | undefined {
  let recording: Recording;
  try {
    recording = recordingOf(log, mount);
  } catch {
    return undefined;
  }
  const { manifest, start, policy, present } = recording;
  if (start === undefined) return undefined;
  const like = [manifest, start, policy.ahead, present.size > 0 ? 'some of it here' : 'cold'].join(' ');
  return { requestedAt: mount.requestedAt, like, wallMs, packMs: packMsOf(recording, wallMs) };
}

/** `all`: known starts, in any order. */
export function expectationOf(one: KnownStart, all: Iterable<KnownStart>): StartExpectation | undefined {
  const lengths = [...all]
    .filter(({ like, requestedAt }) => like === one.like && requestedAt < one.requestedAt)
    .map(({ wallMs }) => wallMs)
    .sort((a, b) => a - b);
  const earlierMs = lengths[Math.floor((lengths.length - 1) / 2)];
  if (earlierMs === undefined && one.packMs === undefined) return undefined;
  return {
    ...(one.packMs === undefined ? {} : { packMs: one.packMs }),
    ...(earlierMs === undefined ? {} : { earlierMs, earlier: lengths.length }),
  };
}

/**
 * What the model saves, taken from what the start took. Of a start that had its pack: what it took beyond the model, which is
 * what the machine or the link held it up.
 */
function packMsOf(recording: Recording, wallMs: number): number | undefined {
  const { policy, packBytes, measured } = recording;
  if (packBytes === undefined) return undefined;
  const packed = outcomeOf(recording, 'pack');
  const was = policy.ahead === 'pack' ? measured : outcomeOf(recording, policy.ahead);
  return was === undefined || packed === undefined
    ? undefined
    : Math.max(0, wallMs - (was.us - packed.us) / 1_000);
}

function outcomeOf(recording: Recording, ahead: Policy['ahead']): Outcome | undefined {
  const { link, policy } = recording;
  const steps = simulation(recording, { link, policy: { ...policy, ahead } });
  for (let pauses = 0; pauses < MOST_PAUSES; pauses++) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
  return undefined;
}
