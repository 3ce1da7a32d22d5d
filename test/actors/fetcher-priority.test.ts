/** How urgent fetcher processes are, by what they run. */
import { expect, test } from 'vitest';
import { FETCHER_PRIORITY, FetcherPriorities, type FetcherLoad } from '../../actors/fetcher-priority.ts';

const { calmMs, starvedMs } = FETCHER_PRIORITY;

function fetcher() {
  const priorities = new FetcherPriorities();
  priorities.began('a', 0);
  const look = (now: number, load: FetcherLoad, lowest: 'idle' | 'low' = 'idle') =>
    priorities.look(now, () => load, lowest).map(({ priority }) => priority);
  return { priorities, look };
}

test('it is lowered when no reader has needed it for a while, and raised at once when one does', () => {
  const { priorities, look } = fetcher();
  expect(look(calmMs - 1, 'rest')).toEqual([]);
  expect(look(calmMs, 'rest')).toEqual(['idle']);
  expect(priorities.needed('a', calmMs + 1)).toBe(true);
  expect(priorities.needed('a', calmMs + 2)).toBe(false);
  expect(look(calmMs + 3, 'rest')).toEqual([]);
  priorities.heard('a', 2 * calmMs);
  expect(look(2 * calmMs + 2, 'rest')).toEqual(['idle']);
});

test('one that has nothing to do is as others, and so is one that holds, or that a reader needs', () => {
  const { priorities, look } = fetcher();
  expect(look(calmMs, 'rest')).toEqual(['idle']);
  expect(look(calmMs + 1, 'none')).toEqual(['normal']);
  priorities.heard('a', 10_000);
  expect(look(10_000, 'rest')).toEqual(['idle']);
  expect(look(10_001, 'reader')).toEqual(['normal']);
  expect(look(11_000, 'rest')).toEqual(['idle']);
  expect(look(11_001, 'held')).toEqual(['normal']);
});

test('one that others starve is raised until it is heard of', () => {
  const { priorities, look } = fetcher();
  expect(look(calmMs, 'rest')).toEqual(['idle']);
  expect(look(starvedMs - 1, 'rest')).toEqual([]);
  expect(look(starvedMs, 'rest')).toEqual(['normal']);
  expect(look(starvedMs + 500, 'rest')).toEqual([]);
  priorities.heard('a', starvedMs + 600);
  expect(look(starvedMs + 601, 'rest')).toEqual(['idle']);
});

test('work that has waited for long goes on at a low priority', () => {
  const { priorities, look } = fetcher();
  expect(look(calmMs, 'rest')).toEqual(['idle']);
  priorities.heard('a', 1_000);
  expect(look(1_000, 'rest', 'low')).toEqual(['low']);
  expect(priorities.needed('a', 1_001)).toBe(true);
});
