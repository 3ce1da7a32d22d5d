/**
 * Opens and closes layers. A layer opens once, however many ask: its blocks in doubt are compared, its device is brought into line
 * with the log, and the transport serves it.
 */
import { type FileHandle, readFile } from 'node:fs/promises';
import type { Logger } from 'pino';
import type { Counts } from '../../actors/counts.ts';
import type { LayerFacts } from '../../actors/node-state.ts';
import { Budgets } from '../../actors/pace.ts';
import { pairsOf } from '../../actors/ranges.ts';
import { CofaError } from '../../schemas/errors.ts';
import {
  type CloseLayer,
  type FrontNotice,
  type FrontStatus,
  type OpenLayer,
  type OpenLayerReply,
  type Supply,
  supplyOf,
  tableOfSupply,
} from '../../schemas/front.ts';
import type { FuseTransport } from '../fuse/transport.ts';
import { SpanTable } from '../image/span-table.ts';
import type { Clock } from '../process/ports.ts';
import { openDevice } from '../store/device.ts';
import { defined } from '../../schemas/defined.ts';
import type { LayerLog, NewLayerEvent } from '../store/layer-log.ts';
import type { Layout } from '../store/layout.ts';
import type { CacheHost } from './cache-host.ts';
import { blocksInHoles, isSolid, trimAbsent } from './device-holes.ts';
import type { FetchPool } from './fetch-pool.ts';
import { LayerHost } from './layer-host.ts';
import type { LayerTable } from './layer-table.ts';
import type { Rest } from './rest.ts';
import type { Scrubber } from './scrubber.ts';
import type { Starts } from './starts.ts';
import { Supplies } from './supplies.ts';
import { TableRoom } from './table-room.ts';

export interface OpenLayersOptions {
  /** Name of this front end. */
  front: string;
  layers: LayerTable;
  layout: Layout;
  facts: LayerLog;
  pool: FetchPool;
  cache: CacheHost;
  scrubber: Scrubber;
  starts: Starts;
  rest: Rest;
  transport: FuseTransport;
  clock: Clock;
  log: Logger;
  readDeadlineMs: number;
  counts: Counts;
  /** An append has ended, undefined: well. */
  onLogged: (error: unknown) => void;
  notify: (notice: FrontNotice) => void;
}

interface Reads {
  hits: number;
  misses: number;
  errors: number;
}

export class OpenLayers {
  readonly #options: OpenLayersOptions;
  readonly #budgets = new Budgets();
  readonly #room = new TableRoom();
  /** Compressed bytes that each layer has cost since this process began; kept while the layer is closed. */
  readonly #fetched = new Map<string, number>();
  /** Reads of layers that have been closed since. */
  readonly #pastReads = new Map<string, Reads>();

  constructor(options: OpenLayersOptions) {
    this.#options = options;
  }

