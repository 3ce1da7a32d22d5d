import { describe, expect, test } from 'vitest';
import {
  Dispatcher,
  type DispatcherEffect,
  type DispatcherEvent,
  type DispatcherLimits,
} from '../../actors/dispatcher.ts';
import type { JobClass } from '../../schemas/fetch.ts';

type WithoutNow<E> = E extends DispatcherEvent ? Omit<E, 'now'> : never;

/** Feeds a dispatcher and checks all of its rules after each event. */
class Bench {
  readonly dispatcher: Dispatcher;
  now = 0;

  constructor(limits: Partial<DispatcherLimits> = {}) {
    this.dispatcher = new Dispatcher(limits);
  }

  send(event: WithoutNow<DispatcherEvent>): DispatcherEffect[] {
    const effects = this.dispatcher.handle({ ...event, now: this.now } as DispatcherEvent);
    expect(this.dispatcher.audit()).toEqual([]);
    return effects;
  }

  submit(job: number, kind: JobClass = 'demand', layer = 'a'): DispatcherEffect[] {
    return this.send({ type: 'submit', job, class: kind, layer });
  }

  rest(job: number, layer = 'a', size = 1): DispatcherEffect[] {
    return this.send({ type: 'submit', job, class: 'prefetch', layer, rest: size });
  }

  ahead(job: number, layer = 'a'): DispatcherEffect[] {
    return this.send({ type: 'submit', job, class: 'prefetch', layer, ahead: true });
  }

  from(source: string, ...jobs: number[]): DispatcherEffect[] {
    return jobs.flatMap((job) => this.send({ type: 'submit', job, class: 'demand', layer: source, source }));
  }

  hello(fetcher: string, slots: number): DispatcherEffect[] {
    return this.send({ type: 'fetcher.hello', fetcher, slots });
  }

  ended(job: number, fetcher: string, isOk = true): DispatcherEffect[] {
    return this.send({ type: 'job.ended', job, fetcher, ok: isOk });
  }

  wait(ms: number): DispatcherEffect[] {
    this.now += ms;
    return this.send({ type: 'tick' });
  }
}

const send = (job: number, fetcher: string) => ({ type: 'send', job, fetcher });
const stop = (job: number, fetcher: string) => ({ type: 'stop', job, fetcher });
const hold = (job: number, fetcher: string, ms: number) => ({ type: 'hold', job, fetcher, ms });
const goOn = (job: number, fetcher: string) => ({ type: 'go-on', job, fetcher });
const sentJobs = (effects: DispatcherEffect[]) =>
  effects.flatMap((effect) => (effect.type === 'send' ? [effect.job] : []));

describe('order', () => {
  test('demand first come first served, before prefetch that came earlier', () => {
    const pool = new Bench();
    pool.submit(1, 'prefetch');
    pool.submit(2);
    pool.submit(3);
    expect(pool.hello('w', 1)).toEqual([send(2, 'w')]);
    expect(pool.ended(2, 'w')).toEqual([send(3, 'w')]);
    expect(pool.ended(3, 'w')).toEqual([send(1, 'w')]);
  });

  test('prefetch takes turns between layers, however many jobs one of them has', () => {
    const pool = new Bench();
    for (const job of [1, 2, 3, 4]) pool.submit(job, 'prefetch', 'a');
    for (const job of [11, 12]) pool.submit(job, 'prefetch', 'b');
    pool.submit(21, 'prefetch', 'c');
    const order = sentJobs(pool.hello('w', 1));
    for (let job = order[0]; job !== undefined; job = order.at(-1)) {
      const next = sentJobs(pool.ended(job, 'w'));
      if (next.length === 0) break;
      order.push(...next);
    }
    expect(order).toEqual([1, 11, 21, 2, 12, 3, 4]);
  });

  test('a promoted job leaves the prefetch queue for the end of the demand queue', () => {
    const pool = new Bench();
    pool.submit(1, 'prefetch');
    pool.submit(2, 'prefetch');
    pool.submit(3);
    pool.send({ type: 'promote', job: 2 });
    pool.send({ type: 'promote', job: 2 });
    expect(pool.dispatcher.status().queued).toEqual({ demand: 2, prefetch: 1 });
    expect(pool.hello('w', 1)).toEqual([send(3, 'w')]);
    expect(pool.ended(3, 'w')).toEqual([send(2, 'w')]);
  });

  test('the fetcher with the most free slots is asked first', () => {
    const pool = new Bench();
    pool.hello('small', 2);
    pool.hello('big', 4);
    const fetchers = [1, 2, 3, 4, 5, 6]
      .flatMap((job) => pool.submit(job))
      .map((effect) => (effect as { fetcher: string }).fetcher);
    expect(fetchers).toEqual(['big', 'big', 'small', 'big', 'small', 'big']);
    expect(pool.submit(7)).toEqual([]);
  });
});

