/**
 * Who may see what this node has. Layers are shared between images by their digests, and an image names digests without
 * having the bytes. So an image from a repository may use a layer that the node also has from another one only where
 *
 *     1. the other repository gives it to everyone, or
 *     2. both are of one registry and name the same blob, which the registry gives to us from this repository, too, or
 *     3. this repository has given the layer: its blob was read once to the end and is the layer.
 *
 * What is known lives in memory, holds no credentials, and fails closed: docs/private-images.md.
 */
import type { Logger } from 'pino';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import type { RegistryClient, Source } from '../../registry/client.ts';
import { holdsLayer } from './possession.ts';

/** An image, and the layers that it names. */
export interface Claim extends Source {
  manifest: string;
  layers: ReadonlyArray<ClaimedLayer>;
}

interface ClaimedLayer {
  diffId: string;
  /** Digest of the blob, and its bytes. */
  blob: string;
  blobSize: number;
}

export interface AccessOptions {
  registry: Pick<RegistryClient, 'isPublic' | 'hasBlob' | 'blobStream'>;
  /** What the images that the node knows name. */
  claims: () => Iterable<Claim>;
  /** Bytes of a layer's tar, where the node has some of it. */
  rawSize: (diffId: string) => number | undefined;
  /** ms */
  now: () => number;
  log: Pick<Logger, 'debug' | 'info'>;
}

/** What a registry said is believed for so long, ms: yes, and no. */
const YES_MS = 600_000;
const NO_MS = 60_000;
/** A registry whose answer is only about another image has so long, ms. */
const ASK_MS = 5_000;
/** The image's own registry has longer, ms. */
const OWN_MS = 60_000;
/** To read a layer to its end, ms. */
const READ_MS = 600_000;
/** Other images with the same layer that are asked about; with more the layer is read. */
const MOST_ASKED = 16;
const MOST_REMEMBERED = 4_096;
/** Images that are known by a pull alone. */
const MOST_PULLED = 1_000;

export class Access {
  readonly #options: AccessOptions;
  readonly #public = new Answers();
  readonly #given = new Answers();
  readonly #held = new Answers();
  readonly #pulled = new Map<string, Claim>();

  constructor(options: AccessOptions) {
    this.#options = options;
  }

  /** The registry has just given the image's manifest to a request without credentials. */
  notePublic(image: Omit<Claim, 'layers'>): void {
    this.#public.set(nameOf(image), true, this.#options.now() + YES_MS);
  }

