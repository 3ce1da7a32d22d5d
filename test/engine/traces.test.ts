/**
 * A real engine sends the traces of real starts to a collector; what its log tells afterwards is the same, span by span: with
 * a caller's trace from the environment, from a header of NATS, and without one.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { headers } from '@nats-io/nats-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { WhyStart } from '../../schemas/replay.ts';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { index, makeBase, makeClientImage, push } from '../clients/images.ts';
import { type FaultImage, pushImage, twoLayers } from '../faults/fault-image.ts';
import { type Engine, errorOf, mountImage, runCofa, startEngine } from '../support/engine.ts';
import { type Collector, type ReceivedSpan, startCollector } from '../support/otlp.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const RUN = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
const HEADER = '00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01';
const UNSAMPLED = '00-cccccccccccccccccccccccccccccccc-dddddddddddddddd-00';
const cleanup = new Cleanup();
let collector: Collector;
let engine: Engine;
let image: FaultImage;
let root: string;
let file: string;
/** Of the start of each mount: its id. */
const mounts: Record<string, string> = {};

beforeAll(async () => {
  const work = await cleanup.tempDir('traces');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  collector = await startCollector(cleanup);
  image = await pushImage(join(work, 'image'), registry.host, 'read', twoLayers(4_200));
  await index(image.ref);
  const program = await makeClientImage(work, await makeBase(work), 'app', { big: 1, said: 'hello' });
  const programRef = await push(program, registry.host, 'app');
  await index(programRef);

  root = await cleanup.tempDir('traces-engine');
  engine = await startEngine({
    root,
    args: ['--traces', collector.url],
    env: { OTEL_SERVICE_NAME: 'cofa-test', OTEL_EXPORTER_OTLP_COMPRESSION: 'gzip' },
  });
  cleanup.defer(() => engine.stop());

  const env = { TRACEPARENT: RUN, TRACESTATE: 'vendor=1' };
  expect(await engine.cli(['run', programRef], { env })).toMatchObject({ code: 0, stdout: 'hello\n' });
  const dir = (name: string) => join(work, name);
  for (const name of ['plain', 'header', 'unsampled']) await mkdir(dir(name));
  mounts.plain = (await mountImage(engine, image.ref, dir('plain'))).id;
  expect(await readFile(join(dir('plain'), 'app/prose'))).toEqual(image.files.get('app/prose'));
  expect(await readFile(join(dir('plain'), 'lib/prose'))).toEqual(image.files.get('lib/prose'));

  const { endpoint } = engine.client;
  const bus = await connectBus(endpoint.nats, { name: 'test', reconnect: false });
  const head = headers();
  head.set('traceparent', HEADER);
  head.set('tracestate', 'no state');
  const request = { ref: image.ref, dir: dir('header'), prefetch: false };
  const asked = bus.request(subjects(endpoint.node).api('mount'), JSON.stringify(request), {
    headers: head,
    timeout: 30_000,
  });
  mounts.header = ((await asked).json() as { result: { id: string } }).result.id;
  await bus.close();
  const sent = { ref: image.ref, dir: dir('unsampled'), prefetch: false, traceparent: UNSAMPLED };
  mounts.unsampled = (await engine.client.call('mount', sent)).id;

  // The end of the engine is the end of each start.
  expect(await engine.cli(['down'])).toMatchObject({ code: 0 });
  await engine.ended;
  file = join(work, 'all.cofa-log');
  expect(await runCofa(['events', 'export', file, '--root', root])).toMatchObject({ code: 0 });
}, 300_000);
afterAll(() => cleanup.run());

const startOf = (spans: readonly ReceivedSpan[], mount: string | undefined) =>
  spans.find((span) => span.name === 'start' && span.attributes['cofa.mount'] === mount);
const childrenOf = (spans: readonly ReceivedSpan[], parent: ReceivedSpan | undefined) =>
  spans.filter(({ parentId }) => parentId === parent?.spanId);
const byId = (spans: readonly ReceivedSpan[]) => spans.toSorted((a, b) => (a.spanId < b.spanId ? -1 : 1));

test('every request is as OTLP wants it, and compressed', () => {
  expect(collector.flaws).toEqual([]);
  expect(collector.requests.length).toBeGreaterThan(0);
  expect(collector.requests.every(({ headers: head }) => head['content-encoding'] === 'gzip')).toBe(true);
  const ids = collector.spans.map(({ spanId }) => spanId);
  expect(new Set(ids).size).toBe(ids.length);
  for (const { resource } of collector.spans)
    expect(resource).toMatchObject({
      'service.name': 'cofa-test',
      'service.instance.id': engine.client.endpoint.node,
    });
});

