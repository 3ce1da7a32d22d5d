/**
 * The OCI image of a release, run as a machine runs it that has nothing of cofa: privileged, with the state and a folder for
 * mounts shared with the machine. It mounts an image lazily, and the machine reads it. Then a newer image takes the place of
 * the container, below the mount, and its processes are killed.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NEWER_DOCKER, unpackedDebs } from '../../ops/images/debs.ts';
import { version } from '../../src/client/version.ts';
import { type FaultImage, pushImage, twoLayers } from '../faults/fault-image.ts';
import { eventually, runCofa } from '../support/engine.ts';
import { keptOlderDeb, keptOlderOci, keptRelease } from '../support/kept-release.ts';
import { startRegistry } from '../support/registry-server.ts';
import { runCommand, startDockerd } from '../support/services.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const VERSION = version();
/** Not where other tests have an engine of 0.1.0, which knows its loop devices by the root's path alone; and one for each program. */
const rootFor = (name: string) => `/var/lib/cofa-oci-${name.replace(' ', '-')}`;
let newer = '';
let older: string | undefined;
let image: FaultImage;

beforeAll(async () => {
  newer = (await keptRelease(console.log)).oci;
  // Version 0.1.0 had no image: its code on the same Debian.
  const olderDeb = await keptOlderDeb(console.log);
  if (olderDeb !== undefined) older = await keptOlderOci(olderDeb, console.log);
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushImage(await cleanup.tempDir('oci'), registry.host, 'app', twoLayers(8300));
  expect(await runCofa(['index', image.ref])).toMatchObject({ code: 0 });
}, 900_000);

/** A program that runs containers, by its command line. */
interface Runner {
  call(...args: string[]): Promise<string>;
  /** Options of `run` beside those that all take. */
  options: string[];
}

const RUNNERS: Record<string, (each: Cleanup) => Promise<Runner>> = {
  'docker 26': async (each) => {
    const { path } = await unpackedDebs(NEWER_DOCKER, { onProgress: console.log });
    const dockerd = await startDockerd({ path });
    each.defer(() => dockerd.stop());
    const call = (...args: string[]) => dockerd.docker(args, { timeoutMs: 120_000 });
    return { call, options: [] };
  },
  podman: async (each) => {
    const folder = await each.tempDir('podman');
    const own = [
      '--root',
      join(folder, 'root'),
      '--runroot',
      join(folder, 'run'),
      '--cgroup-manager=cgroupfs',
      '--runtime=runc',
    ];
    const call = (...args: string[]) => runCommand('podman', [...own, ...args], { timeoutMs: 120_000 });
    each.defer(async () => {
      await call('rm', '--all', '--force', '--time=0');
      for (const point of mountsBelow(folder).toReversed()) await runCommand('umount', ['--', point]);
    });
    // Its own limits are more than some machines allow.
    return { call, options: ['--ulimit=nofile=16384:16384', '--ulimit=nproc=4096:4096'] };
  },
};

/** As all folders of a machine with systemd are. */
async function sharedFolder(each: Cleanup, name: string): Promise<string> {
  const folder = await each.tempDir(name);
  await runCommand('mount', ['--bind', folder, folder]);
  each.defer(async () => {
    for (const point of mountsBelow(folder).toReversed()) await runCommand('umount', ['-l', '--', point]);
  });
  await runCommand('mount', ['--make-shared', folder]);
  return folder;
}

// Both beside each other: they wait for the engine to start and to be started again.
describe.concurrent.each(Object.keys(RUNNERS))('by %s', (name) => {
  test('serves mounts of the machine, comes back after a kill, and makes room for a newer one', async ({
    onTestFinished,
  }) => {
    const each = new Cleanup();
    onTestFinished(() => each.run());
    const [state, mounts] = [await sharedFolder(each, 'oci-root'), await sharedFolder(each, 'oci-mnt')];
    const runner = await (RUNNERS[name] as (typeof RUNNERS)[string])(each);
    const root = rootFor(name);
    const engine = `cofa-${process.pid}`;
    const start = async (tag: string) => {
      const volumes = [`${state}:${root}:rshared`, `${mounts}:/mnt/cofa:rshared`, '/dev:/dev'];
      const options = ['--name', engine, '--restart=on-failure', '--privileged', '--network=host'];
      options.push(`--env=COFA_ROOT=${root}`);
      for (const volume of volumes) options.push('--volume', volume);
      const trust = tag === '0.1.0' ? 'always' : 'registry';
      await runner.call('run', '--detach', ...runner.options, ...options, `cofa:${tag}`, '--trust', trust);
      await answers();
    };
    const answers = () =>
      eventually('its answer', () => cofa('status', '--json'), 60_000).catch(async (error: unknown) => {
        throw new Error(await runner.call('logs', engine), { cause: error });
      });
    const inside = (...command: string[]) => runner.call('exec', engine, ...command);
    const cofa = (...args: string[]) => inside('cofa', ...args);
    for (const file of [newer, older])
      if (file !== undefined) await runner.call('load', '--quiet', '--input', file);

    await start(older === undefined ? VERSION : '0.1.0');
    await cofa('mount', '--no-prefetch', image.ref, '/mnt/cofa/app');
    const app = join(mounts, 'app');
    const same = (path: string) =>
      expect(readFileSync(join(app, path)).equals(image.files.get(path) as Buffer));
    same('app/noise').toBe(true);
    const before = mountsBelow(app);

    await runner.call('rm', '--force', engine);
    expect(mountsBelow(app)).toEqual(before);
    await start(VERSION);
    expect((await cofa('--version')).trim()).toBe(VERSION);
    expect(mountsBelow(app)).toEqual(before);
    // One whose processes are killed, or whose start fails, is started again.
    await inside('sh', '-c', 'kill -9 -1').catch(() => {});
    await answers();
    for (const path of image.files.keys()) same(path).toBe(true);
    const { images } = JSON.parse(await cofa('status', '--json')) as {
      images: Array<{ reads: { errors: number } }>;
    };
    expect(images.map(({ reads }) => reads.errors)).toEqual([0]);
    // The container ends with the engine, and kills the command that waits for that.
    await cofa('down').catch(() => {});
    await eventually('no mount', () => mountsBelow(app).length === 0 && mountsBelow(state).length === 1);
  }, 600_000);
});
