/**
 * What each metric tells of happens to a real engine, and its series says so. metrics.test.ts asks whether a series is there; one that
 * no process counts is there as well, with 0.
 */
import { spawn } from 'node:child_process';
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Relay, startRelay } from '../../ops/bench/relay.ts';
import { IncidentList } from '../../schemas/incidents.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { PackStore } from '../../src/pack/pack-store.ts';
import { Layout } from '../../src/store/layout.ts';
import { type FaultImage, offsetInTar, pushImage, readPieces, twoLayers } from '../faults/fault-image.ts';
import { noise } from '../images/nasty.ts';
import { type Engine, errorOf, eventually, mountImage, startEngine } from '../support/engine.ts';
import { freePort } from '../support/ports.ts';
import { pushPrograms } from '../support/program-image.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { rootOf } from '../support/roots.ts';
import { type NatsServer, startNats } from '../support/services.ts';
import { spoilPack } from '../support/spoilt-pack.ts';
import { Cleanup } from '../support/temp.ts';

const SCRIPT = ['/bin/sh', '-c', 'cat /data/noise-0 > /dev/null'];
const ACCOUNT = { user: 'someone', password: 'secret' };
const cleanup = new Cleanup();
let work: string;
let storage: string;
let registry: RegistryServer;
let slow: Relay;
let nats: NatsServer;
let natsRelay: Relay;
let engine: Engine;
let port: number;
/** One that the engine has the password of, and one that it has none for. */
let open: RegistryServer;
let closed: RegistryServer;

beforeAll(async () => {
  work = await cleanup.tempDir('rise');
  storage = join(work, 'storage');
  registry = await startRegistry({ storage });
  cleanup.defer(() => registry.stop());
  slow = await startRelay({ to: { host: '127.0.0.1', port: registry.port } });
  cleanup.defer(() => slow.stop());
  open = await startRegistry({ auth: ACCOUNT });
  cleanup.defer(() => open.stop());
  closed = await startRegistry({ auth: ACCOUNT });
  cleanup.defer(() => closed.stop());
  nats = await startNats();
  cleanup.defer(() => nats.stop());
  natsRelay = await startRelay({ to: { host: '127.0.0.1', port: Number(new URL(nats.url).port) } });
  cleanup.defer(() => natsRelay.stop());
  const auth = Buffer.from(`${ACCOUNT.user}:${ACCOUNT.password}`).toString('base64');
  const logins = join(work, 'docker');
  await mkdir(logins);
  await writeFile(join(logins, 'config.json'), JSON.stringify({ auths: { [open.host]: { auth } } }), {
    mode: 0o600,
  });
  port = await freePort();
  engine = await startEngine({
    workers: 1,
    args: [
      '--nats',
      `nats://${natsRelay.host}`,
      '--node',
      'rise',
      '--metrics',
      String(port),
      '--docker-config',
      logins,
      '--cache-limit',
      '1GiB',
    ],
  });
  cleanup.defer(() => engine.stop());
});
afterAll(() => cleanup.run());

/** The series of a scrape and their values. A text is up to a second old. */
async function scrape(): Promise<Map<string, number>> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return new Map(
    text
      .split('\n')
      .filter((line) => line.startsWith('cofa_'))
      .map((line) => {
        const at = line.lastIndexOf(' ');
        return [line.slice('cofa_'.length, at), Number(line.slice(at + 1))];
      }),
  );
}

/** Waits until each of these series is as it should be. */
async function untilTold(wanted: Record<string, (value: number) => boolean>): Promise<void> {
  let told: Record<string, number | undefined> = {};
  await eventually(
    'the metrics tell it',
    async () => {
      const series = await scrape();
      told = Object.fromEntries(Object.keys(wanted).map((name) => [name, series.get(name)]));
      return Object.entries(wanted).every(([name, isRight]) => isRight(told[name] ?? Number.NaN));
    },
    90_000,
  ).catch((cause: unknown) => {
    throw new Error(`the metrics say ${JSON.stringify(told)}`, { cause });
  });
}
const is = (wanted: number) => (value: number) => value === wanted;
const above = (least: number) => (value: number) => value > least;

