/** Spans to a real collector, which decodes them by OTLP's own messages; and to collectors that are away, slow, or lie. */
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { type SpanTree, TreeMaker } from '../../actors/spans.ts';
import { type Fate, TraceSender } from '../../src/traces/sender.ts';
import { type TracesSettings, tracesChoice } from '../../src/traces/settings.ts';
import { digestOf } from '../../src/digest/digest.ts';
import { eventually } from '../support/engine.ts';
import { type Collector, encodeResponse, startCollector } from '../support/otlp.ts';
import { freePort } from '../support/ports.ts';
import { Cleanup } from '../support/temp.ts';

const CALLER = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
const T = 1_700_000_000_000;
const cleanup = new Cleanup();
afterEach(() => cleanup.run());

function treeOf(name: string, spans = 1, caller?: string): SpanTree {
  const hash = (text: string) => digestOf(text).slice('sha256:'.length);
  const context = caller === undefined ? undefined : { traceparent: caller, tracestate: 'a=1' };
  const maker = new TreeMaker(name, context, hash);
  const root = maker.add('root', {
    name: 'start',
    kind: 'server',
    from: T + 0.125,
    to: T + 20,
    attributes: { 'cofa.image': 'ä\ud800', 'cofa.reads': 3, 'cofa.ratio': 0.5, 'cofa.yes': true },
    marks: [{ name: 'sent', at: T + 1 }],
  });
  for (let index = 1; index < spans; index++)
    maker.add(String(index), {
      parent: root,
      name: 'read',
      from: T,
      to: T + index,
      links: [root],
      ...(index === 1 && { error: 'errno 5' }),
    });
  return maker.tree;
}

function senderTo(url: string, more: Partial<TracesSettings> = {}, pauseScale = 1) {
  const settings = tracesChoice({ traces: url }, {}).settings as TracesSettings;
  const fates: Partial<Record<Fate, number>> = {};
  const troubles: Array<string | undefined> = [];
  const sender = new TraceSender({
    settings: { ...settings, delayMs: 10, ...more },
    sender: { resource: { 'service.name': 'cofa', 'cofa.n': 1 }, version: '1' },
    after: (ms, run) => {
      const timer = setTimeout(run, ms * pauseScale);
      return { cancel: () => clearTimeout(timer) };
    },
    onFate: (fate, count) => (fates[fate] = (fates[fate] ?? 0) + count),
    onTrouble: (sentence) => troubles.push(sentence),
  });
  cleanup.defer(() => sender.close(0));
  return { sender, fates, troubles };
}

const untilSent = (collector: Collector, count: number) =>
  eventually(`${count} spans have come`, () => collector.spans.length >= count || collector.flaws.length > 0);

test.each([
  { encoding: 'http/protobuf', isGzip: false },
  { encoding: 'http/protobuf', isGzip: true },
  { encoding: 'http/json', isGzip: false },
  { encoding: 'http/json', isGzip: true },
] as const)('a tree arrives as it was, by $encoding (gzip: $isGzip)', async ({ encoding, isGzip }) => {
  const collector = await startCollector(cleanup);
  const { sender, fates } = senderTo(collector.url, {
    encoding,
    isGzip,
    headers: { authorization: 'Bearer x' },
  });
  const tree = treeOf('a', 3, CALLER);
  sender.add(tree);
  await untilSent(collector, 3);
  expect(collector.flaws).toEqual([]);
  expect(collector.requests[0]).toMatchObject({ path: '/v1/traces', headers: { authorization: 'Bearer x' } });
  const [root, failed, read] = tree.spans;
  const common = {
    traceId: CALLER.slice(3, 35),
    traceState: 'a=1',
    resource: { 'service.name': 'cofa', 'cofa.n': 1 },
  };
  expect(collector.spans).toEqual([
    {
      ...common,
      spanId: root?.spanId,
      parentId: '00f067aa0ba902b7',
      name: 'start',
      kind: 2,
      error: undefined,
      from: T + 0.125,
      to: T + 20,
      events: [{ name: 'sent', at: T + 1 }],
      links: [],
      flags: 0x301,
      attributes: { 'cofa.image': 'ä\ufffd', 'cofa.reads': 3, 'cofa.ratio': 0.5, 'cofa.yes': true },
    },
    ...[failed, read].map((span, index) => ({
      ...common,
      spanId: span?.spanId,
      parentId: root?.spanId,
      name: 'read',
      kind: 1,
      attributes: {},
      events: [],
      from: T,
      to: T + index + 1,
      error: index === 0 ? 'errno 5' : undefined,
      flags: 0x101,
      links: [{ traceId: common.traceId, spanId: root?.spanId }],
    })),
  ]);
  await eventually('they are counted', () => fates.sent === 3);
});