  /** Serves the layer's device; may be asked again. Errors: `integrity`, and those of files and the log. */
  async open(request: OpenLayer): Promise<OpenLayerReply> {
    const { layers, clock, rest, front } = this.#options;
    const { diffId } = request;
    let opening = layers.all.get(diffId);
    if (opening === undefined) {
      opening = this.#openCompared(request);
      layers.all.set(diffId, opening);
      opening.catch(() => layers.all.delete(diffId));
    }
    const layer = await opening;
    await this.#supply(layer, request);
    if (request.direct === true) layer.pin();
    else layer.announce();
    this.#budgets.set(diffId, request.limits ?? [], clock.now());
    layer.pace(this.#budgets);
    rest.want(diffId, layer, request.prefetch);
    return { deviceSize: layer.device.size, name: layer.device.name, state: layer.state, front };
  }

  /** The layer that is open, or opens; undefined where it is closed. */
  async find(diffId: string): Promise<LayerHost | undefined> {
    return await this.#options.layers.all.get(diffId);
  }

  async close({ diffId }: CloseLayer): Promise<void> {
    const { layers, starts, cache, rest, clock, transport } = this.#options;
    const layer = await this.find(diffId);
    if (layer === undefined) return;
    starts.closing(diffId);
    cache.layerClosing(diffId, layer);
    rest.closing(diffId);
    this.#budgets.set(diffId, [], clock.now());
    this.#pastReads.set(diffId, this.#readsOf(diffId, layer));
    transport.remove(layer.device.inode);
    layers.remove(diffId, layer);
    this.#room.give(diffId);
    await cache.whileIdle(diffId, () => layer.close());
  }

  /** Every layer that the log knows, open or not. */
  async status(): Promise<FrontStatus['layers']> {
    const served: FrontStatus['layers'] = [];
    for (const [diffId, known] of this.#options.facts.layers) {
      const layer = await this.find(diffId);
      if (layer === undefined) served.push(this.#closedStatus(diffId, known));
      else served.push({ ...layer.status(), ...this.#readsOf(diffId, layer) });
    }
    return served;
  }

  /** Closes all of them, for good. */
  async closeAll(): Promise<void> {
    const layers = await this.#options.layers.settled();
    await Promise.allSettled(layers.map((layer) => layer.close()));
  }

  /** Blocks that came shortly before an unclean stop are compared first. */
  async #openCompared(request: OpenLayer): Promise<LayerHost> {
    const { layers, scrubber, cache } = this.#options;
    const { diffId } = request;
    layers.doubted.add(diffId);
    await scrubber.opening(diffId).finally(() => layers.doubted.delete(diffId));
    return await cache.whileIdle(diffId, () => this.#openNow(request));
  }

  async #openNow(request: OpenLayer): Promise<LayerHost> {
    const { layout, layers, cache, transport } = this.#options;
    const { diffId, size } = request;
    const stored = await readFile(layout.spans(tableOfSupply(request)));
    const table = SpanTable.decode(stored);
    refuseOther(table, request);
    this.#room.take(diffId, stored.length);
    const { file, created } = await openDevice(layout.device(diffId), size).catch((error: unknown) => {
      this.#room.give(diffId);
      throw error;
    });
    let layer: LayerHost | undefined;
    try {
      await this.#agreeWithLog(request, table, file, created);
      layer = this.#hostOf(request, table, file);
      layers.add(diffId, layer);
      cache.layerOpened(diffId, layer);
      transport.add(layer.device);
      return layer;
    } catch (error) {
      this.#room.give(diffId);
      if (layer === undefined) await file.close();
      else {
        // What is open is measured by its descriptor, which may be another file's soon.
        cache.layerClosing(diffId, layer);
        layers.remove(diffId, layer);
        await layer.close();
      }
      throw error;
    }
  }

  /** Every table is looked at before it is used: one of another layer is none of this one's. */
  async #supply(layer: LayerHost, request: OpenLayer): Promise<void> {
    const { layout, facts, log } = this.#options;
    const { diffId } = request;
    const isRight = async (one: Supply) => {
      try {
        const bytes = await readFile(layout.spans(tableOfSupply(one)));
        refuseOther(SpanTable.decode(bytes), { ...request, ...one });
        return true;
      } catch (error) {
        log.warn({ layer: diffId, source: one.source, error }, 'a span table that cannot be used');
        return false;
      }
    };
    const others = [];
    // An open layer is opened again with each change of a rate: what was looked at then is right.
    for (const one of request.others ?? [])
      if (layer.hasSupply(one) || (await isRight(one))) others.push(one);
    layer.supply([supplyOf(request), ...others]);
    // A scrub compares with the table that the log names: its image must be one of those.
    const known = facts.layers.get(diffId);
    if (known === undefined || (known.blob === request.source.digest && known.table === request.table))
      return;
    const { blockSize, blockCount } = known;
    await facts.append(diffId, openedBy(request, { blockSize, blockCount }));
  }

  /** Tells the log what it does not know of the device, and frees what it says is absent. */
  async #agreeWithLog(
    request: OpenLayer,
    table: SpanTable,
    file: FileHandle,
    created: boolean,
  ): Promise<void> {
    const { facts, log } = this.#options;
    const { diffId, size, source, built } = request;
    const known = facts.layers.get(diffId);
    const isSame = known?.blob === source.digest && known.table === request.table && known.size === size;
    // Reads of the layer begin with a mount, and that is durable when its caller hears of it.
    if (!isSame) await facts.append(diffId, openedBy(request, table), { early: true });
    if (created && (known?.presentCount ?? 0) > 0) {
      const message = 'the device file was not there any more';
      await facts.append(diffId, { type: 'layer.dropped', reason: 'device-lost', message });
    }
    // A removal that began before the indexer did may have taken the file, and another open layer have made a new one.
    if (built && !created && known === undefined && (await isSolid(file.fd, size))) {
      await facts.append(diffId, { type: 'layer.blocks', ranges: [[0, table.blockCount]] });
      await facts.append(diffId, { type: 'layer.completed', digest: table.diffId });
    }
    const logged = facts.layers.get(diffId);
    if (created || logged === undefined) return;
    const lost = await blocksInHoles(file.fd, logged);
    if (lost.length > 0) {
      log.warn({ layer: diffId, ranges: lost.length }, 'blocks of the log are holes of the device');
      await facts.append(diffId, { type: 'layer.evicted', ranges: pairsOf(lost), reason: 'lost' });
    }
    await trimAbsent(file.fd, logged).catch((error: unknown) =>
      log.warn({ error }, 'absent blocks keep room'),
    );
  }

  #hostOf(request: OpenLayer, table: SpanTable, file: FileHandle): LayerHost {
    const { diffId, content = diffId, direct = false } = request;
    const { facts, pool, cache, scrubber, starts, rest, transport, clock, log } = this.#options;
    const { readDeadlineMs, onLogged, notify, counts } = this.#options;
    return new LayerHost({
      layer: { diffId, content, table, supplies: new Supplies(supplyOf(request)), file, direct },
      facts,
      pool,
      cache: { use: cache.useOf(diffId, table), fetched: this.#fetched, onFetch: cache.onFetch },
      fuse: { firstReads: starts.firstReads(table.blockCount), quiesce: () => transport.quiesce() },
      on: {
        notify,
        logged: onLogged,
        mismatch: (layer) => scrubber.mismatch(diffId, layer),
        isWatched: () => starts.isRecording(diffId),
        fetched: rest.fetched,
      },
      clock,
      log,
      readDeadlineMs,
      counts,
    });
  }

  #closedStatus(diffId: string, known: LayerFacts): FrontStatus['layers'][number] {
    const { size, blockSize, blockCount, presentCount: present, diffId: content } = known;
    const fetched = this.#fetched.get(diffId) ?? 0;
    return {
      diffId,
      ...(content === undefined ? {} : { content }),
      state: known.complete ? 'complete' : 'lazy',
      blocks: { absent: blockCount - present, fetching: 0, present },
      bytes: { total: size, present: Math.min(present * blockSize, size), fetched },
      ...this.#readsOf(diffId, undefined),
    };
  }

