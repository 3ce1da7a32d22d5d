/** Two engines of one node name on one NATS: at most one owns the mounts, whichever was cut off, and whenever. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { subjects } from '../../schemas/subjects.ts';
import { readLog } from '../../src/store/event-log.ts';
import { type Engine, errorOf, eventually, mountImage, runCofa, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { startRegistry } from '../support/registry-server.ts';
import { type NatsServer, startNats } from '../support/services.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from './fault-image.ts';

const cleanup = new Cleanup();
let directory = '';
let nats: NatsServer;
let image: FaultImage;

beforeAll(async () => {
  directory = await cleanup.tempDir('owner');
  nats = await startNats();
  cleanup.defer(() => nats.stop());
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushImage(directory, registry.host, 'app', twoLayers(9100));
  expect((await runCofa(['index', image.ref])).code).toBe(0);
});
afterAll(() => cleanup.run());

const start = async (node: string, url: string): Promise<Engine> => {
  const root = await cleanup.tempDir('owner-root');
  const engine = await startEngine({ root, workers: 1, args: ['--nats', url, '--node', node] });
  cleanup.defer(() => engine.stop());
  return engine;
};
const read = (dir: string) => readInParallel({ root: dir, expected: image.expected, readers: 4, copies: 1 });

describe('two engines of one node name', () => {
  it('the second is refused while the first lives, and the first does not notice', async () => {
    const first = await start('twin', nats.url);
    const dir = join(directory, 'mnt-twin');
    await mountImage(first, image.ref, dir);
    const root = await cleanup.tempDir('owner-root');
    const refused = await runCofa(['up', '--json', '--root', root, '--nats', nats.url, '--node', 'twin']);
    expect(refused.code).toBe(7);
    expect(errorOf(refused)).toMatchObject({ code: 'conflict' });
    expect(errorOf(refused).message).toContain(`pid ${first.pid}`);
    expect(await read(dir)).toMatchObject({ failures: [] });
    expect((await first.status()).degraded).toEqual([]);
    expect((await first.cli(['unmount', dir])).code).toBe(0);
    expect((await first.cli(['down'])).code).toBe(0);
  });

  it('one that was cut off and replaced ends when it comes back; its successor has the mounts', async () => {
    const relay = await startRelay({ to: { host: '127.0.0.1', port: Number(new URL(nats.url).port) } });
    cleanup.defer(() => relay.stop());
    const first = await start('cut', `nats://${relay.host}`);
    const dir = join(directory, 'mnt-cut');
    await mountImage(first, image.ref, dir);
    const content = image.files.get('lib/prose') as Buffer;
    expect(new Set(await readPieces(join(dir, 'lib/prose'), content))).toEqual(new Set(['ok']));

    relay.fail({ kind: 'stall' });
    const second = await start('cut', nats.url);
    // What the first one has fetched lies in another root: the second one begins without it, and says nothing wrong.
    const [known] = (await second.status()).images;
    expect(known?.blocks.present).toBe(0);
    expect((await second.status()).mounts).toMatchObject([{ dir, state: 'mounted' }]);

    relay.heal();
    await first.ended;
    expect(first.log('supervisor')).toContain('another engine has taken over this node');
    expect(mountsBelow(directory)).toEqual([dir]);
    expect(await read(dir)).toMatchObject({ failures: [] });
    const more = join(directory, 'mnt-more');
    await mountImage(second, image.ref, more);
    for (const one of [dir, more]) expect(await second.cli(['unmount', one])).toMatchObject({ code: 0 });

    const bus = await connectBus({ url: nats.url }, { name: 'test' });
    const types: string[] = [];
    for await (const { event } of readLog(bus, subjects('cut').eventsOf('mount'), {
      from: 'start',
      follow: false,
    }))
      types.push(event.type);
    await bus.close();
    expect(types.filter((type) => type !== 'mount.mounted')).toEqual([
      'mount.requested',
      'mount.requested',
      'mount.unmounted',
      'mount.unmounted',
    ]);
    // The first one may come again under another name, with its own device files and none of the other's blocks.
    expect((await second.cli(['down'])).code).toBe(0);
    const again = await startEngine({
      root: first.root,
      workers: 1,
      args: ['--nats', nats.url, '--node', 'cut'],
    });
    cleanup.defer(() => again.stop());
    await mountImage(again, image.ref, dir);
    await eventually('all is read', async () => (await read(dir)).failures.length === 0);
    expect((await again.cli(['unmount', dir])).code).toBe(0);
    expect((await again.cli(['down'])).code).toBe(0);
  });
});
