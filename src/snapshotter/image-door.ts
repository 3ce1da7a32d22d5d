/**
 * The way from snapshots to images: is there a flat image for the layer that a client is about to unpack, and mount it.
 * The engine answers both; here are only the labels by which clients say what image they pull.
 */
import type { Logger } from 'pino';
import type { FlatLayer } from '../../actors/snapshots.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { findMount } from '../kernel/mount.ts';
import type { CallEngine } from './engine.ts';
import type { WantedLayer } from './store.ts';

/**
 * Labels of containerd's pkg/snapshotters, which CRI, dockerd and others add to the layers of what they pull; `cri` in
 * the names means nothing.
 */
export const IMAGE_LABELS = {
  ref: 'containerd.io/snapshot/cri.image-ref',
  manifest: 'containerd.io/snapshot/cri.manifest-digest',
} as const;

const DIGEST = /^sha256:[0-9a-f]{64}$/;
/** The registry is asked meanwhile, which gives up by itself before. */
const COVER_MS = 60_000;
/** The flat image's metadata are fetched, or built. */
const MOUNT_MS = 300_000;
const UNMOUNT_MS = 30_000;

export class ImageDoor {
  readonly #call: CallEngine;
  readonly #log: Logger;

  constructor(call: CallEngine, log: Logger) {
    this.#call = call;
    this.#log = log;
  }

  /**
   * The flat layer for a chain, where the image is one that can be mounted without its layers. When the engine cannot
   * say, there is none: the client goes on and unpacks.
   */
  async cover({ target, labels }: WantedLayer): Promise<FlatLayer | undefined> {
    if (!DIGEST.test(target)) return undefined;
    const ref = labels[IMAGE_LABELS.ref];
    const manifest = labels[IMAGE_LABELS.manifest];
    try {
      const reply = await this.#call(
        'chain',
        {
          chain: target,
          ...(ref === undefined ? {} : { ref }),
          ...(manifest !== undefined && DIGEST.test(manifest) ? { manifest } : {}),
        },
        COVER_MS,
      );
      return reply.flat === undefined ? undefined : { chain: target, ...reply.flat };
    } catch (error) {
      this.#log.warn({ target, ref, error: toErrorRecord(error) }, 'the layer is left to be unpacked');
      return undefined;
    }
  }

  async mount({ ref, manifest, layers }: FlatLayer, dir: string): Promise<void> {
    const name = ref.includes('@') ? ref.slice(0, ref.indexOf('@')) : ref;
    try {
      await this.#call('mount', { ref: `${name}@${manifest}`, layers, dir, prefetch: true }, MOUNT_MS);
    } catch (error) {
      // An earlier life of this process mounted it.
      if (error instanceof CofaError && error.code === 'conflict' && findMount(dir)?.type === 'erofs') return;
      throw error;
    }
  }

  async unmount(dir: string): Promise<void> {
    try {
      await this.#call('unmount', { dir }, UNMOUNT_MS);
    } catch (error) {
      if (!(error instanceof CofaError && error.code === 'not-found')) throw error;
    }
  }

  /** The chains that the engine has mounted in a folder. */
  async mountedBelow(folder: string): Promise<string[]> {
    const { mounts } = await this.#call('status', {}, UNMOUNT_MS);
    return mounts.flatMap(({ dir }) =>
      dir.startsWith(`${folder}/`) ? [`sha256:${dir.slice(folder.length + 1)}`] : [],
    );
  }
}
