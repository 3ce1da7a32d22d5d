/** What processes count, added up for a client: only growing, whatever ends in between, and bounded. */
import { expect, test } from 'vitest';
import { Carried, Counts, Recent } from '../../actors/counts.ts';
import { METRICS, type Sample } from '../../schemas/metrics.ts';

const valueOf = (samples: readonly Sample[], name: string, ...labels: string[]): number | undefined =>
  samples.find(([one, own]) => one === name && own.join() === labels.join())?.[2][0];

test('an observation falls into the first bucket that holds it; the sum comes last', () => {
  const counts = new Counts();
  for (const seconds of [0.005, 0.0051, 1_000, Number.NaN])
    counts.observe('registry_request_seconds', seconds);
  const [[, labels, values]] = counts.samples() as [Sample];
  const buckets = METRICS.registry_request_seconds.buckets ?? [];
  expect(labels).toEqual([]);
  expect(values).toHaveLength(buckets.length + 2);
  expect(values[buckets.indexOf(0.005)]).toBe(1);
  expect(values[buckets.indexOf(0.01)]).toBe(1);
  expect(values[buckets.length]).toBe(1);
  expect(values.at(-1)).toBeCloseTo(1_000.0101);
});

test('a registry that invents statuses makes no more than so many series', () => {
  const counts = new Counts();
  for (let code = 0; code < 5_000; code++) counts.add('registry_requests_total', 1, String(code));
  const samples = counts.samples();
  expect(samples.length).toBeLessThanOrEqual(61);
  expect(valueOf(samples, 'registry_requests_total', 'other')).toBe(5_000 - 60);
});

test('a counter does not fall when its process starts again, a gauge is the present one’s', () => {
  const carried = new Carried();
  carried.heard('front-end', 1, [
    ['reads_total', ['hit'], [100]],
    ['waiting_reads', [], [7]],
  ]);
  carried.heard('front-end', 1, [
    ['reads_total', ['hit'], [150]],
    ['waiting_reads', [], [7]],
  ]);
  carried.heard('front-end', 2, [
    ['reads_total', ['hit'], [3]],
    ['waiting_reads', [], [0]],
  ]);
  expect(valueOf(carried.samples(), 'reads_total', 'hit')).toBe(153);
  expect(valueOf(carried.samples(), 'waiting_reads')).toBe(0);
});

test('what a process of another version says is passed over where it does not fit', () => {
  const carried = new Carried();
  carried.heard('fetcher-0', 1, [
    ['no_such_family', [], [1]],
    ['registry_requests_total', [], [1]],
    ['registry_requests_total', ['200', 'more'], [1]],
    ['registry_request_seconds', [], [1, 2, 3]],
    ['registry_requests_total', ['200'], [4]],
  ]);
  expect(carried.samples()).toEqual([['registry_requests_total', ['200'], [4]]]);
});

test('what happened more than five minutes ago is not recent', () => {
  const recent = new Recent();
  recent.add(2, 1_000);
  recent.add(3, 200_000);
  recent.add(-1, 200_000);
  expect(recent.sum(250_000)).toBe(5);
  expect(recent.sum(320_000)).toBe(3);
  expect(recent.sum(900_000)).toBe(0);
});
