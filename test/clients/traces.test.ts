/**
 * containerd traces its calls and sends them to the same collector as cofa: cofa's spans hang below containerd's own, from a
 * pull and from a container's start. Its requests are decoded by the same messages, so the collector is right by Go's encoder, too.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { containerdPath } from '../../ops/images/debs.ts';
import { type Engine, eventually, startEngine } from '../support/engine.ts';
import { type Collector, type ReceivedSpan, startCollector } from '../support/otlp.ts';
import { startRegistry } from '../support/registry-server.ts';
import { startContainerd } from '../support/services.ts';
import { Cleanup, letThrough } from '../support/temp.ts';
import { untilServed } from '../snapshotter/served.ts';
import { connectCri } from './cri.ts';
import { index, makeBase, makeClientImage, push } from './images.ts';
import { containerds } from './versions.ts';

/** The newest that is here; older ones trace no calls of their proxies. */
const [version] = containerds(['2.4', '2.3', '2.2']);

describe.runIf(version !== undefined)('containerd that traces its calls', () => {
  const cleanup = new Cleanup();
  let collector: Collector;
  let engine: Engine;

  beforeAll(async () => {
    const work = await cleanup.tempDir('traces-cri');
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    collector = await startCollector(cleanup);
    const base = await makeBase(work);
    const refs: Record<string, string> = {};
    for (const [name, big] of [
      ['lazy', 1],
      ['pause', 3],
    ] as const) {
      const config = { Env: ['PATH=/bin'], Cmd: [name === 'pause' ? '/bin/wait' : '/bin/say'] };
      const image = await makeClientImage(work, base, name, { big, said: `I am ${name}`, config });
      refs[name] = await push(image, registry.host, name);
      await index(refs[name]);
    }
    engine = await startEngine({ args: ['--snapshotter', '--traces', collector.url] });
    cleanup.defer(() => engine.stop());
    (await untilServed(join(engine.root, 'run/snapshotter.sock'))).close();
    const path = await containerdPath(version as string);
    const directory = await cleanup.tempDir('ctrd');
    const containerd = await startContainerd({
      ...(path === undefined ? {} : { path }),
      env: {
        OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
        OTEL_EXPORTER_OTLP_PROTOCOL: 'http/protobuf',
        OTEL_SERVICE_NAME: 'containerd',
        OTEL_BSP_SCHEDULE_DELAY: '200',
      },
      configVersion: 3,
      configure: async (file) => {
        const args = ['install', 'k8s', '--no-unit', '--containerd-config', file];
        const env = path === undefined ? {} : { PATH: path };
        expect(await engine.cli(args, { env })).toMatchObject({ code: 0 });
      },
      sandboxImage: refs.pause as string,
      emptyNetwork: true,
      directory,
    });
    cleanup.defer(() => containerd.stop());
    await letThrough(directory);
    const cri = connectCri(containerd.socket);
    cleanup.defer(() => cri.close());
    await eventually('CRI', async () => (await cri.runtime.version({})).runtimeVersion !== '');
    await cri.pull(refs.lazy as string);
    const logs = join(work, 'logs');
    await mkdir(logs);
    const pod = await cri.runPod('traced', logs);
    const container = await pod.start('app', refs.lazy as string, { command: ['/bin/wait'] });
    expect((await cri.exec(container, 'cat', '/said')).stdout).toBe('I am lazy\n');
    await pod.stop();
    cri.close();
    await containerd.stop();
    // The end of the engine is the end of each start.
    expect(await engine.cli(['down', '--force'])).toMatchObject({ code: 0 });
    await engine.ended;
  }, 300_000);
  afterAll(() => cleanup.run());

  /** The spans above one, from its parent to the root of its trace. */
  const above = (span: ReceivedSpan): ReceivedSpan[] => {
    const parent = collector.spans.find(
      ({ traceId, spanId }) => traceId === span.traceId && spanId === span.parentId,
    );
    return parent === undefined ? [] : [parent, ...above(parent)];
  };
  const serviceOf = ({ resource }: ReceivedSpan) => resource['service.name'];
  const cofas = (name: string) =>
    collector.spans.filter((span) => serviceOf(span) === 'cofa' && span.name === name);

  test('both send what OTLP wants', () => {
    expect(collector.flaws).toEqual([]);
    expect(new Set(collector.spans.map(serviceOf))).toEqual(new Set(['cofa', 'containerd']));
  });

  test.each(['start', 'pull', 'layer'])(
    'a %s of a pull hangs below the call of containerd that asked for it',
    (name) => {
      const found = cofas(name);
      expect(found.length).toBeGreaterThan(0);
      for (const span of found) {
        const [caller, ...others] = above(span).filter((one) => serviceOf(one) === 'containerd');
        expect(caller?.name).toMatch(/snapshots\.v1\.Snapshots\/Prepare$/);
        // Which belongs to the pull of an image, or to the pod whose first image it is.
        const names = others.map((one) => one.name).join(' ');
        expect(names).toMatch(/PullImage|RunPodSandbox/);
        // Both read one clock, to a millisecond.
        expect(span.from).toBeGreaterThanOrEqual((caller?.from ?? Number.POSITIVE_INFINITY) - 1);
      }
    },
  );

  test('the phases of a start are in its trace', () => {
    const [start] = cofas('start');
    const inside = collector.spans
      .filter(({ parentId }) => parentId === start?.spanId)
      .map(({ name }) => name);
    expect(inside).toEqual(expect.arrayContaining(['resolve', 'prepare', 'attach', 'mount']));
  });

  test("a container's snapshot hangs below the call that made the container", () => {
    const found = cofas('prepare snapshot');
    const callers = found.map((span) =>
      above(span)
        .map(({ name }) => name)
        .join(' '),
    );
    expect(callers).toEqual(expect.arrayContaining([expect.stringMatching(/Prepare .*CreateContainer/)]));
  });
});
