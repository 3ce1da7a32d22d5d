/**
 * Which events belong to one image or one mount: those of the image, of its layers, of its mounts, and of the engine.
 * Another image may have opened a layer before, and an event may name a mount by its id alone. So the selection first
 * learns from the image and mount events, then chooses from all events.
 */
import type { NodeState } from '../../actors/node-state.ts';
import { CofaError } from '../../schemas/errors.ts';
import { type DecodedRecord, decodeRecord, partsOfSubject, type RawRecord, rootsIn } from './record.ts';

export interface SelectionOptions {
  /** A reference as given to mount, `name:tag`, or a manifest's digest or the beginning of its digits. */
  image?: string | undefined;
  /** A mount's id or directory. */
  mount?: string | undefined;
}

export class Selection {
  readonly options: SelectionOptions;
  readonly #all: boolean;
  readonly #manifests = new Set<string>();
  readonly #layers = new Set<string>();
  readonly #mounts = new Set<string>();
  /** Layers of every image, by hex digits of its manifest. */
  readonly #layersOf = new Map<string, string[]>();

  constructor(options: SelectionOptions) {
    this.options = options;
    this.#all = options.image === undefined && options.mount === undefined;
  }

  get isAll(): boolean {
    return this.#all;
  }

  /** Learns from a state in front of the log. */
  learnState(state: NodeState): void {
    if (this.#all) return;
    for (const [manifest, { resolved, prepared }] of state.images) {
      this.#learnImage(manifest.slice(7), resolved as unknown as Record<string, unknown>);
      if (prepared !== undefined) this.#learnRoots(manifest.slice(7), rootsIn({ ...prepared }));
    }
    for (const [id, mount] of state.mounts) this.#learnMount(id, mount as unknown as Record<string, unknown>);
  }

  learn(raw: RawRecord, decoded?: DecodedRecord): void {
    // Other events teach nothing, and need not be decoded.
    if (this.#all || !/\.event\.(image|mount)\./.test(raw.subject)) return;
    const { type, record } = decoded ?? decodeRecord(raw.bytes);
    this.learnFacts(raw.subject, type, record);
  }

  learnFacts(subject: string, type: string, record: Record<string, unknown>): void {
    const { id } = partsOfSubject(subject);
    if (type === 'image.resolved') this.#learnImage(id, record);
    else if (type === 'image.prepared') this.#learnRoots(id, rootsIn(record));
    else if (type === 'mount.requested') this.#learnMount(id, record);
  }

  /** Call `learn` for the record before. */
  accepts(raw: RawRecord): boolean {
    return this.acceptsSubject(raw.subject);
  }

  acceptsSubject(subject: string): boolean {
    if (this.#all) return true;
    const { kind, id } = partsOfSubject(subject);
    if (kind === 'image') return this.#manifests.has(id);
    if (kind === 'layer') return this.#layers.has(id);
    if (kind === 'mount') return this.#mounts.has(id);
    return kind === 'engine';
  }

  /** The state without the parts outside of the selection. */
  cut(state: NodeState): NodeState {
    if (this.#all) return state;
    const pick = <T>(map: Map<string, T>, ids: ReadonlySet<string>) =>
      new Map([...map].filter(([key]) => ids.has(key.replace(/^sha256:/, ''))));
    return {
      ...state,
      snapshots: new Map(),
      images: pick(state.images, this.#manifests),
      layers: pick(state.layers, this.#layers),
      mounts: pick(state.mounts, this.#mounts),
    };
  }

  /** Error: `not-found` where nothing fits; call it after all events were learned. */
  check(): void {
    if (this.#all) return;
    const { image, mount } = this.options;
    if (mount !== undefined ? this.#mounts.size > 0 : this.#manifests.size > 0) return;
    throw new CofaError(
      'not-found',
      mount !== undefined ? `the log has no mount ${mount}` : `the log has no image ${image}`,
      { hint: 'cofa replay --events --type "mount.requested" lists the mounts of a log' },
    );
  }

  #learnImage(hex: string, record: Record<string, unknown>): void {
    const layers = Array.isArray(record.layers)
      ? record.layers.map((layer) => String((layer as { diffId?: unknown } | null)?.diffId).slice(7))
      : [];
    this.#layersOf.set(hex, layers);
    const { image } = this.options;
    if (this.#manifests.has(hex) || (image !== undefined && isImage(image, hex, record))) this.#addImage(hex);
  }

  /** Layers of the image bear these names in the log. */
  #learnRoots(hex: string, roots: readonly string[]): void {
    this.#layersOf.set(hex, [...(this.#layersOf.get(hex) ?? []), ...roots.map((root) => root.slice(7))]);
    if (this.#manifests.has(hex)) this.#addImage(hex);
  }

  #learnMount(id: string, record: Record<string, unknown>): void {
    const hex = String(record.manifest).slice(7);
    const { mount } = this.options;
    if (mount === undefined ? this.#manifests.has(hex) : mount === id || mount === record.dir) {
      this.#mounts.add(id);
      if (mount !== undefined) this.#addImage(hex);
    }
  }

  #addImage(hex: string): void {
    this.#manifests.add(hex);
    for (const layer of this.#layersOf.get(hex) ?? []) this.#layers.add(layer);
  }
}

function isImage(wanted: string, hex: string, { ref, repository }: Record<string, unknown>): boolean {
  if (ref === wanted) return true;
  if (typeof ref === 'string' && (ref.endsWith(`/${wanted}`) || ref.endsWith(`/${wanted}:latest`)))
    return true;
  if (ref === `${wanted}:latest` || repository === wanted) return true;
  const digits = wanted.replace(/^sha256:/, '');
  return /^[0-9a-f]{6,64}$/.test(digits) && hex.startsWith(digits);
}
