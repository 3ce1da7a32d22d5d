/** Mounts that an earlier engine left, or a later one has made, at the directories of this one: real file systems, and a log that says whose the node is. */
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Counts } from '../../actors/counts.ts';
import type { MountFacts } from '../../actors/node-state.ts';
import { OPERATIONS } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import type { Images } from '../../src/supervisor/images/images.ts';
import { Mounts } from '../../src/supervisor/mounts/mounts.ts';
import { mountErofs } from '../../src/kernel/erofs.ts';
import { attachLoop, detachLoop, type LoopDevice } from '../../src/kernel/loop.ts';
import { findMount, isMounted, unmountSync } from '../../src/kernel/mount.ts';
import type { EventLog } from '../../src/store/event-log.ts';
import { Layout } from '../../src/store/layout.ts';
import { LiveFold } from '../../src/store/live-fold.ts';
import { NodeFold } from '../../src/store/node-fold.ts';
import { Cleanup } from '../support/temp.ts';

let cleanup: Cleanup;
let folder: string;
let dir: string;
/** Of this engine, and of two others. */
let [own, earlier, later]: LoopDevice[] = [];
let log: Log;

/** Whether the image's reads need no engine. */
let isWhole: boolean;
/** Directories where no mount is wanted any more. */
let unmounted: string[];
/** Resolves when the image's devices are detached. */
let releasing: Promise<void>;
/** Resolves when the log has the image. */
let recorded: Promise<void>;
/** What the registry says of the image's name. */
let named: Promise<void>;
let counts: Counts;

/** Says who owns the node when it is asked. */
class Log {
  isFenced = false;
  readonly appended: string[] = [];
  onAsked: () => void | Promise<void> = () => {};

  async confirm(): Promise<void> {
    await this.onAsked();
  }

  /** Events of a type that it does not take. */
  refused = '';

  /** It answers when this resolves. */
  held: Promise<void> = Promise.resolve();

