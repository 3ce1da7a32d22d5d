/**
 * Chains of layers, as containerd names what snapshots hold: the ChainID of the lowest n layers of an image (OCI
 * image-spec, config.md). Any of them can be mounted flat where somebody has prepared the image.
 */
import type { Logger } from 'pino';
import { chainIds } from '../../digest/chain-id.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import { parseReference } from '../../registry/reference.ts';
import { type Claim, isSameRepository } from './access.ts';
import type { Image } from './image.ts';
import type { Images } from './images.ts';

export interface FlatChain {
  ref: string;
  manifest: string;
  layers: number;
  diffId: string;
  /** The image was named, and is prepared: all of its layers. */
  whole?: { chain: string; layers: number; diffId: string };
}

/** Whether a registry has a sidecar for an image is believed for so long, ms: a pull asks for each of its layers. */
const BELIEVE_MS = 20_000;
/** Images of which that is remembered. */
const MOST_REMEMBERED = 1_000;

export class Chains {
  readonly #images: Images;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #believed = new Map<string, { isPrepared: boolean; since: number }>();
  /** References that are being asked for. */
  readonly #asked = new Map<string, Promise<Image>>();

  constructor(options: { images: Images; log: Logger; now: () => number }) {
    this.#images = options.images;
    this.#log = options.log;
    this.#now = options.now;
  }

  /**
   * An image with this chain that can be mounted without unpacking: the one that `ref` (and `manifest`) name, or another that
   * this node knows. Who knows a chain has shown nothing by that: the image that is named has to have the chain and may use
   * what the node has of it (access.ts); without such a one, only images that are public count. Undefined when there is
   * none. The client that asks has got the manifest from the registry with the credentials of its own pull.
   */
  async flat(order: {
    chain: string;
    ref?: string | undefined;
    manifest?: string | undefined;
  }): Promise<FlatChain | undefined> {
    const { chain, ref, manifest } = order;
    const named = ref === undefined ? undefined : await this.#admitted(ref, manifest);
    const found = named === undefined ? undefined : within(named, chain);
    // What a user has pinned by digest is not shown on the word of a client that may merely push.
    const isPinned = ref !== undefined && parseReference(ref).digest !== undefined;
    if (named !== undefined && found !== undefined && (await this.#isPrepared(named, isPinned)))
      return { ...found, whole: wholeOf(named) };
    for (const image of Array.from(this.#images.all())) {
      if (image === named || image.prepared === undefined || image.resolved.chain !== undefined) continue;
      const other = within(image, chain);
      if (other === undefined || !(await this.#images.isPrepared(image, isPinned))) continue;
      if (found !== undefined || (await this.#images.access.isPublic(image.resolved))) return other;
    }
    return undefined;
  }

  /** Undefined where its registry does not say, or it may not use what the node has. */
  async #admitted(ref: string, manifest: string | undefined): Promise<Image | undefined> {
    try {
      const known = manifest === undefined ? undefined : this.#images.get(manifest);
      if (known === undefined || !isSameRepository(known.resolved, parseReference(ref)))
        return await this.#ask(ref, manifest);
      await this.#images.access.admit(known.resolved);
      return known;
    } catch (error) {
      this.#log.info(
        { ref, error: toErrorRecord(error) },
        'an image that is pulled is not taken for what it says',
      );
      return undefined;
    }
  }

  /**
   * Whether an image that a client has pulled may use what this node has of its layers. Errors: the registry's, where it
   * does not say.
   */
  async admits({
    ref,
    manifest,
    layers,
  }: Pick<Claim, 'manifest' | 'layers'> & { ref: string }): Promise<boolean> {
    const { registry, repository } = parseReference(ref);
    try {
      const image = { registry, repository, manifest, layers };
      await this.#images.access.admit(image);
      this.#images.access.notePulled(image);
      return true;
    } catch (error) {
      if (error instanceof CofaError && error.code === 'unauthorized') return false;
      throw error;
    }
  }

  /** The image of the lowest layers of the one that `text` names by digest. Errors: `invalid-argument`, the registry's. */
  async image(text: string, layers: number): Promise<Image> {
    const { digest } = parseReference(text);
    if (digest === undefined) {
      throw new CofaError('invalid-argument', `${text}: a number of layers needs a reference by digest`);
    }
    // The snapshots of what was offered before stand on it, also while the registry is away.
    const whole = this.#images.get(digest) ?? (await this.#ask(text, digest));
    if (layers > whole.resolved.layers.length) {
      throw new CofaError(
        'invalid-argument',
        `${text} has ${whole.resolved.layers.length} layers, not ${layers}`,
      );
    }
    if (layers === whole.resolved.layers.length) return whole;
    const chain = chainsOf(whole)[layers - 1];
    if (chain === undefined) throw new CofaError('invalid-argument', `${text} is no container image`);
    return await this.#images.ofChain(whole, layers, chain);
  }

  async #ask(ref: string, manifest: string | undefined): Promise<Image> {
    const { registry, repository, tag } = parseReference(ref);
    // The name as a person knows it, and the very manifest that the client has got.
    const name = tag === undefined ? `${registry}/${repository}` : `${registry}/${repository}:${tag}`;
    const text = manifest === undefined ? ref : `${name}@${manifest}`;
    let asked = this.#asked.get(text);
    if (asked === undefined) {
      asked = this.#images.resolve(text, undefined).finally(() => this.#asked.delete(text));
      this.#asked.set(text, asked);
    }
    return await asked;
  }

  /** What is believed leads to an offer; the mount looks for itself. */
  async #isPrepared(image: Image, isPinned: boolean): Promise<boolean> {
    if (image.prepared !== undefined || image.refuted !== undefined)
      return await this.#images.isPrepared(image, isPinned);
    const key = `${image.manifest} ${isPinned ? 'pinned' : ''}`;
    const believed = this.#believed.get(key);
    if (believed !== undefined && this.#now() - believed.since < BELIEVE_MS) return believed.isPrepared;
    let isPrepared = false;
    try {
      isPrepared = await this.#images.isPrepared(image, isPinned);
    } catch (error) {
      this.#log.warn({ image: image.resolved.ref, error: toErrorRecord(error) }, 'no word about a sidecar');
    }
    if (this.#believed.size >= MOST_REMEMBERED) this.#believed.clear();
    this.#believed.set(key, { isPrepared, since: this.#now() });
    return isPrepared;
  }
}

function within(image: Image, chain: string): FlatChain | undefined {
  const at = chainsOf(image).indexOf(chain);
  const layer = image.resolved.layers[at];
  if (layer === undefined) return undefined;
  const { ref } = image.resolved;
  return { ref, manifest: image.manifest, layers: at + 1, diffId: layer.diffId };
}

function wholeOf(image: Image): NonNullable<FlatChain['whole']> {
  const { layers } = image.resolved;
  return { chain: chainsOf(image).at(-1) ?? '', layers: layers.length, diffId: layers.at(-1)?.diffId ?? '' };
}

const computed = new WeakMap<object, string[]>();

/** ChainIDs of the image's layers, the lowest first. */
function chainsOf(image: Image): string[] {
  const { layers } = image.resolved;
  // No client has snapshots of files; a chain of the same diffIDs is one of tars.
  if (layers.some(({ file }) => file !== undefined)) return [];
  let ids = computed.get(layers);
  if (ids === undefined) {
    ids = chainIds(layers.map(({ diffId }) => diffId));
    computed.set(layers, ids);
  }
  return ids;
}
