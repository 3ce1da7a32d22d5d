/** How fast the rest of an image comes, per mount: a real engine, and docker's registry. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { pushImage } from '../faults/fault-image.ts';
import { noise } from '../images/nasty.ts';
import { type Engine, errorOf, eventually, imageOf, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const MIB = 2 ** 20;
const LIMIT = 100_000;
/** What may have begun before it is paid: spans of one job, a little more than a MiB each. */
const ONE_JOB = 6 * MIB;

const cleanup = new Cleanup();
let directory = '';
let registry: RegistryServer;
let engine: Engine;
vi.setConfig({ testTimeout: 180_000 });

beforeAll(async () => {
  directory = await cleanup.tempDir('limit');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  engine = await startEngine({ root: join(directory, 'root') });
  cleanup.defer(() => engine.stop());
});
afterAll(() => cleanup.run());

async function mount(ref: string, name: string, ...options: string[]): Promise<void> {
  mkdirSync(join(directory, name));
  const result = await engine.cli(['mount', '--json', ...options, ref, join(directory, name)]);
  expect(result.code, result.stdout + result.stderr).toBe(0);
}

test('a limited mount takes its time, the next one without a limit does not', async () => {
  const files = () => Object.fromEntries([1, 2, 3, 4].map((n) => [`file-${n}`, noise(8 * MIB, n)]));
  const { ref } = await pushImage(join(directory, 'image'), registry.host, 'limited', [files()]);
  expect((await engine.cli(['index', ref])).code).toBe(0);
  const present = async () => {
    const { layers } = await imageOf(engine, ref);
    return layers.reduce((sum, { blocks }) => sum + blocks.present, 0) * 65_536;
  };
  const asked = performance.now();
  await mount(ref, 'slow', '--prefetch', `${LIMIT}`);
  await eventually('something comes', async () => (await present()) > 0);
  await sleep(2_000);
  const came = await present();
  expect(came).toBeLessThan(ONE_JOB + ((performance.now() - asked) * LIMIT) / 1_000);

  await mount(ref, 'fast');
  await eventually('all of it', async () => (await present()) >= 32 * MIB, 100_000);
});

test('a limit of nothing that is fetched, and one that is none, are refused', async () => {
  const call = engine.client.call('mount', {
    ref: 'localhost:1/none',
    dir: join(directory, 'none'),
    prefetch: false,
    prefetchLimit: LIMIT,
    start: 'default',
  });
  await expect(call).rejects.toMatchObject({ code: 'invalid-argument' });
  const result = await engine.cli(['mount', '--json', '--prefetch', '0', 'none', join(directory, 'none')]);
  expect(errorOf(result)).toMatchObject({ code: 'invalid-argument' });
});