  /** A fold of what the log has: these mounts, and what is appended. */
  live(mounts: readonly MountFacts[]): LiveFold {
    const fold = new NodeFold();
    for (const facts of mounts) fold.state.mounts.set(facts.id, facts);
    let seq = 0;
    const append: EventLog['append'] = async (subject, event) => {
      await this.held;
      if (this.refused.includes(event.type)) throw new CofaError('unavailable', 'the log is full');
      this.appended.push(event.type);
      const record = { seq: ++seq, subject, event: { v: 1, at: 0, ...event } as never };
      live.take(record);
      return record;
    };
    const live = new LiveFold({ events: { append }, names: subjects('node'), fold });
    return live;
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
  unmounted = [];
  isWhole = true;
  releasing = Promise.resolve();
  recorded = Promise.resolve();
  named = Promise.resolve();
  counts = new Counts();
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

const manifest = `sha256:${'0'.repeat(64)}`;

/** `mounts`: what the log has of them. */
function engine(mounts: readonly MountFacts[] = []): Mounts {
  const attached = { metadata: own, devices: [] };
  const image = {
    manifest,
    resolved: { ref: 'image' },
    proof: 'unproven',
    attached,
    use: async () => attached,
    recorded: () => recorded,
    release: () => releasing,
    isDirect: () => isWhole,
    hasLost: () => false,
    progress: new Set(),
  };
  return new Mounts({
    layout: new Layout(folder),
    log: pino({ level: 'silent' }),
    live: log.live(mounts),
    owner: log,
    images: {
      get: () => image,
      restored: () => image,
      forMount: () => image,
      resolve: async () => await named.then(() => image),
      mayUse: async () => true,
    } as unknown as Images,
    counts,
    newId: () => 'id',
    onUnmounted: (at) => unmounted.push(at),
  });
}

const mountIn = (state: MountFacts['state'], id = 'id'): MountFacts => ({
  id,
  dir,
  ref: 'image',
  manifest,
  prefetch: false,
  state,
});

/** An engine that starts, and brings back what the log has: one mount. */
async function started(state: MountFacts['state']) {
  const mounts = engine([mountIn(state)]);
  return { mounts, ...(await mounts.restore()) };
}

const unknown = () => {
  throw new CofaError('unavailable', 'NATS is away');
};

describe('an image that the log does not have yet', () => {
  const mounted = () => log.appended.includes('mount.mounted');

  test('is mounted meanwhile, and its caller hears of the mount when the log has both', async () => {
    const telling = Promise.withResolvers<void>();
    recorded = telling.promise;
    const mount = engine().mount(orderOf());
    await expect.poll(() => isMounted(dir)).toBe(true);
    expect(mounted()).toBe(false);
    telling.resolve();
    expect(await mount).toMatchObject({ state: 'mounted' });
    expect(mounted()).toBe(true);
  });

  test('is unmounted where the log does not take it', async () => {
    recorded = Promise.reject(new CofaError('no-space', 'the disk did not take the flat image'));
    recorded.catch(() => {});
    const mount = engine().mount(orderOf());
    await expect(mount).rejects.toMatchObject({ code: 'no-space' });
    expect(isMounted(dir)).toBe(false);
    expect(mounted()).toBe(false);
  });
});

describe('a mount of another engine, where this one is to bring its own back', () => {
  test('is unmounted when the log says that this one owns the node', async () => {
    await mountOf(earlier);
    expect(await started('mounted')).toMatchObject({ replaced: 1, failures: [] });
    expect(findMount(dir)?.source).toBe(own?.path);
    unmountSync(dir);
    expect(isMounted(dir)).toBe(false);
  });

  test('stays as long as the node’s owner is unknown: it may be a successor’s', async () => {
    await mountOf(later);
    log.onAsked = unknown;
    expect(await started('mounted')).toMatchObject({ replaced: 0, failures: [{ dir }] });
    expect(findMount(dir)?.source).toBe(later?.path);
  });

  test('stays when it has come after the look at the log', async () => {
    await mountOf(earlier);
    log.onAsked = async () => {
      unmountSync(dir);
      await mountOf(later);
    };
    const { failures } = await started('mounted');
    expect(failures).toMatchObject([{ sentence: expect.stringContaining('something else is mounted') }]);
    expect(findMount(dir)?.source).toBe(later?.path);
  });

  test('stays when its own request is given up meanwhile', async () => {
    await mountOf(later);
    log.onAsked = unknown;
    await started('requested');
    expect(log.appended).toEqual(['mount.failed']);
    expect(findMount(dir)?.source).toBe(later?.path);
    log.onAsked = () => {};
    await started('requested');
    expect(isMounted(dir)).toBe(false);
  });

  test('is not unmounted in the place of one that has not come back', async () => {
    await mountOf(later);
    log.onAsked = unknown;
    const { mounts } = await started('mounted');
    await expect(mounts.unmount(dir)).rejects.toMatchObject({ code: 'unavailable' });
    expect(findMount(dir)?.source).toBe(later?.path);
    expect(mounts.list()).toMatchObject([{ dir, state: 'failed' }]);
    expect(unmounted).toEqual([]);
    log.onAsked = () => {};
    await mounts.unmount(dir);
    expect(isMounted(dir)).toBe(false);
    expect(mounts.list()).toEqual([]);
    // What status says of it ends here.
    expect(unmounted).toEqual([dir]);
  });
});

test('an engine that was replaced takes away its own mount and none other', async () => {
  const { mounts } = await started('mounted');
  expect(findMount(dir)?.source).toBe(own?.path);
  unmountSync(dir);
  await mountOf(later);
  await mounts.abandon();
  expect(findMount(dir)?.source).toBe(later?.path);
  unmountSync(dir);
  [own] = [await erofs('another')];
  const { mounts: again } = await started('mounted');
  await again.abandon();
  expect(isMounted(dir)).toBe(false);
});

const orderOf = () => ({
  request: OPERATIONS.mount.request.parse({ dir, ref: 'image', prefetch: false }),
  onProgress: () => {},
});

test('a mount whose image the registry does not give is counted, since the log never hears of it', async () => {
  named = Promise.reject(new CofaError('unavailable', 'the registry does not answer'));
  named.catch(() => {});
  await expect(engine().mount(orderOf())).rejects.toMatchObject({ code: 'unavailable' });
  expect(log.appended).toEqual([]);
  expect(counts.samples()).toEqual([['mount_failures_total', ['unavailable'], [1]]]);
});

test('a mount that the log has is counted from the log alone', async () => {
  log.refused = 'mount.mounted';
  await expect(engine().mount(orderOf())).rejects.toMatchObject({ code: 'unavailable' });
  expect(log.appended).toContain('mount.failed');
  expect(counts.samples()).toEqual([]);
});

test('an unmount that waits for a mount ends when the log refuses the request', async () => {
  const mounts = engine();
  log.refused = 'mount.requested';
  const answer = Promise.withResolvers<void>();
  log.held = answer.promise;
  const mounting = mounts.mount(orderOf());
  mounting.catch(() => {});
  await expect.poll(() => mounts.has(dir)).toBe(true);
  const unmounting = mounts.unmount(dir);
  answer.resolve();
  await expect(unmounting).rejects.toMatchObject({ code: 'not-found' });
  await expect(mounting).rejects.toMatchObject({ code: 'unavailable' });
});

test('a mount that failed is so in the log before another one is asked for at its directory', async () => {
  const mounts = engine();
  const order = orderOf();
  log.refused = 'mount.mounted mount.failed';
  await expect(mounts.mount(order)).rejects.toMatchObject({ code: 'unavailable' });
  expect([log.appended, isMounted(dir)]).toEqual([['mount.requested'], false]);
  await expect(mounts.mount(order)).rejects.toMatchObject({ code: 'unavailable' });
  expect(log.appended).toEqual(['mount.requested']);
  log.refused = '';
  await mounts.mount(order);
  expect(log.appended).toEqual(['mount.requested', 'mount.failed', 'mount.requested', 'mount.mounted']);
  expect(findMount(dir)?.source).toBe(own?.path);
  await mounts.unmount(dir);
});

describe('what stands on a mount', () => {
  const scene = () => {
    const done: string[] = [];
    const above = {
      mount: async () => void done.push(`mount on ${findMount(dir)?.source}`),
      unmount: async () => void done.push('unmount'),
    };
    return { done, order: { ...orderOf(), above } };
  };

  test('comes while the log is told of the mount', async () => {
    const { done, order } = scene();
    const mounts = engine();
    order.above.mount = async () => {
      done.push(`mount on ${findMount(dir)?.source}`);
      // It is on its way, and not waited for first.
      await expect.poll(() => log.appended).toEqual(['mount.requested', 'mount.mounted']);
    };
    await mounts.mount(order);
    expect(done).toEqual([`mount on ${own?.path}`]);
    await mounts.unmount(dir);
  });

  test('is unmounted again where the log does not take the mount', async () => {
    const { done, order } = scene();
    log.refused = 'mount.mounted';
    await expect(engine().mount(order)).rejects.toMatchObject({ code: 'unavailable' });
    expect([done.at(-1), isMounted(dir), log.appended]).toEqual([
      'unmount',
      false,
      ['mount.requested', 'mount.failed'],
    ]);
  });

  test('is not called gone as long as the log has it', async () => {
    const { order } = scene();
    const mounts = engine();
    log.refused = 'mount.mounted mount.failed';
    await expect(mounts.mount(order)).rejects.toMatchObject({ code: 'unavailable' });
    await expect(mounts.unmount(dir)).rejects.toMatchObject({ code: 'unavailable' });
    log.refused = '';
    await expect(mounts.unmount(dir)).rejects.toMatchObject({ code: 'not-found' });
    expect(log.appended).toEqual(['mount.requested', 'mount.failed']);
  });

  test('takes the mount with it where it cannot be mounted', async () => {
    const { done, order } = scene();
    order.above.mount = async () => {
      throw new CofaError('environment', 'no overlayfs');
    };
    const mounts = engine();
    await expect(mounts.mount(order)).rejects.toMatchObject({ code: 'environment' });
    expect([done, isMounted(dir), mounts.list()]).toEqual([['unmount'], false, []]);
    expect(log.appended.at(-1)).toBe('mount.failed');
  });
});

describe('an overlay above a mount, which the kernel does not call busy', () => {
  let merged: string;
  const leave = () => isMounted(merged) && unmountSync(merged);
  /** A mount whose image has not arrived, and an overlay on it, by default seen. */
  async function scene(isSeen = true): Promise<Mounts> {
    isWhole = false;
    const mounts = engine();
    await mounts.mount(orderOf());
    merged = join(folder, 'merged');
    for (const name of ['merged', 'upper', 'work', 'other'])
      await mkdir(join(folder, name), { recursive: true });
    const under = isSeen ? dir : join(folder, 'other');
    // The overlay keeps what it was mounted on, also where that is shown by another name that goes.
    if (!isSeen) await promisify(execFile)('mount', ['--bind', dir, under]);
    const layers = `lowerdir=${under},upperdir=${join(folder, 'upper')},workdir=${join(folder, 'work')}`;
    await promisify(execFile)('mount', ['-t', 'overlay', 'overlay', '-o', layers, merged]);
    cleanup.defer(leave);
    if (!isSeen) unmountSync(under);
    return mounts;
  }

  test('is found before a mount is touched, where it names the mount', async () => {
    const mounts = await scene();
    expect(mounts.overlaid()).toEqual([`${dir} by the mount ${merged}`]);
    isWhole = true;
    expect(mounts.overlaid()).toEqual([]);
    leave();
    isWhole = false;
    expect(mounts.overlaid()).toEqual([]);
    await mounts.unmount(dir);
  });

  test('is in the way of an unmount, which then touches nothing, until it has gone or its reads need no engine', async () => {
    const mounts = await scene();
    const before = findMount(dir);
    await expect(mounts.unmount(dir)).rejects.toMatchObject({
      code: 'busy',
      message: `${dir} is in use by the mount ${merged}`,
    });
    expect(findMount(dir)).toEqual(before);
    expect(mounts.list()).toMatchObject([{ dir, state: 'mounted' }]);
    expect(log.appended).toEqual(['mount.requested', 'mount.mounted']);
    isWhole = true;
    await mounts.unmount(dir);
    leave();
    const again = await scene();
    leave();
    await again.unmount(dir);
    expect(isMounted(dir)).toBe(false);
  });

  test.each([true, false])('keeps it mounted until it has gone (seen by its name: %s)', async (isSeen) => {
    const mounts = await scene(isSeen);
    expect(await mounts.detachAll(false)).toEqual([
      isSeen ? `${dir} by the mount ${merged}` : expect.stringMatching(`^${dir}`),
    ]);
    expect(mounts.list()).toMatchObject([{ dir, state: 'mounted' }]);
    expect(findMount(dir)?.source).toBe(own?.path);
    expect(log.appended).toEqual(['mount.requested', 'mount.mounted']);
    leave();
    expect(await mounts.detachAll(false)).toEqual([]);
    expect(isMounted(dir)).toBe(false);
  });

  test('is no reason to stay where its reads need no engine, nor for a down by force', async () => {
    const byForce = await scene();
    expect(await byForce.detachAll(true)).toEqual([]);
    expect(log.appended.at(-1)).toBe('mount.detached');
    expect(isMounted(dir)).toBe(false);
    leave();
    const mounts = await scene();
    isWhole = true;
    expect(await mounts.detachAll(false)).toEqual([]);
    expect(isMounted(dir)).toBe(false);
  });
});

test('a mount that was acknowledged comes back although the log has an earlier request for its directory', async () => {
  await mountOf(own);
  const mounts = engine([mountIn('requested', 'a'), mountIn('mounted', 'b')]);
  expect(await mounts.restore()).toMatchObject({ kept: 1, failures: [] });
  expect(findMount(dir)?.source).toBe(own?.path);
  expect(log.appended).toEqual(['mount.failed']);
});

describe('an unmount whose devices take a while to be detached', () => {
  test('is done when they are detached, or before where no caller waits for that; the directory is free by then', async () => {
    const mounts = engine();
    for (const early of [true, false]) {
      await mounts.mount(orderOf());
      const release = Promise.withResolvers<void>();
      releasing = release.promise;
      let isDone = false;
      const unmounting = mounts.unmount(dir, { early }).then(() => {
        isDone = true;
      });
      if (early) await unmounting;
      else await expect.poll(() => log.appended.at(-1)).toBe('mount.unmounted');
      expect([isDone, isMounted(dir), mounts.has(dir)]).toEqual([early, false, false]);
      release.resolve();
      await unmounting;
    }
  });

  test('an engine that ends waits for them', async () => {
    const mounts = engine();
    await mounts.mount(orderOf());
    const release = Promise.withResolvers<void>();
    releasing = release.promise;
    await mounts.unmount(dir, { early: true });
    let isDone = false;
    const detaching = mounts.detachAll(false).then(() => {
      isDone = true;
    });
    await mounts.released(50);
    expect(isDone).toBe(false);
    release.resolve();
    await detaching;
  });
});