test('the sampler decides on a trace, and its caller before it', async () => {
  const collector = await startCollector(cleanup);
  const unsampled = CALLER.replace(/01$/, '00');
  const seen = async (sampler: TracesSettings['sampler']) => {
    const { sender } = senderTo(collector.url, { sampler });
    const before = collector.spans.length;
    for (let index = 0; index < 400; index++) sender.add(treeOf(`t${index}`));
    sender.add(treeOf('yes', 1, CALLER));
    sender.add(treeOf('no', 1, unsampled));
    await sender.close(5_000);
    const spans = collector.spans.slice(before);
    return { own: spans.filter(({ parentId }) => parentId === undefined).length, joined: spans.length };
  };
  expect(await seen({ name: 'always_off', ratio: 1 })).toEqual({ own: 0, joined: 0 });
  expect(await seen({ name: 'always_on', ratio: 1 })).toEqual({ own: 400, joined: 402 });
  expect(await seen({ name: 'parentbased_always_on', ratio: 1 })).toEqual({ own: 400, joined: 401 });
  expect(await seen({ name: 'parentbased_always_off', ratio: 1 })).toEqual({ own: 0, joined: 1 });
  const { own, joined } = await seen({ name: 'parentbased_traceidratio', ratio: 0.25 });
  expect(joined).toBe(own + 1);
  expect(own).toBeGreaterThan(60);
  expect(own).toBeLessThan(140);
});

test('what a collector rejects is counted as that, and not sent again', async () => {
  const collector = await startCollector(cleanup);
  const partialSuccess = { rejectedSpans: 2, errorMessage: 'too old' };
  collector.answer = (response, { headers }) =>
    response.end(
      headers['content-type'] === 'application/json'
        ? JSON.stringify({ partialSuccess: { ...partialSuccess, rejectedSpans: '2' } })
        : encodeResponse({ partialSuccess }),
    );
  for (const encoding of ['http/protobuf', 'http/json'] as const) {
    const { sender, fates } = senderTo(collector.url, { encoding });
    sender.add(treeOf('a', 5));
    await sender.close(5_000);
    expect(fates).toEqual({ sent: 3, rejected: 2 });
  }
  expect(collector.requests).toHaveLength(2);
});

test('a collector that is overloaded is asked again; one that refuses is not', async () => {
  const collector = await startCollector(cleanup);
  let turns = 0;
  collector.answer = (response) => {
    turns += 1;
    response.writeHead(turns < 3 ? 503 : 200, turns === 1 ? { 'retry-after': '1' } : {}).end();
  };
  const { sender, fates, troubles } = senderTo(collector.url, {}, 0.01);
  sender.add(treeOf('a', 2));
  await eventually('it took them at last', () => fates.sent === 2);
  expect(turns).toBe(3);
  expect(troubles).toEqual([expect.stringContaining('answered 503'), undefined]);

  collector.answer = (response) => response.writeHead(400).end();
  sender.add(treeOf('b', 2));
  await eventually('they were given up', () => fates.failed === 2);
  expect(collector.requests).toHaveLength(3 + 1);
});

test('a collector that is away costs spans, in a bounded queue, and says so once', async () => {
  const { sender, fates, troubles } = senderTo(
    `http://127.0.0.1:${await freePort()}`,
    { queue: 100, batch: 50, timeoutMs: 500 },
    0.01,
  );
  const started = performance.now();
  for (let index = 0; index < 1_000; index++) sender.add(treeOf(`t${index}`, 2));
  // No caller waited for anything.
  expect(performance.now() - started).toBeLessThan(1_000);
  await eventually('all are accounted for', () => (fates.dropped ?? 0) + (fates.failed ?? 0) === 2_000);
  expect(fates).toEqual({ dropped: 1_900, failed: 100 });
  expect(troubles).toEqual([expect.stringMatching(/^traces are not sent: http:\/\/127.*ECONNREFUSED/)]);
});

test('a collector that never answers, or never ends its answer, is left after the timeout', async () => {
  const silent = createServer((socket) => void socket.on('error', () => {}));
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  cleanup.defer(() => void silent.close());
  const { port } = silent.address() as { port: number };
  const { sender, fates, troubles } = senderTo(`http://127.0.0.1:${port}`, { timeoutMs: 100 }, 0.01);
  sender.add(treeOf('a'));
  await eventually('it is given up', () => fates.failed === 1);
  expect(troubles).toEqual([expect.stringContaining('did not answer in time')]);

  const collector = await startCollector(cleanup);
  collector.answer = (response) => {
    const more = () => response.write(Buffer.alloc(1 << 16), () => setImmediate(more));
    response.on('error', () => {}).writeHead(200);
    more();
  };
  const endless = senderTo(collector.url, { timeoutMs: 2_000 });
  endless.sender.add(treeOf('a'));
  await eventually('the status counts, the rest is not read', () => endless.fates.sent === 1);
});

test('garbage, and a redirect, change nothing', async () => {
  const collector = await startCollector(cleanup);
  collector.answer = (response) => response.end(Buffer.from([0x0a, 0xff, 0xff, 0xff, 0x7f, 1, 2]));
  const { sender, fates } = senderTo(collector.url);
  sender.add(treeOf('a', 2));
  await eventually('they count as sent', () => fates.sent === 2);
  const elsewhere = await startCollector(cleanup);
  collector.answer = (response) => response.writeHead(307, { location: `${elsewhere.url}/v1/traces` }).end();
  sender.add(treeOf('b', 2));
  await eventually('they are given up', () => fates.failed === 2);
  expect(elsewhere.requests).toEqual([]);
});

test('an end does not wait for a collector that hangs', async () => {
  const collector = await startCollector(cleanup);
  collector.answer = () => {};
  const { sender, fates } = senderTo(collector.url);
  sender.add(treeOf('a'));
  await eventually('it was asked', () => collector.requests.length === 1);
  sender.add(treeOf('b'));
  const started = performance.now();
  await sender.close(200);
  expect(performance.now() - started).toBeLessThan(2_000);
  await sleep(20);
  expect(fates).toEqual({ failed: 2 });
});
