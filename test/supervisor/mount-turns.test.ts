/** Mounts and unmounts of one directory that come at once. Nothing is mounted here: the image fails, or the kernel is told of nothing. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { OPERATIONS } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import type { LoopDevice } from '../../src/kernel/loop.ts';
import type { EventLog } from '../../src/store/event-log.ts';
import { Layout } from '../../src/store/layout.ts';
import { LiveFold } from '../../src/store/live-fold.ts';
import { NodeFold } from '../../src/store/node-fold.ts';
import type { Images } from '../../src/supervisor/images/images.ts';
import { KERNEL } from '../../src/supervisor/mounts/kernel.ts';
import { Mounts } from '../../src/supervisor/mounts/mounts.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let folder: string;
let dir: string;
let appended: string[];
/** Types of events that wait for this before the log takes them. */
let held: Record<string, Promise<void>>;
/** What the next mount's image does. */
let use: () => Promise<void>;

beforeEach(async () => {
  folder = await cleanup.tempDir('turns');
  dir = join(folder, 'mnt');
  await mkdir(dir);
  appended = [];
  held = {};
  use = async () => {};
});
afterEach(() => cleanup.run());

function engine(): Mounts {
  let seq = 0;
  let ids = 0;
  const append: EventLog['append'] = async (subject, event) => {
    await held[event.type];
    appended.push(event.type);
    const record = { seq: ++seq, subject, event: { v: 1, at: 0, ...event } as never };
    live.take(record);
    return record;
  };
  const live = new LiveFold({ events: { append }, names: subjects('node'), fold: new NodeFold() });
  const attached = { metadata: { number: -1, path: '/no/loop', label: '' } as LoopDevice, devices: [] };
  const image = {
    manifest: `sha256:${'0'.repeat(64)}`,
    resolved: { ref: 'image' },
    attached,
    use: async () => {
      await use();
      return attached;
    },
    recorded: async () => {},
    release: async () => {},
    isDirect: () => true,
    hasLost: () => false,
    progress: new Set(),
  };
  return new Mounts({
    layout: new Layout(folder),
    log: pino({ level: 'silent' }),
    live,
    owner: { isFenced: false, confirm: async () => {} },
    images: {
      forMount: () => image,
      resolve: async () => image,
      mayUse: async () => true,
    } as unknown as Images,
    kernel: { ...KERNEL, mountErofs: async () => {}, loadMetadata: async () => {} },
    newId: () => `id${++ids}`,
  });
}

const orderOf = () => ({
  request: OPERATIONS.mount.request.parse({ dir, ref: 'image', prefetch: false }),
  onProgress: () => {},
});

/** Begins a mount. It waits for its image until the test calls `fail`, and fails then. */
async function failing(mounts: Mounts): Promise<{ mounting: Promise<unknown>; fail: () => void }> {
  const image = Promise.withResolvers<void>();
  use = () => image.promise;
  const mounting = mounts.mount(orderOf());
  mounting.catch(() => {});
  await expect.poll(() => appended).toEqual(['mount.requested']);
  await expect.poll(() => mounts.list()).toMatchObject([{ state: 'mounting' }]);
  use = async () => {};
  return { mounting, fail: () => image.reject(new CofaError('unavailable', 'no registry')) };
}

test('a mount that fails while a caller waits to unmount it is told as failed', async () => {
  const mounts = engine();
  const { mounting, fail } = await failing(mounts);
  const unmounting = mounts.unmount(dir);
  fail();
  await expect(mounting).rejects.toMatchObject({ code: 'unavailable', message: 'no registry' });
  await unmounting.catch((error: unknown) => expect(error).toMatchObject({ code: 'not-found' }));
  expect(mounts.has(dir)).toBe(false);
  await mounts.mount(orderOf());
  expect(mounts.list()).toMatchObject([{ id: 'id2', state: 'mounted' }]);
});

test('the end of a failed mount takes no later mount of its directory out of the books', async () => {
  const mounts = engine();
  const { mounting, fail } = await failing(mounts);
  const telling = Promise.withResolvers<void>();
  held['mount.unmounted'] = telling.promise;
  const unmounting = mounts.unmount(dir).catch(() => {});
  fail();
  await mounting.catch(() => {});
  const next = await mounts.mount(orderOf()).catch(() => undefined);
  telling.resolve();
  await unmounting;
  expect(mounts.list().map(({ id }) => id)).toEqual(next === undefined ? [] : [next.id]);
});

test('an engine that ends waits for an unmount under way: one that is refused leaves a mount', async () => {
  const mounts = engine();
  await mounts.mount(orderOf());
  const telling = Promise.withResolvers<void>();
  held['mount.unmounted'] = telling.promise;
  const unmounting = mounts.unmount(dir);
  await expect.poll(() => mounts.list()).toMatchObject([{ state: 'unmounting' }]);
  let isOver = false;
  const detaching = mounts.detachAll(false).then((busy) => {
    isOver = true;
    return busy;
  });
  await sleep(50);
  expect(isOver).toBe(false);
  telling.resolve();
  await unmounting;
  expect(await detaching).toEqual([]);
});