describe('prefetch leaves slots free', () => {
  test.each([
    [[1], 0.25, 1],
    [[2], 0.25, 1],
    [[4], 0.25, 3],
    [[4, 4], 0.25, 6],
    [[8], 0.5, 4],
    [[1, 1, 1, 1], 0.25, 3],
    [[4, 1], 0.0, 4],
    [[2, 2], 0.0, 2],
  ])('pool of %j slots with a share of %d for demand takes %d', (fetchers, demandShare, expected) => {
    const pool = new Bench({ demandShare });
    for (const [index, slots] of fetchers.entries()) pool.hello(`w${index}`, slots);
    let sent = 0;
    for (let job = 1; job <= 20; job++) sent += pool.submit(job, 'prefetch').length;
    expect(sent).toBe(expected);
    const slots = fetchers.reduce((sum, count) => sum + count, 0);
    for (let job = 101; job <= 100 + slots - expected; job++) expect(pool.submit(job)).toHaveLength(1);
    expect(pool.submit(200)).toEqual([]);
  });

  test('also while demand runs: the last free slot is for the next demand', () => {
    const pool = new Bench();
    pool.hello('w', 4);
    pool.submit(1);
    pool.submit(2);
    expect(pool.submit(3, 'prefetch')).toEqual([send(3, 'w')]);
    expect(pool.submit(4, 'prefetch')).toEqual([]);
    expect(pool.submit(5)).toEqual([send(5, 'w')]);
  });
});

