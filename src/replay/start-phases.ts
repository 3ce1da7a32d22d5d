/** The mounts of a log, and the phases that each went through until it was ready. */
import { layersOfImage } from '../../actors/device.ts';
import type { ImageFacts } from '../../actors/node-state.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { EventOf } from '../../schemas/events.ts';
import type { Ran } from '../../schemas/ran.ts';
import { checkedEvent } from './checked.ts';
import type { ReplayLog } from './replay-log.ts';
import type { TracedRead } from './trace.ts';

export interface MountStory {
  id: string;
  ref: string;
  manifest: string;
  dir: string;
  /** Of `mount.requested`. */
  index: number;
  requestedAt: number;
  mountedAt: number | undefined;
  /** When it had come how far, ms since the epoch; undefined: the log does not say. */
  steps?: EventOf<'mount.mounted'>['steps'];
  failed: string | undefined;
  /** When the call came, and when the program began that called, ms since the epoch. */
  asked?: number | undefined;
  began?: number | undefined;
  /** The run of the container that had it. */
  ran?: Ran | undefined;
}

/** Every mount of the log, in the order of their requests. */
export function* mountsOf(log: ReplayLog): IterableIterator<MountStory> {
  const { timeline } = log;
  for (let index = 0; index < log.count; index++) {
    if (timeline.typeAt(index) !== 'mount.requested') continue;
    yield storyAt(log, index);
  }
}

/** The mount that was requested by the event at `index`. */
export function storyAt(log: ReplayLog, index: number): MountStory {
  const { id, data, at } = log.timeline.eventAt(index);
  const story: MountStory = {
    id,
    ref: String(data.ref),
    manifest: String(data.manifest),
    dir: String(data.dir),
    index,
    requestedAt: at,
    mountedAt: undefined,
    steps: undefined,
    failed: undefined,
    asked: typeof data.asked === 'number' && data.asked <= at ? data.asked : undefined,
    began: undefined,
    ran: undefined,
  };
  const { asked = at } = story;
  if (typeof data.began === 'number' && data.began <= asked && asked - data.began < BEGAN_MS)
    story.began = data.began;
  tellEnd(log, story);
  return story;
}

/** What the log says behind the request: of its first mount, and of its end. */
function tellEnd({ timeline, count }: ReplayLog, story: MountStory): void {
  for (let next = story.index + 1; next < count; next++) {
    if (timeline.kindAt(next) !== 'mount' || timeline.idAt(next) !== story.id) continue;
    const type = timeline.typeAt(next);
    if (type === 'mount.mounted' && story.mountedAt === undefined) {
      story.mountedAt = timeline.timeAt(next);
      story.steps = checkedEvent(timeline.eventAt(next), 'mount.mounted')?.steps;
    } else if (type === 'mount.failed') {
      story.failed = String(timeline.eventAt(next).data.message);
      return;
    } else if (type === 'mount.unmounted') {
      story.ran = checkedEvent(timeline.eventAt(next), 'mount.unmounted')?.ran;
      return;
    }
  }
}

/** A program that calls begins at most so long before its call, ms; what says otherwise is not believed. */
const BEGAN_MS = 600_000;

/** The mount with this id or directory (the last one there); without, the last of the log. Error: `not-found`. */
export function findMount(log: ReplayLog, wanted: string | undefined): MountStory {
  let found: MountStory | undefined;
  for (const mount of mountsOf(log))
    if (wanted === undefined || mount.id === wanted || mount.dir === wanted || mount.ref === wanted)
      found = mount;
  if (found !== undefined) return found;
  throw new CofaError(
    'not-found',
    wanted === undefined
      ? 'the log tells of no mount being made'
      : `the log does not tell of mount ${wanted} being made`,
    { hint: 'cofa replay --events --type mount.requested lists those of a log' },
  );
}

export interface Phase {
  phase: 'resolve' | 'prepare' | 'attach' | 'mount';
  /** ms since the epoch */
  at: number;
  end: number;
  what: string;
}

/** A resolve that ended longer before the request of a mount belongs to another mount, ms. */
const RESOLVE_MS = 2_000;

