/** What a start says of its stages. */
import { pino } from 'pino';
import { beforeEach, expect, test } from 'vitest';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { Stages } from '../../src/supervisor/stages.ts';
import { HandClock } from '../support/hand-clock.ts';

let clock: HandClock;
let end: { hasBegun: boolean };
let lines: Array<Record<string, unknown>>;
let stages: Stages;

beforeEach(() => {
  clock = new HandClock();
  clock.turn(40);
  end = { hasBegun: false };
  lines = [];
  const log = pino({ level: 'error' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  stages = new Stages({ log, end, ports: { clock } });
});

test('each stage has its duration, and the process has the time before the first one', async () => {
  const made = await stages.run('nats', async () => {
    clock.turn(120.4);
    return 'users';
  });
  await stages.run('log', async () => clock.turn(7));
  expect(made).toBe('users');
  expect(stages.ms).toEqual({ process: 40, nats: 120, log: 7 });
});

test('an error that is made for the user stays as it is; the log names the stage', async () => {
  const error = new CofaError('environment', 'nats-server is not installed', { hint: 'apt-get install it' });
  await expect(stages.run('nats', () => Promise.reject(error))).rejects.toBe(error);
  expect(lines).toMatchObject([{ stage: 'nats', msg: 'the start failed' }]);
});

test('any other error names the stage, and keeps its kind', async () => {
  const full = Object.assign(new Error('write failed'), { code: 'ENOSPC' });
  const error = await stages.run('root', () => Promise.reject(full)).catch((reason: unknown) => reason);
  expect(toErrorRecord(error)).toEqual({
    code: 'no-space',
    message: 'the start failed at its stage "root": write failed',
  });
  expect((error as Error).cause).toBe(full);
});

test('when the end has begun no stage begins, and what fails then is no news', async () => {
  let began = false;
  const running = stages.run('log', async () => {
    end.hasBegun = true;
    throw new Error('the connection is closed');
  });
  await expect(running).rejects.toThrow('the connection is closed');
  const next = stages.run('front', async () => void (began = true));
  await expect(next).rejects.toMatchObject({ code: 'not-running' });
  expect(began).toBe(false);
  expect(lines).toEqual([]);
});
