/** Questions to a front end that may die, be replaced, or be silent. */
import type { NatsConnection } from '@nats-io/nats-core';
import { beforeEach, describe, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import { encode } from '../../src/bus/connection.ts';
import { FrontCaller } from '../../src/supervisor/layers/front-caller.ts';
import { HandClock } from '../support/hand-clock.ts';

let clock: HandClock;
/** One for each question that was put: how it is answered. */
let asked: Array<PromiseWithResolvers<{ data: Uint8Array }>>;
let front: FrontCaller;

beforeEach(() => {
  clock = new HandClock();
  asked = [];
  const request = () => {
    const one = Promise.withResolvers<{ data: Uint8Array }>();
    asked.push(one);
    return one.promise;
  };
  const bus = { request } as unknown as NatsConnection;
  front = new FrontCaller({ bus, names: subjects('n'), ports: { clock } });
});

const settle = () => new Promise((resolve) => setImmediate(resolve));
const answer = (at: number, result: unknown) => asked[at]?.resolve({ data: encode({ ok: true, result }) });
const refuse = (at: number, code: string) =>
  asked[at]?.resolve({ data: encode({ ok: false, error: { code, message: 'no' } }) });
const silent = (at: number) => asked[at]?.reject(new Error('no responders'));

describe('a question that may be put twice', () => {
  test('is put again after a pause where no front end listens', async () => {
    const reply = front.ask('close', { diffId: 'd' });
    silent(0);
    await settle();
    expect(asked).toHaveLength(1);
    clock.turn(200);
    await settle();
    answer(1, null);
    expect(await reply).toBeNull();
  });

  test('is put at once to a front end that takes the place of the one that was asked', async () => {
    const reply = front.ask('close', { diffId: 'd' });
    await settle();
    front.isReady();
    await settle();
    expect(asked).toHaveLength(2);
    // The answer of the one before comes too late to count, and its failure is none.
    silent(0);
    answer(1, null);
    expect(await reply).toBeNull();
  });

  test('ends with the error of a front end that answers', async () => {
    const reply = front.ask('close', { diffId: 'd' });
    refuse(0, 'integrity');
    await expect(reply).rejects.toMatchObject({ code: 'integrity' });
  });

  test('is given up after 30 s without any answer', async () => {
    const reply = front.ask('close', { diffId: 'd' });
    silent(0);
    await settle();
    clock.turn(30_001);
    await settle();
    silent(1);
    await expect(reply).rejects.toMatchObject({ code: 'unavailable' });
  });

  test('is made anew for each try, and dropped when its answer is not wanted any more', async () => {
    let tries = 0;
    const request = () => ({ diffId: `try ${++tries}` });
    const reply = front.askWhile('close', request, () => tries < 2);
    front.isReady();
    await settle();
    front.isReady();
    expect(await reply).toBeUndefined();
    expect(tries).toBe(2);
  });
});

test('a question that is put once fails where no front end answers', async () => {
  const reply = front.once('status', {});
  silent(0);
  await expect(reply).rejects.toBeInstanceOf(CofaError);
  expect(asked).toHaveLength(1);
});
