/** Starts that are made slow in seven ways, each for real: `cofa replay why` names the right cause each time (docs/replay.md). */
import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import { WhyStart } from '../../schemas/replay.ts';
import { type Engine, type EngineOptions, eventually, startEngine } from '../support/engine.ts';
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

/** The first start of the image on an engine that has nothing, and what the log says of it. */
async function startOf(scene: Scene): Promise<WhyStart> {
  const engine = await startEngine(scene.engine);
  try {
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
    return await eventually('the start was measured', async () => {
      const told = await engine.cli(['replay', 'why', '--start', '--json']);
      const why = WhyStart.parse(JSON.parse(told.stdout));
      return why.wall.machine === undefined ? undefined : why;
    });
  } finally {
    await engine.stop();
  }
}

/**
 * Where others have the machine's processors, `why` rightly says so too: then they are no answer to what this scene did, unless
 * it was that. `beside`: what the scene slows as well.
 */
function expectCause(
  why: WhyStart,
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
}

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
    const why = await startOf({
      host,
      engine: { through: withResolver(file), args: ['--insecure-registry', host] },
      through: (engine) => ['nsenter', '--mount', '--target', String(engine.pid), '--'],
    });
    expectCause(why, 'dns');
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
    expectCause(await startOf({ engine: { root: disk.root, through: disk.through } }), 'disk', ['log']);
  } finally {
    await disk.stop();
  }
});

test('NATS is away for a while', async () => {
  const why = await startOf({
    meanwhile: async (engine) => {
      const { 'nats-server': nats } = await engine.pids();
      process.kill(nats as number, 'SIGSTOP');
      await sleep(3_000);
      process.kill(nats as number, 'SIGCONT');
    },
  });
  expectCause(why, 'log');
});

test('the cache is full, and evicts what is read again', async () => {
  const direct = [0, 1, 2, 3].map((file) => `dd if=/data/noise-${file} of=/dev/null bs=1M iflag=direct`);
  // Past the kernel's page cache, which would have what the cache had to evict.
  const script = `for round in 1 2 3; do ${direct.join(' && ')} || exit 1; done`;
  const why = await startOf({ image: 'large', script, engine: { args: ['--cache-limit', '8MB'] } });
  expectCause(why, 'cache');
});
