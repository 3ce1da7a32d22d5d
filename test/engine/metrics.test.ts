/**
 * A real Prometheus scrapes a real engine that has started a container, pulled lazily, had a failed read and an eviction:
 * every query of every board and rule is asked, and the figures are those of `cofa status`.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BOARDS, queriesOf } from '../../ops/grafana/boards.ts';
import { METRICS, PREFIX } from '../../schemas/metrics.ts';
import { parse } from 'yaml';
import { index, makeBase, makeClientImage, push } from '../clients/images.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from '../faults/fault-image.ts';
import { noise } from '../images/nasty.ts';
import { TarBytes } from '../images/tar-bytes.ts';
import { adoptLayers, pushLazyImage } from '../snapshotter/lazy-image.ts';
import { untilServed } from '../snapshotter/served.ts';
import { type Engine, eventually, imageOf, mountImage, startEngine } from '../support/engine.ts';
import { freePort } from '../support/ports.ts';
import { type Collector, startCollector } from '../support/otlp.ts';
import { type Prometheus, startPrometheus } from '../support/prometheus.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const RULES = join(import.meta.dirname, '../../ops/prometheus/cofa.rules.yaml');
const cleanup = new Cleanup();
let collector: Collector;
let engine: Engine;
let prometheus: Prometheus;
let port: number;
let image: FaultImage;
let lost: FaultImage;
let lostDir: string;

const scrape = async (): Promise<string> => await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
/** The value of a series as the text has it. */
async function valueOf(series: string): Promise<number> {
  const line = (await scrape()).split('\n').find((text) => text.startsWith(`${series} `));
  return Number(line?.slice(series.length + 1));
}

beforeAll(async () => {
  const work = await cleanup.tempDir('metrics');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const other = await startRegistry();
  cleanup.defer(() => other.stop());
  image = await pushImage(join(work, 'image'), registry.host, 'read', twoLayers(4_200));
  lost = await pushImage(join(work, 'lost'), other.host, 'lost', twoLayers(4_300));
  for (const { ref } of [image, lost]) await index(ref);
  const program = await makeClientImage(work, await makeBase(work), 'app', { big: 1, said: 'hello' });
  const programRef = await push(program, registry.host, 'app');
  await index(programRef);
  const layers = [4_400, 4_500].map((seed) => new TarBytes().file('data', noise(300_000, seed)).bytes());
  const lazy = await pushLazyImage(work, registry.host, 'lazy', layers);

  collector = await startCollector(cleanup);
  port = await freePort();
  engine = await startEngine({
    readDeadlineMs: 2_000,
    args: [
      '--metrics',
      String(port),
      '--metrics-images',
      '2',
      '--snapshotter',
      '--cache-limit',
      '1GiB',
      // So Prometheus gets OpenMetrics, for its exemplars.
      '--traces',
      collector.url,
    ],
  });
  cleanup.defer(() => engine.stop());
  prometheus = await startPrometheus(cleanup, { target: `127.0.0.1:${port}`, rules: [RULES] });
  await eventually('the first scrape', async () => (await prometheus.query('cofa_build_info')).length === 1);

  // A container, a lazy pull, reads, an eviction.
  expect(await engine.cli(['run', programRef])).toMatchObject({ code: 0, stdout: 'hello\n' });
  const client = await untilServed(join(engine.root, 'run/snapshotter.sock'));
  cleanup.defer(() => client.close());
  await adoptLayers(client, lazy);
  const dir = join(work, 'mnt');
  await mkdir(dir);
  await mountImage(engine, image.ref, dir);
  expect(await readFile(join(dir, 'app/prose'))).toEqual(image.files.get('app/prose'));
  expect((await engine.cli(['prune', '--all'])).code).toBe(0);
  expect(await readFile(join(dir, 'lib/prose'))).toEqual(image.files.get('lib/prose'));

  // A read that fails.
  lostDir = join(work, 'mnt-lost');
  await mkdir(lostDir);
  await mountImage(engine, lost.ref, lostDir);
  other.kill();
  const outcomes = await readPieces(join(lostDir, 'lib/noise'), lost.files.get('lib/noise') as Buffer, {
    pieceSize: 65_536,
    count: 8,
  });
  expect(outcomes).toContain('EIO');
  // A start is told a second after its mount; and a rate takes two scrapes behind it.
  await eventually(
    'a start is counted between two scrapes',
    async () =>
      (await prometheus.query('rate(cofa_start_phase_seconds_count{phase="mount"}[1h]) > 0')).length > 0,
  );
}, 300_000);
afterAll(() => cleanup.run());