  /** Reads since this process began; `layer` where it is open. */
  #readsOf(diffId: string, layer: LayerHost | undefined): Reads {
    const past = this.#pastReads.get(diffId) ?? { hits: 0, misses: 0, errors: 0 };
    if (layer === undefined) return past;
    const { hits, misses, errors } = this.#options.transport.counters(layer.device.inode);
    return { hits: past.hits + hits, misses: past.misses + misses, errors: past.errors + errors };
  }
}

/** What the log is told of it. */
function openedBy(
  { content, size, source, table }: OpenLayer,
  { blockSize, blockCount }: Pick<SpanTable, 'blockSize' | 'blockCount'>,
): NewLayerEvent {
  return defined({
    type: 'layer.opened' as const,
    size,
    blockSize,
    blockCount,
    blob: source.digest,
    diffId: content,
    table,
  });
}

/**
 * A layer is opened with its own table alone: the one of its diffID, its size and its blob, and, where its id is a block root,
 * the one with that root. Error `integrity`.
 */
function refuseOther(table: SpanTable, { diffId: id, content, size, source }: OpenLayer): void {
  const isOfLayer =
    content === undefined ? table.diffId === id : table.diffId === content && table.root === id;
  if (isOfLayer && table.rawSize === size && table.blobDigest === source.digest) return;
  throw new CofaError(
    'integrity',
    `the span table of ${source.digest} is not that of layer ${content ?? id}`,
    {
      hint: 'remove the image (cofa rmi) and mount it again',
    },
  );
}
