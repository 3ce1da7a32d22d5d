/** What the benchmark of pods in a cluster makes of kubectl's words. Needs no root. */
import { describe, expect, test } from 'vitest';
import {
  casesOf,
  listingAt,
  middleOf,
  momentsOf,
  phasesOf,
  type PodResults,
  type PodStart,
  rowOf,
  timesOf,
  timesTable,
  titleOf,
} from '../../ops/bench/pod-times.ts';
import { podsPicture } from '../../ops/bench/pods-picture.ts';

const CASES = casesOf('java; java+rust');
const [ALONE, BOTH] = CASES as [(typeof CASES)[number], (typeof CASES)[number]];

/** Each pod: when it was Running and Completed; undefined: kubectl has not seen it run. */
function start(
  of: Pick<PodStart, 'case' | 'side' | 'round'>,
  pods: Record<string, readonly [running: number | undefined, completed: number]>,
): PodStart {
  const changes = Object.entries(pods).flatMap(([pod, [running, completed]]) => [
    { atMs: 150, pod, ready: '0/1', status: 'Pending' },
    { atMs: 180, pod, ready: '0/1', status: 'ContainerCreating' },
    ...(running === undefined ? [] : [{ atMs: running, pod, ready: '1/1', status: 'Running' }]),
    { atMs: completed, pod, ready: '0/1', status: 'Completed' },
  ]);
  return { ...of, changes, bytes: 100_000_000, others: 0.25 };
}

const overlayfs = (round: number, completed: number) =>
  start({ case: 'java', side: 'overlayfs', round }, { java: [completed - 1000, completed] });
const RESULTS: PodResults = {
  machine: { kernel: '6.18', cores: 2 },
  kubernetes: 'v1.37.2',
  containerd: 'v2.4.2',
  rate: '1G',
  rttMs: 5,
  images: [],
  cases: [
    { ...ALONE, bytes: 145_800_000 },
    { ...BOTH, bytes: 360_000_000 },
  ],
  starts: [
    overlayfs(1, 9100),
    overlayfs(2, 7000),
    overlayfs(3, 8200),
    start({ case: 'java', side: 'cofa', round: 1 }, { java: [undefined, 1900] }),
    start(
      { case: 'java+rust', side: 'overlayfs', round: 1 },
      { java: [9000, 10_000], rust: [12_000, 14_000] },
    ),
    start({ case: 'java+rust', side: 'cofa', round: 1 }, { rust: [1200, 3000], java: [1100, 2500] }),
  ],
};

describe('cases', () => {
  test('are a pod of an image, copies of it, or pods of several images', () => {
    expect(casesOf(' rust ; java*2;a+b*2')).toEqual([
      { name: 'rust', pods: [{ pod: 'rust', image: 'rust' }] },
      {
        name: 'java*2',
        pods: [
          { pod: 'java-1', image: 'java' },
          { pod: 'java-2', image: 'java' },
        ],
      },
      {
        name: 'a+b*2',
        pods: [
          { pod: 'a', image: 'a' },
          { pod: 'b-1', image: 'b' },
          { pod: 'b-2', image: 'b' },
        ],
      },
    ]);
  });

  test.each(['', 'java*0', 'java java', 'java+', '../java', 'java+java'])('%j is none', (text) => {
    expect(() => casesOf(text)).toThrow('--cases');
  });

  test('are named by their images and bytes', () => {
    expect(RESULTS.cases.map(titleOf)).toEqual(['java, 146 MB', 'java and rust, 360 MB']);
    expect(titleOf({ ...(casesOf('rust*3')[0] as typeof ALONE), bytes: 275e6 })).toBe(
      '3 pods of rust, 275 MB',
    );
    expect(titleOf({ ...(casesOf('a+b*2+c')[0] as typeof ALONE), bytes: 1e9 })).toBe(
      'a, 2 pods of b and c, 1000 MB',
    );
  });
});

test('a line of kubectl is a pod’s, or none', () => {
  expect(rowOf('java   0/1   ContainerCreating   0     2s')).toEqual({
    pod: 'java',
    ready: '0/1',
    status: 'ContainerCreating',
  });
  expect(rowOf('java   1/1   Running   1 (3s ago)   9s')).toMatchObject({ status: 'Running' });
  for (const line of ['', 'NAME READY STATUS RESTARTS AGE', 'No resources found in default namespace.'])
    expect(rowOf(line)).toBeUndefined();
});

