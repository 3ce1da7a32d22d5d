/** A whole front end beside the test, with a fetcher, a real NATS and a registry: what its start builds its end takes away. */
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import type { NatsConnection } from '@nats-io/nats-core';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { FrontReply, OpenLayer } from '../../schemas/front.ts';
import { type Subjects, subjects } from '../../schemas/subjects.ts';
import { ask, connectBus } from '../../src/bus/connection.ts';
import { type Fetcher, runFetcher } from '../../src/fetcher/main.ts';
import { type FrontEnd, runFrontEnd } from '../../src/front-end/main.ts';
import { realPorts } from '../../src/process/ports.ts';
import { type RehearsalImage, serveRehearsalImage } from '../../src/process/rehearsal/image.ts';
import { writeSettings } from '../../src/process/settings.ts';
import { FrontCaller } from '../../src/supervisor/layers/front-caller.ts';
import { EventLog } from '../../src/store/event-log.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import { prepareSnapshots } from '../../src/store/snapshots.ts';
import { eventually } from '../support/engine.ts';
import { countedClock, openDescriptors, SelfInTest, TransportInTest } from '../support/in-process.ts';
import { type NatsServer, startNats } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { anything } from '../support/anything.ts';

const tidying = { worked: () => {}, now: () => {} };

const cleanup = new Cleanup();
let server: NatsServer;
let bus: NatsConnection;
let root: string;
let layout: Layout;
let names: Subjects;
let image: RehearsalImage;
let engines = 0;

beforeAll(async () => {
  server = await startNats();
  cleanup.defer(() => server.stop());
  bus = await connectBus({ url: server.url }, { name: 'test' });
  cleanup.defer(() => bus.close());
  await EventLog.prepare(bus, { maxBytes: 64 << 20 });
  await prepareSnapshots(bus);
});
afterAll(() => cleanup.run());

/** An engine whose supervisor is the test: its part of the log and its folder are empty. */
beforeEach(async () => {
  root = await cleanup.tempDir('front-end');
  layout = new Layout(root);
  await mkdir(layout.in('run'), { recursive: true });
  const node = `front-end-${engines++}`;
  const owner = subjects(node);
  const started = { version: '0', pid: 1, transport: 'kernel' };
  const log = new EventLog(bus, Date.now);
  const { seq: epoch } = await log.claim(owner.event('engine', 'main'), {
    type: 'engine.started',
    ...started,
  });
  names = subjects(node, epoch);
  await writeSettings({
    root,
    node,
    nats: { url: server.url },
    epoch,
    transport: 'kernel',
    resend: true,
    slots: 2,
    readDeadlineMs: 10_000,
    logLevel: 'silent',
    registry: {},
  });
  image = await serveRehearsalImage(layout);
  cleanup.defer(() => image.close());
  await writeWhole(layout.spans(image.layerDigest), image.table.encode());
});

interface Started {
  front: Promise<FrontEnd>;
  self: SelfInTest;
  transport: () => TransportInTest;
  timers: () => number;
}

/** Starts a front end; it waits for `begin`. */
function startFront(): Started {
  const self = new SelfInTest();
  const { clock, running } = countedClock();
  let transport: TransportInTest | undefined;
  const front = runFrontEnd(root, {
    ...realPorts(),
    clock,
    self,
    tidying,
    loadTransport: async ({ cold }) => {
      transport = new TransportInTest(cold);
      return transport.standby;
    },
    ownFetcher: () => ({ send: () => {}, close: () => {} }),
    machine: { pressure: () => undefined, setPriority: () => {} },
  });
  return { front, self, transport: () => transport as TransportInTest, timers: running };
}

async function startFetcher(): Promise<{ fetcher: Fetcher; timers: () => number }> {
  const self = new SelfInTest();
  const { clock, running } = countedClock();
  const ready = runFetcher([root, 'fetcher-0'], {
    ...realPorts(),
    clock,
    self,
    tidying,
    giveStreamRoom: () => {},
  });
  await self.hears('loaded');
  self.tell('begin');
  return { fetcher: await ready, timers: running };
}

