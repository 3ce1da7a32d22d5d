/**
 * Rehearsals: what a start does for the first time V8 has to parse, compile and interpret, and that is half of the processor
 * time that a start costs an engine which has just begun. So a process of the engine that has nothing else to do goes through
 * its part some times, with an image that it makes for that (rehearsal-image.ts), in a folder that is removed afterwards.
 * Nothing is mounted, no event is appended, and nobody is told.
 */
import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Layout } from '../store/layout.ts';
import { type RehearsalImage, serveRehearsalImage } from './rehearsal-image.ts';

/** V8 has compiled what matters by then. */
const ROUNDS = 12;
/** From the start of the process, ms: an engine that has just begun may have something to do at once. */
const CALM_MS = 1_000;
/** Pause between two rounds, ms: others have the processor as well. */
const PAUSE_MS = 10;

export interface Rehearsal {
  /** State of the engine. */
  root: string;
  /** Of the process: each has a folder of its own. */
  name: string;
  /** Aborted when there is real work: the rehearsal ends with its present round. */
  signal: AbortSignal;
}

/** Repeats `round` with the rehearsal's image and a folder for it. Throws what goes wrong in it. */
export async function rehearse(
  { root, name, signal }: Rehearsal,
  round: (image: RehearsalImage, layout: Layout) => Promise<void>,
): Promise<void> {
  await sleep(CALM_MS, undefined, { ref: false });
  if (signal.aborted) return;
  const layout = new Layout(new Layout(root).in('run', `rehearsal-${name}`));
  const image = await serveRehearsalImage(layout);
  try {
    for (let n = 0; n < ROUNDS && !signal.aborted; n++) {
      await round(image, layout);
      await sleep(PAUSE_MS, undefined, { ref: false });
    }
  } finally {
    await image.close();
    await rm(layout.root, { recursive: true, force: true });
  }
}
