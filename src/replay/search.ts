/** Searches events, forwards or backwards, in slices, so that the caller can draw meanwhile and stop the search. */
import { layersOfImage } from '../../actors/device.ts';
import { canMatch, type Condition, type MatchContext, matches } from './conditions.ts';
import { rootsIn } from './record.ts';
import type { ReplayLog } from './replay-log.ts';

export type Wanted = { text: string } | { condition: Condition };

/** Events searched between two yields. */
const SLICE = 2_000;

/**
 * Searches from `start` (included) to `end` (excluded); backwards where `end` is smaller. Yields its place now and
 * then; returns the index of the first match, undefined where there is none.
 */
export function* search(
  log: ReplayLog,
  wanted: Wanted,
  start: number,
  end: number,
): Generator<number, number | undefined> {
  const step = end >= start ? 1 : -1;
  const { timeline } = log;
  const context = contextOf(log);
  const text = 'text' in wanted ? wanted.text.toLowerCase() : '';
  const mayType = new Map<string, boolean>();
  for (let index = start, count = 1; index !== end; index += step, count++) {
    if (count % SLICE === 0) yield index;
    if ('text' in wanted) {
      if (textAt(log, index).includes(text)) return index;
      continue;
    }
    const type = timeline.typeAt(index);
    let may = mayType.get(type);
    if (may === undefined) {
      may = canMatch(wanted.condition, type);
      mayType.set(type, may);
    }
    if (may && matches(wanted.condition, timeline.eventAt(index), context)) return index;
  }
  return undefined;
}

/** The text that a search looks through: sequence, object of the event, and all of its record, in small letters. */
function textAt(log: ReplayLog, index: number): string {
  const { timeline } = log;
  const { record } = timeline.decodedAt(index);
  return `${timeline.seqAt(index)} ${timeline.idAt(index)} ${JSON.stringify(record)}`.toLowerCase();
}

/** `search` to its end; for scripts. */
export function find(log: ReplayLog, wanted: Wanted, start: number, end: number): number | undefined {
  const steps = search(log, wanted, start, end);
  for (;;) {
    const next = steps.next();
    if (next.done === true) return next.value;
  }
}

/** Names by id, from all events of the log. */
export function contextOf(log: ReplayLog): MatchContext {
  let names = known.get(log);
  if (names === undefined) {
    names = new Names(log);
    known.set(log, names);
  }
  names.update();
  return names;
}

const known = new WeakMap<ReplayLog, Names>();

class Names implements MatchContext {
  readonly #log: ReplayLog;
  readonly #images = new Map<string, string>();
  readonly #layers = new Map<string, Set<string>>();
  readonly #mounts = new Map<string, string[]>();
  /** Events read so far. */
  #count = 0;

  constructor(log: ReplayLog) {
    this.#log = log;
    const { images, mounts } = log.beginning.state;
    for (const [manifest, image] of images)
      this.#learnImage(manifest, image.resolved.ref, layersOfImage(image));
    for (const [id, { ref, manifest, dir }] of mounts) this.#mounts.set(id, [ref, manifest, dir]);
  }

  update(): void {
    const { timeline, count } = this.#log;
    for (; this.#count < count; this.#count++) {
      const type = timeline.typeAt(this.#count);
      if (type === 'image.resolved') {
        const { id, data } = timeline.eventAt(this.#count);
        const list: unknown[] = Array.isArray(data.layers) ? data.layers : [];
        const diffIds = list.map((layer) => String((layer as { diffId?: unknown } | null)?.diffId));
        this.#learnImage(`sha256:${id}`, String(data.ref), diffIds);
      } else if (type === 'image.prepared') {
        const { id, data } = timeline.eventAt(this.#count);
        const manifest = `sha256:${id}`;
        this.#learnImage(manifest, this.#images.get(manifest) ?? manifest, rootsIn(data));
      } else if (type === 'mount.requested') {
        const { id, data } = timeline.eventAt(this.#count);
        this.#mounts.set(id, [String(data.ref), String(data.manifest), String(data.dir)]);
      }
    }
  }

  imagesOfLayer(layer: string): readonly string[] {
    return [...(this.#layers.get(layer) ?? [])];
  }

  diffIdOf(layer: string): string {
    return this.#log.diffIdOf(layer);
  }

  namesOfMount(id: string): readonly string[] {
    return this.#mounts.get(id) ?? [];
  }

  nameOfImage(manifest: string): string | undefined {
    return this.#images.get(manifest);
  }

  #learnImage(manifest: string, ref: string, layers: Iterable<string>): void {
    this.#images.set(manifest, ref);
    for (const layer of layers)
      this.#layers.set(layer, (this.#layers.get(layer) ?? new Set()).add(ref).add(manifest));
  }
}
