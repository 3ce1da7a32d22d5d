/** The mounts of a log, and the phases that each went through until it was ready. */
import { layersOfImage } from '../../actors/device.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { ReplayLog } from './replay-log.ts';

export interface MountStory {
  id: string;
  ref: string;
  manifest: string;
  dir: string;
  /** Of `mount.requested`. */
  index: number;
  requestedAt: number;
  mountedAt: number | undefined;
  failed: string | undefined;
}

/** Every mount of the log, in the order of their requests. */
export function* mountsOf(log: ReplayLog): IterableIterator<MountStory> {
  const { timeline } = log;
  for (let index = 0; index < log.count; index++) {
    if (timeline.typeAt(index) !== 'mount.requested') continue;
    const { id, data, at } = timeline.eventAt(index);
    const story: MountStory = {
      id,
      ref: String(data.ref),
      manifest: String(data.manifest),
      dir: String(data.dir),
      index,
      requestedAt: at,
      mountedAt: undefined,
      failed: undefined,
    };
    for (let next = index + 1; next < log.count; next++) {
      if (timeline.kindAt(next) !== 'mount' || timeline.idAt(next) !== id) continue;
      const type = timeline.typeAt(next);
      if (type === 'mount.mounted') story.mountedAt = timeline.timeAt(next);
      else if (type === 'mount.failed') story.failed = String(timeline.eventAt(next).data.message);
      break;
    }
    yield story;
  }
}

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
  const readyAt = preparedAt ?? mount.requestedAt;
  const attachedAt = Math.min(Math.max(openedAt ?? readyAt, readyAt), mountedAt);
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
  const { asked } = log.timeline.eventAt(mount.index).data as { asked?: unknown };
  if (typeof asked === 'number' && asked <= mount.requestedAt) {
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
      found.origin = origin === 'node' ? 'indexed on this node' : 'sidecar and span tables from the registry';
    } else if (type === 'layer.opened' && layers.has(`sha256:${id}`)) {
      found.openedAt = timeline.timeAt(index);
      found.opened += 1;
    }
  }
  return found;
}

const hexOf = (mount: MountStory): string => mount.manifest.slice('sha256:'.length);

/** Layers of an image, as the log says it before its end. */
export function layersOf(log: ReplayLog, manifest: string): Set<string> {
  const known = log.stateAt(log.count).images.get(manifest) ?? log.beginning.state.images.get(manifest);
  return known === undefined ? new Set() : layersOfImage(known);
}
