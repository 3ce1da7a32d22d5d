/**
 * Rehearsals: what a start does for the first time V8 has to parse, compile and interpret, and that is half of the processor
 * time that a start costs an engine which has just begun. So a process of the engine that has nothing else to do goes through
 * its part some times, with an image that it makes for that (image.ts), in a folder that is removed afterwards.
 * Nothing is mounted, no event is appended, and nobody is told.
 */
import type { Layout } from '../../store/layout.ts';
import { type RehearsalImage, serveRehearsalImage } from './image.ts';
import { type Rehearsal, repeat } from './rounds.ts';

export type { Rehearsal } from './rounds.ts';

/** Repeats `round` with the rehearsal's image and a folder for it. Throws what goes wrong in it. */
export async function rehearse(
  rehearsal: Rehearsal,
  round: (image: RehearsalImage, layout: Layout) => Promise<void>,
): Promise<void> {
  let image: RehearsalImage | undefined;
  try {
    await repeat(rehearsal, async (layout) => {
      image ??= await serveRehearsalImage(layout);
      await round(image, layout);
    });
  } finally {
    await image?.close();
  }
}
