/** Mounts that an earlier engine left, or a later one has made, at the directories of this one: real file systems, and a log that says whose the node is. */
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { emptyNode, type MountFacts } from '../../actors/node-state.ts';
import { CofaError } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import type { Images } from '../../src/engine/images.ts';
import { Mounts } from '../../src/engine/mounts.ts';
import { mountErofs } from '../../src/kernel/erofs.ts';
import { attachLoop, detachLoop, type LoopDevice } from '../../src/kernel/loop.ts';
import { findMount, isMounted, unmountSync } from '../../src/kernel/mount.ts';
import type { EventLog } from '../../src/store/event-log.ts';
import { Layout } from '../../src/store/layout.ts';
import { Cleanup } from '../support/temp.ts';

let cleanup: Cleanup;
let folder: string;
let dir: string;
/** Of this engine, and of two others. */
let [own, earlier, later]: LoopDevice[] = [];
let log: Log;

/** Says who owns the node when it is asked. */
class Log {
  isFenced = false;
  readonly appended: string[] = [];
  onAsked: () => void | Promise<void> = () => {};

  async confirmOwner(): Promise<void> {
    await this.onAsked();
  }

  /** Events of a type that it does not take. */
  refused = '';

  async append(_: string, { type }: { type: string }): Promise<void> {
    if (this.refused.includes(type)) throw new CofaError('unavailable', 'the log is full');
    this.appended.push(type);
  }
}

beforeEach(async () => {
  cleanup = new Cleanup();
  folder = await cleanup.tempDir('mounts');
  dir = join(folder, 'mnt');
  await mkdir(dir);
  [own, earlier, later] = await Promise.all(['own', 'earlier', 'later'].map(erofs));
  cleanup.defer(() => {
    while (isMounted(dir)) unmountSync(dir, { lazy: true });
  });
  log = new Log();
  // What is tried again later comes to nothing.
  cleanup.defer(() => {
    log.isFenced = true;
  });
});
afterEach(() => cleanup.run());

async function erofs(name: string): Promise<LoopDevice> {
  const tree = join(folder, name);
  await mkdir(tree);
  const file = join(folder, `${name}.erofs`);
  await promisify(execFile)('mkfs.erofs', [file, tree]);
  const loop = await attachLoop(file, { directIo: false, readOnly: true, label: `cofa-test:${name}` });
  cleanup.defer(() => detachLoop(loop));
  return loop;
}

const mountOf = (metadata: LoopDevice | undefined) =>
  mountErofs({ metadata: metadata as LoopDevice, devices: [], target: dir });

function engine(): Mounts {
  const attached = { metadata: own, devices: [] };
  const image = {
    manifest: `sha256:${'0'.repeat(64)}`,
    resolved: { ref: 'image' },
    proof: 'unproven',
    attached,
    use: async () => attached,
    release: async () => {},
    hasLost: () => false,
    progress: new Set(),
  };
  return new Mounts({
    layout: new Layout(folder),
    log: pino({ level: 'silent' }),
    events: log as unknown as EventLog,
    names: subjects('node'),
    images: {
      get: () => image,
      restored: () => image,
      forMount: () => image,
      resolve: async () => image,
      mayUse: async () => true,
    } as unknown as Images,
    newId: () => 'id',
  });
}

/** Brings back what the log has: one mount. */
async function restore(state: MountFacts['state'], mounts = engine()) {
  const node = emptyNode();
  node.mounts.set('id', {
    id: 'id',
    dir,
    ref: 'image',
    manifest: `sha256:${'0'.repeat(64)}`,
    prefetch: false,
    container: undefined,
    trust: undefined,
    state,
  });
  return await mounts.restore(node);
}

const unknown = () => {
  throw new CofaError('unavailable', 'NATS is away');
};

