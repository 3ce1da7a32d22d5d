/**
 * Makes the flat image of an image, in this order: from the layers that lie here whole, from a sidecar that the policy takes,
 * from the layers in the registry. Which sidecar: sidecar-choice.ts.
 */
import { renameSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import type { Logger } from 'pino';
import { digestOf } from '../../digest/digest.ts';
import { buildsFromLayersFirst } from '../../../actors/trust.ts';
import { type ImageDevice, tableNameOf } from '../../../actors/device.ts';
import type { CompleteLayers, LocalLayer } from '../../index/rebuild-flat.ts';
import type { Progress } from '../../../schemas/api.ts';
import type { EventOf } from '../../../schemas/events.ts';
import type { TrustPolicy } from '../../../schemas/trust.ts';
import { SpanTable } from '../../image/span-table.ts';
import type { RegistryClient, ResolvedImage } from '../../registry/client.ts';
import { SIDECAR_REVISION } from '../../registry/sidecars.ts';
import type { LaterSync } from '../../store/later-sync.ts';
import { type Layout, writeWhole } from '../../store/layout.ts';
import { prepareChain } from './chain-image.ts';
import { keepPlan } from './hints.ts';
import { indexOnNode } from './index-on-node.ts';
import type { Indexers } from './indexers.ts';
import { devicesFor, type Same, type State } from './proven.ts';
import { type Rebuilt, rebuiltPath } from '../../index/orders.ts';
import { rebuild } from './rebuild.ts';
import { type ChoiceOptions, chooseSidecar, hasUsableSidecar, type PreparedEvent } from './sidecar-choice.ts';
import type { Witnesses } from './witnesses.ts';

export interface PreparationOptions {
  layout: Layout;
  log: Logger;
  registry: RegistryClient;
  indexers: Indexers;
  /** Layers of which a device is whole and proven. */
  completeLayers: () => Promise<CompleteLayers>;
  /** Layers that images of this node have, with span tables whose block root is proven. */
  knownDevices: () => ImageDevice[];
  /** What is known of layers and their block roots; live. */
  state: State;
  /** For the files of one image. */
  newFiles: () => LaterSync;
  /** The node's fleet; undefined: it is of none. */
  witnesses?: Pick<Witnesses, 'wordOn'> | undefined;
}

/** What may be used. */
export interface Terms {
  policy: TrustPolicy;
  /** Flat images of the same layers that this node has proven. */
  same: readonly Same[];
  /** Digest of the flat metadata of these; undefined: there are none. */
  known: string | undefined;
  /** The operator's keys for the image's repository; undefined: there are none. */
  signers: ChoiceOptions['signers'];
  /** Whether the registry offers what was refuted; `flat`: the flat metadata that were. */
  isRefuted: boolean;
  refuted: { flat: string | undefined; sidecars: ReadonlySet<string> };
}

/** What is to be prepared. */
export interface PreparationOrder {
  manifest: string;
  resolved: EventOf<'image.resolved'>;
  /** As they are now: something may be proven or refuted while the registry is waited for. */
  terms: () => Terms;
  /** Devices of the flat image that this one replaces; undefined: it is the first. */
  earlierDevices: ReadonlyArray<{ diffId: string }> | undefined;
  report: (progress: Progress) => void;
  /** Aborted when the image has been removed. */
  removal: AbortSignal;
}

export interface Made {
  prepared: PreparedEvent;
  /** Whether the flat metadata are those of the layers for certain. */
  isProven: boolean;
  /** Every block of every device was written when it was indexed here. */
  isBuilt: boolean;
  /** Its files, which the disk may still be taking: the log hears of the flat image when they are synced. */
  files: LaterSync;
}

/** The indexers of images that are not prepared are kept at hand for so long, ms: the container has begun by then, and its reads are over. */
const AFTER_INDEX_MS = 30_000;
/** The same after a start whose image others have prepared, ms. */
const AFTER_START_MS = 5_000;

export class Preparation {
  readonly #options: PreparationOptions;

  constructor(options: PreparationOptions) {
    this.#options = options;
  }

  /**
   * All files of the flat image are in the store when it resolves, whole; `files` says when they are synced. `fromRegistry`: asks what the registry says of the image,
   * or gives what is known; `onImage` is told of that, and `fetched` resolves when the bytes of a sidecar are here. `onTable`:
   * told of layers that the flat image is likely to have, whose tables are in the store. Errors: the registry's, those of indexing.
   */
  async make(
    order: PreparationOrder,
    fromRegistry: () => Promise<ResolvedImage>,
    onImage: (image: ResolvedImage, fetched: Promise<void>) => void,
    onTable: (device: ImageDevice) => void = () => {},
  ): Promise<Made> {
    const { policy, isRefuted } = order.terms();
    if (buildsFromLayersFirst(policy, isRefuted)) {
      const prepared = await this.#fromStore(order);
      if (prepared !== undefined)
        return { prepared, isProven: true, isBuilt: false, files: this.#options.newFiles() };
    }
    const image = await fromRegistry();
    const fetched = Promise.withResolvers<void>();
    onImage(image, fetched.promise);
    return await this.#fromImage(order, image, { onFetched: fetched.resolve, onTable });
  }

  /** Whether the policy takes one of the sidecars in the registry; their contents are not looked at. */
  async hasSidecar(order: PreparationOrder, image: ResolvedImage): Promise<boolean> {
    return await hasUsableSidecar(this.#choice(order, image, this.#options.newFiles()));
  }

  /** Whether the store has all files of this flat image. */
  async isInStore(manifest: string, prepared: EventOf<'image.prepared'>): Promise<boolean> {
    const { layout } = this.#options;
    try {
      const flat = await readFile(layout.flat(manifest));
      if (digestOf(flat) !== prepared.flat) return false;
      for (const device of prepared.devices) {
        const { root } = SpanTable.decode(await readFile(layout.spans(tableNameOf(device))));
        if (device.root !== undefined && root !== device.root) return false;
      }
      await readFile(layout.config(manifest));
      return true;
    } catch {
      return false;
    }
  }

  async #fromImage(
    order: PreparationOrder,
    image: ResolvedImage,
    told: Pick<ChoiceOptions, 'onFetched' | 'onTable'>,
  ): Promise<Made> {
    const { layout, indexers, newFiles } = this.#options;
    const { manifest, report } = order;
    const { chain, layers } = order.resolved;
    const files = newFiles();
    const written = Promise.all([
      files.write(layout.config(manifest), image.config),
      files.write(layout.manifest(manifest), image.manifestBytes),
    ]);
    written.catch(() => {});
    report({ phase: 'sidecar' });
    const choice = { ...this.#choice(order, image, files), ...told };
    const known = this.#options.knownDevices();
    const chainOrder = { layout, files, image, layers: layers.length, known, onFailed: choice.onPassed };
    const { prepared, proven, passed, plan } =
      chain === undefined
        ? await chooseSidecar(choice)
        : await chooseSidecar(choice, (sidecar, check, onTable) =>
            prepareChain({ ...chainOrder, chain, sidecar, onTable }, check),
          );
    await written;
    if (prepared !== undefined) {
      // Images are prepared here: an indexer for those that are not would hold memory for nothing.
      // To take down what it has costs ten milliseconds, which the start needs.
      indexers.dismiss(AFTER_START_MS);
      return { prepared, isProven: proven, isBuilt: false, files };
    }
    // Under policies that look at sidecars first the store was not looked at yet.
    const here = await this.#fromStore(order);
    const signal = order.removal;
    if (plan !== undefined) void keepPlan(layout, manifest, plan, { signal, onFailed: choice.onPassed });
    const own =
      here ??
      (chain === undefined
        ? await this.#index(order, image)
        : await prepareChain({ ...chainOrder, chain, sidecar: undefined }));
    return {
      prepared: passed.length === 0 ? own : { ...own, passed },
      isProven: true,
      isBuilt: chain === undefined && here === undefined,
      files,
    };
  }

  #choice(order: PreparationOrder, image: ResolvedImage, files: LaterSync): ChoiceOptions {
    const { layout, registry, log, state, witnesses } = this.#options;
    const { manifest, report } = order;
    const { policy, known, refuted, signers } = order.terms();
    const onPassed = (remark: string) => {
      log.warn({ image: image.reference.text }, remark);
      report({ phase: 'sidecar', remark });
    };
    const { roots } = state;
    const fleet = witnesses && (() => witnesses.wordOn(order.resolved));
    return {
      layout,
      files,
      registry,
      manifest,
      image,
      policy,
      known,
      roots,
      signers,
      fleet,
      refuted,
      onPassed,
    };
  }

  /** Takes what the node has proven, and asks no registry. */
  async #fromStore(order: PreparationOrder): Promise<PreparedEvent | undefined> {
    const same = await this.#fromSame(order);
    if (same !== undefined || order.resolved.chain !== undefined) return same;
    return await this.#fromLayersHere(order);
  }

  /** The flat image of another image with the same layers, and its tables. */
  async #fromSame(order: PreparationOrder): Promise<PreparedEvent | undefined> {
    const { layout, state } = this.#options;
    const { manifest, resolved } = order;
    for (const { manifest: other, prepared } of order.terms().same) {
      const devices = devicesFor(prepared, resolved.layers, state);
      if (devices === undefined || !(await this.isInStore(other, prepared))) continue;
      try {
        await readFile(layout.config(manifest));
        const metadata = await readFile(layout.flat(other));
        // Another generation may have put another one there since.
        if (digestOf(metadata) !== prepared.flat) continue;
        await writeWhole(layout.flat(manifest), metadata);
        return preparedBy({ flat: prepared.flat, devices });
      } catch {
        // It was removed meanwhile.
      }
    }
    return undefined;
  }

  /** Every layer that has something of the image lies here whole: its flat image is built from them, without a registry. */
  async #fromLayersHere(order: PreparationOrder): Promise<PreparedEvent | undefined> {
    const { layout, log, completeLayers, knownDevices } = this.#options;
    const { manifest, resolved, earlierDevices, report } = order;
    const { layers, registry, repository } = resolved;
    const used = earlierDevices ?? layers;
    try {
      const complete = await completeLayers();
      if (used.length === 0 || !used.every(({ diffId }) => complete.has(diffId))) return undefined;
      await readFile(layout.config(manifest));
      report({ phase: 'flatten' });
      const local = localOf(layers, complete);
      const source = { registry, repository };
      const known = knownDevices();
      const built = await rebuild(layout, manifest, { source, layers, local, known, cached: true }, {});
      renameSync(built.path, layout.flat(manifest));
      return preparedBy(built);
    } catch (error) {
      log.warn({ image: resolved.ref, error }, 'the flat image cannot be built from the layers here');
      return undefined;
    } finally {
      await rm(rebuiltPath(layout, manifest, false), { force: true });
    }
  }

  /** The layers stream through the indexer straight into their devices. */
  async #index({ manifest, report }: PreparationOrder, image: ResolvedImage): Promise<PreparedEvent> {
    const { layout, log, indexers } = this.#options;
    log.info({ image: image.reference.text }, 'no sidecar to use: the image is indexed on this node');
    const built = await indexOnNode({ layout, manifest, image, indexers, onProgress: report });
    // Where one comes unprepared others may follow.
    indexers.prepare(AFTER_INDEX_MS);
    return preparedBy(built);
  }
}

/** The image's layers whose devices are whole. */
export const localOf = (
  layers: EventOf<'image.resolved'>['layers'],
  complete: CompleteLayers,
): LocalLayer[] =>
  layers.flatMap(({ diffId }) => {
    const found = complete.get(diffId);
    return found === undefined ? [] : [{ diffId, ...found }];
  });

/** What the log says of a flat image that this node has built. */
export const preparedBy = ({ flat, devices }: Pick<Rebuilt, 'flat' | 'devices'>): PreparedEvent => ({
  type: 'image.prepared',
  origin: 'node',
  revision: SIDECAR_REVISION,
  flat,
  devices,
});
