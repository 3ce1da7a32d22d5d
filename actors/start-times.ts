/**
 * How long the phases of each mount took, from the events as they come: the same phases as `cofa replay why --start` tells
 * (src/replay/start-phases.ts). Layers are opened by another process, whose events may come after the mount is ready: a
 * start is told some time after it.
 */
import type { CofaEvent, EventOf } from '../schemas/events.ts';
import { contextIn, type TraceContext } from '../schemas/trace-context.ts';

export type StartPhase = 'resolve' | 'prepare' | 'attach' | 'mount';
/** `before`: an earlier mount had prepared the image. */
export type PreparedBy = 'before' | 'sidecar' | 'node';

export interface StartTimes {
  /** Of its mount. */
  id: string;
  /** Whose trace it joins; undefined: it has one of its own. */
  context: TraceContext | undefined;
  /** When it was mounted, ms since the epoch. */
  mountedAt: number;
  prepared: PreparedBy;
  /** Seconds. */
  phases: ReadonlyArray<readonly [StartPhase, number]>;
}

/** What the mount itself says of its steps; undefined: nothing. */
type MountSteps = EventOf<'mount.mounted'>['steps'];

interface Pending {
  context: TraceContext | undefined;
  manifest: string;
  asked: number | undefined;
  requestedAt: number;
  prepared: PreparedBy;
  preparedAt: number | undefined;
  /** When each layer was opened that was opened meanwhile. */
  openedAt: Map<string, number>;
  mountedAt: number | undefined;
  steps: MountSteps;
}

/** Events of other processes are waited for so long after the mount was ready, ms. */
const SETTLE_MS = 1_000;
/** Mounts that are followed at once, and layers of each. */
const MOST_MOUNTS = 1_000;
const MOST_LAYERS = 1_024;

export class StartWatcher {
  readonly #layersOf: (manifest: string) => ReadonlySet<string>;
  readonly #pending = new Map<string, Pending>();

  /** `layersOf`: ids of the layers of an image, by its id. */
  constructor(layersOf: (manifest: string) => ReadonlySet<string>) {
    this.#layersOf = layersOf;
  }

  /** `id`: of the event's subject. */
  take(id: string, event: CofaEvent): void {
    switch (event.type) {
      case 'mount.requested': {
        const { manifest, asked, at } = event;
        if (this.#pending.size >= MOST_MOUNTS)
          this.#pending.delete(this.#pending.keys().next().value as string);
        const none = { preparedAt: undefined, mountedAt: undefined, steps: undefined };
        const requestedAt = at;
        this.#pending.set(id, {
          context: contextIn(event),
          manifest,
          asked,
          requestedAt,
          prepared: 'before',
          ...none,
          openedAt: new Map(),
        });
        return;
      }
      case 'image.prepared':
        for (const start of this.#waiting())
          if (start.manifest === `sha256:${id}`) {
            start.prepared = event.origin;
            start.preparedAt = event.at;
          }
        return;
      case 'layer.opened':
        for (const start of this.#pending.values())
          if (start.openedAt.size < MOST_LAYERS) start.openedAt.set(`sha256:${id}`, event.at);
        return;
      case 'mount.mounted': {
        const start = this.#pending.get(id);
        if (start === undefined) return;
        start.mountedAt = event.at;
        start.steps = event.steps;
        return;
      }
      case 'mount.failed':
      case 'mount.unmounted':
        if (this.#pending.get(id)?.mountedAt === undefined) this.#pending.delete(id);
    }
  }

  /** Starts that are told from now on; each once. `now`: by the clock of the events, ms. */
  settled(now: number): StartTimes[] {
    const all: StartTimes[] = [];
    for (const [id, start] of this.#pending) {
      if (start.mountedAt === undefined || now - start.mountedAt < SETTLE_MS) continue;
      this.#pending.delete(id);
      all.push(this.#timesOf(id, start, start.mountedAt));
    }
    return all;
  }

  *#waiting(): IterableIterator<Pending> {
    for (const start of this.#pending.values()) if (start.mountedAt === undefined) yield start;
  }

  #timesOf(
    id: string,
    { context, manifest, asked, requestedAt, prepared, preparedAt, openedAt, steps }: Pending,
    mountedAt: number,
  ): StartTimes {
    const layers = this.#layersOf(manifest);
    let lastOpened = 0;
    for (const [layer, at] of openedAt)
      if (layers.has(layer) && at <= mountedAt) lastOpened = Math.max(lastOpened, at);
    const times = { asked, requestedAt, preparedAt, openedAt: lastOpened, mountedAt, steps };
    const phases = phasesOfStart(times);
    return {
      id,
      context,
      mountedAt,
      prepared,
      phases: phases.map(({ phase, from, to }) => [phase, (to - from) / 1000]),
    };
  }
}

/** A phase between two moments, ms since the epoch. */
export interface PhaseTimes {
  phase: StartPhase;
  from: number;
  to: number;
}

/**
 * The phases of a mount in order and without gaps, from the times of its events, ms since the epoch. `asked`: undefined where the log does
 * not tell; `openedAt`: when the last of its layers was opened, 0 where all were open before.
 */
export function phasesOfStart(times: {
  asked: number | undefined;
  requestedAt: number;
  preparedAt: number | undefined;
  openedAt: number;
  mountedAt: number;
  steps: MountSteps;
}): PhaseTimes[] {
  const { asked, requestedAt, preparedAt, openedAt, mountedAt, steps } = times;
  const within = (at: number, from: number) => Math.min(Math.max(at, from), mountedAt);
  // The log has `image.prepared` when the disk has the files, and the image is attached meanwhile.
  const readyAt = within(steps?.prepared ?? preparedAt ?? requestedAt, requestedAt);
  const attachedAt = within(steps?.attached ?? openedAt, readyAt);
  const phase = (name: StartPhase, from: number, to: number) => ({
    phase: name,
    from,
    to: Math.max(from, to),
  });
  return [
    ...(asked === undefined ? [] : [phase('resolve', asked, requestedAt)]),
    phase('prepare', requestedAt, readyAt),
    phase('attach', readyAt, attachedAt),
    phase('mount', attachedAt, mountedAt),
  ];
}
