/**
 * The way from snapshots to images: is there a flat image for the layer that a client is about to unpack, and mount it.
 * The engine answers both; here are only the labels by which clients say what image they pull.
 */
import { mkdir, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { DIGEST, hexOf } from '../../schemas/digest.ts';
import type { FlatLayer } from '../../actors/snapshots.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type { TraceContext } from '../../schemas/trace-context.ts';
import type { PreparePolicy } from '../../schemas/prepare.ts';
import { IMAGE_LABELS } from '../containerd/labels.ts';
import { findMount } from '../kernel/mount.ts';
import type { CallEngine, CallOptions } from '../client/call.ts';
import type { WantedLayer } from './store.ts';

/** The registry is asked meanwhile, which gives up by itself before. */
const COVER_MS = 60_000;
/** The flat image's metadata are fetched, or built. */
const MOUNT_MS = 300_000;
/** All layers of an image are streamed: as long as it takes, and no longer than a day. */
const PREPARE_MS = 86_400_000;
/** What was prepared here stays mounted for so long, ms: the client asks for one layer after the other. */
const PREPARED_MS = 60_000;
/** Begins the names of the folders where. */
const PREPARE_DIR = 'prepare-';

export interface ImageDoorOptions {
  call: CallEngine;
  prepare: PreparePolicy;
  /** A folder of the engine's for mounts that no user sees. */
  folder: string;
  log: Logger;
}

export interface Cover {
  flat: FlatLayer;
  /** Of all layers of the image that is being pulled. */
  whole: FlatLayer | undefined;
}

const UNMOUNT_MS = 30_000;
/** The engine may be starting when the snapshotter does, or be started again: so long a call waits for it, ms. */
const PATIENCE_MS = 20_000;
const within = (timeoutMs: number): CallOptions => ({ timeoutMs, patienceMs: PATIENCE_MS });

export class ImageDoor {
  readonly #call: CallEngine;
  readonly #options: ImageDoorOptions;
  readonly #log: Logger;
  /** Images that are being prepared here, by manifest. */
  readonly #preparing = new Map<string, Promise<void>>();

  constructor(options: ImageDoorOptions) {
    this.#options = options;
    this.#call = options.call;
    this.#log = options.log;
  }

  /**
   * The flat layer for a chain, where the image is one that can be mounted without its layers, and that of the whole image
   * where the client pulls that. When the engine cannot say, there is none: the client goes on and unpacks.
   */
  async cover({ target, labels, trace }: WantedLayer): Promise<Cover | undefined> {
    if (!DIGEST.test(target)) return undefined;
    const ref = labels[IMAGE_LABELS.ref];
    const label = labels[IMAGE_LABELS.manifest];
    const manifest = label !== undefined && DIGEST.test(label) ? label : undefined;
    const request = { chain: target, ref, manifest };
    try {
      let { flat } = await this.#call('chain', request, within(COVER_MS));
      if (
        flat === undefined &&
        this.#options.prepare === 'local' &&
        ref !== undefined &&
        manifest !== undefined
      ) {
        await this.#prepareHere(ref, manifest, trace);
        ({ flat } = await this.#call('chain', request, within(COVER_MS)));
      }
      if (flat === undefined) return undefined;
      const { whole, ...layer } = flat;
      return { flat: { chain: target, ...layer }, whole: whole && { ...layer, ...whole } };
    } catch (error) {
      this.#log.warn({ target, ref, error: toErrorRecord(error) }, 'the layer is left to be unpacked');
      return undefined;
    }
  }

  /** The engine prepares an image when it mounts it. Once snapshots stand on the image the mount has done its work. */
  async #prepareHere(ref: string, manifest: string, trace: TraceContext | undefined): Promise<void> {
    let preparing = this.#preparing.get(manifest);
    if (preparing === undefined) {
      preparing = this.#mountForAWhile(ref, manifest, trace).finally(() => this.#preparing.delete(manifest));
      this.#preparing.set(manifest, preparing);
    }
    await preparing;
  }

  async #mountForAWhile(ref: string, manifest: string, trace: TraceContext | undefined): Promise<void> {
    const dir = join(this.#options.folder, `${PREPARE_DIR}${hexOf(manifest)}`);
    await mkdir(dir, { recursive: true });
    try {
      await this.#call(
        'mount',
        { ref: `${nameOf(ref)}@${manifest}`, dir, prefetch: false, ...trace },
        within(PREPARE_MS),
      );
    } catch (error) {
      // Another pull of it a moment ago.
      if (error instanceof CofaError && error.code === 'conflict' && findMount(dir)?.type === 'erofs') return;
      await this.#undo(dir);
      throw error;
    }
    setTimeout(() => void this.#undo(dir), PREPARED_MS);
  }

  async #undo(dir: string): Promise<void> {
    try {
      await this.unmount(dir);
      await rmdir(dir);
    } catch (error) {
      this.#log.info({ dir, error: toErrorRecord(error) }, 'a mount that was made to prepare an image stays');
    }
  }

  /** `trace`: what a client does for whom it is mounted. */
  async mount(
    { ref, manifest, layers }: FlatLayer,
    dir: string,
    trace: TraceContext | undefined,
  ): Promise<void> {
    try {
      await this.#call(
        'mount',
        // A view with one layer is a bind mount of it: a container's root, where setuid programs must work.
        { ref: `${nameOf(ref)}@${manifest}`, layers, dir, prefetch: true, suid: true, dev: true, ...trace },
        within(MOUNT_MS),
      );
    } catch (error) {
      // An earlier life of this process mounted it.
      if (error instanceof CofaError && error.code === 'conflict' && findMount(dir)?.type === 'erofs') return;
      throw error;
    }
  }

  async unmount(dir: string): Promise<void> {
    try {
      await this.#call('unmount', { dir }, within(UNMOUNT_MS));
    } catch (error) {
      if (!(error instanceof CofaError && error.code === 'not-found')) throw error;
    }
  }

  /** Unmounts what an earlier life of this process had mounted to prepare it. */
  async forgetPrepared(): Promise<void> {
    const { mounts } = await this.#call('status', {}, within(UNMOUNT_MS));
    const beginning = join(this.#options.folder, PREPARE_DIR);
    for (const { dir } of mounts.filter((one) => one.dir.startsWith(beginning))) await this.#undo(dir);
  }

  /** The chains that the engine has mounted in a folder. */
  async mountedBelow(folder: string): Promise<string[]> {
    const { mounts } = await this.#call('status', {}, within(UNMOUNT_MS));
    return mounts.flatMap(({ dir }) =>
      dir.startsWith(`${folder}/`) ? [`sha256:${dir.slice(folder.length + 1)}`] : [],
    );
  }
}

const nameOf = (ref: string): string => (ref.includes('@') ? ref.slice(0, ref.indexOf('@')) : ref);
