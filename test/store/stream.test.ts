/** How many copies a new stream has: JetStream refuses three while servers of a cluster that starts have not found each other. */
import { JetStreamApiError } from '@nats-io/jetstream';
import { expect, test } from 'vitest';
import { replicated } from '../../src/store/stream.ts';

const refusal = (err_code: number) =>
  new JetStreamApiError({ code: err_code === 10_005 ? 503 : 400, err_code, description: 'no' });

/** What was asked for, and how long it took, ms, where JetStream takes three copies from `readyAt` on. */
async function made(cluster: string | undefined, readyAt: number, code = 10_005) {
  let time = 0;
  const asked: number[] = [];
  const bus = { info: cluster === undefined ? {} : { cluster } } as Parameters<typeof replicated>[0];
  const make = async (replicas: number) => {
    asked.push(replicas);
    if (replicas > 1 && time < readyAt) throw refusal(code);
    return replicas;
  };
  const replicas = await replicated(bus, make, async (ms) => void (time += ms));
  return { replicas, asked, time };
}

test('three copies, also where servers of a cluster find each other a moment later', async () => {
  expect(await made('fleet', 0)).toEqual({ replicas: 3, asked: [3], time: 0 });
  const late = await made('fleet', 2_000);
  expect(late.replicas).toBe(3);
  expect(late.time).toBeGreaterThanOrEqual(2_000);
});

test('one copy on a server of its own, at once, and in a cluster that stays smaller', async () => {
  expect(await made(undefined, 0)).toEqual({ replicas: 1, asked: [1], time: 0 });
  const small = await made('fleet', Number.POSITIVE_INFINITY, 10_074);
  expect(small.replicas).toBe(1);
  expect(small.time).toBeGreaterThan(3_000);
  expect(small.time).toBeLessThan(20_000);
});

test('another refusal is told', async () => {
  await expect(made('fleet', 1, 10_047)).rejects.toBeInstanceOf(JetStreamApiError);
});
