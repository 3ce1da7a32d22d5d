/** A supervisor inside the process of a test, with ports of its own: how it starts, and that it closes what it opened. */
import type { ChildProcess } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { connectEngine } from '../../src/client/client.ts';
import { runSupervisor } from '../../src/supervisor/main.ts';
import { realSupervisorPorts, type SupervisorPorts } from '../../src/supervisor/ports.ts';
import { eventually } from '../support/engine.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';

let cleanup: Cleanup;
let root: string;
let exits: number[];
let signal: (() => void) | undefined;
/** By what they run. */
let children: Array<{ command: string; process: ChildProcess }>;
let ports: SupervisorPorts;
let running: Array<Promise<void>>;

beforeEach(async () => {
  cleanup = new Cleanup();
  root = await cleanup.tempDir('inside');
  exits = [];
  signal = undefined;
  children = [];
  running = [];
  const real = realSupervisorPorts();
  ports = {
    ...real,
    spawn: (command, args, options) => {
      const child = real.spawn(command, args, options);
      children.push({ command: args.join(' '), process: child });
      return child;
    },
    self: {
      ...real.self,
      onSignal: (listener) => {
        signal = listener;
        return () => {
          signal = undefined;
        };
      },
      exit: (code) => void exits.push(code),
      kill: () => {
        throw new Error('the end was cut short');
      },
    },
  };
});
afterEach(async () => {
  // One that a test which failed has left.
  signal?.();
  await Promise.allSettled(running);
  await cleanup.run();
});

function start(): Promise<void> {
  const options = {
    root,
    node: 'inside',
    transport: 'kernel' as const,
    workers: 1,
    readDeadlineMs: 10_000,
    hangMs: 10_000,
    logLevel: 'silent',
    registry: {},
    rehearses: false,
    trust: 'registry' as const,
  };
  const one = runSupervisor(options, ports);
  running.push(one);
  return one;
}

const engine = async () => {
  await eventually('the engine answers', async () =>
    connectEngine(root).then(
      (client) => client.close().then(() => true),
      () => false,
    ),
  );
  return await connectEngine(root);
};

function expectClosed(): void {
  expect(mountsBelow(root)).toEqual([]);
  const living = children.filter(({ process }) => process.exitCode === null && process.signalCode === null);
  expect(living.map(({ command }) => command)).toEqual([]);
}

test('it starts, answers, and ends at `down` and at a signal, twice on one root', async () => {
  const first = start();
  const client = await engine();
  const status = await client.call('status', {});
  expect(status).toMatchObject({ node: 'inside', root, ready: true, mounts: [], degraded: [] });
  const names = status.processes.map(({ name }) => name);
  expect(names).toEqual(['supervisor', 'nats-server', 'front-end', 'fetcher-0']);
  await client.call('down', {});
  await client.close();
  await first;
  expect(exits).toEqual([0]);
  expectClosed();

  const second = start();
  await (await engine()).close();
  signal?.();
  await second;
  expect(exits).toEqual([0, 0]);
  expect(signal).toBeUndefined();
  expectClosed();
});

test('a stage that fails is named, and what was opened before is closed', async () => {
  // The settings of the children cannot be written there.
  await mkdir(join(root, 'run/engine.json'), { recursive: true });
  await expect(start()).rejects.toThrow(/^the start failed at its stage "front": EISDIR/);
  expect(exits).toEqual([]);
  expect(children.map(({ command }) => command)).toEqual([expect.stringContaining('nats-server')]);
  expectClosed();
});

test('while an engine runs, another one on its root is refused, and the first goes on', async () => {
  const first = start();
  const client = await engine();
  await expect(start()).rejects.toMatchObject({ code: 'conflict' });
  expect((await client.call('status', {})).ready).toBe(true);
  await client.call('down', {});
  await client.close();
  await first;
  expectClosed();
});
