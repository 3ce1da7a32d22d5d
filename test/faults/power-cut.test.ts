/**
 * A power cut: what was not synced is lost. The root lies on an ext4 in a file; a copy of that file holds what ext4
 * had been told to bring onto the disk, and nothing of what it still kept in memory.
 */
import { mkdirSync } from 'node:fs';
import { open, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NodeState } from '../../actors/node-state.ts';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { startNats } from '../../src/process/nats-server.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { LogKeeper } from '../../src/supervisor/log/log-keeper.ts';
import { LiveFold } from '../../src/store/live-fold.ts';
import { Layout } from '../../src/store/layout.ts';
import { EventLog } from '../../src/store/event-log.ts';
import { LogFiles } from '../../src/store/log-files.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { loadNode, prepareSnapshots } from '../../src/store/snapshots.ts';
import { type Engine, eventually, mountImage, startEngine } from '../support/engine.ts';
import { nodeHistory, take } from '../support/node-history.ts';
import { startRegistry } from '../support/registry-server.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from './fault-image.ts';

const cleanup = new Cleanup();
let directory = '';
let engine: Engine;
let image: FaultImage;

/** Mounts a file with a file system at a folder of the same name. */
async function mountDisk(name: string, options: string): Promise<string> {
  const folder = join(directory, name);
  mkdirSync(folder);
  await runCommand('mount', ['-o', `loop,${options}`, join(directory, `${name}.img`), folder]);
  cleanup.defer(() => runCommand('umount', ['--', folder]));
  return folder;
}

beforeAll(async () => {
  directory = await cleanup.tempDir('power');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushImage(directory, registry.host, 'app', twoLayers(9300));
  const disk = join(directory, 'disk.img');
  await writeFile(disk, '');
  await truncate(disk, 192 << 20);
  await runCommand('mkfs.ext4', ['-q', '-m', '0', '-F', disk]);
  // Of itself the file system commits nothing while this runs.
  const root = join(await mountDisk('disk', 'commit=600'), 'root');
  mkdirSync(root);
  engine = await startEngine({ root, workers: 2, args: ['--node', 'cut'] });
  cleanup.defer(() => engine.stop());
  expect((await engine.cli(['index', image.ref])).code).toBe(0);
});
afterAll(() => cleanup.run());

/** What a power cut at this moment leaves: the copied disk is mounted, its log read. */
async function cutPower(name: string, folder = 'root'): Promise<{ layout: Layout; state: NodeState }> {
  const copy = ['--sparse=always', join(directory, 'disk.img'), join(directory, `${name}.img`)];
  await runCommand('cp', copy);
  const layout = new Layout(join(await mountDisk(name, 'rw'), folder));
  const nats = await startNats(layout);
  try {
    const bus = await connectBus(nats.address, { name: 'test' });
    try {
      return { layout, state: (await loadNode(bus, subjects('cut'))).fold.state };
    } finally {
      await bus.close();
    }
  } finally {
    await nats.child.stop();
  }
}

async function blockOf(path: string, block: number, blockSize: number): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(blockSize), 0, blockSize, block * blockSize);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

describe('a power cut', () => {
  it('of a log whose beginning was removed: its snapshot is there, and nothing is missing', async () => {
    const layout = new Layout(join(directory, 'disk/log-only'));
    await layout.prepare();
    const nats = await startNats(layout);
    const bus = await connectBus(nats.address, { name: 'test' });
    try {
      const names = subjects('cut');
      await EventLog.prepare(bus, { maxBytes: 64 << 20 });
      await prepareSnapshots(bus);
      const files = new LogFiles(layout.in('nats'));
      const log = pino({ level: 'silent' });
      const events = new EventLog(bus, () => 1, { alone: true, sync: files.sync });
      const started = { type: 'engine.started', pid: 1, version: '0', transport: 'kernel' } as const;
      await events.claim(names.event('engine', 'main'), started);
      const { fold } = await loadNode(bus, names);
      const limit = 200_000;
      const options = {
        bus,
        names,
        events,
        live: new LiveFold({ events, names, fold }),
        limit,
        files,
        conditions: new Conditions(log),
        log,
      };
      const keeper = new LogKeeper(options);
      keeper.start();
      const history = nodeHistory({ seed: 3, node: 'cut', layers: 5, blocks: 500 });
      while (fold.state.trimmed === 0) {
        const some = take(history, 500).filter(
          ({ event }) => event.type === 'layer.blocks' || event.type === 'layer.opened',
        );
        await Promise.all(some.map(({ subject, event }) => events.append(subject, event)));
      }
      await keeper.makeRoom();
      await events.append(names.event('engine', 'main'), { type: 'engine.stopped' });
      const { state } = await cutPower('trimmed', 'log-only');
      expect(state.trimmed).toBeGreaterThan(0);
      expect(digestOfNodeState(state)).toBe(digestOfNodeState((await loadNode(bus, names)).fold.state));
      await keeper.close(0, 1_000);
    } finally {
      await bus.close();
      await nats.child.stop();
    }
  });

  it('right after a mount was acknowledged: the log has it, and every block that it calls present is on the disk', async () => {
    const [first, second] = [join(directory, 'mnt-1'), join(directory, 'mnt-2')];
    await mountImage(engine, image.ref, first);
    const early = await cutPower('early');
    expect([...early.state.mounts.values()]).toMatchObject([{ dir: first, state: 'mounted' }]);

    const content = image.files.get('lib/prose') as Buffer;
    expect(new Set(await readPieces(join(first, 'lib/prose'), content))).toEqual(new Set(['ok']));
    await eventually('the log has the blocks', async () =>
      (await engine.cli(['events', '--since-start', '--no-follow'])).stdout.includes('layer.blocks'),
    );
    await mountImage(engine, image.ref, second);
    const { state, layout } = await cutPower('late');
    expect([...state.mounts.values()].map(({ dir, state: now }) => [dir, now])).toEqual([
      [first, 'mounted'],
      [second, 'mounted'],
    ]);
    let present = 0;
    for (const [diffId, facts] of state.layers) {
      for (const [block, is] of facts.present.entries()) {
        if (is !== 1) continue;
        present++;
        const here = await blockOf(layout.device(diffId), block, facts.blockSize);
        const there = await blockOf(new Layout(engine.root).device(diffId), block, facts.blockSize);
        expect(here.equals(there), `block ${block} of ${diffId}`).toBe(true);
      }
    }
    expect(present).toBeGreaterThan(3);

    expect((await engine.cli(['unmount', first])).code).toBe(0);
    const gone = await cutPower('gone');
    expect([...gone.state.mounts.values()].map(({ dir }) => dir)).toEqual([second]);
    expect((await engine.cli(['unmount', second])).code).toBe(0);
  });
});