async function prepared(name: string, seed: number, host = registry.host) {
  const image = await pushImage(join(work, name), registry.host, name, twoLayers(seed));
  expect(await engine.cli(['index', image.ref])).toMatchObject({ code: 0 });
  const dir = join(work, `mnt-${name}`);
  await mkdir(dir);
  await mountImage(engine, image.ref.replace(registry.host, host), dir);
  return { image, dir };
}
const fileOf = ({ files }: FaultImage, name: string): Buffer => files.get(name) as Buffer;

test('a start, the next one with its pack, and one with a pack that was spoilt', async () => {
  const ref = await pushPrograms(join(work, 'programs'), registry.host, 'programs', {
    files: 4,
    fileBytes: 1 << 20,
  });
  expect(await engine.cli(['index', ref])).toMatchObject({ code: 0 });
  const start = async () => expect(await engine.cli(['run', ref, ...SCRIPT])).toMatchObject({ code: 0 });
  const prune = async () => expect(await engine.cli(['prune', '--all'])).toMatchObject({ code: 0 });
  await start();
  await untilTold({
    'images_prepared_total{origin="sidecar"}': is(1),
    'fetched_bytes_total{class="demand"}': above(0),
    'fetched_bytes_total{class="pack"}': is(0),
    'fetch_seconds_count{class="demand"}': above(0),
    'fetch_step_seconds_total{step="transfer"}': above(0),
    read_bytes_total: above(1 << 20),
    'start_reads_seconds_count{ahead="pack"}': is(0),
  });
  const bus = await connectBus({ url: nats.url }, { name: 'test' });
  try {
    const store = new PackStore(async () => bus);
    const [kept] = await eventually('a pack was made', async () => {
      const all = await store.list();
      return all.length > 0 && all;
    });
    // It is made of what is here.
    await prune();
    await start();
    await untilTold({
      'fetched_bytes_total{class="pack"}': above(1 << 20),
      'start_reads_seconds_count{ahead="pack"}': is(1),
      'integrity_failures_total{what="pack"}': is(0),
    });
    await spoilPack(store, kept as NonNullable<typeof kept>);
    await prune();
    await start();
    await untilTold({ 'integrity_failures_total{what="pack"}': is(1) });
    await eventually('the black box has kept it', async () => {
      const { stdout } = await engine.cli(['incidents', 'ls', '--json']);
      const { incidents } = IncidentList.parse(JSON.parse(stdout));
      return incidents.some(({ summary }) => summary.includes('the startup pack has a wrong block'));
    });
  } finally {
    await bus.close();
  }
});

test('an image without a sidecar; what no reader waits for', async () => {
  const image = await pushImage(join(work, 'plain'), registry.host, 'plain', twoLayers(6_100));
  const dir = join(work, 'mnt-plain');
  await mkdir(dir);
  await mountImage(engine, image.ref, dir);
  await untilTold({ 'images_prepared_total{origin="node"}': is(1) });
  const other = await pushImage(join(work, 'rest'), registry.host, 'rest', twoLayers(6_200));
  expect(await engine.cli(['index', other.ref])).toMatchObject({ code: 0 });
  const at = join(work, 'mnt-rest');
  await mkdir(at);
  await mountImage(engine, other.ref, at, { prefetch: true });
  await untilTold({
    'fetched_bytes_total{class="rest"}': above(1 << 20),
    'fetch_seconds_count{class="rest"}': above(0),
  });
});

