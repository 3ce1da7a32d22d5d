/** What a front end is made of, by the stages of its start (main.ts). */
import { availableParallelism } from 'node:os';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { Counts } from '../../actors/counts.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import type { FrontNotice } from '../../schemas/front.ts';
import { type Subjects, subjects } from '../../schemas/subjects.ts';
import { encode } from '../bus/connection.ts';
import { awaySentence, type BusHealth, watchBus } from '../bus/health.ts';
import type { FuseTransport } from '../fuse/transport.ts';
import { Conditions } from '../process/conditions.ts';
import { createLog } from '../process/log.ts';
import type { Clock, Ports } from '../process/ports.ts';
import { type EngineSettings, readSettings } from '../process/settings.ts';
import { Layout } from '../store/layout.ts';
import { CacheHost } from './cache-host.ts';
import { FetchPool } from './fetch-pool.ts';
import type { Machine } from './fetcher-urgency.ts';
import type { LayerTable } from './layer-table.ts';
import type { MakeOwnFetcher } from './local-fetcher.ts';
import type { LogWriter } from './log-writer.ts';
import { OpenLayers } from './open-layers.ts';
import { Rest } from './rest.ts';
import { Scrubber } from './scrubber.ts';
import { Starts } from './starts.ts';

/** What is the same for all parts. */
export interface Base {
  /** What this process counts for metrics. */
  counts: Counts;
  root: string;
  /** Name of this front end. */
  front: string;
  settings: EngineSettings;
  layout: Layout;
  names: Subjects;
  log: Logger;
  conditions: Conditions;
  clock: Clock;
}

/** Errors: those of files. */
export async function readBase(root: string, { clock, random }: Ports): Promise<Base> {
  const settings = await readSettings(root);
  const log = createLog('front-end', settings.logLevel);
  const names = subjects(settings.node, settings.epoch);
  const conditions = new Conditions(log, clock.wallMs);
  return {
    counts: new Counts(),
    root,
    front: random.hex(8),
    settings,
    layout: new Layout(root),
    names,
    log,
    conditions,
    clock,
  };
}

export interface Fetching {
  pool: FetchPool;
  starts: Starts;
  rest: Rest;
  health: BusHealth;
}

/** Work that no reader waits for is as urgent as all else. */
const UNTOUCHED: Machine = { pressure: () => undefined, setPriority: () => {} };

/** What asks fetchers for blocks: the pool, the packs of starts, and the rest of images. */
export function startFetching(
  base: Base,
  bus: NatsConnection,
  layers: LayerTable,
  { ownFetcher, machine }: { ownFetcher: MakeOwnFetcher; machine: Machine },
): Fetching {
  const { counts, root, front, names, log, conditions, clock, settings } = base;
  const { now } = clock;
  const pool = new FetchPool({
    bus,
    names,
    front,
    clock,
    log,
    root,
    conditions,
    ownFetcher,
    machine: settings.defers === false ? UNTOUCHED : machine,
  });
  const starts = new Starts({
    pool,
    layer: (diffId) => layers.opened.get(diffId),
    now,
    epochMs: clock.wallMs,
    cores: availableParallelism(),
    log,
    counts,
  });
  const rest = new Rest({ clock, layers, starts, fetchers: () => pool.fetchers });
  return { pool, starts, rest, health: watchFrontBus(bus, settings, conditions, pool) };
}

export interface Serving {
  cache: CacheHost;
  scrubber: Scrubber;
  layers: OpenLayers;
}

/** What opens layers, evicts from them and compares them. */
export function serveLayers(
  base: Base,
  parts: Fetching & {
    bus: NatsConnection;
    layers: LayerTable;
    writer: LogWriter;
    transport: FuseTransport;
  },
): Serving {
  const { counts, front, settings, layout, names, log, conditions, clock } = base;
  const { bus, layers, writer, pool, starts, rest, transport, health } = parts;
  const facts = writer.layerLog();
  const notify = (notice: FrontNotice) => bus.publish(names.notice, encode(notice));
  const isInUse = (diffId: string) => layers.isInUse(diffId);
  const shared = { layout, facts, opened: layers.opened, conditions, log, clock, notify };
  const cache = new CacheHost({
    ...shared,
    limit: settings.cacheLimit,
    keepFree: settings.keepFree ?? 0,
    isInUse,
  });
  const scrubber = new Scrubber({ ...shared, pool, cache });
  writer.watch(scrubber.onStored);
  const open = new OpenLayers({
    front,
    layers,
    layout,
    facts,
    pool,
    cache,
    scrubber,
    starts,
    rest,
    transport,
    clock,
    log,
    counts,
    readDeadlineMs: settings.readDeadlineMs,
    onLogged: sayLogTrouble(conditions, health),
    notify,
  });
  return { cache, scrubber, layers: open };
}

const watchFrontBus = (
  bus: NatsConnection,
  { nats }: EngineSettings,
  conditions: Conditions,
  pool: FetchPool,
): BusHealth =>
  watchBus(bus, {
    onAway: () => {
      conditions.set('nats', awaySentence(nats.url));
      conditions.clear('log');
      pool.busAway();
    },
    onBack: () => {
      conditions.clear('nats');
      pool.busBack();
    },
  });

/** Told of each append of a layer. While NATS is away that is said already. */
const sayLogTrouble = (conditions: Conditions, health: BusHealth) => (error: unknown) => {
  if (error === undefined) conditions.clear('log');
  else if (!health.isAway)
    conditions.set('log', `the event log takes no events, they wait: ${toErrorRecord(error).message}`);
};
