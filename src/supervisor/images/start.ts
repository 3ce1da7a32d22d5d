/**
 * The start for which an image is mounted: which of its commands is about to run, and the startup pack of that. The pack is
 * looked for side by side with all that has to happen before it can be used.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { JobLayer, PackSource } from '../../../schemas/fetch.ts';
import type { ResolvedImage } from '../../registry/client.ts';
import type { Layout } from '../../store/layout.ts';
import { hintsFor } from './hints.ts';
import type { Startups } from './startups.ts';

/** A pack that was found is asked for after so long, ms, in any case: of a link with long ways nothing should be wasted. */
const PACK_HELD_BACK_MS = 50;

export interface StartOf {
  manifest: string;
  /** `registry/repository` that the image was taken from. */
  repository: string;
}

export class ImageStart {
  readonly #startups: Startups;
  readonly #layout: Layout;
  #start: string | undefined;
  /** First word of the command that is about to run, where it is not the image's own. */
  #program: string | undefined;
  #pack: Promise<PackSource | undefined> | undefined;

  constructor(options: { startups: Startups; layout: Layout }) {
    this.#startups = options.startups;
    this.#layout = options.layout;
  }

  /** A mount says what is about to run; the first one's word counts. */
  want(start: string | undefined, program: string | undefined): void {
    if (this.#start !== undefined) return;
    this.#start = start;
    this.#program = program;
  }

  /**
   * What it takes to use the image is on its way, and goes first: the pack is ten times as large, and its bytes would share
   * link and processors with those that everything waits for. `fetched`: these are here. `image`: as the registry has
   * described it.
   */
  ahead(of: StartOf, image: ResolvedImage, fetched: Promise<void>, isStillPreparing: () => boolean): void {
    const start = this.#start;
    if (start === undefined) return;
    void this.#find(of, start, image).then(async (pack) => {
      if (pack === undefined) return;
      await Promise.race([fetched, sleep(PACK_HELD_BACK_MS)]);
      if (isStillPreparing()) this.#startups.ahead(of.manifest, start, of.repository, pack);
    });
  }

  /** The image's devices are attached. */
  begin(of: StartOf, image: ResolvedImage | undefined, layers: JobLayer[]): void {
    const start = this.#start;
    if (start === undefined) return;
    const program = this.#program;
    const { manifest, repository } = of;
    this.#startups.begin({ manifest, repository, start, layers }, this.#find(of, start, image), () =>
      hintsFor(this.#layout, manifest, { start, layers, program }),
    );
  }

  /** The image is not used any more. */
  over(): void {
    this.#start = undefined;
    this.#pack = undefined;
  }

  /** Once a start. */
  #find(
    { manifest, repository }: StartOf,
    start: string,
    image: ResolvedImage | undefined,
  ): Promise<PackSource | undefined> {
    this.#pack ??= this.#startups.find(manifest, start, repository, image);
    return this.#pack;
  }
}
