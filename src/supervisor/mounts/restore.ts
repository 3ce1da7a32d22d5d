/**
 * Brings back the mounts of an earlier engine. What becomes of each is decided in actors/restore.ts.
 *
 * Where the earlier engine left a mount in the kernel and its loops could be taken over, it stays as it is, with all who use
 * it; else it is mounted anew, and what was there is detached: those who use that keep it, new users get the new mount. One
 * that fails stays in the log and is tried again: it was promised, and what is in its way may pass.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { MountFacts } from '../../../actors/node-state.ts';
import { fateOf, isTakenAway, nextTry, pauseAfterTries, type Return } from '../../../actors/restore.ts';
import { findMount } from '../../kernel/mount.ts';
import type { Image } from '../images/image.ts';
import { removeMade } from './directory.ts';
import type { MountActor, MountContext } from './mount-actor.ts';
import { takeAway } from './standing.ts';

/** How the mounts of an earlier engine came back. */
export interface Restored extends Record<Return, number> {
  /** Mounts that were still there and go on as they are. */
  kept: number;
  /** Mounts that were not there, as after `down` or a reboot. */
  anew: number;
  /** Mounts whose loops were about to go away: who used them keeps them, new users get new ones. */
  replaced: number;
  /** Folders whose mount could not be repaired: who used it before reads errors. */
  lost: string[];
  /** Those that did not come back yet: they are tried again. */
  failures: Array<{ dir: string; sentence: string }>;
}

export interface RestoreOptions extends Pick<MountContext, 'images' | 'live' | 'owner' | 'failures'> {
  /** Makes the actor of a mount that the log knows. */
  create: (facts: MountFacts, image: Image) => MountActor;
  /** Whether it is still the mount at its directory. */
  isThere: (actor: MountActor) => boolean;
  /** A mount that had not come back is there after all. */
  onRestored: (dir: string) => void;
}

/** All at the same time. Resolves when each has come back or has failed once. */
export async function bringBackAll(options: RestoreOptions): Promise<Restored> {
  const outcome: Restored = { kept: 0, anew: 0, replaced: 0, lost: [], failures: [] };
  const { live, images } = options;
  await Promise.all(
    [...live.state.mounts.values()].map(async (facts) => {
      const image = images.get(facts.manifest);
      const fate = fateOf(facts, image !== undefined);
      if (fate === 'give-up') await giveUp(facts, options);
      if (fate === 'bring-back' && image !== undefined) await bringBack(facts, image, options, outcome);
    }),
  );
  return outcome;
}

async function bringBack(
  facts: MountFacts,
  known: Image,
  options: RestoreOptions,
  outcome: Restored,
): Promise<void> {
  const { dir } = facts;
  const actor = options.create(facts, options.images.restored(known, facts.trust));
  await tryOnce(actor);
  if (actor.host.state === 'failed') {
    const sentence = `mount ${dir} did not come back: ${actor.error?.message ?? 'unknown'}`;
    outcome.failures.push({ dir, sentence });
    void tryAgain(actor, options);
  } else if (actor.restored === 'replaced' && actor.image.hasLost()) outcome.lost.push(dir);
  else outcome[actor.restored] += 1;
}

async function tryOnce(actor: MountActor): Promise<void> {
  actor.restoring = true;
  await actor.mount();
  actor.restoring = false;
}

async function tryAgain(actor: MountActor, { isThere, onRestored }: RestoreOptions): Promise<void> {
  for (let tries = 1; ; tries++) {
    await sleep(pauseAfterTries(tries), undefined, { ref: false });
    const next = nextTry(actor.host.state, isThere(actor));
    if (next === 'over') return;
    if (next === 'later') continue;
    await tryOnce(actor);
    if (actor.host.state === 'mounted') return onRestored(actor.request.dir);
  }
}

/** The engine ended before the mount was there. */
async function giveUp(facts: MountFacts, options: RestoreOptions): Promise<void> {
  const { id, dir, made } = facts;
  const { live, owner, failures } = options;
  const there = findMount(dir);
  if (there !== undefined && isTakenAway(there, dir, live.state.mounts.values()))
    await takeAway(there, owner).catch(() => {});
  if (made === true) await removeMade(facts);
  const message = 'the engine ended before it was mounted';
  await failures.tell({ id, dir }, { code: 'unavailable', message });
}
