/** What the benchmark says of strangers. */
import { expect, test } from 'vitest';
import { merged, noResults } from '../../ops/bench/results.ts';
import { ORDER, type StrangerStarts, strangerGoals, strangerTables } from '../../ops/bench/strangers.ts';
import { TUNED_NAME } from '../../ops/bench/current-containerd.ts';
import { CONTAINERD, NO_PACK, PACK, UNPREPARED } from '../../ops/bench/ways.ts';
import { RECIPES } from '../../ops/images/recipes.ts';
import { STRANGERS } from '../../ops/images/strangers.ts';

const LINK = { bitsPerSecond: 1e9, rttMs: 5 };
const WARM_MS = 500;

/** Added delays by way, ms. */
function image(
  name: string,
  heldOut: boolean,
  added: Partial<Record<keyof typeof ORDER, number>>,
): StrangerStarts {
  const one = (totalMs: number) => ({ firstOutputMs: totalMs, totalMs, bytes: 1e6 });
  return {
    image: name,
    heldOut,
    imageBytes: 200_000_000,
    sidecarBytes: 2_000_000,
    packBytes: 8_000_000,
    readBytes: 10_000_000,
    startBytes: 12_000_000,
    ways: Object.entries(added).map(([way, ms]) => ({
      name: ORDER[way as keyof typeof ORDER],
      cold: [one(WARM_MS + ms)],
      warm: way === 'containerd' ? [one(WARM_MS)] : [],
    })),
  };
}
const GOOD = { containerd: 12_000, tuned: 8_000, unprepared: 4_000, noPack: 2_000, pack: 400 };
const ALL = [
  image('quick', true, GOOD),
  image('scattered', true, { ...GOOD, noPack: 5_000, pack: 1_000 }),
  image('seen', false, { ...GOOD, pack: 100 }),
];
const table = (title: string) =>
  strangerTables(ALL, LINK).find((one) => one.title.includes(title))?.rows ?? [];

test('there are at least twelve, half of them held out, and the names of the ways are theirs', () => {
  const heldOut = STRANGERS.filter((one) => one.heldOut).length;
  expect(STRANGERS.length).toBeGreaterThanOrEqual(12);
  expect(Math.abs(STRANGERS.length - 2 * heldOut)).toBeLessThanOrEqual(1);
  const names = [...RECIPES, ...STRANGERS].map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
  const ways = { pack: PACK, noPack: NO_PACK, unprepared: UNPREPARED, containerd: CONTAINERD };
  expect({
    ...Object.fromEntries(Object.entries(ways).map(([key, { name }]) => [key, name])),
    tuned: TUNED_NAME,
  }).toEqual(ORDER);
});

test('the halves are told apart, with medians and the worst image', () => {
  expect(table('held out: added').map(([first]) => first)).toEqual([
    'image (MB)',
    'quick (200)',
    'scattered (200)',
    'less than tuned: median (worst)',
  ]);
  // 10 MB at 1 Gbit/s and three round trips: 95 ms.
  expect(table('held out: added')[1]).toEqual([
    'quick (200)',
    '12.00 (0.7x)',
    '8.00',
    '4.00 (2.0x)',
    '2.00 (4.0x)',
    '0.40 (20.0x)',
    '0.10',
    '4.21x',
  ]);
  expect(table('held out: added').at(-1)).toEqual([
    'less than tuned: median (worst)',
    '0.67x (0.67x)',
    '',
    '2.00x (2.00x)',
    '2.80x (1.60x)',
    '14.0x (8.00x)',
    '',
    '7.37x (10.5x)',
  ]);
  expect(table('not held out: added').map(([first]) => first)).toContain('seen (200)');
});

test('an image that is slower without a pack than unprepared breaks the rule, and only there', () => {
  expect(table('held out: never').map((row) => row.at(-1))).toEqual(['broken', '', 'cofa, no pack', '']);
});

test('goals are judged by the held-out half alone, the median and the worst image', () => {
  const goals = strangerGoals(ALL, LINK);
  expect(goals.map(({ id, measured, met }) => `${id} ${measured} ${met ? 'met' : 'missed'}`)).toEqual([
    'P1 14.0x (8.00x) missed',
    'P1 21.0x (12.0x) met',
    'P3 7.37x (10.5x) missed',
    'P5 2.00x (2.00x) missed',
    'P5 2.48x (2.48x) missed',
    'P8 1.20x (1.20x) met',
    'P9 0.05x (0.05x) met',
  ]);
  expect(strangerGoals(ALL.slice(2), LINK)).toEqual([]);
});

test('a way that was not measured leaves its cells empty', () => {
  const rows = strangerTables([image('part', true, { pack: 400 })], LINK)[0]?.rows;
  expect(rows?.[1]).toEqual(['part (200)', '', '0.10', '']);
});

test('a later run of one way leaves the other ways of that image', () => {
  const results = (...strangers: StrangerStarts[]) => ({
    ...noResults({ kernel: '6.9', cores: 2 }, { rate: '1G', rttMs: 5 }),
    strangers,
  });
  const both = merged(results(...ALL), results(image('quick', true, { pack: 300 })));
  const quick = both.strangers?.find((one) => one.image === 'quick');
  expect(quick?.ways.map(({ name, cold }) => [name, cold[0]?.totalMs])).toEqual([
    [ORDER.containerd, 12_500],
    [ORDER.tuned, 8_500],
    [ORDER.unprepared, 4_500],
    [ORDER.noPack, 2_500],
    [ORDER.pack, 800],
  ]);
  expect(both.strangers).toHaveLength(3);
});
