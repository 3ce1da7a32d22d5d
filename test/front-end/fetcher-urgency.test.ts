/** The front end lowers fetchers at work that no reader waits for, and raises them before a reader's job reaches them. */
import { expect, test } from 'vitest';
import { Dispatcher, type DispatcherEvent } from '../../actors/dispatcher.ts';
import { FetcherUrgency } from '../../src/front-end/fetcher-urgency.ts';

type WithoutNow<E> = E extends DispatcherEvent ? Omit<E, 'now'> : never;

/** Two fetchers, and a machine whose tasks wait for this share of the time. */
function pool(share: number | 'unsaid' = 0) {
  const set: string[] = [];
  const machine: { share: number | 'unsaid' } = { share };
  let now = 0;
  let cpuMs = 0;
  const dispatcher = new Dispatcher();
  const urgency = new FetcherUrgency(
    {
      pressure: () => (machine.share === 'unsaid' ? undefined : { cpuMs, ioMs: 0 }),
      setPriority: (pid, priority) => void set.push(`${pid} ${priority}`),
    },
    dispatcher,
  );
  const handle = (event: WithoutNow<DispatcherEvent>) => {
    const effects = dispatcher.handle({ ...event, now } as DispatcherEvent);
    urgency.raise(now);
    return effects;
  };
  const hello = () => {
    for (const [at, fetcher] of ['a', 'b'].entries()) {
      handle({ type: 'fetcher.hello', fetcher, slots: 2 });
      urgency.heard(fetcher, at + 1, now);
    }
  };
  const tick = (ms = 250) => {
    now += ms;
    cpuMs += machine.share === 'unsaid' ? 0 : ms * machine.share;
    hello();
    handle({ type: 'busy', isBusy: urgency.look(now) });
    return set.splice(0);
  };
  hello();
  // An earlier front end may have left them low.
  expect(set.splice(0)).toEqual(['1 normal', '2 normal']);
  const rest = (job: number) => handle({ type: 'submit', job, class: 'prefetch', layer: 'l', rest: 1 });
  const read = (job: number) => handle({ type: 'submit', job, class: 'demand', layer: 'l' });
  return { urgency, machine, handle, tick, rest, read, told: () => set.splice(0) };
}

test('a fetcher is lowered for the rest alone, and all are raised before a reader is served', () => {
  const { rest, read, tick, told, handle, urgency } = pool();
  rest(1);
  expect(tick(300)).toEqual(['1 idle']);
  rest(2);
  expect(tick()).toEqual(['2 idle']);
  read(3);
  expect(told()).toEqual(['1 normal', '2 normal']);
  expect(tick()).toEqual([]);
  handle({ type: 'job.ended', job: 3, fetcher: 'a', ok: true });
  expect(tick(400)).toEqual(['1 idle', '2 idle']);
  urgency.close();
  expect(told()).toEqual(['1 normal', '2 normal']);
});

test('a read that waits for a job of the rest raises its fetcher', () => {
  const { rest, tick, told, handle } = pool();
  rest(1);
  expect(tick(300)).toEqual(['1 idle']);
  handle({ type: 'promote', job: 1 });
  expect(told()).toEqual(['1 normal']);
});

test('what a start is likely to read, one stream of all of it too, keeps all fetchers up between its reads', () => {
  const { rest, read, tick, told, handle, machine } = pool();
  const soon = (job: number) => handle({ type: 'submit', job, class: 'prefetch', layer: 'start' });
  rest(1);
  rest(2);
  expect(tick(300)).toEqual(['1 idle', '2 idle']);
  // The program computes for long between two reads, and others take the processors.
  machine.share = 0.9;
  read(3);
  handle({ type: 'job.ended', job: 3, fetcher: 'a', ok: true });
  expect(told()).toEqual(['1 normal', '2 normal']);
  for (let job = 10; job < 30; job++) {
    expect(soon(job).flatMap((effect) => (effect.type === 'send' ? [effect.job] : []))).toEqual([job]);
    expect(tick(500)).toEqual([]);
    for (const fetcher of ['a', 'b']) handle({ type: 'job.ended', job, fetcher, ok: true });
  }
  // Behind the stream the rest is as before: it holds, and comes at idle priority when others leave something.
  machine.share = 0;
  expect([...tick(), ...tick(), ...tick(), ...tick()]).toEqual(['1 idle', '2 idle']);
});

test('while the machine is busy with others the rest holds, and its fetchers keep nothing locked', () => {
  const { rest, tick, machine } = pool();
  rest(1);
  expect(tick(300)).toEqual(['1 idle']);
  machine.share = 0.9;
  expect([...tick(), ...tick(), ...tick()]).toEqual(['1 normal']);
});

test('on a machine that does not say how busy it is, the rest goes on slowly and never holds', () => {
  const { rest, tick } = pool('unsaid');
  rest(1);
  expect(tick(300)).toEqual(['1 low']);
  for (let n = 0; n < 40; n++) expect(tick()).toEqual([]);
});