describe('a machine that is busy with others', () => {
  const busy = (pool: Bench, isBusy: boolean) => pool.send({ type: 'busy', isBusy });

  test('no rest is sent, what runs holds as long as that lasts, and readers are served as ever', () => {
    const pool = new Bench({ busyWordMs: 1_000, holdFetchMs: 60_000 });
    pool.hello('w', 4);
    pool.rest(1);
    expect(busy(pool, true)).toEqual([hold(1, 'w', 2_000)]);
    expect(pool.rest(2)).toEqual([]);
    expect(pool.submit(3)).toEqual([send(3, 'w')]);
    expect(pool.dispatcher.loadOf('w')).toBe('reader');
    expect(pool.ended(3, 'w')).toEqual([]);
    expect(pool.dispatcher.loadOf('w')).toBe('held');
    expect(pool.wait(999)).toEqual([]);
    pool.hello('w', 4);
    expect(pool.wait(1)).toEqual([hold(1, 'w', 2_000)]);
    expect(busy(pool, false)).toEqual([goOn(1, 'w'), send(2, 'w')]);
    expect(pool.dispatcher.loadOf('w')).toBe('rest');
  });

  test('a job that holds is not taken for silent, and one that a reader needs goes on', () => {
    const pool = new Bench({ busyWordMs: 1_000, holdFetchMs: 600_000, jobSilenceMs: 5_000 });
    pool.hello('w', 4);
    pool.rest(1);
    pool.rest(2);
    busy(pool, true);
    for (let at = 0; at < 20; at++) {
      pool.hello('w', 4);
      expect(pool.wait(1_000)).toEqual([hold(1, 'w', 2_000), hold(2, 'w', 2_000)]);
    }
    expect(pool.send({ type: 'promote', job: 1 })).toEqual([goOn(1, 'w')]);
    expect(pool.ended(1, 'w')).toEqual([]);
    expect(busy(pool, false)).toEqual([goOn(2, 'w')]);
  });

  test('a job with a connection to a registry goes on after a while, one without does not', () => {
    const pool = new Bench({ busyWordMs: 1_000, holdFetchMs: 2_000 });
    pool.hello('w', 4);
    pool.send({ type: 'submit', job: 1, class: 'prefetch', layer: 'a', source: 'registry', rest: 1 });
    pool.rest(2);
    busy(pool, true);
    pool.wait(1_000);
    pool.hello('w', 4);
    expect(pool.wait(1_000)).toEqual([goOn(1, 'w'), hold(2, 'w', 2_000)]);
    pool.hello('w', 4);
    expect(pool.wait(1_000)).toEqual([hold(2, 'w', 2_000)]);
  });

  test('the rest that holds keeps no slot from readers, nor from what a start is likely to read', () => {
    const pool = new Bench({ holdFetchMs: 60_000 });
    pool.hello('w', 4);
    for (const job of [1, 2, 3]) pool.rest(job);
    busy(pool, true);
    expect(pool.submit(4, 'prefetch', 'start')).toEqual([send(4, 'w')]);
    expect(pool.ahead(5, 'model')).toEqual([send(5, 'w')]);
    for (const job of [6, 7]) expect(pool.submit(job)).toEqual([send(job, 'w')]);
    // Its own slots are taken now, those of the rest not counted.
    expect(pool.submit(8)).toEqual([]);
    expect(pool.ended(6, 'w')).toEqual([send(8, 'w')]);
  });

  test('what a reader waits for still comes to the fetcher that has least to do', () => {
    const pool = new Bench();
    pool.hello('w', 4);
    for (const job of [1, 2]) pool.rest(job);
    pool.hello('v', 4);
    expect(sentJobs([3, 4, 5].flatMap((job) => pool.submit(job)))).toEqual([3, 4, 5]);
    expect(pool.dispatcher.status().fetchers.map(({ running }) => running)).toEqual([3, 2]);
  });

  test('a fetcher gets no more than twice its slots, and one for the next demand stays free', () => {
    const pool = new Bench();
    pool.hello('w', 4);
    for (const job of [1, 2, 3]) pool.rest(job);
    busy(pool, true);
    const soon = [11, 12, 13, 14].flatMap((job) => pool.submit(job, 'prefetch', 'start'));
    expect(sentJobs(soon)).toEqual([11, 12, 13]);
    expect(sentJobs([21, 22].flatMap((job) => pool.submit(job)))).toEqual([21]);
    // Of the rest nothing begins before there is a slot of its own for it.
    busy(pool, false);
    expect(pool.rest(4)).toEqual([]);
  });

  test('a hold for a reader becomes one for others', () => {
    const pool = new Bench();
    pool.hello('w', 4);
    pool.rest(1);
    expect(pool.submit(2)).toEqual([send(2, 'w'), hold(1, 'w', 50)]);
    expect(busy(pool, true)).toEqual([hold(1, 'w', 2_000)]);
    expect(pool.wait(60)).toEqual([]);
    expect(pool.ended(2, 'w')).toEqual([]);
    expect(busy(pool, false)).toEqual([goOn(1, 'w')]);
  });
});