test('a start has the phases, the reads and the fetches that cofa replay why tells of', async () => {
  const start = startOf(collector.spans, mounts.plain);
  const why = JSON.parse(
    (await runCofa(['replay', 'why', file, '--mount', mounts.plain as string, '--json'])).stdout,
  ) as WhyStart;
  expect(start?.parentId).toBeUndefined();
  expect(start?.from).toBe(Date.parse(why.time));
  expect(Math.round(((start?.to ?? 0) - (start?.from ?? 0)) * 1000)).toBe(why.us);
  const children = childrenOf(collector.spans, start);
  for (const { phase, startUs, us } of why.phases.filter((one) => one.phase !== 'reads')) {
    const span = children.find(({ name }) => name === phase);
    const at = Math.round(((span?.from ?? 0) - (start?.from ?? 0)) * 1000);
    expect([phase, at, Math.round(((span?.to ?? 0) - (span?.from ?? 0)) * 1000)]).toEqual([
      phase,
      startUs,
      us,
    ]);
  }
  const reads = childrenOf(
    collector.spans,
    children.find(({ name }) => name === 'reads'),
  );
  expect(reads.length).toBeGreaterThan(0);
  expect(reads).toHaveLength(why.reads.count);
  expect(start?.attributes['cofa.reads']).toBe(why.reads.count);
  for (const { startUs, us, block } of why.slowest)
    expect(
      reads.some(
        ({ from, to, attributes }) =>
          attributes['cofa.block'] === block &&
          Math.abs((from - (start?.from ?? 0)) * 1000 - startUs) <= 1 &&
          Math.abs((to - from) * 1000 - us) <= 1,
      ),
    ).toBe(true);
  // Each read that waited for a fetch leads to its span, and the bytes are those of the account.
  const fetches = children.filter(({ name }) => name.startsWith('fetch '));
  const known = new Set(fetches.map(({ spanId }) => spanId));
  expect(reads.some(({ links }) => links.length > 0)).toBe(true);
  for (const { links } of reads) for (const { spanId } of links) expect(known).toContain(spanId);
  const bytes = fetches.reduce((sum, { attributes }) => sum + Number(attributes['cofa.bytes']), 0);
  expect(bytes).toBe(why.bytes + why.prefetchedBytes);
});

test('cofa run joins the trace of its environment, a call over NATS that of its header', () => {
  const run = collector.spans.filter(({ traceId }) => traceId === RUN.slice(3, 35));
  expect(run.find(({ name }) => name === 'start')).toMatchObject({
    parentId: '00f067aa0ba902b7',
    traceState: 'vendor=1',
    kind: 2,
    flags: 0x301,
    attributes: { 'cofa.prepared': 'sidecar', 'container.id': expect.any(String) },
  });
  expect(run.map(({ name }) => name)).toEqual(
    expect.arrayContaining(['resolve', 'prepare', 'attach', 'mount']),
  );
  const header = startOf(collector.spans, mounts.header);
  expect(header).toMatchObject({ traceId: 'a'.repeat(32), parentId: 'b'.repeat(16), traceState: '' });
});

test('a trace that its caller does not record is not sent', () => {
  expect(startOf(collector.spans, mounts.unsampled)).toBeUndefined();
});

test('the log tells the same afterwards, to a collector and as a file, each time', async () => {
  const later = await startCollector(cleanup);
  const env = { OTEL_SERVICE_NAME: 'cofa-test', OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json' };
  const sent = await runCofa(['replay', 'export', file, '--otlp', later.url, '--json'], { env });
  expect(sent).toMatchObject({ code: 0 });
  expect(later.flaws).toEqual([]);
  expect(JSON.parse(sent.stdout)).toMatchObject({ format: 'otlp', spans: later.spans.length, traces: 4 });
  // What was not recorded is in the log.
  const unsampled = later.spans.filter(({ traceId }) => traceId === 'c'.repeat(32));
  expect(startOf(unsampled, mounts.unsampled)).toBeDefined();
  const others = later.spans.filter(({ traceId }) => traceId !== 'c'.repeat(32));
  expect(byId(others)).toEqual(byId(collector.spans));

  const out = join(root, 'spans.jsonl');
  const args = ['replay', 'export', file, '--mount', mounts.plain as string, '--otlp', out];
  expect(await runCofa(args)).toMatchObject({ code: 0 });
  const lines = (await readFile(out, 'utf8')).trim().split('\n');
  expect(lines).toHaveLength(1);
  const [{ scopeSpans }] = (
    JSON.parse(lines[0] as string) as {
      resourceSpans: [{ scopeSpans: Array<{ spans: Array<{ spanId: string }> }> }];
    }
  ).resourceSpans;
  const start = startOf(collector.spans, mounts.plain);
  expect(scopeSpans[0]?.spans.map(({ spanId }) => spanId).sort()).toEqual(
    collector.spans
      .filter(({ traceId }) => traceId === start?.traceId)
      .map(({ spanId }) => spanId)
      .sort(),
  );
  expect(errorOf(await runCofa([...args, '--json']))).toMatchObject({ code: 'conflict' });
});