test('promtool finds nothing in the text, the rules and their names', async () => {
  const text = await scrape();
  const checked = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8' });
  expect(checked.stderr + checked.stdout).toBe('');
  expect(checked.status).toBe(0);
  expect(execFileSync('promtool', ['check', 'rules', RULES], { encoding: 'utf8' })).toContain('SUCCESS');
});

test('every metric of the table has a series, but for those that the page calls absent', async () => {
  const text = await scrape();
  const absent = Object.keys(METRICS).filter(
    (name) => !new RegExp(`^${PREFIX}${name}(_count)?[ {]`, 'm').test(text),
  );
  // This node is a member of no fleet.
  expect(absent).toEqual(['fleet_members', 'fleet_cache_bytes']);
  // No name of an image, beyond those that were asked for; none of a registry or folder.
  const named = text.split('\n').filter((line) => line.includes('127.0.0.1'));
  expect(named.every((line) => /^cofa_image_\w+\{image="/.test(line))).toBe(true);
  expect(named).toHaveLength(6);
});

test('the figures are those of cofa status', async () => {
  // A text is up to a second old, and a kernel may read on by itself.
  await eventually('the figures agree', async () => {
    const status = await engine.status();
    const read = await imageOf(engine, image.ref);
    expect(await valueOf('cofa_engine_ready')).toBe(1);
    // The front end says that blocks cannot be fetched.
    expect(status.degraded).not.toEqual([]);
    expect(await valueOf('cofa_engine_degraded_conditions')).toBe(status.degraded.length);
    expect(await valueOf('cofa_mounts{state="mounted"}')).toBe(
      status.mounts.filter(({ state }) => state === 'mounted').length,
    );
    expect(await valueOf('cofa_images{state="ready"}')).toBe(
      status.images.filter(({ state }) => state === 'ready').length,
    );
    expect(await valueOf('cofa_processes{role="fetcher",state="running"}')).toBe(2);
    expect(await valueOf('cofa_fetcher_slots')).toBe(8);
    expect(await valueOf('cofa_evicted_bytes_total')).toBe(status.cache.evictedBytes);
    expect(await valueOf('cofa_evicted_blocks_total{reason="prune"}')).toBeGreaterThan(0);
    expect(await valueOf('cofa_reads_total{outcome="waited"}')).toBeGreaterThan(0);
    expect(await valueOf('cofa_fetched_bytes_total{class="demand"}')).toBeGreaterThan(0);
    expect(await valueOf('cofa_reads_total{outcome="failed"}')).toBe(
      status.images.reduce((sum, { reads }) => sum + reads.errors, 0),
    );
    expect(await valueOf(`cofa_image_present_bytes{image="${image.ref}"}`)).toBe(read.bytes.present);
    expect(await valueOf('cofa_registry_requests_total{code="206"}')).toBeGreaterThan(0);
    expect(await valueOf('cofa_start_phase_seconds_count{phase="mount",prepared="sidecar"}')).toBeGreaterThan(
      1,
    );
    expect(await valueOf('cofa_lazy_pulls_total')).toBe(1);
    expect(await valueOf('cofa_lazy_pull_layers_total')).toBe(2);
    expect(await valueOf('cofa_lazy_pull_bytes_total')).toBeGreaterThan(600_000);
    expect(await valueOf('cofa_process_resident_memory_bytes{process="supervisor"}')).toBeGreaterThan(30e6);
    expect(await valueOf('cofa_log_events_total')).toBeGreaterThan(10);
    return true;
  });
});

/** What a node that serves, and is a member of no fleet, has no data for. */
const WITHOUT_DATA = ['cofa_fleet_members{', 'cofa_engine_ready{job="cofa",instance=~"$instance"} == 0'];

describe('every query of a board returns data', () => {
  test.each(BOARDS.flatMap((board) => queriesOf(board).map((query) => ({ board: board.file, ...query }))))(
    '$board: $expr',
    async ({ expr, empty }) => {
      // All that this test has done lies in the stretch.
      const asked = expr
        .replaceAll('$__rate_interval', '1h')
        .replaceAll('$__range', '1h')
        .replaceAll('$instance', '.*');
      const figures = async () =>
        (await prometheus.query(asked)).filter(({ value }) => Number.isFinite(value));
      if (WITHOUT_DATA.some((begin) => expr.startsWith(begin))) {
        expect(empty).toBeDefined();
        expect(await figures()).toEqual([]);
        return;
      }
      // A rate takes two scrapes, and a rule its turn.
      await expect.poll(async () => (await figures()).length).toBeGreaterThan(0);
    },
  );
});

test('every rule is healthy, its query has data, and the failed read is an alarm', async () => {
  const { groups } = parse(await readFile(RULES, 'utf8')) as {
    groups: Array<{ rules: Array<{ record?: string; alert?: string; expr: string }> }>;
  };
  for (const { record, alert, expr } of groups.flatMap(({ rules }) => rules)) {
    // What an alarm is about has data also where there is no alarm.
    const about = alert === undefined ? expr : expr.replace(/ (>|<|==) [\d.]+$/, '');
    await expect
      .poll(async () => (await prometheus.query(about)).length, { message: record ?? alert ?? '' })
      .toBeGreaterThan(0);
  }
  const rules = await prometheus.rules();
  expect([...rules].filter(([, { health }]) => health !== 'ok')).toEqual([]);
  await eventually(
    'the alarm',
    async () => (await prometheus.rules()).get('CofaReadsFail')?.state === 'firing',
  );
  expect((await prometheus.rules()).get('CofaNotReady')?.state).toBe('inactive');
});

test('a front end that dies takes nothing back: counters do not fall, and the failed reads are remembered', async () => {
  const failed = await valueOf('cofa_reads_failed_last_5m');
  const waited = await valueOf('cofa_reads_total{outcome="waited"}');
  expect(failed).toBeGreaterThan(0);
  process.kill((await engine.pids())['front-end'] as number, 'SIGKILL');
  await eventually(
    'another one',
    async () => (await valueOf('cofa_process_restarts_total{process="front-end"}')) === 1,
  );
  await eventually('it serves', async () => (await valueOf('cofa_engine_ready')) === 1);
  await eventually('all are asked again', async () => (await valueOf('cofa_scrape_missing_processes')) === 0);
  expect(await valueOf('cofa_reads_failed_last_5m')).toBeGreaterThanOrEqual(failed);
  expect(await valueOf('cofa_reads_total{outcome="waited"}')).toBeGreaterThanOrEqual(waited);
});

test('an exemplar of a slow start leads to its trace', async () => {
  const ids = await eventually('Prometheus has exemplars', async () => {
    const found = await prometheus.exemplars('cofa_start_phase_seconds_bucket{phase="prepare"}');
    return found.length > 0 ? found.map((labels) => labels['trace_id']) : undefined;
  });
  // All starts are over with the engine; else each is half a minute after its last read (test/supervisor/traces.test.ts).
  expect(await engine.cli(['down', '--force'])).toMatchObject({ code: 0 });
  await engine.ended;
  const starts = collector.spans.filter(({ name }) => name === 'start').map(({ traceId }) => traceId);
  expect(starts).toEqual(expect.arrayContaining(ids));
});