describe('the rest of the images', () => {
  test('takes free slots where no reader waits, the smallest layer first, layers of one size in turns', () => {
    const pool = new Bench();
    for (const job of [1, 2]) pool.rest(job, 'big', 100);
    for (const job of [11, 12]) pool.rest(job, 'a', 10);
    for (const job of [21, 22]) pool.rest(job, 'b', 10);
    expect(sentJobs(pool.hello('w', 8))).toEqual([11, 21, 12, 22, 1, 2]);
  });

  test('comes after what readers are likely to want next', () => {
    const pool = new Bench();
    pool.rest(1);
    pool.submit(2, 'prefetch', 'b');
    expect(pool.hello('w', 1)).toEqual([send(2, 'w')]);
    expect(pool.ended(2, 'w')).toEqual([send(1, 'w')]);
  });

  test('one job at a time while demand is around, and for a while after it', () => {
    const pool = new Bench({ demandAroundMs: 100, holdMs: 0 });
    pool.hello('w', 8);
    pool.submit(1);
    expect(pool.rest(2)).toEqual([send(2, 'w')]);
    expect(pool.rest(3)).toEqual([]);
    // What readers are likely to want next is not the rest.
    expect(pool.submit(4, 'prefetch')).toEqual([send(4, 'w')]);
    expect(pool.ended(2, 'w')).toEqual([send(3, 'w')]);
    expect(pool.rest(5)).toEqual([]);
    expect(pool.ended(1, 'w')).toEqual([]);
    expect(pool.dispatcher.nextWake - pool.now).toBe(100);
    expect(pool.wait(99)).toEqual([]);
    expect(pool.wait(1)).toEqual([send(5, 'w')]);
  });

  test('what becomes demand under way is demand: it keeps the others back, and makes room for one', () => {
    const pool = new Bench({ demandAroundMs: 100, holdMs: 0 });
    pool.hello('w', 8);
    for (const job of [1, 2]) expect(pool.rest(job)).toHaveLength(1);
    pool.send({ type: 'promote', job: 1 });
    expect(pool.rest(3)).toEqual([]);
    expect(pool.ended(2, 'w')).toEqual([send(3, 'w')]);
    expect(pool.rest(4)).toEqual([]);
    // A fetcher that dies frees what it had.
    pool.send({ type: 'fetcher.lost', fetcher: 'w' });
    expect(sentJobs(pool.hello('v', 8))).toEqual([1, 4]);
  });

  test('pauses while a reader waits, and resumes when none does', () => {
    const pool = new Bench({ holdMs: 50, breathMs: 10 });
    for (const fetcher of ['a', 'b']) pool.hello(fetcher, 4);
    pool.rest(1);
    pool.rest(2);
    expect(pool.submit(3)).toEqual([send(3, 'a'), hold(1, 'a', 50), hold(2, 'b', 50)]);
    // Nothing more of it begins meanwhile, also where the link would have been free for one job.
    expect(pool.ended(1, 'a')).toEqual([]);
    expect(pool.ended(2, 'b')).toEqual([]);
    expect(pool.rest(4)).toEqual([]);
    expect(pool.ended(3, 'a')).toEqual([send(4, 'a')]);
  });

  test('readers who come one after the other slow it down and do not stop it', () => {
    const pool = new Bench({ holdMs: 50, breathMs: 10 });
    pool.hello('w', 8);
    pool.rest(1);
    expect(pool.submit(2)).toEqual([send(2, 'w'), hold(1, 'w', 50)]);
    pool.wait(20);
    expect(pool.ended(2, 'w')).toEqual([goOn(1, 'w')]);
    expect(pool.submit(3)).toEqual([send(3, 'w')]);
    expect(pool.dispatcher.nextWake - pool.now).toBe(10);
    expect(pool.wait(10)).toEqual([hold(1, 'w', 50)]);
  });

  test('is not held by demand that takes long: that does not need the whole link', () => {
    const pool = new Bench({ holdMs: 50, breathMs: 10 });
    pool.hello('w', 8);
    pool.rest(1);
    pool.submit(2);
    expect(pool.dispatcher.nextWake - pool.now).toBe(50);
    expect(pool.wait(49)).toEqual([]);
    expect(pool.wait(1)).toEqual([goOn(1, 'w')]);
    expect(pool.wait(1_000)).toEqual([]);
    expect(pool.submit(3)).toEqual([send(3, 'w'), hold(1, 'w', 50)]);
  });

  test('a paused job resumes at once when a reader comes to wait for it', () => {
    const pool = new Bench({ holdMs: 50, breathMs: 10 });
    pool.hello('w', 8);
    pool.rest(1);
    pool.rest(2);
    expect(pool.submit(3)).toEqual([send(3, 'w'), hold(1, 'w', 50), hold(2, 'w', 50)]);
    expect(pool.send({ type: 'promote', job: 1 })).toEqual([goOn(1, 'w')]);
    pool.ended(3, 'w');
    expect(pool.ended(1, 'w')).toEqual([goOn(2, 'w')]);
  });

  test('the time for which it was held is no silence', () => {
    const pool = new Bench({ holdMs: 50, breathMs: 10, jobSilenceMs: 100, fetcherSilenceMs: 1_000 });
    pool.hello('w', 8);
    pool.rest(1);
    pool.wait(50);
    pool.submit(2);
    pool.wait(40);
    expect(pool.ended(2, 'w')).toEqual([goOn(1, 'w')]);
    expect(pool.wait(49)).toEqual([]);
    expect(pool.wait(1)).toEqual([stop(1, 'w'), send(1, 'w')]);
  });
});