  /** Whether the image's registry gives it to everyone; false where it does not answer. */
  async isPublic(image: Omit<Claim, 'layers'>): Promise<boolean> {
    const { registry, log } = this.#options;
    return await this.#ask(this.#public, nameOf(image), async () => {
      try {
        return await registry.isPublic(image, image.manifest, AbortSignal.timeout(ASK_MS));
      } catch (error) {
        log.debug({ image: nameOf(image), error: toErrorRecord(error) }, 'not known to be public');
        return false;
      }
    });
  }

  /** An image that a client has pulled without the engine: from now on its layers are its repository's, too. */
  notePulled(image: Claim): void {
    const name = nameOf(image);
    this.#pulled.delete(name);
    this.#pulled.set(name, image);
    if (this.#pulled.size > MOST_PULLED) this.#pulled.delete(this.#pulled.keys().next().value as string);
  }

  /**
   * Resolves when the image, whose manifest its registry has just given, may use what this node has of its layers. Errors:
   * `unauthorized` when it may not, those of its registry.
   */
  async admit(image: Claim): Promise<void> {
    const others = [...this.#options.claims(), ...this.#pulled.values()].filter(
      (other) => !isSameRepository(other, image),
    );
    await Promise.all(image.layers.map((layer) => this.#admit(image, layer, others)));
  }

  async #admit(image: Claim, layer: ClaimedLayer, others: readonly Claim[]): Promise<void> {
    const { diffId, blob } = layer;
    const isSame = (other: ClaimedLayer) => other.diffId === diffId || other.blob === blob;
    const sharing = others.filter(({ layers }) => layers.some(isSame));
    const isOpen = await Promise.all(
      sharing.slice(0, MOST_ASKED).map((other) => this.#isOpen(image, layer, other)),
    );
    if (sharing.length <= MOST_ASKED && isOpen.every(Boolean)) return;
    if (await this.#holds(image, layer)) return;
    this.#options.log.info(
      { image: nameOf(image), diffId, others: sharing.map(nameOf) },
      'an image has not shown that its registry holds a layer that is here from another repository',
    );
    throw new CofaError(
      'unauthorized',
      `${image.registry}/${image.repository} has not shown that it holds the layer ${diffId}, which this node has from another repository`,
      { hint: 'the layer is private there: the registry of this image has to give the whole layer' },
    );
  }

  /** Whether what the node has of the layer from the other image is no secret to the readers of this one. */
  async #isOpen(image: Claim, layer: ClaimedLayer, other: Claim): Promise<boolean> {
    const { now } = this.#options;
    if (this.#public.get(nameOf(other), now()) === true) return true;
    const isOneBlob = other.layers.every(
      ({ diffId, blob }) => (diffId === layer.diffId) === (blob === layer.blob),
    );
    if (other.registry === image.registry && isOneBlob && (await this.#isGiven(image, layer.blob)))
      return true;
    return await this.isPublic(other);
  }

  async #isGiven(image: Claim, blob: string): Promise<boolean> {
    const key = `${image.registry}/${image.repository}@${blob}`;
    return await this.#ask(this.#given, key, () =>
      this.#options.registry.hasBlob(image, blob, AbortSignal.timeout(OWN_MS)),
    );
  }

  async #holds(image: Claim, { blob, blobSize, diffId }: ClaimedLayer): Promise<boolean> {
    const { registry, log, rawSize } = this.#options;
    const key = `${image.registry}/${image.repository}@${blob} ${diffId}`;
    return await this.#ask(this.#held, key, () => {
      log.info({ image: nameOf(image), diffId }, 'the layer is read to see whether the repository holds it');
      const layer = { blob: { digest: blob, size: blobSize }, diffId, rawSize: rawSize(diffId) };
      return holdsLayer(registry, image, layer, AbortSignal.timeout(READ_MS));
    });
  }

  /** One question at a time for each key; a failure is no answer. */
  async #ask(answers: Answers, key: string, ask: () => Promise<boolean>): Promise<boolean> {
    const { now } = this.#options;
    const known = answers.get(key, now());
    if (known !== undefined) return known;
    return await answers.once(key, async () => {
      const answer = await ask();
      // What a repository once gave whole it has shown for good.
      const goodMs = answers === this.#held ? Number.POSITIVE_INFINITY : YES_MS;
      answers.set(key, answer, now() + (answer ? goodMs : NO_MS));
      return answer;
    });
  }
}

/** Answers of registries, each for a while. */
class Answers {
  readonly #answers = new Map<string, { answer: boolean; until: number }>();
  readonly #asked = new Map<string, Promise<boolean>>();

  get(key: string, now: number): boolean | undefined {
    const known = this.#answers.get(key);
    return known !== undefined && now < known.until ? known.answer : undefined;
  }

  set(key: string, answer: boolean, until: number): void {
    this.#answers.delete(key);
    this.#answers.set(key, { answer, until });
    if (this.#answers.size > MOST_REMEMBERED)
      this.#answers.delete(this.#answers.keys().next().value as string);
  }

  once(key: string, ask: () => Promise<boolean>): Promise<boolean> {
    let asked = this.#asked.get(key);
    if (asked === undefined) {
      asked = ask().finally(() => this.#asked.delete(key));
      this.#asked.set(key, asked);
    }
    return asked;
  }
}

/** Whether access to one is access to the other. */
export const isSameRepository = (one: Source, other: Source): boolean =>
  one.registry === other.registry && one.repository === other.repository;

const nameOf = ({ registry, repository, manifest }: Omit<Claim, 'layers'>): string =>
  `${registry}/${repository}@${manifest}`;
