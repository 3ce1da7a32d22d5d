import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import type { ErrorCode } from '../../schemas/errors.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { FetchConditions } from '../../src/front-end/fetch-conditions.ts';

const error = (code: ErrorCode, message: string = code) => ({ code, message });
const fresh = () => {
  const conditions = new Conditions(pino({ level: 'silent' }));
  return { conditions, found: new FetchConditions(conditions, '/root') };
};

describe('what is wrong at the moment', () => {
  test('has one sentence a key, is listed oldest first, and ends', () => {
    const { conditions } = fresh();
    conditions.set('a', 'first');
    conditions.set('b', 'second');
    conditions.set('a', 'first, changed');
    expect(conditions.list()).toEqual(['first, changed', 'second']);
    conditions.clear('a');
    conditions.clear('never');
    expect(conditions.list()).toEqual(['second']);
  });

  test('is bounded, and what is there can still change and end', () => {
    const { conditions } = fresh();
    for (let i = 0; i < 1_000; i++) conditions.set(`key ${i}`, `sentence ${i}`);
    expect(conditions.list()).toHaveLength(100);
    conditions.set('key 0', 'other');
    expect(conditions.list()[0]).toBe('other');
    conditions.clear('key 0');
    expect(conditions.list()).toHaveLength(99);
  });
});

describe('what fetches find out', () => {
  test('about a registry lasts until one has gone well for a second, or nothing was seen of it for a minute', () => {
    const { conditions, found } = fresh();
    found.ended('a:1', error('unavailable', 'a:1 refuses connections'), 0);
    found.ended('b:1', error('unauthorized', 'denied'), 0);
    expect(conditions.list()).toEqual([
      'absent blocks of a:1 cannot be fetched: a:1 refuses connections',
      'absent blocks of b:1 cannot be fetched: denied',
    ]);
    found.ended('a:1', undefined, 10);
    found.tick(1_000);
    expect(conditions.list()).toHaveLength(2);
    found.tick(1_001);
    expect(conditions.list()).toHaveLength(1);
    found.tick(60_000);
    expect(conditions.list()).toHaveLength(1);
    found.tick(60_001);
    expect(conditions.list()).toEqual([]);
  });

  test('that reads are late says less than why, and gives way to it', () => {
    const { conditions, found } = fresh();
    found.readFailed('a:1', error('timeout', 'too late'), 0);
    expect(conditions.list()).toEqual(['absent blocks of a:1 cannot be fetched: too late']);
    found.ended('a:1', error('unavailable', 'it answers 500'), 1);
    found.readFailed('a:1', error('timeout', 'too late'), 2);
    expect(conditions.list()).toEqual(['absent blocks of a:1 cannot be fetched: it answers 500']);
  });

  test('a full disk is not blamed on the registry', () => {
    const { conditions, found } = fresh();
    found.ended('a:1', error('no-space'), 0);
    found.readFailed('a:1', error('timeout', 'too late'), 1);
    expect(conditions.list()).toEqual(['the disk of /root is full: absent blocks cannot be stored']);
    // One that fails again in between counts from then on.
    found.ended('a:1', undefined, 500);
    found.ended('a:1', error('no-space'), 900);
    found.tick(60_900);
    expect(conditions.list()).toHaveLength(1);
    found.ended('a:1', undefined, 60_900);
    expect(conditions.list()).toEqual([]);
  });
});