describe('what lies ahead of a reader in order', () => {
  test('pauses while a reader of another layer waits, and none of it begins meanwhile', () => {
    const pool = new Bench({ holdMs: 50, breathMs: 10 });
    pool.hello('w', 8);
    for (const job of [1, 2]) expect(pool.ahead(job, 'model')).toEqual([send(job, 'w')]);
    expect(pool.submit(3, 'demand', 'start')).toEqual([send(3, 'w'), hold(1, 'w', 50), hold(2, 'w', 50)]);
    expect(pool.ahead(4, 'model')).toEqual([]);
    // What a start is likely to read next has nothing to wait for.
    expect(pool.submit(5, 'prefetch', 'start')).toEqual([send(5, 'w')]);
    expect(pool.ended(3, 'w')).toEqual([goOn(1, 'w'), goOn(2, 'w'), send(4, 'w')]);
  });

  test('does not pause for that reader himself, nor for another one in order', () => {
    const pool = new Bench({ holdMs: 50, breathMs: 10 });
    pool.hello('w', 8);
    for (const job of [1, 2]) pool.ahead(job, 'model');
    for (const job of [3, 4]) pool.ahead(job, 'other');
    expect(pool.send({ type: 'promote', job: 1 })).toEqual([]);
    expect(pool.send({ type: 'promote', job: 3 })).toEqual([]);
    expect(pool.submit(5, 'demand', 'model')).toEqual([send(5, 'w'), hold(4, 'w', 50)]);
  });

  test('a machine that is busy with others holds the rest and not what a reader is about to read', () => {
    const pool = new Bench({ holdMs: 50, breathMs: 10 });
    pool.hello('w', 8);
    pool.ahead(1, 'model');
    expect(pool.submit(2, 'demand', 'start')).toEqual([send(2, 'w'), hold(1, 'w', 50)]);
    expect(pool.send({ type: 'busy', isBusy: true })).toEqual([goOn(1, 'w')]);
  });

  test('comes behind what a start is likely to read, before the rest of the images', () => {
    const pool = new Bench();
    pool.rest(1);
    pool.ahead(2);
    pool.submit(3, 'prefetch');
    expect(sentJobs(pool.hello('w', 4))).toEqual([3, 2, 1]);
  });
});

