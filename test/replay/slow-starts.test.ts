/**
 * Starts that are made slow in seven ways, each for real: `cofa replay why`, what the page asks for, and the metrics of a real
 * Prometheus name the right cause each time (docs/replay.md, docs/metrics.md).
 */
import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import { WhyStart } from '../../schemas/replay.ts';
import type { Route } from '../../src/console/route.ts';
import { ROUTES } from '../../src/console/routes.ts';
import { Source } from '../../src/console/source.ts';
import { loadFile } from '../../src/replay/load.ts';
import { type Engine, type EngineOptions, eventually, startEngine } from '../support/engine.ts';
import { freePort } from '../support/ports.ts';
import { startPrometheus } from '../support/prometheus.ts';
import { pushPrograms } from '../support/program-image.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import {
  burnProcessors,
  lateDns,
  lateRegistry,
  slowDisk,
  type Through,
  withResolver,
} from '../support/slow-things.ts';
import { Cleanup } from '../support/temp.ts';

const RULES = join(import.meta.dirname, '../../ops/prometheus/cofa.rules.yaml');
const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');
const cleanup = new Cleanup();
let registry: RegistryServer;

beforeAll(async () => {
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const host = `127.0.0.1:${registry.port}`;
  const engine = await startEngine();
  for (const [name, fileBytes] of [
    ['app', 2 << 20],
    ['large', 12 << 20],
  ] as const) {
    const ref = await pushPrograms(await cleanup.tempDir(name), host, name, { files: 4, fileBytes });
    expect(await engine.cli(['index', ref])).toMatchObject({ code: 0 });
  }
  await engine.stop();
});
afterAll(() => cleanup.run());

const READS = 'cat /data/noise-0 > /dev/null';

interface Scene {
  host?: string;
  image?: string;
  script?: string;
  engine?: EngineOptions;
  /** `cofa run` becomes the rest of it. */
  through?: (engine: Engine) => Through;
  /** Runs beside the start. */
  meanwhile?: (engine: Engine) => Promise<void>;
}

interface Told {
  why: WhyStart;
  /** Of the start, as the page has it. */
  page: WhyStart;
  /** By Prometheus' rules, the one that held up most first. */
  metrics: Array<{ cause: string; seconds: number }>;
}

/** The first start of the image on an engine that has nothing, and what log and metrics say of it. */
async function startOf(scene: Scene): Promise<Told> {
  const own = new Cleanup();
  const port = await freePort();
  const args = [...(scene.engine?.args ?? []), '--metrics', String(port)];
  const engine = await startEngine({ ...scene.engine, args });
  try {
    const prometheus = await startPrometheus(own, { target: `127.0.0.1:${port}`, rules: [RULES], every: 3 });
    const scraped = async (after: number) =>
      await eventually(
        'a scrape',
        async () => ((await prometheus.query('timestamp(cofa_build_info)'))[0]?.value ?? 0) * 1_000 > after,
      );
    // A rise takes a figure before it.
    await scraped(Date.now());
    const ref = `${scene.host ?? `127.0.0.1:${registry.port}`}/${scene.image ?? 'app'}:1`;
    const words = ['run', '--no-prefetch', ref, '/bin/sh', '-c', scene.script ?? READS];
    const [program = '', ...args] = [...(scene.through?.(engine) ?? []), process.execPath, MAIN, ...words];
    const running = new Promise<{ code: number | null; text: string }>((resolve, reject) => {
      const env = { ...process.env, COFA_CONFIG: '/dev/null', COFA_ROOT: engine.root };
      const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
      let text = '';
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (text += chunk));
      child.once('error', reject);
      child.once('close', (code) => resolve({ code, text }));
    });
    const [ended] = await Promise.all([running, scene.meanwhile?.(engine)]);
    expect(ended).toMatchObject({ code: 0 });
    await eventually('the start was measured', async () => {
      const told = await engine.cli(['replay', 'why', '--start', '--json']);
      return WhyStart.parse(JSON.parse(told.stdout)).wall.machine !== undefined;
    });
    // A log that was slow has all of it by now: both are asked of one file.
    const file = join(await own.tempDir('log'), 'start.cofa-log');
    expect(await engine.cli(['events', 'export', file])).toMatchObject({ code: 0 });
    const told = await engine.cli(['replay', 'why', file, '--start', '--json']);
    const why = WhyStart.parse(JSON.parse(told.stdout));
    // A process that has no processor does not answer each scrape.
    await eventually('the metrics have all reads of the start', async () => {
      const [counted] = await prometheus.query('sum(cofa_read_wait_seconds_count)');
      return (counted?.value ?? 0) >= why.reads.count;
    });
    const askedAt = Date.now();
    await eventually('the rules have seen them', async () => {
      const [seen] = await prometheus.query('min(timestamp(cofa:held_up_seconds:rate5m))');
      return (seen?.value ?? 0) * 1_000 > askedAt;
    });
    const series = await prometheus.query('cofa:held_up_seconds:rate5m');
    const metrics = series
      .map(({ labels, value }) => ({ cause: labels.cause ?? '', seconds: value }))
      .sort((a, b) => b.seconds - a.seconds);
    return { why, page: await pageOf(file, why.mount), metrics };
  } finally {
    await engine.stop();
    await own.run();
  }
}