test('credentials, and mounts that fail where the log never hears of them', async () => {
  const mount = async (ref: string) => {
    const dir = join(work, 'mnt-none');
    await mkdir(dir, { recursive: true });
    return errorOf(await engine.cli(['mount', '--json', ref, dir])).code;
  };
  expect(await mount(`${open.host}/none:1`)).toBe('not-found');
  await untilTold({
    'registry_credential_renewals_total{outcome="done"}': above(0),
    'mount_failures_total{code="not-found"}': is(1),
    'registry_requests_total{code="404"}': above(0),
  });
  expect(await mount(`${closed.host}/none:1`)).toBe('unauthorized');
  await untilTold({
    'registry_credential_renewals_total{outcome="refused"}': above(0),
    'mount_failures_total{code="unauthorized"}': is(1),
    'registry_requests_total{code="401"}': above(0),
  });
});

test('a registry that says nothing: reads wait, jobs run and wait, blocks are on their way', async () => {
  const image = await pushImage(join(work, 'wide'), registry.host, 'wide', [
    { data: noise(16 << 20, 6_300) },
  ]);
  expect(await engine.cli(['index', image.ref])).toMatchObject({ code: 0 });
  const dir = join(work, 'mnt-wide');
  await mkdir(dir);
  await mountImage(engine, image.ref.replace(registry.host, slow.host), dir);
  slow.fail({ kind: 'stall' });
  // More places than one fetcher has slots.
  const readers = Array.from({ length: 12 }, async (_, at) => {
    const args = [`if=${join(dir, 'data')}`, 'of=/dev/null', 'bs=4k', 'count=1', `skip=${at * 320}`];
    const child = spawn('dd', [...args, 'iflag=direct', 'status=none']);
    return await new Promise((resolve) => child.once('close', resolve));
  });
  try {
    await untilTold({
      waiting_reads: above(3),
      running_jobs: above(0),
      fetcher_slots: above(0),
      'queued_jobs{class="demand"}': above(0),
      'blocks{state="fetching"}': above(0),
    });
  } finally {
    slow.heal();
  }
  expect(new Set(await Promise.all(readers))).toEqual(new Set([0]));
  await untilTold({
    waiting_reads: is(0),
    'queued_jobs{class="demand"}': is(0),
    'blocks{state="fetching"}': is(0),
    'read_wait_seconds_count{outcome="data"}': above(3),
  });
});

test('bytes that are not what they should be, from the registry and on the disk', async () => {
  const { image, dir } = await prepared('bad', 6_400);
  const digest = image.blobs[0]?.digest.slice('sha256:'.length) as string;
  const path = join(storage, 'docker/registry/v2/blobs/sha256', digest.slice(0, 2), digest, 'data');
  const blob = await readFile(path);
  const content = fileOf(image, 'app/noise');
  const [tar] = image.tars as [Buffer];
  // Noise is not compressed: what lies there in the blob is near what lies there in the file.
  const at = Math.floor((blob.length * (offsetInTar(tar, content) + content.length / 2)) / tar.length);
  await writeFile(
    path,
    Buffer.concat([blob.subarray(0, at), Buffer.alloc(65_536, 7), blob.subarray(at + 65_536)]),
  );
  const outcomes = await readPieces(join(dir, 'app/noise'), content, { pieceSize: 65_536 });
  expect([...new Set(outcomes)].sort()).toEqual(['EIO', 'ok']);
  await untilTold({
    'integrity_failures_total{what="block"}': above(0),
    'fetch_failures_total{code="integrity"}': above(0),
    'reads_total{outcome="failed"}': above(0),
    reads_failed_last_5m: above(0),
  });
  await writeFile(path, blob);

  const other = await prepared('damaged', 6_500);
  const name = 'lib/noise';
  const read = await readPieces(join(other.dir, name), fileOf(other.image, name), { pieceSize: 65_536 });
  expect(new Set(read)).toEqual(new Set(['ok']));
  // What has come is in the log a moment later.
  expect(await engine.cli(['scrub', '--image', other.image.ref, '--rate', '0'])).toMatchObject({ code: 0 });
  const before = await scrape();
  const own = other.image.tars.find((bytes) => bytes.includes(fileOf(other.image, name))) as Buffer;
  const device = openSync(new Layout(engine.root).device(rootOf(own)), 'r+');
  const offset = offsetInTar(own, fileOf(other.image, name)) + 1_000_000;
  writeSync(device, Buffer.from([(own[offset] as number) ^ 0x40]), 0, 1, offset);
  fsyncSync(device);
  closeSync(device);
  await engine.cli(['scrub', '--image', other.image.ref, '--rate', '0']);
  const was = (series: string) => before.get(series) ?? 0;
  await untilTold({
    scrubs_total: above(was('scrubs_total')),
    'scrub_blocks_total{result="compared"}': above(was('scrub_blocks_total{result="compared"}')),
    'scrub_blocks_total{result="bad"}': is(was('scrub_blocks_total{result="bad"}') + 1),
    'evicted_blocks_total{reason="scrub"}': above(was('evicted_blocks_total{reason="scrub"}')),
  });
});

