/**
 * What a reference means: the registry decides, and whether the image may use what this node has of its layers (access.ts).
 * When it cannot be reached, a reference that was resolved here before means what it meant then.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { toErrorRecord } from '../../../schemas/errors.ts';
import type { NewEvent } from '../../../schemas/events.ts';
import type { TrustPolicy } from '../../../schemas/trust.ts';
import type { RegistryClient, ResolvedImage } from '../../registry/client.ts';
import { parseReference, type Reference } from '../../registry/reference.ts';
import { startReferrers } from '../../registry/start-referrers.ts';
import { Access, isSameRepository } from './access.ts';
import { Expected } from './expected.ts';
import type { Image } from './image.ts';

export interface ResolverOptions {
  registry: RegistryClient;
  log: Logger;
  /** Images that are known. */
  images: { get(manifest: string): Image | undefined; all(): Iterable<Image> };
}

/** A call names a reference so; platform undefined: the node's. */
export interface Wanted {
  text: string;
  platform: string | undefined;
  policy: TrustPolicy;
}

/** What the registry said for a mount that is expected is that mount's for so long, ms. */
const EXPECTED_MS = 2_000;

export class Resolver {
  readonly access: Access;
  readonly #options: ResolverOptions;
  /** What the registry was asked for a mount that is about to come; the next one of the same words takes it. */
  readonly #expected = new Expected<ResolvedImage>((ms) => sleep(ms, undefined, { ref: false }));

  constructor(options: ResolverOptions) {
    this.#options = options;
    this.access = new Access({
      ...options,
      claims: () => claimsOf(options.images),
      rawSize: (diffId) => rawSizeOf(options.images, diffId),
      now: Date.now,
    });
  }

  /**
   * What the registry says, or an image that this node knows. Errors: the registry's; `unauthorized` where the image has not
   * shown that it holds the layers that it names and this node has.
   */
  async find(wanted: Wanted): Promise<ResolvedImage | Image> {
    const reference = parseReference(wanted.text);
    const pinned = this.#pinned(reference);
    if (pinned !== undefined) return pinned;
    const known = [...this.#options.images.all()].filter(({ resolved }) => resolved.ref === reference.text);
    let image: ResolvedImage;
    try {
      image = await (this.#expected.take(keyOf(wanted)) ?? this.#ask(reference, wanted));
    } catch (error) {
      const latest = known.findLast(({ prepared }) => prepared !== undefined);
      if (latest === undefined || toErrorRecord(error).code !== 'unavailable') throw error;
      const sentence = 'the registry is away: the image is used as it was known here';
      this.#options.log.warn({ ref: wanted.text, error }, sentence);
      return latest;
    }
    // A registry that answers this and not what admission asks is not away.
    await this.#admit(image);
    return image;
  }

  /**
   * A mount is about to come: the registry is asked already, and the mount, if it comes soon, has the answer. Errors are the
   * mount's.
   */
  expect(wanted: Wanted): void {
    const reference = parseReference(wanted.text);
    if (this.#pinned(reference) !== undefined) return;
    this.#expected.ask(keyOf(wanted), EXPECTED_MS, () => this.#ask(reference, wanted));
  }

  /** What is named by its digest, and is here from the same repository: another one may not have it. */
  #pinned(reference: Reference): Image | undefined {
    const { digest } = reference;
    const image = digest === undefined ? undefined : this.#options.images.get(digest);
    return image?.prepared !== undefined && isSameRepository(image.resolved, reference) ? image : undefined;
  }

  async #admit(image: ResolvedImage): Promise<void> {
    const { registry, repository, manifest, layers } = resolvedBy(image);
    if (image.isPublic) this.access.notePublic({ registry, repository, manifest });
    await this.access.admit({ registry, repository, manifest, layers });
  }

  #ask(reference: Reference, { platform, policy }: Wanted): Promise<ResolvedImage> {
    const { registry, images } = this.#options;
    return registry.resolve(reference, {
      knownConfig: (digest) => this.#configOf(reference, digest),
      referrers: {
        // What the kernel reads by itself takes neither sidecar nor pack.
        listed: (manifest) => images.get(manifest)?.isDirect() !== true,
        wanted: (manifest) => policy !== 'never' && images.get(manifest)?.prepared === undefined,
        blobsOf: startReferrers,
      },
      ...(platform === undefined ? {} : { platform }),
    });
  }

  /** A configuration has what its repository may keep secret, such as variables. */
  #configOf(reference: Reference, digest: string): Buffer | undefined {
    for (const { config, resolved } of this.#options.images.all()) {
      if (config?.digest === digest && isSameRepository(resolved, reference)) return config.bytes;
    }
    return undefined;
  }
}

function* claimsOf(images: ResolverOptions['images']): Generator<Image['resolved']> {
  for (const { resolved } of images.all()) yield resolved;
}

/** As the images that have a device of the layer say. */
function rawSizeOf(images: ResolverOptions['images'], diffId: string): number | undefined {
  let most: number | undefined;
  for (const { prepared } of images.all()) {
    for (const device of prepared?.devices ?? [])
      if (device.diffId === diffId) most = Math.max(most ?? 0, device.size);
  }
  return most;
}

const keyOf = ({ text, platform, policy }: Wanted): string => JSON.stringify([text, platform, policy]);

/** What the log is told of what the registry said. */
export function resolvedBy(image: ResolvedImage): NewEvent<'image.resolved'> {
  const { registry, repository, text } = image.reference;
  return {
    type: 'image.resolved',
    ref: text,
    registry,
    repository,
    manifest: image.descriptor.digest,
    config: image.configDescriptor.digest,
    layers: image.layers.map(({ blob, diffId, file }) => ({
      diffId,
      blob: blob.digest,
      blobSize: blob.size,
      mediaType: blob.mediaType,
      ...(file === undefined ? {} : { file }),
    })),
  };
}
