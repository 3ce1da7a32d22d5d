/** A child process under supervision, with time that the test turns and a process that does what the test says. */
import type { ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Child, type ChildOptions } from '../../src/process/child.ts';
import { linkToParent } from '../../src/process/parent-link.ts';
import { HandClock } from '../support/hand-clock.ts';
import { Cleanup } from '../support/temp.ts';

class FakeProcess extends EventEmitter {
  readonly pid = 1;
  readonly connected = true;
  /** Signals and messages that it got. */
  readonly got: string[] = [];
  kill(signal: string): boolean {
    this.got.push(signal);
    return true;
  }
  send(message: { kind: string }): boolean {
    this.got.push(message.kind);
    return true;
  }
  says(kind: string, more: object = {}): void {
    this.emit('message', { kind, ...more });
  }
  ends(code: number | null, signal: NodeJS.Signals | null = null): void {
    this.emit('exit', code, signal);
  }
}

const HANG_MS = 10_000;
let cleanup: Cleanup;
let log: string;
let clock: HandClock;
let spawned: FakeProcess[];
let commands: string[];
let refuses: boolean;
/** In which share of the time the process has no processor, 0 to 1. */
let starved: number;
/** What the process had got whenever it was raised. */
let raised: string[][];

beforeEach(async () => {
  cleanup = new Cleanup();
  log = join(await cleanup.tempDir('child'), 'child.log');
  clock = new HandClock();
  spawned = [];
  commands = [];
  refuses = false;
  starved = 0;
  raised = [];
});
afterEach(() => cleanup.run());

function childOf(options: Partial<ChildOptions> = {}): Child {
  return new Child({
    role: 'fetcher',
    name: 'fetcher-0',
    command: 'node',
    args: ['main.ts'],
    log,
    link: { hangMs: HANG_MS },
    ports: {
      clock,
      spawn: (command, args) => {
        if (refuses) throw new Error('no memory');
        commands.push([command, ...args].join(' '));
        const process = new FakeProcess();
        spawned.push(process);
        return process as unknown as ChildProcess;
      },
      queuedMs: () => starved * clock.now(),
      raiseBeforeEnd: () => void raised.push([...present().got]),
    },
    ...options,
  });
}

const present = () => spawned.at(-1) as FakeProcess;

test('the kernel ends it with the supervisor; it runs when it says so', () => {
  const child = childOf();
  child.start();
  expect(commands).toEqual(['setpriv --pdeathsig KILL -- node main.ts']);
  present().says('loaded');
  expect(present().got).toEqual(['begin']);
  expect(child.state).toBe('starting');
  present().says('ready');
  expect(child.state).toBe('running');
});

describe('a process that lives and does not answer', () => {
  test('is killed after its time, and started again', () => {
    const child = childOf();
    child.start();
    present().says('ready');
    clock.turn(HANG_MS);
    expect(present().got).not.toContain('SIGKILL');
    clock.turn(HANG_MS / 5);
    // One that dies at idle priority holds up its supervisor.
    expect(raised).toEqual([present().got.slice(0, -1)]);
    expect(present().got.at(-1)).toBe('SIGKILL');
    present().ends(null, 'SIGKILL');
    expect(child.status().lastEnd?.reason).toBe('killed by SIGKILL: it did not answer for 10 s');
    clock.turn(20);
    expect(spawned).toHaveLength(2);
  });

  test('is left alone when it answers late, but in time', () => {
    childOf().start();
    present().says('ready');
    for (let round = 0; round < 10; round++) {
      clock.turn(0.9 * HANG_MS);
      present().says('pong', { beat: 1 });
    }
    expect(present().got).not.toContain('SIGKILL');
  });

  test('has six times as long where the machine has no processor for it, to get ready, too', () => {
    starved = 0.8;
    const child = childOf();
    child.start();
    clock.turn(17 * HANG_MS);
    expect(present().got).not.toContain('SIGKILL');
    present().says('ready');
    present().says('pong', { beat: 1 });
    clock.turn(6 * HANG_MS);
    expect(present().got).not.toContain('SIGKILL');
    clock.turn(HANG_MS / 5);
    expect(present().got).toContain('SIGKILL');
    present().ends(null, 'SIGKILL');
    expect(child.status().lastEnd?.reason).toBe('killed by SIGKILL: it did not answer for 60 s');
  });

  test('has no more time than others where it had a processor for most of the time', () => {
    starved = 0.4;
    childOf().start();
    present().says('ready');
    clock.turn(1.2 * HANG_MS);
    expect(present().got).toContain('SIGKILL');
  });

  test('has no time to answer while it loads, but its start has a limit, twice as long for the next one', () => {
    const child = childOf();
    child.start();
    clock.turn(3 * HANG_MS);
    expect(present().got).not.toContain('SIGKILL');
    clock.turn(HANG_MS / 5);
    expect(present().got).toContain('SIGKILL');
    present().ends(null, 'SIGKILL');
    expect(child.status().lastEnd?.reason).toContain('it was not ready after 30 s');
    clock.turn(20);
    clock.turn(6 * HANG_MS);
    expect(present().got).not.toContain('SIGKILL');
    clock.turn(HANG_MS / 5);
    expect(present().got).toContain('SIGKILL');
  });

  test('is killed as well when it says again and again that something in it stands still', () => {
    childOf().start();
    present().says('ready');
    for (let beat = 0; beat < 6; beat++) present().says('pong', { beat, trouble: 'its log stands still' });
    expect(present().got).toContain('SIGKILL');
  });
});

