/** `cofa fetcher`: a member without an engine is the home of what engines read, and keeps it over its own restart. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { type FaultImage, pushImage } from '../faults/fault-image.ts';
import { prose } from '../images/nasty.ts';
import { type Engine, eventually, mountImage, runCofa } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { fleetOf, startFleetNats, startMember, untilMet } from './support.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');

it('engines that are homes of nothing get everything of the fetcher, and the registry sends it once', async () => {
  const directory = await cleanup.tempDir('fleet-tier');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const image: FaultImage = await pushImage(join(directory, 'image'), registry.host, 'app', [
    { 'app/file': prose(12_000_000, 83_000) },
  ]);
  expect((await runCofa(['index', image.ref])).code).toBe(0);
  const fleet = await startFleetNats(cleanup, ['cache', 'one', 'two']);
  const tier = { root: join(directory, 'tier') };
  const start = (): ChildProcess => {
    const args = [MAIN, 'fetcher', '--root', tier.root, '--cache-limit', '1G', ...fleet.join('cache')];
    return spawn('setpriv', ['--pdeathsig', 'TERM', '--', process.execPath, ...args], { stdio: 'ignore' });
  };
  const stop = async (child: ChildProcess) => {
    if (child.exitCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await ended;
  };
  let fetcher = start();
  cleanup.defer(() => stop(fetcher));
  const light = { args: ['--fleet-cache', '0'] };
  const engines = await Promise.all(['one', 'two'].map((name) => startMember(cleanup, fleet, name, light)));
  const [one, two] = engines as [Engine, Engine];
  await eventually('the fetcher answers', () => fleetOf(tier).then(() => true));
  await untilMet([tier, one, two]);
  const read = async (engine: Engine, dir: string) => {
    await mountImage(engine, image.ref, join(directory, dir));
    const options = { root: join(directory, dir), expected: image.expected, readers: 2, copies: 1 };
    expect((await readInParallel(options)).failures).toEqual([]);
  };
  const [{ digest, size }] = image.blobs as [{ digest: string; size: number }];
  const sent = () =>
    registry
      .requests()
      .filter(({ method, path }) => method === 'GET' && path.includes(digest))
      .reduce((sum, { bytes }) => sum + bytes, 0);

  const before = sent();
  await read(one, 'mnt-one');
  expect(sent() - before).toBe(size);
  expect((await fleetOf(tier)).bytes.origin).toBeGreaterThanOrEqual(size);
  expect((await fleetOf(one)).asked).toMatchObject({ own: 0, node: 0, missed: 0 });

  // What it keeps is there after its restart, and its settings, which hold a password, are gone in between.
  await stop(fetcher);
  expect((await readdir(join(tier.root, 'run'))).filter((name) => /^(fleet|pieces)/.test(name))).toEqual([]);
  await eventually('it is gone', async () => (await fleetOf(two)).members.length === 2);
  fetcher = start();
  await eventually('the fetcher answers again', () => fleetOf(tier).then(() => true));
  await eventually('it is known again', async () =>
    (await fleetOf(two)).members.some(({ role, state }) => role === 'fetcher' && state === 'there'),
  );
  await read(two, 'mnt-two');
  expect(sent() - before).toBe(size);
  expect((await fleetOf(two)).asked.fetcher).toBeGreaterThan(0);

  const table = await two.cli(['fleet']);
  expect(table.code).toBe(0);
  expect(table.stdout).toMatch(/cache +default +fetcher +there/);
  const checks = JSON.parse((await two.cli(['doctor', '--json'])).stdout) as {
    checks: Array<{ name: string }>;
  };
  expect(checks.checks.find(({ name }) => name === 'fleet')).toMatchObject({ state: 'ok' });
});
