/** What the front end answers: one handler for each question of schemas/front.ts. */
import type { NatsConnection } from '@nats-io/nats-core';
import { isFrontRequest } from '../../schemas/check-front.ts';
import type { FrontCall, FrontHandlers, FrontStatus } from '../../schemas/front.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import { serve } from '../bus/connection.ts';
import type { Conditions } from '../process/conditions.ts';
import type { CacheHost } from './cache-host.ts';
import type { StandbyTransport } from './devices.ts';
import type { FetchPool } from './fetch-pool.ts';
import type { OpenLayers } from './open-layers.ts';
import type { Scrubber } from './scrubber.ts';
import type { Starts } from './starts.ts';

export interface CallsOptions {
  /** Name of this front end. */
  front: string;
  layers: OpenLayers;
  cache: CacheHost;
  scrubber: Scrubber;
  starts: Starts;
  pool: FetchPool;
  conditions: Conditions;
  transport: Pick<StandbyTransport, 'settled'>;
  /** A layer is about to open. */
  onOpen: () => void;
  /** An image was attached, and a start begins. */
  onStart: () => void;
}

export function frontCalls(parts: CallsOptions): FrontHandlers {
  const { front, layers, cache, scrubber, starts, transport, onOpen, onStart } = parts;
  return {
    open: (request) => {
      onOpen();
      return layers.open(request);
    },
    close: (request) => layers.close(request),
    start: (order) => {
      onStart();
      starts.begin(order);
    },
    'handed-over': async ({ diffId }) => {
      const layer = await layers.find(diffId);
      // Where room is short it would be taken back at once.
      if (cache.hasRoom) layer?.handedOver();
      return { state: layer?.state ?? 'lazy' };
    },
    'take-back': async ({ diffId }) => await (await layers.find(diffId))?.takeBack(),
    'taken-back': async ({ diffId }) => {
      const layer = await layers.find(diffId);
      layer?.takenBack();
      return { state: layer?.state ?? 'lazy' };
    },
    'given-up': async ({ diffId }) => (await layers.find(diffId))?.givenUp(),
    needs: (needs) => void (cache.needs = needs),
    uses: () => cache.layerUses(),
    shrink: (order) => cache.shrink(order),
    collect: (order) => cache.collect(order),
    scrub: (order) => scrubber.scrub(order),
    refetch: (order) => scrubber.refetch(order),
    scrubbed: (report) => scrubber.scrubbed(report),
    doubt: (doubt) => scrubber.doubt(doubt),
    settled: async ({ fronts }) => {
      // What another one had open is not open here.
      if (fronts.some((other) => other !== front)) return;
      transport.settled();
      await cache.start();
    },
    status: () => statusOf(parts),
  };
}

/** Answers the questions that come over NATS. */
export function serveCalls(bus: NatsConnection, names: Subjects, handlers: FrontHandlers): void {
  for (const call of Object.keys(handlers) as FrontCall[]) serveCall(bus, names, handlers, call);
}

const serveCall = <Call extends FrontCall>(
  bus: NatsConnection,
  names: Subjects,
  handlers: FrontHandlers,
  call: Call,
): void => serve(bus, names.front(call), isFrontRequest(call), handlers[call]);

async function statusOf({ layers, pool, cache, conditions }: CallsOptions): Promise<FrontStatus> {
  const served = await layers.status();
  const { workers, queued } = pool.status();
  return { layers: served, workers, queued, cache: await cache.status(), degraded: conditions.list() };
}
