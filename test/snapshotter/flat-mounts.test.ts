import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { FlatLayer } from '../../actors/snapshots.ts';
import { FlatMounts } from '../../src/snapshotter/flat-mounts.ts';
import { eventually } from '../support/engine.ts';

const flat = (chain: string): FlatLayer => ({ chain, ref: 'r', manifest: 'm', layers: 1, diffId: 'd' });

function bed(lingerMs: number, calls: string[] = []) {
  let failing: Error | undefined;
  const standing = new Set<string>();
  const flats = new FlatMounts({
    dirOf: (chain) => `/flats/${chain}`,
    mount: async ({ chain }) => {
      await sleep(5);
      if (failing !== undefined) throw failing;
      calls.push(`+${chain}`);
      standing.add(`/flats/${chain}`);
    },
    unmount: async (dir) => {
      await sleep(5);
      if (failing !== undefined) throw failing;
      calls.push(`-${dir.slice('/flats/'.length)}`);
      standing.delete(dir);
    },
    isThere: (dir) => standing.has(dir),
    lingerMs,
    log: pino({ level: 'silent' }),
  });
  return { flats, calls, standing, fail: (error?: Error) => (failing = error) };
}

test('one whose image was removed is unmounted at once, unless it is in use', async () => {
  const { flats, calls } = bed(60_000);
  const hold = await flats.hold(flat('a'));
  flats.dismiss('a');
  flats.dismiss('unknown');
  await sleep(30);
  expect(calls).toEqual(['+a']);
  hold.release();
  flats.dismiss('a');
  await expect.poll(() => calls).toEqual(['+a', '-a']);
});

test('one mount for many users, unmounted a while after the last', async () => {
  const { flats, calls } = bed(30);
  const holds = await Promise.all([1, 2, 3].map(() => flats.hold(flat('a'))));
  expect(calls).toEqual(['+a']);
  for (const { dir, release } of holds) {
    expect(dir).toBe('/flats/a');
    release();
    release();
  }
  const next = await flats.hold(flat('a'));
  await sleep(80);
  expect(calls).toEqual(['+a']);
  next.release();
  await expect.poll(() => calls).toEqual(['+a', '-a']);
});

test('who comes while it is being unmounted gets it mounted again', async () => {
  const { flats, calls } = bed(1);
  (await flats.hold(flat('a'))).release();
  await sleep(3);
  const hold = await flats.hold(flat('a'));
  await sleep(50);
  expect(calls.filter((call) => call === '+a').length - calls.filter((call) => call === '-a').length).toBe(1);
  hold.release();
});

test('a mount that fails is tried again by the next, and one that is busy is unmounted later', async () => {
  const { flats, calls, fail } = bed(10);
  fail(new Error('no registry'));
  await expect(flats.hold(flat('a'))).rejects.toThrow('no registry');
  fail();
  const hold = await flats.hold(flat('a'));
  fail(new Error('busy'));
  hold.release();
  await sleep(40);
  expect(calls).toEqual(['+a']);
  fail();
  await expect.poll(() => calls).toEqual(['+a', '-a']);
});

test('one that was mounted ahead is there for its user, and goes where none comes', async () => {
  const { flats, calls, fail } = bed(30);
  flats.ahead(flat('a'));
  flats.ahead(flat('a'));
  const hold = await flats.hold(flat('a'));
  flats.ahead(flat('b'));
  await expect.poll(() => calls).toEqual(['+a', '+b', '-b']);
  hold.release();
  // One that cannot be mounted is not tried for each layer of a pull; its user tries.
  fail(new Error('no registry'));
  for (let layer = 0; layer < 3; layer++) flats.ahead(flat('c'));
  await sleep(10);
  fail();
  flats.ahead(flat('c'));
  await sleep(10);
  expect(calls.filter((call) => call.endsWith('c'))).toEqual([]);
  (await flats.hold(flat('c'))).release();
  expect(calls.filter((call) => call.endsWith('c'))).toEqual(['+c']);
});

test('one whose image was removed while it was mounted ahead is unmounted at once', async () => {
  const { flats, calls } = bed(60_000);
  flats.ahead(flat('a'));
  flats.dismiss('a');
  await eventually('it is unmounted', () => calls.includes('-a'));
  expect(calls).toEqual(['+a', '-a']);
});

test('what an earlier life left is used, or unmounted', async () => {
  const { flats, calls, standing } = bed(10);
  standing.add('/flats/a').add('/flats/b');
  flats.adopt('a');
  flats.adopt('b');
  const hold = await flats.hold(flat('a'));
  await expect.poll(() => calls).toEqual(['-b']);
  hold.release();
});

test('what is not there is mounted again before it is used, or its user hears why not', async () => {
  const { flats, calls, standing, fail } = bed(10);
  // Of an earlier life: the engine has not brought it back.
  flats.adopt('a');
  const first = await flats.hold(flat('a'));
  expect(calls).toEqual(['+a']);
  // A user has called umount(8), or the engine is about to end.
  standing.clear();
  fail(new Error('the engine is stopping'));
  await expect(flats.hold(flat('a'))).rejects.toThrow('the engine is stopping');
  await expect(first.check()).rejects.toThrow('the engine is stopping');
  fail();
  await first.check();
  await first.check();
  expect(calls).toEqual(['+a', '+a']);
  // The engine has it in its books all the same: the last user's end takes it out of them.
  standing.clear();
  first.release();
  await expect.poll(() => calls).toEqual(['+a', '+a', '-a']);
});
