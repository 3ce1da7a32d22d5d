/** A log that has become too long: its beginning is removed, and an engine that starts afterwards knows all it knew. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Engine, eventually, imageOf, mountImage, startEngine, untilWell } from '../support/engine.ts';
import { fillLog } from '../support/fill-log.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from './fault-image.ts';

const cleanup = new Cleanup();
let directory = '';
let root = '';
let image: FaultImage;

beforeAll(async () => {
  directory = await cleanup.tempDir('limit');
  root = await cleanup.tempDir('limit-root');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushImage(directory, registry.host, 'app', twoLayers(9500));
});
afterAll(() => cleanup.run());

const start = async (): Promise<Engine> => {
  const engine = await startEngine({ root, workers: 1, args: ['--log-limit', '1M', '--node', 'short'] });
  cleanup.defer(() => engine.stop());
  return engine;
};

describe('a log beyond its limit', () => {
  it('loses its beginning and no fact: after kill -9 mounts and blocks are what they were', async () => {
    const first = await start();
    expect((await first.cli(['index', image.ref])).code).toBe(0);
    const dir = join(directory, 'mnt');
    await mountImage(first, image.ref, dir);
    const content = image.files.get('lib/prose') as Buffer;
    expect(new Set(await readPieces(join(dir, 'lib/prose'), content))).toEqual(new Set(['ok']));
    await eventually('the log has the blocks', async () =>
      (await first.cli(['events', '--since-start', '--no-follow'])).stdout.includes('layer.blocks'),
    );
    const before = (await imageOf(first, image.ref)).blocks;
    expect(before.present).toBeGreaterThan(3);
    await fillLog(root, 'short', 8_000);
    await eventually('the log is short again', async () => {
      const { log } = await first.status();
      // A quarter of the limit comes before the next snapshot, and so before the next look (LogKeeper).
      return log !== undefined && log.events > 8_000 && log.bytes < 1.25 * log.limit;
    });
    process.kill(first.pid, 'SIGKILL');
    await first.stop();

    const second = await start();
    await untilWell(second);
    expect((await second.status()).mounts).toMatchObject([{ dir, state: 'mounted' }]);
    expect((await imageOf(second, image.ref)).blocks).toEqual(before);
    expect(new Set(await readPieces(join(dir, 'lib/prose'), content, { exact: true }))).toEqual(
      new Set(['ok']),
    );
    const events = await second.cli(['events', '--since-start', '--no-follow', '--count', '1', '--json']);
    expect(JSON.parse(events.stdout).seq).toBeGreaterThan(1_000);
    expect((await second.status()).log?.events).toBeGreaterThan(8_000);
    expect((await second.cli(['unmount', dir])).code).toBe(0);
    expect((await second.cli(['down'])).code).toBe(0);
  });
});
