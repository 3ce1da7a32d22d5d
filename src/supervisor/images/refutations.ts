/**
 * Refutations that this engine has found: the one thing that counts before it is in the log. Flat metadata that are not those
 * of the layers must not be mounted again from the moment that this is found, also while the log takes no events. So they
 * are kept here, and the facts of the log are looked at through here.
 *
 * A flat image stays refuted for as long as this engine runs, also when the registry has been put right and the fold has
 * forgotten the refutation: mounts that were made with it before still have it.
 */
import type { ImageFacts } from '../../../actors/node-state.ts';

export type Refuted = NonNullable<ImageFacts['refuted']>;

export class Refutations {
  /** By manifest: not yet in the log. */
  readonly #untold = new Map<string, Refuted>();
  /** By manifest: digests of flat metadata. */
  readonly #flats = new Map<string, Set<string>>();

  /** It counts from here on. */
  found(manifest: string, refuted: Refuted): void {
    this.#untold.set(manifest, refuted);
    const flats = this.#flats.get(manifest) ?? new Set();
    this.#flats.set(manifest, flats.add(refuted.flat));
  }

  /** The log has it. */
  told(manifest: string, refuted: Refuted): void {
    if (this.#untold.get(manifest) === refuted) this.#untold.delete(manifest);
  }

  /** The image is no more. */
  forget(manifest: string): void {
    this.#untold.delete(manifest);
    this.#flats.delete(manifest);
  }

  /** What the registry offers for the image and is not the image's; undefined: nothing. */
  of(manifest: string, facts: Pick<ImageFacts, 'refuted'>): Refuted | undefined {
    return this.#untold.get(manifest) ?? facts.refuted;
  }

  /** What speaks against this flat image. */
  against(
    manifest: string,
    flat: string | undefined,
    facts: Pick<ImageFacts, 'refuted'>,
  ): Refuted | undefined {
    const known = this.of(manifest, facts);
    if (flat === undefined || known?.flat === flat || this.#flats.get(manifest)?.has(flat) !== true)
      return known;
    return { flat, sidecar: undefined, message: '' };
  }
}
