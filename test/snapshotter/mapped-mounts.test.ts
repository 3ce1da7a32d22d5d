import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import type { IdMaps } from '../../actors/id-maps.ts';
import {
  hideMapped,
  MappedMounts,
  type MappedSource,
  showMapped,
} from '../../src/snapshotter/mapped-mounts.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const maps = (host: number): IdMaps => ({
  uid: [{ container: 0, host, size: 10 }],
  gid: [{ container: 0, host, size: 10 }],
});
const source = (name: string): MappedSource => ({ dir: `/flats/${name}`, isFlat: true });
const log = pino({ level: 'silent' });

function bed(dir = '/mapped') {
  const calls: string[] = [];
  let failing: Error | undefined;
  const mounts = new MappedMounts({
    dir,
    show: async (order) => {
      await sleep(2);
      if (failing !== undefined) throw failing;
      calls.push(`+${order.source.dir} ${order.maps.uid[0]?.host}`);
    },
    hide: async (target) => {
      await sleep(2);
      calls.push(`-${target.split('/').at(-1)}`);
    },
    log,
  });
  return { mounts, calls, fail: (error?: Error) => (failing = error) };
}

test('maps and images have folders of their own, the same ones each time', async () => {
  const { mounts } = bed();
  const dirs = [maps(1), maps(2)].flatMap((one) =>
    ['a', 'b'].map((name) => mounts.dirOf(one, `/flats/${name}`)),
  );
  expect(new Set(dirs).size).toBe(4);
  expect((await mounts.hold(maps(2), source('b'))).dir).toBe(dirs[3]);
  expect(dirs[0]).toMatch(/^\/mapped\/[0-9a-f]{16}\/a$/);
});

test('it is unmounted with its last user, once, and at once', async () => {
  const { mounts, calls } = bed();
  const holds = await Promise.all([1, 2].map(() => mounts.hold(maps(1), source('a'))));
  await holds[0]?.release();
  await holds[0]?.release();
  expect(calls).not.toContain('-a');
  await holds[1]?.release();
  expect(calls.filter((one) => one === '-a')).toHaveLength(1);
});

test('a user that comes during the unmount gets it', async () => {
  const { mounts, calls } = bed();
  const first = await mounts.hold(maps(1), source('a'));
  const leaving = first.release();
  const second = mounts.hold(maps(1), source('a'));
  await Promise.all([leaving, second]);
  expect(calls.at(-1)).toBe('+/flats/a 1');
});

test('one that cannot be mounted leaves nothing, and the next one tries again', async () => {
  const { mounts, calls, fail } = bed();
  fail(new Error('no'));
  await expect(mounts.hold(maps(1), source('a'))).rejects.toThrow('no');
  expect(calls).toEqual(['-a']);
  fail();
  const hold = await mounts.hold(maps(1), source('a'));
  await hold.check();
  expect(calls.slice(1)).toEqual(['+/flats/a 1', '+/flats/a 1']);
});

test('what an earlier life left is unmounted, what is held stays', async () => {
  const dir = await cleanup.tempDir('mapped');
  const folders = await cleanup.tempDir('layers');
  mkdirSync(join(folders, 'snapshots'));
  mkdirSync(join(folders, 'other'));
  const options = { dir, show: showMapped, hide: hideMapped, log };
  const earlier = new MappedMounts(options);
  const of = (name: string): MappedSource => ({ dir: join(folders, name), isFlat: false });
  await earlier.hold(maps(1), of('snapshots'));
  await earlier.hold(maps(1), of('other'));
  await earlier.hold(maps(2), of('other'));
  expect(mountsBelow(dir)).toHaveLength(3);
  const later = new MappedMounts(options);
  const held = await later.hold(maps(1), of('other'));
  await later.removeStrays();
  expect(mountsBelow(dir)).toEqual([held.dir]);
  await held.release();
  expect(mountsBelow(dir)).toEqual([]);
  expect(readdirSync(dir)).toEqual([]);
});

test('an empty folder is not shown in the place of a flat image', async () => {
  const dir = await cleanup.tempDir('mapped');
  const mounts = new MappedMounts({ dir, show: showMapped, hide: hideMapped, log });
  const missing = { dir: await cleanup.tempDir('flat'), isFlat: true };
  await expect(mounts.hold(maps(1), missing)).rejects.toMatchObject({ code: 'unavailable' });
  expect(readdirSync(dir)).toEqual([]);
});
