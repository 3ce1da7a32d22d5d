/** SOCI beside the others in the benchmark: what is set up, without its programs. */
import { expect, test } from 'vitest';
import {
  containerdSettings,
  lazySettings,
  parallelSettings,
  SOCI_NAMES,
  sociWays,
} from '../../ops/bench/soci.ts';

test('where a program of SOCI cannot be had, the bench says so and does without', async () => {
  const said: string[] = [];
  const without = (absent: string) =>
    sociWays(
      (line) => said.push(line),
      async (judge) => (judge === absent ? undefined : `/${judge}`),
    );
  expect(await without('soci')).toEqual([]);
  expect(await without('containerd-2.4')).toEqual([]);
  expect(said).toEqual(Array(2).fill('no SOCI: it needs its own programs and a current containerd'));
});

test('of its two ways, which know no start, the lazy one alone converts the image', async () => {
  const ways = await sociWays(
    () => {},
    async (judge) => `/${judge}`,
  );
  expect(ways.map(({ name }) => name)).toEqual(SOCI_NAMES);
  expect(ways.map(({ peer }) => peer)).toEqual(['unoptimized', 'unoptimized']);
  expect(ways.map(({ prepare }) => prepare !== undefined)).toEqual([true, false]);
});

test('the parallel mode has the settings of its documentation, and no program that is not there', () => {
  const settings = parallelSettings('/run/c.sock', true);
  expect(settings).toContain('max_concurrent_downloads_per_image = 10');
  expect(settings).toContain('path = "/usr/bin/unpigz"');
  expect(parallelSettings('/run/c.sock', false)).not.toContain('unpigz');
});

test('in either way the snapshotter asks the containerd that it serves', () => {
  for (const settings of [lazySettings, parallelSettings])
    expect(settings('/run/c.sock')).toContain('containerd_address = "/run/c.sock"');
});

test('containerd tells the snapshotter to which image a layer belongs', () => {
  expect(containerdSettings('/var/lib/soci')).toContain('enable_remote_snapshot_annotations = "true"');
});