describe('a mount of another engine, where this one is to bring its own back', () => {
  test('goes when the log says that this one owns the node', async () => {
    await mountOf(earlier);
    expect(await restore('mounted')).toMatchObject({ replaced: 1, failures: [] });
    expect(findMount(dir)?.source).toBe(own?.path);
    unmountSync(dir);
    expect(isMounted(dir)).toBe(false);
  });

  test('stays as long as nobody says whose the node is: it may be a successor’s', async () => {
    await mountOf(later);
    log.onAsked = unknown;
    expect(await restore('mounted')).toMatchObject({ replaced: 0, failures: [{ dir }] });
    expect(findMount(dir)?.source).toBe(later?.path);
  });

  test('stays when it has come after the look at the log', async () => {
    await mountOf(earlier);
    log.onAsked = async () => {
      unmountSync(dir);
      await mountOf(later);
    };
    const { failures } = await restore('mounted');
    expect(failures).toMatchObject([{ sentence: expect.stringContaining('something else is mounted') }]);
    expect(findMount(dir)?.source).toBe(later?.path);
  });

  test('stays when its own request is given up meanwhile', async () => {
    await mountOf(later);
    log.onAsked = unknown;
    await restore('requested');
    expect(log.appended).toEqual(['mount.failed']);
    expect(findMount(dir)?.source).toBe(later?.path);
    log.onAsked = () => {};
    await restore('requested');
    expect(isMounted(dir)).toBe(false);
  });

  test('is not unmounted in the place of one that has not come back', async () => {
    await mountOf(later);
    log.onAsked = unknown;
    const mounts = engine();
    await restore('mounted', mounts);
    await expect(mounts.unmount(dir)).rejects.toMatchObject({ code: 'unavailable' });
    expect(findMount(dir)?.source).toBe(later?.path);
    expect(mounts.list()).toMatchObject([{ dir, state: 'failed' }]);
    log.onAsked = () => {};
    await mounts.unmount(dir);
    expect(isMounted(dir)).toBe(false);
    expect(mounts.list()).toEqual([]);
  });
});

test('an engine that was replaced takes away its own mount and none other', async () => {
  const mounts = engine();
  await restore('mounted', mounts);
  expect(findMount(dir)?.source).toBe(own?.path);
  unmountSync(dir);
  await mountOf(later);
  await mounts.abandon();
  expect(findMount(dir)?.source).toBe(later?.path);
  unmountSync(dir);
  const again = engine();
  [own] = [await erofs('another')];
  await restore('mounted', again);
  await again.abandon();
  expect(isMounted(dir)).toBe(false);
});

test('a mount that failed is so in the log before another one is asked for at its directory', async () => {
  const mounts = engine();
  const order = { dir, ref: 'image', prefetch: false, onProgress: () => {} };
  log.refused = 'mount.mounted mount.failed';
  await expect(mounts.mount(order as never)).rejects.toMatchObject({ code: 'unavailable' });
  expect([log.appended, isMounted(dir)]).toEqual([['mount.requested'], false]);
  await expect(mounts.mount(order as never)).rejects.toMatchObject({ code: 'unavailable' });
  expect(log.appended).toEqual(['mount.requested']);
  log.refused = '';
  await mounts.mount(order as never);
  expect(log.appended).toEqual(['mount.requested', 'mount.failed', 'mount.requested', 'mount.mounted']);
  expect(findMount(dir)?.source).toBe(own?.path);
  await mounts.unmount(dir);
});

test('a mount that was acknowledged comes back although the log has an earlier request for its directory', async () => {
  await mountOf(own);
  const node = emptyNode();
  const facts = { dir, ref: 'image', manifest: `sha256:${'0'.repeat(64)}`, prefetch: false };
  for (const [id, state] of [
    ['a', 'requested'],
    ['b', 'mounted'],
  ] as const)
    node.mounts.set(id, { id, state, ...facts, container: undefined, trust: undefined });
  expect(await engine().restore(node)).toMatchObject({ kept: 1, failures: [] });
  expect(findMount(dir)?.source).toBe(own?.path);
  expect(log.appended).toEqual(['mount.failed']);
});