describe('bounds', () => {
  test('a full queue rejects, each class by its own limit, and takes again when one has ended', () => {
    const pool = new Bench({ maxDemand: 2, maxPrefetch: 1 });
    pool.submit(1);
    pool.submit(2);
    expect(pool.submit(3)).toEqual([{ type: 'rejected', job: 3, reason: 'full' }]);
    pool.submit(4, 'prefetch');
    expect(pool.submit(5, 'prefetch')).toEqual([{ type: 'rejected', job: 5, reason: 'full' }]);
    pool.send({ type: 'cancel', job: 1 });
    expect(pool.submit(6)).toEqual([]);
    expect(pool.hello('w', 9)).toEqual([send(2, 'w'), send(6, 'w'), send(4, 'w')]);
  });

  test('promotion does not get round the limits', () => {
    const pool = new Bench({ maxDemand: 1, maxPrefetch: 2 });
    for (const job of [1, 2, 3]) {
      pool.submit(job, 'prefetch');
      pool.send({ type: 'promote', job });
    }
    expect(pool.submit(4, 'prefetch')).toEqual([{ type: 'rejected', job: 4, reason: 'full' }]);
    expect(pool.submit(5)).toEqual([{ type: 'rejected', job: 5, reason: 'full' }]);
  });

  test('a job that is submitted twice is taken once', () => {
    const pool = new Bench();
    pool.submit(1);
    pool.submit(1, 'prefetch');
    expect(pool.hello('w', 9)).toEqual([send(1, 'w')]);
  });

  test('fetchers beyond the limit are not known', () => {
    const pool = new Bench({ maxFetchers: 1 });
    pool.hello('a', 1);
    pool.hello('b', 9);
    expect(pool.dispatcher.status().fetchers).toEqual([{ fetcher: 'a', slots: 1, running: 0 }]);
  });

  test('slots that make no sense are none', () => {
    const pool = new Bench();
    pool.submit(1);
    for (const slots of [-1, Number.NaN, 0.5, Number.POSITIVE_INFINITY])
      expect(pool.hello('w', slots)).toEqual([]);
  });
});

describe('without fetchers', () => {
  test('jobs wait for one, demand not for ever', () => {
    const pool = new Bench({ demandWaitMs: 1000 });
    pool.submit(1, 'prefetch');
    pool.submit(2);
    expect(pool.wait(999)).toEqual([]);
    expect(pool.wait(1)).toEqual([{ type: 'failed', job: 2, reason: 'waited' }]);
    pool.wait(1_000_000);
    expect(pool.hello('w', 1)).toEqual([send(1, 'w')]);
  });

  test('a promoted job waits as long as demand does', () => {
    const pool = new Bench({ demandWaitMs: 1000 });
    pool.submit(1, 'prefetch');
    pool.wait(5000);
    pool.send({ type: 'promote', job: 1 });
    expect(pool.wait(999)).toEqual([]);
    expect(pool.wait(1)).toEqual([{ type: 'failed', job: 1, reason: 'waited' }]);
  });
});