describe('its end', () => {
  test('comes with a signal, and with SIGKILL when it takes too long', async () => {
    const child = childOf({ graceMs: 1_000 });
    child.start();
    present().says('ready');
    const stopped = child.stop();
    expect(present().got).toEqual(['SIGTERM']);
    clock.turn(1_000);
    expect(present().got).toEqual(['SIGTERM', 'SIGKILL']);
    present().ends(null, 'SIGKILL');
    await stopped;
    expect(child.state).toBe('stopped');
    expect(clock.alarms).toBe(0);
    expect(spawned).toHaveLength(1);
  });

  test('is not waited for where the kernel does not let it go', async () => {
    const child = childOf({ graceMs: 1_000 });
    child.start();
    present().says('ready');
    const stopped = child.stop();
    clock.turn(6_000);
    await stopped;
    expect(child.state).toBe('stopped');
  });
});

test('one that cannot be started is tried again', async () => {
  refuses = true;
  const child = childOf();
  child.start();
  await new Promise((resolve) => setImmediate(resolve));
  expect(child.status()).toMatchObject({
    state: 'restarting',
    lastEnd: { reason: expect.stringContaining('no memory') },
  });
  refuses = false;
  clock.turn(20);
  expect(spawned).toHaveLength(1);
});

test('what no process of cofa says ends it, and is not believed; a word of a later version is passed over', () => {
  const child = childOf();
  child.start();
  present().says('loaded');
  present().says('of-tomorrow', { more: 1 });
  expect(present().got).toEqual(['begin']);
  for (const said of [
    undefined,
    'ready',
    7,
    [],
    { kind: 'pong', beat: -1 },
    { kind: 'pong', beat: 1, trouble: {} },
  ]) {
    present().got.length = 0;
    present().emit('message', said);
    expect(present().got).toEqual(['SIGKILL']);
  }
  expect(child.state).toBe('starting');
  present().ends(null, 'SIGKILL');
  expect(child.status().lastEnd?.reason).toBe('killed by SIGKILL: it said what it may not say');
});

test('a child does what its parent may say, and nothing else', () => {
  const takes: Array<(message: unknown) => void> = [];
  const sent: unknown[] = [];
  let retired = 0;
  linkToParent(
    {
      send: (message) => void sent.push(message),
      onMessage: (take) => void takes.push(take),
      onGone: () => {},
    },
    { onOrphaned: () => {}, onRetire: () => void (retired += 1) },
  );
  const hear = (message: unknown) => takes.forEach((take) => take(message));
  for (const said of [
    undefined,
    'retire',
    { kind: 'ping', beat: 'x' },
    { kind: 'of-tomorrow' },
    { kind: 'toString' },
  ])
    hear(said);
  expect([sent, retired]).toEqual([[], 0]);
  hear({ kind: 'ping', beat: 3 });
  hear({ kind: 'retire' });
  expect([sent, retired]).toEqual([[{ kind: 'pong', beat: 3 }], 1]);
});

test('a client that wants something is heard by a child that rehearses', () => {
  let heard = 0;
  let say: (message: unknown) => void = () => {};
  const channel = {
    send: () => {},
    onMessage: (take: (message: unknown) => void) => void (say = take),
    onGone: () => {},
  };
  linkToParent(channel, { onOrphaned: () => {}, onWork: () => (heard += 1) });
  say({ kind: 'work' });
  expect(heard).toBe(1);
});

describe('counts', () => {
  const sample = ['registry_requests_total', ['200'], [4]] as const;

  test('a child says what it has counted when it is asked', async () => {
    const sent: unknown[] = [];
    let say: (message: unknown) => void = () => {};
    const channel = {
      send: (message: unknown) => void sent.push(message),
      onMessage: (take: (message: unknown) => void) => void (say = take),
      onGone: () => {},
    };
    const link = linkToParent(channel, { onOrphaned: () => {} });
    link.countBy(async () => [sample]);
    say({ kind: 'count', ask: 7 });
    await expect.poll(() => sent).toEqual([{ kind: 'counted', ask: 7, samples: [sample] }]);
  });

  test('one that does not answer in time has none, and lives on', async () => {
    const child = childOf();
    child.start();
    present().says('loaded');
    present().says('ready');
    const first = child.counted(1_000);
    expect(present().got.at(-1)).toBe('count');
    clock.turn(1_000);
    expect(await first).toEqual({ role: 'fetcher', name: 'fetcher-0', pid: 1 });
    const second = child.counted(1_000);
    // The late answer is another question's.
    present().says('counted', { ask: 1, samples: [] });
    present().says('counted', { ask: 2, samples: [sample] });
    expect((await second)?.samples).toEqual([sample]);
    expect(child.state).toBe('running');
  });

  test('one whose answer is no list of samples is killed', async () => {
    const child = childOf();
    child.start();
    present().says('loaded');
    present().says('ready');
    void child.counted(1_000);
    present().says('counted', { ask: 1, samples: [['reads_total', ['hit'], [Number.NaN]]] });
    expect(present().got).toContain('SIGKILL');
  });
});
