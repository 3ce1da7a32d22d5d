/**
 * Chains of layers, as containerd names what snapshots hold: the ChainID of the lowest n layers of an image (OCI
 * image-spec, config.md). Any of them can be mounted flat where somebody has prepared the image.
 */
import type { Logger } from 'pino';
import { chainIds } from '../../digest/chain-id.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import { parseReference } from '../../registry/reference.ts';
import type { Image } from './image.ts';
import type { Images } from './images.ts';

export interface FlatChain {
  ref: string;
  manifest: string;
  layers: number;
  diffId: string;
}

/** That an image has no sidecar is believed for so long, ms: a pull asks for each of its layers. */
const BELIEVE_MS = 20_000;
/** Images that are remembered to have none. */
const MOST_REMEMBERED = 1_000;

export class Chains {
  readonly #images: Images;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #unprepared = new Map<string, number>();
  /** References that are being asked for. */
  readonly #asked = new Map<string, Promise<Image>>();

  constructor(options: { images: Images; log: Logger; now: () => number }) {
    this.#images = options.images;
    this.#log = options.log;
    this.#now = options.now;
  }

  /**
   * An image with this chain that can be mounted without unpacking: one that this node knows, or the one that `ref` (and
   * `manifest`) name. Undefined when there is none. Errors: those of the registry.
   */
  async flat(order: {
    chain: string;
    ref?: string | undefined;
    manifest?: string | undefined;
  }): Promise<FlatChain | undefined> {
    const { chain, ref, manifest } = order;
    for (const image of Array.from(this.#images.all())) {
      if (image.prepared === undefined || image.resolved.chain !== undefined) continue;
      const found = within(image, chain);
      if (found !== undefined && (await this.#images.isPrepared(image))) return found;
    }
    if (ref === undefined) return undefined;
    const image = await this.#resolve(ref, manifest);
    const found = within(image, chain);
    if (found === undefined || !(await this.#isPrepared(image))) return undefined;
    return found;
  }

  /** The image of the lowest layers of the one that `text` names by digest. Errors: `invalid-argument`, the registry's. */
  async image(text: string, layers: number): Promise<Image> {
    const { digest } = parseReference(text);
    if (digest === undefined) {
      throw new CofaError('invalid-argument', `${text}: a number of layers needs a reference by digest`);
    }
    const whole = await this.#resolve(text, digest);
    if (layers > whole.resolved.layers.length) {
      throw new CofaError(
        'invalid-argument',
        `${text} has ${whole.resolved.layers.length} layers, not ${layers}`,
      );
    }
    if (layers === whole.resolved.layers.length) return whole;
    const chain = chainsOf(whole)[layers - 1] as string;
    return await this.#images.ofChain(whole, layers, chain);
  }

  async #resolve(ref: string, manifest: string | undefined): Promise<Image> {
    const known = manifest === undefined ? undefined : this.#images.get(manifest);
    if (known !== undefined) return known;
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

  async #isPrepared(image: Image): Promise<boolean> {
    const since = this.#unprepared.get(image.manifest);
    if (since !== undefined && this.#now() - since < BELIEVE_MS) return false;
    try {
      if (await this.#images.isPrepared(image)) return true;
    } catch (error) {
      this.#log.warn({ image: image.resolved.ref, error: toErrorRecord(error) }, 'no word about a sidecar');
    }
    if (this.#unprepared.size >= MOST_REMEMBERED) this.#unprepared.clear();
    this.#unprepared.set(image.manifest, this.#now());
    return false;
  }
}

function within(image: Image, chain: string): FlatChain | undefined {
  const at = chainsOf(image).indexOf(chain);
  const layer = image.resolved.layers[at];
  if (layer === undefined) return undefined;
  const { ref } = image.resolved;
  return { ref, manifest: image.manifest, layers: at + 1, diffId: layer.diffId };
}

const computed = new WeakMap<object, string[]>();

/** ChainIDs of the image's layers, the lowest first. */
function chainsOf(image: Image): string[] {
  const { layers } = image.resolved;
  let ids = computed.get(layers);
  if (ids === undefined) {
    ids = chainIds(layers.map(({ diffId }) => diffId));
    computed.set(layers, ids);
  }
  return ids;
}