describe('a fetcher', () => {
  test('that falls silent is lost; its jobs go to another, before those that waited', () => {
    const pool = new Bench({ fetcherSilenceMs: 100 });
    pool.hello('a', 2);
    pool.submit(1);
    pool.submit(2);
    pool.submit(3);
    expect(pool.wait(99)).toEqual([]);
    expect(pool.wait(1)).toEqual([]);
    expect(pool.dispatcher.status()).toEqual({ jobs: 3, fetchers: [], queued: { demand: 3, prefetch: 0 } });
    expect(pool.hello('b', 3)).toEqual([send(1, 'b'), send(2, 'b'), send(3, 'b')]);
  });

  test('is heard by its heartbeat and by what it says of its jobs', () => {
    const pool = new Bench({ fetcherSilenceMs: 100 });
    pool.hello('w', 2);
    pool.submit(1);
    for (let beat = 0; beat < 5; beat++) {
      pool.wait(90);
      if (beat % 2 === 0) pool.hello('w', 2);
      else pool.send({ type: 'job.progress', job: 1, fetcher: 'w' });
    }
    expect(pool.dispatcher.status().fetchers).toHaveLength(1);
  });

  test('that dies over the same job again and again is not given it for ever', () => {
    const pool = new Bench({ attempts: 2 });
    pool.submit(1);
    expect(pool.hello('a', 1)).toEqual([send(1, 'a')]);
    pool.send({ type: 'fetcher.lost', fetcher: 'a' });
    expect(pool.hello('b', 1)).toEqual([send(1, 'b')]);
    expect(pool.send({ type: 'fetcher.lost', fetcher: 'b' })).toEqual([
      { type: 'failed', job: 1, reason: 'lost' },
    ]);
  });

  test('that never answers about a job loses it to another, and is told to stop', () => {
    const pool = new Bench({ jobSilenceMs: 100 });
    pool.hello('a', 3);
    pool.submit(1);
    pool.hello('b', 1);
    pool.wait(60);
    pool.send({ type: 'job.progress', job: 1, fetcher: 'a' });
    expect(pool.wait(99)).toEqual([]);
    expect(pool.wait(1)).toEqual([stop(1, 'a'), send(1, 'b')]);
    expect(pool.dispatcher.isRunning(1, 'a')).toBe(false);
    expect(pool.dispatcher.isRunning(1, 'b')).toBe(true);
  });

  test('that never answers gets the job once more when there is no other', () => {
    const pool = new Bench({ jobSilenceMs: 100, attempts: 2 });
    pool.hello('a', 1);
    pool.submit(1);
    expect(pool.wait(100)).toEqual([stop(1, 'a'), send(1, 'a')]);
    expect(pool.wait(100)).toEqual([stop(1, 'a'), { type: 'failed', job: 1, reason: 'lost' }]);
  });

  test('may be silent longer over a job that is known to take long', () => {
    const pool = new Bench({ jobSilenceMs: 100, fetcherSilenceMs: 10_000 });
    pool.hello('a', 1);
    pool.send({ type: 'submit', job: 1, class: 'demand', layer: 'a', silenceMs: 5000 });
    expect(pool.wait(4999)).toEqual([]);
    expect(pool.wait(1)).toEqual([stop(1, 'a'), send(1, 'a')]);
  });

  test('that is done with a job that another has now ends it; that it failed says nothing', () => {
    const pool = new Bench({ jobSilenceMs: 100 });
    pool.hello('a', 1);
    pool.submit(1);
    pool.hello('b', 1);
    pool.wait(100);
    expect(pool.ended(1, 'a', false)).toEqual([]);
    expect(pool.dispatcher.isRunning(1, 'b')).toBe(true);
    expect(pool.ended(1, 'a', true)).toEqual([stop(1, 'b')]);
    pool.submit(2);
    pool.submit(3);
    expect(pool.dispatcher.status().queued.demand).toBe(1);
    expect(pool.ended(1, 'b', false)).toEqual([send(3, 'b')]);
  });

  test('that is lost and was done all the same ends its job, queued or sent again', () => {
    const pool = new Bench();
    pool.hello('a', 1);
    pool.submit(1);
    pool.send({ type: 'fetcher.lost', fetcher: 'a' });
    pool.ended(1, 'a', true);
    expect(pool.hello('b', 1)).toEqual([]);
  });

  test('that leaves ends what it has and gets nothing more', () => {
    const pool = new Bench();
    pool.hello('a', 2);
    pool.submit(1);
    pool.hello('a', 0);
    expect(pool.submit(2)).toEqual([]);
    expect(pool.dispatcher.isRunning(1, 'a')).toBe(true);
    expect(pool.ended(1, 'a')).toEqual([]);
    expect(pool.hello('b', 1)).toEqual([send(2, 'b')]);
  });

  test('that leaves does not keep prefetch from the others', () => {
    const pool = new Bench();
    pool.hello('a', 4);
    for (const job of [1, 2, 3, 4]) pool.submit(job);
    pool.hello('a', 0);
    pool.hello('b', 4);
    expect(pool.submit(5, 'prefetch')).toEqual([send(5, 'b')]);
  });
});

describe('cancel', () => {
  test('takes a job from the queue, or stops it and keeps its slot until the fetcher answers', () => {
    const pool = new Bench();
    pool.hello('w', 1);
    pool.submit(1);
    pool.submit(2);
    pool.submit(3);
    pool.send({ type: 'cancel', job: 2 });
    expect(pool.send({ type: 'cancel', job: 1 })).toEqual([stop(1, 'w')]);
    expect(pool.send({ type: 'cancel', job: 1 })).toEqual([]);
    expect(pool.ended(1, 'w', false)).toEqual([send(3, 'w')]);
  });

  test('frees the slot after a while when the fetcher does not answer', () => {
    const pool = new Bench({ jobSilenceMs: 100 });
    pool.hello('w', 1);
    pool.submit(1);
    pool.wait(50);
    pool.send({ type: 'cancel', job: 1 });
    pool.submit(2);
    expect(pool.wait(99)).toEqual([]);
    expect(pool.wait(1)).toEqual([send(2, 'w')]);
  });
});

