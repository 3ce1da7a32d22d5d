/**
 * The hints of an image on a node: kept when it is prepared, used for starts that have no startup pack. They say in which order
 * absent blocks are fetched, and nothing else: so an image that the node indexes by itself keeps those of a sidecar that no one
 * vouches for. Forged ones cost the bytes of blocks of that image that no process reads.
 */
import { readFile, rm } from 'node:fs/promises';
import type { StartSet } from '../../../actors/start-set.ts';
import { toErrorRecord } from '../../../schemas/errors.ts';
import { type JobLayer, layerOf } from '../../../schemas/fetch.ts';
import { decodeHints, startOf } from '../../image/hints/hints.ts';
import { DEFAULT_START } from '../../pack/pack-store.ts';
import type { SidecarHandle } from '../../registry/sidecars.ts';
import type { LaterSync } from '../../store/later-sync.ts';
import { type Layout, writeWhole } from '../../store/layout.ts';

/** The sidecar's hints, if it has some that can be read: an image is prepared without them as well, and `onFailed` is told why. */
export async function readHints(
  sidecar: SidecarHandle,
  onFailed: (sentence: string) => void,
): Promise<Buffer | undefined> {
  try {
    const bytes = await sidecar.hints();
    if (bytes !== undefined) decodeHints(bytes);
    return bytes;
  } catch (error) {
    onFailed(
      `the hints of sidecar ${sidecar.descriptor.digest} are not used: ${toErrorRecord(error).message}`,
    );
    return undefined;
  }
}

/**
 * Keeps the hints of a sidecar that was passed over, if it has some. No mount waits for that; a failure is told and
 * concerns the hints alone. `signal`: the image is removed.
 */
export async function keepPlan(
  layout: Layout,
  image: string,
  plan: SidecarHandle,
  { signal, onFailed }: { signal: AbortSignal; onFailed: (sentence: string) => void },
): Promise<void> {
  try {
    const hints = await readHints(plan, onFailed);
    if (hints !== undefined && !signal.aborted) await writeWhole(layout.hints(image), hints);
  } catch (error) {
    onFailed(`the hints of sidecar ${plan.descriptor.digest} were not kept: ${toErrorRecord(error).message}`);
  }
}

/** Keeps them for an image, in place of those that it had. */
export async function keepHints(
  { layout, files }: { layout: Layout; files: LaterSync },
  image: string,
  hints: Buffer | undefined,
): Promise<void> {
  if (hints === undefined) await rm(layout.hints(image), { force: true });
  else await files.write(layout.hints(image), hints);
}

/**
 * What a start is likely to read, by the ids of its layers; undefined where nothing is known. `program`: first word of its command, where that is
 * not the image's own.
 */
export async function hintsFor(
  layout: Layout,
  image: string,
  start: { start: string; program: string | undefined; layers: readonly JobLayer[] },
): Promise<StartSet | undefined> {
  try {
    const hints = decodeHints(await readFile(layout.hints(image)));
    const command = start.start === DEFAULT_START ? 'default' : { program: start.program ?? '' };
    // Hints name layers by diffID, the front end by id.
    const ids = new Map(start.layers.map((layer) => [layer.diffId, layerOf(layer)]));
    const found = startOf(hints, command, new Set(ids.keys()));
    return found && { ...found, devices: found.devices.map((diffId) => ids.get(diffId) ?? diffId) };
  } catch {
    // There are none, as a rule; damaged ones would have made the start faster, no more.
    return undefined;
  }
}