/** What the page's view of the start is made of. */
async function pageOf(file: string, mount: string): Promise<WhyStart> {
  const loaded = await loadFile(file);
  try {
    const start = ROUTES.find(({ path }) => path === 'start') as Route;
    const { signal } = new AbortController();
    return ((await start.answer(new Source({ loaded }), { mount }, { signal })) as { why: WhyStart }).why;
  } finally {
    await loaded.close();
  }
}

/**
 * Where others have the machine's processors, `why` rightly says so too: then they are no answer to what this scene did, unless
 * it was that. `beside`: what the scene slows as well.
 */
function expectCause(
  { why, page, metrics }: Told,
  cause: NonNullable<WhyStart['cause']>,
  beside: ReadonlyArray<WhyStart['cause']> = [],
): void {
  const { wall, faster } = why;
  const told = JSON.stringify({ wall, faster }, undefined, 1);
  const causes = faster.map((one) => one.cause).filter((one) => one !== 'sidecar' && one !== 'pack');
  const own = causes.filter((one) => one === cause || (one !== 'processor' && !beside.includes(one)));
  expect(own[0], told).toBe(cause);
  expect(why.cause, told).toBe(causes[0]);
  expect(wall.accountedUs / wall.us, told).toBeGreaterThanOrEqual(0.95);
  expect({ cause: page.cause, us: page.wall.us, faster: page.faster }).toEqual({
    cause: why.cause,
    us: wall.us,
    faster,
  });
  const measured = metrics.filter(
    (one) => one.cause === cause || !['processor', ...beside].includes(one.cause),
  );
  expect(measured[0]?.cause, `${JSON.stringify(metrics, undefined, 1)}\n${told}`).toBe(cause);
  expect(metrics.map((one) => one.cause).sort()).toEqual(CAUSES);
}

/** Those that have a rule: the others are no cause that passes. */
const CAUSES = ['cache', 'disk', 'dns', 'link', 'log', 'processor', 'registry'];

test('the registry answers each request late', async () => {
  const late = await lateRegistry(registry.port, 400);
  try {
    expectCause(await startOf({ host: late.host }), 'registry');
  } finally {
    await late.stop();
  }
});

test('the link is slow', async () => {
  const relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: 8e6 });
  try {
    expectCause(await startOf({ host: relay.host }), 'link');
  } finally {
    await relay.stop();
  }
});

test('the DNS server is slow', async () => {
  const dns = await lateDns('127.0.0.77', 1_500);
  try {
    const file = join(await cleanup.tempDir('dns'), 'resolv.conf');
    await writeFile(file, 'nameserver 127.0.0.77\n');
    const host = `registry.test:${registry.port}`;
    const told = await startOf({
      host,
      engine: { through: withResolver(file), args: ['--insecure-registry', host] },
      through: (engine) => ['nsenter', '--mount', '--target', String(engine.pid), '--'],
    });
    expectCause(told, 'dns');
  } finally {
    await dns.stop();
  }
});

test('other programs have the processors', async () => {
  const burners = burnProcessors(8);
  try {
    expectCause(await startOf({}), 'processor');
  } finally {
    await burners.stop();
  }
});

test('the disk is slow', async ({ skip }) => {
  const disk = await slowDisk(await cleanup.tempDir('disk'), 4);
  if (disk === undefined) return skip('this machine has no cgroup that slows disks');
  try {
    // The log lies on that disk.
    const told = await startOf({ engine: { root: disk.root, through: disk.through } });
    expectCause(told, 'disk', ['log']);
  } finally {
    await disk.stop();
  }
});

test('NATS is away for a while', async () => {
  const told = await startOf({
    meanwhile: async (engine) => {
      const { 'nats-server': nats } = await engine.pids();
      process.kill(nats as number, 'SIGSTOP');
      await sleep(3_000);
      process.kill(nats as number, 'SIGCONT');
    },
  });
  expectCause(told, 'log');
});

test('the cache is full, and evicts what is read again', async () => {
  const direct = [0, 1, 2, 3].map((file) => `dd if=/data/noise-${file} of=/dev/null bs=1M iflag=direct`);
  // Past the kernel's page cache, which would have what the cache had to evict.
  const script = `for round in 1 2 3; do ${direct.join(' && ')} || exit 1; done`;
  const told = await startOf({ image: 'large', script, engine: { args: ['--cache-limit', '8MB'] } });
  expectCause(told, 'cache');
});