function layerOf({ layer, layerDigest, registry, repository }: RehearsalImage): OpenLayer {
  const source = { registry, repository, digest: layerDigest, size: layer.length };
  return { diffId: layerDigest, size: layer.length, source, prefetch: false, built: false };
}

const askFront: FrontCaller['once'] = (call, request) =>
  new FrontCaller({ bus, names, ports: realPorts() }).once(call, request);
const status = (): Promise<FrontReply<'status'>> => askFront('status', {});

test('it opens a layer, fetches what a reader waits for, closes it, stops, and leaves nothing behind', async () => {
  const descriptors = openDescriptors();
  const { fetcher, timers: fetcherTimers } = await startFetcher();
  const { front, self, transport, timers } = startFront();
  await self.hears('loaded');
  expect(transport().isServing).toBe(false);
  self.tell('begin');
  const { name, stop } = await front;
  expect(self.said).toEqual(['loaded', 'ready']);

  const { diffId } = layerOf(image);
  const opened = await askFront('open', layerOf(image));
  expect(opened).toMatchObject({ front: name, state: 'lazy' });
  expect(await transport().read(opened.name, 0, 10)).toBe(0);
  expect((await readFile(layout.device(diffId))).subarray(0, 10)).toEqual(image.layer.subarray(0, 10));
  await eventually('the block is present', async () => ((await status()).layers[0]?.blocks.present ?? 0) > 0);
  expect(await status()).toMatchObject({
    layers: [{ diffId, misses: 1 }],
    workers: [{ name: 'fetcher-0' }],
    degraded: [],
  });

  await askFront('settled', { fronts: [name] });
  expect(transport().isSettled).toBe(true);
  await askFront('close', { diffId });
  expect(transport().files.size).toBe(0);
  await stop();
  await fetcher.stop();
  expect([timers(), fetcherTimers()]).toEqual([0, 0]);
  expect(existsSync(layout.socket('front-end'))).toBe(false);
  await eventually('descriptors are closed', async () => openDescriptors() <= descriptors);
  await expect(ask(bus, names.front('status'), {}, anything, 500)).rejects.toMatchObject({
    code: 'unavailable',
  });
});

test('one that takes over knows what the one before it wrote last, and serves only then', async () => {
  const fetcher = await startFetcher();
  const old = startFront();
  await old.self.hears('loaded');
  old.self.tell('begin');
  const before = await old.front;
  const opened = await askFront('open', layerOf(image));
  const next = startFront();
  await next.self.hears('loaded');
  expect(await old.transport().read(opened.name, 0, image.layer.length)).toBe(0);
  // No flush has come yet: only the end of the old one brings the blocks into the log.
  old.self.tell('retire');
  expect(await old.self.ended).toBe('kill');
  await before.stop();
  expect(next.transport().isServing).toBe(false);
  // A front end that waits so long takes over from another one: src/front-end/main.ts, SWAP_MS.
  await realPorts().clock.sleep(60);
  next.self.tell('begin');
  const { name, stop } = await next.front;
  const [layer] = (await status()).layers;
  expect(layer?.blocks).toEqual({ absent: 0, fetching: 0, present: image.table.blockCount });
  // A question that was meant for the old one says nothing of this one.
  await askFront('settled', { fronts: [before.name, name] });
  expect(next.transport().isSettled).toBe(false);
  await stop();
  await fetcher.fetcher.stop();
  expect([old.timers(), next.timers()]).toEqual([0, 0]);
});

test('at a signal it closes its layers, and its process dies', async () => {
  const { front, self, transport, timers } = startFront();
  await self.hears('loaded');
  self.tell('begin');
  await front;
  await askFront('open', layerOf(image));
  self.signal();
  expect(await self.ended).toBe('kill');
  expect(transport().isServing).toBe(false);
  expect(timers()).toBe(0);
});

test('a layer whose span table is of another one is refused, and can be opened later', async () => {
  const { front, self } = startFront();
  await self.hears('loaded');
  self.tell('begin');
  const { stop } = await front;
  const wrong = { ...layerOf(image), size: image.layer.length + 1 };
  await expect(askFront('open', wrong)).rejects.toMatchObject({ code: 'integrity' });
  expect(await askFront('open', layerOf(image))).toMatchObject({ state: 'lazy' });
  await stop();
});
