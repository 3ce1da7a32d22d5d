/** An unmount below containers' overlays. Nothing is mounted here: what stands at the directory is the test's word. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { LoopDevice } from '../../src/kernel/loop.ts';
import type { MountEntry } from '../../src/kernel/mount.ts';
import { Layout } from '../../src/store/layout.ts';
import type { LiveFold } from '../../src/store/live-fold.ts';
import type { Image } from '../../src/supervisor/images/image.ts';
import type { Images } from '../../src/supervisor/images/images.ts';
import { KERNEL } from '../../src/supervisor/mounts/kernel.ts';
import { MountActor, type MountContext } from '../../src/supervisor/mounts/mount-actor.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let dir: string;
let isWhole: boolean;
/** Mount points that overlays were looked for upon. */
let looked: string[][];
let appended: string[];

beforeEach(async () => {
  dir = join(await cleanup.tempDir('overlaid'), 'mnt');
  await mkdir(dir);
  isWhole = false;
  looked = [];
  appended = [];
});
afterEach(() => cleanup.run());

class Standing extends MountActor {
  override get standing(): MountEntry {
    const device = { id: 4_000_000, parent: 1, major: 7, minor: 9_999, root: '/' };
    return {
      ...device,
      mountPoint: dir,
      options: 'ro',
      tags: [],
      type: 'erofs',
      source: '',
      superOptions: 'ro',
    };
  }
}

async function mounted(container?: string): Promise<MountActor> {
  const attached = { metadata: { number: -1, path: '', label: '' } as LoopDevice, devices: [] };
  const image = {
    attached,
    use: async () => attached,
    recorded: async () => {},
    release: async () => {},
    isDirect: () => isWhole,
  } as unknown as Image;
  const context: MountContext = {
    layout: new Layout(dir),
    images: { forMount: () => image, mayUse: async () => true } as unknown as Images,
    live: {
      state: { mounts: new Map() },
      append: async (_id: string, { type }: { type: string }) => void appended.push(type),
    } as unknown as LiveFold,
    owner: { isFenced: false, confirm: async () => {} },
    failures: { tell: async () => {} } as unknown as MountContext['failures'],
    log: pino({ level: 'silent' }),
    kernel: {
      ...KERNEL,
      mountErofs: async () => {},
      loadMetadata: async () => {},
      overlaysUpon: async (places) => {
        looked.push([...places]);
        return ['the mount /merged', 'sleep (pid 12, root folder)'];
      },
    },
    onUnmounted: () => {},
  };
  const request = { id: 'id', dir, ref: 'image', manifest: 'm', prefetch: false, container };
  const actor = new Standing(context, request, image);
  await actor.mount();
  expect(actor.host.state).toBe('mounted');
  return actor;
}

test('is busy, and names them; the mount stays as it was', async () => {
  const actor = await mounted();
  await actor.unmount();
  expect(actor.error).toMatchObject({
    code: 'busy',
    message: `${dir} is in use by the mount /merged, sleep (pid 12, root folder)`,
    hint: 'end the containers that stand on it, then try again',
  });
  expect([actor.host.state, appended, looked]).toEqual(['mounted', ['mount.mounted'], [[dir]]]);
});

test.each([
  ['of an image whose reads need no engine', true, undefined],
  ['of a container of cofa run, which keeps its own image busy', false, 'name'],
])('goes on without a look at the mount %s', async (_, whole, container) => {
  isWhole = whole;
  const actor = await mounted(container);
  await actor.unmount();
  expect(looked).toEqual([]);
  // There is none in the kernel.
  expect(actor.error?.code).toBe('not-found');
});