test('blocks, layers and the cache are those of status', async () => {
  await eventually('both agree', async () => {
    const { cache, images } = await engine.status();
    const series = await scrape();
    expect({
      used: series.get('cache_used_bytes'),
      metadata: series.get('cache_metadata_bytes'),
      limit: series.get('cache_limit_bytes'),
      reserve: series.get('cache_disk_reserve_bytes'),
      allowed: series.get('cache_prefetch_allowed'),
    }).toEqual({
      used: cache.usedBytes,
      metadata: cache.metadataBytes,
      limit: 2 ** 30,
      reserve: cache.reserveBytes,
      allowed: cache.prefetch ? 1 : 0,
    });
    const free = series.get('cache_disk_free_bytes') ?? 0;
    expect(Math.abs(free / cache.freeBytes - 1)).toBeLessThan(0.1);
    const devices = new Map(
      images.flatMap(({ layers }) => layers).map((layer) => [layer.root ?? layer.diffId, layer] as const),
    );
    const mounted = [...devices.values()].reduce((sum, { blocks }) => sum + blocks.present, 0);
    expect(series.get('blocks{state="present"}')).toBeGreaterThan(0);
    expect(series.get('blocks{state="present"}')).toBeLessThanOrEqual(mounted);
    expect(series.get('layers{state="lazy"}')).toBeGreaterThan(0);
    return true;
  });
});

test('processes and the machine', async () => {
  await untilTold({
    machine_cpus: is(cpus().length),
    machine_cpu_seconds_total: above(1),
    'process_cpu_seconds_total{process="front-end"}': above(0),
    'process_resident_memory_bytes{process="fetcher-0"}': above(10e6),
    log_bytes: above(1_000),
    log_limit_bytes: above(1_000_000),
    log_append_seconds_count: above(10),
    file_sync_seconds_count: above(0),
  });
});

test('NATS is away: events wait, what the log lacks grows old, and both end with it', async () => {
  const { image, dir } = await prepared('away', 6_600);
  const before = await scrape();
  natsRelay.fail({ kind: 'reset' });
  try {
    await untilTold({
      'nats_connected{process="supervisor"}': is(0),
      'nats_connected{process="front-end"}': is(0),
    });
    const name = 'lib/prose';
    const read = await readPieces(join(dir, name), fileOf(image, name), { pieceSize: 65_536 });
    expect(new Set(read)).toEqual(new Set(['ok']));
    await untilTold({ log_lag_seconds: above(1), log_waiting_appends: above(0) });
  } finally {
    natsRelay.heal();
  }
  await untilTold({
    'nats_connected{process="supervisor"}': is(1),
    'nats_connected{process="front-end"}': is(1),
    log_lag_seconds: is(0),
    log_waiting_appends: is(0),
    log_events_total: above(before.get('log_events_total') ?? 0),
  });
});
