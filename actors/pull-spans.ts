/**
 * The spans of containerd's pulls and of its calls, folded from the event log beside those of starts (start-spans.ts).
 *
 *     pull                       snapshots that containerd need not unpack, from the first to the last layer
 *       layer
 *     prepare snapshot           where the client traces its call
 */
import type { EventOf } from '../schemas/events.ts';
import { contextIn, parentOf } from '../schemas/trace-context.ts';
import { type HashOf, LONGEST, type SpanTree, TreeMaker } from './spans.ts';

/** What is known of an image: ids that its layers have in the log, and how many it has. */
export interface SpanImage {
  layers: ReadonlySet<string>;
  count: number;
}

export interface SpansOptions {
  node: string;
  /** By its manifest; asked while the log is at the event that is folded. */
  imageOf: (manifest: string) => SpanImage | undefined;
  hash: HashOf;
}

/** A pull whose next layer does not come is over after this, ms. */
const PULL_MS = 60_000;
/** What is followed at once. */
const MOST_PULLS = 100;
const MOST_LAYERS = 1_024;

interface Pull {
  seq: number;
  layers: Array<EventOf<'snapshot.committed'>>;
}

export class PullSpans {
  readonly #options: SpansOptions;
  readonly #pulls = new Map<string, Pull>();

  constructor(options: SpansOptions) {
    this.#options = options;
  }

  /** Pulls that are over at `now`, by the clock of the events, ms. */
  settled(now: number): SpanTree[] {
    const over: SpanTree[] = [];
    for (const [manifest, pull] of this.#pulls)
      if (now > (pull.layers.at(-1)?.at ?? 0) + PULL_MS) over.push(...this.#endPull(manifest, pull));
    return over;
  }

  /** A snapshot of a container. */
  snapshot(id: string, event: EventOf<'snapshot.prepared'>): SpanTree[] {
    const context = contextIn(event);
    if (context === undefined) return [];
    const maker = new TreeMaker(`${this.#options.node} snapshot ${id}`, context, this.#options.hash);
    const { asked, at, key, kind } = event;
    const attributes = { 'cofa.snapshot.key': key.slice(0, LONGEST), 'cofa.snapshot.kind': kind };
    maker.add('prepare', { name: 'prepare snapshot', kind: 'server', from: asked ?? at, to: at, attributes });
    return [maker.tree];
  }

  /** A layer that need not be unpacked. */
  layer(seq: number, event: EventOf<'snapshot.committed'>): SpanTree[] {
    const { flat } = event;
    if (flat === undefined) return [];
    let pull = this.#pulls.get(flat.manifest);
    if (pull === undefined) {
      if (this.#pulls.size >= MOST_PULLS) return [];
      this.#pulls.set(flat.manifest, (pull = { seq, layers: [] }));
    }
    if (pull.layers.length < MOST_LAYERS) pull.layers.push(event);
    const isWhole = flat.layers === this.#options.imageOf(flat.manifest)?.count;
    return isWhole ? this.#endPull(flat.manifest, pull) : [];
  }

  #endPull(manifest: string, { seq, layers }: Pull): SpanTree[] {
    this.#pulls.delete(manifest);
    const [first] = layers;
    if (first === undefined) return [];
    const context = layers.map(contextIn).find((one) => one !== undefined);
    const maker = new TreeMaker(`${this.#options.node} pull ${seq}`, context, this.#options.hash);
    const root = maker.add('pull', {
      name: 'pull',
      from: Math.min(...layers.map(({ asked, at }) => asked ?? at)),
      to: Math.max(...layers.map(({ at }) => at)),
      attributes: {
        'cofa.image': first.flat?.ref.slice(0, LONGEST) ?? '',
        'oci.manifest.digest': manifest,
        'cofa.layers': layers.length,
      },
    });
    for (const layer of layers) {
      const { asked, at, flat } = layer;
      const own = contextIn(layer);
      const caller = own && parentOf(own);
      maker.add(`layer ${flat?.chain}`, {
        // Below the call that asked for it, where that is of the same trace.
        ...(caller?.traceId === maker.tree.traceId ? { parentId: caller.spanId } : { parent: root }),
        name: 'layer',
        kind: 'server',
        from: asked ?? at,
        to: at,
        attributes: { 'cofa.layer': flat?.diffId ?? '', 'cofa.chain': flat?.chain ?? '' },
      });
    }
    return [maker.tree];
  }
}