test('a listing is what was said last of each pod by then, in the order of their names', () => {
  const both = RESULTS.starts[5] as PodStart;
  expect(listingAt(both, 100)).toEqual([['NAME', 'READY', 'STATUS', 'RESTARTS', 'AGE']]);
  expect(listingAt(both, 2600).slice(1)).toEqual([
    ['java', '0/1', 'Completed', '0', '2s'],
    ['rust', '1/1', 'Running', '0', '2s'],
  ]);
});

test('a pod that kubectl has not seen run was Running when it was Completed', () => {
  expect(phasesOf(RESULTS.starts[3] as PodStart, 'java')).toEqual({ running: 1900, completed: 1900 });
});

test('the last pod counts, and one that has not ended is no result', () => {
  expect(timesOf(RESULTS.starts[4] as PodStart, BOTH)).toEqual({ running: 12_000, completed: 14_000 });
  expect(() => timesOf(RESULTS.starts[3] as PodStart, BOTH)).toThrow('rust has not ended');
});

test('of several rounds the one of the middle end is shown, until the slowest has ended', () => {
  expect(middleOf(RESULTS, ALONE, 'overlayfs')?.round).toBe(3);
  expect(middleOf(RESULTS, ALONE, 'overlayfs, tuned')).toBeUndefined();
  expect(momentsOf(RESULTS, ALONE)).toEqual([1, 2, 3, 5, 8, 12]);
});

test('the table has the median, and the spread behind it', () => {
  expect(timesTable(RESULTS)).toEqual([
    ['pods', 'node', 'Running s', 'Completed s', 'MB', 'others', 'rounds'],
    ['java, 146 MB', 'overlayfs', '7.2 (6.0–8.1)', '8.2 (7.0–9.1)', '100', '0.3', '3'],
    ['java, 146 MB', 'cofa', '1.9 (1.9–1.9)', '1.9 (1.9–1.9)', '100', '0.3', '1'],
    ['java and rust, 360 MB', 'overlayfs', '12.0 (12.0–12.0)', '14.0 (14.0–14.0)', '100', '0.3', '1'],
    ['java and rust, 360 MB', 'cofa', '1.2 (1.2–1.2)', '3.0 (3.0–3.0)', '100', '0.3', '1'],
  ]);
});

describe('the picture', () => {
  const svg = podsPicture(RESULTS, 'a link & a <caption>');

  test('has each pod’s end, within its width', () => {
    for (const words of ['Completed 8.2 s', 'Completed 1.9 s', 'Completed 14.0 s', 'Completed 2.5 s'])
      expect(svg).toContain(`>${words}<`);
    const [, width] = /viewBox="0 0 (\d+) \d+"/.exec(svg) ?? [];
    const rights = Array.from(
      svg.matchAll(/<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"/g),
      ([, x, w]) => Number(x) + Number(w),
    );
    expect(rights.length).toBeGreaterThan(10);
    expect(Math.max(...rights)).toBeLessThanOrEqual(Number(width));
  });

  test('has what kubectl lists on both sides when the quicker one is done', () => {
    expect(svg).toContain('$ kubectl get pods # overlayfs, 3 s after apply');
    expect(svg).toContain('$ kubectl get pods # cofa, 3 s after apply');
    expect(Array.from(svg.matchAll(/>(ContainerCreating|Completed)<\/text>/g), ([, word]) => word)).toEqual([
      'ContainerCreating',
      'ContainerCreating',
      'Completed',
      'Completed',
    ]);
  });

  test('says in words what it shows, and is well-formed', () => {
    expect(svg).toContain(
      '<title>From kubectl apply to Completed. java, 146 MB: overlayfs 8.2 s, cofa 1.9 s; ',
    );
    expect(svg).toContain('a link &amp; a &lt;caption&gt;');
    const open: string[] = [];
    for (const [, slash, name, rest] of svg.matchAll(/<(\/?)([a-z]+)([^>]*)>/g))
      if (slash === '/') expect(open.pop()).toBe(name);
      else if (!rest?.endsWith('/')) open.push(name as string);
    expect(open).toEqual([]);
  });

  test('leaves out what was not measured', () => {
    const first = podsPicture({ ...RESULTS, starts: RESULTS.starts.slice(0, 3) }, '');
    expect(first).toContain('java, 146 MB');
    expect(first).not.toContain('java and rust');
  });
});