test('the next tick is due when the first silence or wait ends', () => {
  const pool = new Bench({ fetcherSilenceMs: 100, jobSilenceMs: 30, demandWaitMs: 70 });
  expect(pool.dispatcher.nextWake).toBe(Number.POSITIVE_INFINITY);
  pool.hello('w', 1);
  expect(pool.dispatcher.nextWake).toBe(100);
  pool.submit(1);
  expect(pool.dispatcher.nextWake).toBe(30);
  pool.now = 10;
  pool.submit(2);
  pool.ended(1, 'w');
  expect(pool.dispatcher.nextWake).toBe(40);
});

describe('several registries', () => {
  test('take turns, each first come first served', () => {
    const pool = new Bench();
    pool.from('a', 1, 2, 3);
    pool.from('b', 4);
    pool.from('c', 5);
    expect(sentJobs(pool.hello('w', 3))).toEqual([1, 4, 5]);
    expect(sentJobs(pool.ended(4, 'w'))).toEqual([2]);
    expect(sentJobs(pool.ended(5, 'w'))).toEqual([3]);
  });

  test('one that has all slots does not keep another from a share, beyond the slots', () => {
    const pool = new Bench();
    pool.hello('w', 4);
    pool.from('a', 1, 2, 3, 4, 5, 6);
    expect(sentJobs(pool.from('b', 11, 12))).toEqual([11]);
    expect(sentJobs(pool.from('c', 21))).toEqual([21]);
    expect(pool.wait(1_000)).toEqual([]);
    // Back within the slots before anything else is sent.
    expect([...pool.ended(1, 'w'), ...pool.ended(2, 'w')]).toEqual([]);
    expect(sentJobs(pool.ended(11, 'w'))).toEqual([5, 12]);
  });

  test('one that fails gets half of the slots until a job of it succeeds; the others are not held up', () => {
    const pool = new Bench();
    pool.hello('w', 4);
    pool.from('dead', 1, 2, 3, 4, 5, 6, 7, 8);
    // It has four slots, then three, then its half.
    expect(pool.ended(1, 'w', false)).toEqual([]);
    expect(pool.ended(2, 'w', false)).toEqual([]);
    expect(sentJobs(pool.from('alive', 11, 12, 13))).toEqual([11, 12]);
    expect(sentJobs(pool.ended(3, 'w', false))).toEqual([5]);
    expect(sentJobs(pool.ended(11, 'w'))).toEqual([13]);
    expect(sentJobs(pool.ended(4, 'w'))).toEqual([6]);
    expect(sentJobs(pool.ended(12, 'w'))).toEqual([7]);
    expect(sentJobs(pool.ended(13, 'w'))).toEqual([8]);
  });

  test('does not fail by the word of a fetcher that was given up', () => {
    const pool = new Bench();
    pool.hello('old', 4);
    pool.from('a', 1, 2);
    pool.hello('new', 4);
    expect(sentJobs(pool.send({ type: 'fetcher.lost', fetcher: 'old' }))).toEqual([1, 2]);
    expect(pool.ended(1, 'old', false)).toEqual([]);
    // One that fails would get half of the slots.
    expect(sentJobs(pool.from('a', 3, 4))).toEqual([3, 4]);
  });

  test('a failing one with nothing beside it still has a slot of a single one, and holds back prefetch', () => {
    const pool = new Bench();
    pool.hello('w', 1);
    pool.from('dead', 1, 2);
    pool.submit(3, 'prefetch');
    expect(sentJobs(pool.ended(1, 'w', false))).toEqual([2]);
    expect(sentJobs(pool.ended(2, 'w', false))).toEqual([3]);
  });
});