/** The phases of a mount that was ready at `mountedAt` (ms since the epoch), in order and without gaps. */
export function phasesOf(log: ReplayLog, mount: MountStory, mountedAt: number): Phase[] {
  const { origin, preparedAt, openedAt, opened } = preparationOf(log, mount);
  const { steps } = mount;
  const within = (at: number, from: number) => Math.min(Math.max(at, from), mountedAt);
  // The log has `image.prepared` when the disk has the files, and the image is attached meanwhile.
  const readyAt = within(steps?.prepared ?? preparedAt ?? mount.requestedAt, mount.requestedAt);
  const attachedAt = within(steps?.attached ?? openedAt ?? readyAt, readyAt);
  return [
    ...resolveOf(log, mount),
    { phase: 'prepare', at: mount.requestedAt, end: readyAt, what: origin },
    {
      phase: 'attach',
      at: readyAt,
      end: attachedAt,
      what: opened === 0 ? 'its layers were open before' : `${opened} layers opened`,
    },
    { phase: 'mount', at: attachedAt, end: mountedAt, what: 'loop devices, flat file system' },
  ];
}

/** The resolve that the request waited for: as the request says, else as an event shortly before it does. */
function resolveOf(log: ReplayLog, mount: MountStory): Phase[] {
  const asked = mount.asked ?? storyAt(log, mount.index).asked;
  if (asked !== undefined) {
    const what = 'the registry says what the name means';
    return [{ phase: 'resolve', at: asked, end: mount.requestedAt, what }];
  }
  const at = resolvedBefore(log, mount);
  return at === undefined
    ? []
    : [{ phase: 'resolve', at, end: mount.requestedAt, what: 'the image was new to the node' }];
}

function resolvedBefore(log: ReplayLog, mount: MountStory): number | undefined {
  const { timeline } = log;
  for (let index = mount.index - 1; index >= 0; index--) {
    const at = timeline.timeAt(index);
    if (mount.requestedAt - at > RESOLVE_MS) return undefined;
    if (timeline.typeAt(index) === 'image.resolved' && timeline.idAt(index) === hexOf(mount)) return at;
  }
  return undefined;
}

interface Preparation {
  /** Where the flat image came from, for people. */
  origin: string;
  by: 'sidecar' | 'node' | undefined;
  preparedAt: number | undefined;
  /** When the last of the layers was opened. */
  openedAt: number | undefined;
  opened: number;
}

/** What the engine prepared and opened for the mount, between its request and its end. */
function preparationOf(log: ReplayLog, mount: MountStory): Preparation {
  const { timeline } = log;
  const layers = layersOf(log, mount.manifest);
  const found: Preparation = {
    origin: 'the image was prepared before',
    by: undefined,
    preparedAt: undefined,
    openedAt: undefined,
    opened: 0,
  };
  for (let index = mount.index + 1; index < log.count; index++) {
    const type = timeline.typeAt(index);
    const id = timeline.idAt(index);
    if (type === 'mount.mounted' && id === mount.id) break;
    if (type === 'image.prepared' && id === hexOf(mount)) {
      found.preparedAt = timeline.timeAt(index);
      const { origin } = timeline.eventAt(index).data;
      found.by = origin === 'node' ? 'node' : 'sidecar';
      found.origin = origin === 'node' ? 'indexed on this node' : 'sidecar and span tables from the registry';
    } else if (type === 'layer.opened' && layers.has(`sha256:${id}`)) {
      found.openedAt = timeline.timeAt(index);
      found.opened += 1;
    }
  }
  return found;
}

/** Who built the flat image for this mount; undefined: it was there before. */
export function originOf(log: ReplayLog, mount: MountStory): 'sidecar' | 'node' | undefined {
  return preparationOf(log, mount).by;
}

const hexOf = (mount: MountStory): string => mount.manifest.slice('sha256:'.length);

/** Layers of an image, as the log says it before its end. */
export function layersOf(log: ReplayLog, manifest: string): Set<string> {
  const known = imageIn(log, manifest);
  return known === undefined ? new Set() : layersOfImage(known);
}

/** What the log knows of an image at its end, also of one that was removed. */
export const imageIn = (log: ReplayLog, manifest: string): ImageFacts | undefined =>
  log.stateAt(log.count).images.get(manifest) ??
  log.beginning.state.images.get(manifest) ??
  lastOf(log, manifest);

/** What the log knew last of an image that was removed. */
function lastOf(log: ReplayLog, manifest: string): ImageFacts | undefined {
  const { timeline } = log;
  for (let index = log.count - 1; index >= 0; index--)
    if (timeline.typeAt(index) === 'image.removed' && `sha256:${timeline.idAt(index)}` === manifest)
      return log.stateAt(index).images.get(manifest);
  return undefined;
}

/** Files that have bytes in what was read, each once. */
export function* pathsOfRead(log: ReplayLog, read: TracedRead): IterableIterator<string> {
  const seen = new Set<string>();
  for (let block = read.block; block < read.block + Math.min(read.blocks, 256); block++) {
    for (const path of log.pathsOf(read.layer, block)) {
      if (!seen.has(path)) yield path;
      seen.add(path);
    }
  }
}
