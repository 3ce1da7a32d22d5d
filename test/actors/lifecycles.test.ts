import { describe, expect, test } from 'vitest';
import type { AnyStateMachine } from 'xstate';
import { imageMachine } from '../../actors/image.ts';
import { mountMachine } from '../../actors/mount.ts';
import { processMachine } from '../../actors/process.ts';
import { ActorHost, type Effects } from '../../src/process/actor-host.ts';

/** A machine's host whose effects only note that they were to run. */
function hosted<M extends AnyStateMachine>(machine: M, noting: (note: Note) => Effects<M>) {
  const effects: string[] = [];
  const note: Note = (name) => (params) =>
    void effects.push(params === undefined ? name : `${name} ${JSON.stringify(params)}`);
  return { host: new ActorHost(machine, noting(note)), effects };
}

type Note = (name: string) => (params: unknown) => void;

const hostedImage = () =>
  hosted(imageMachine, (note) => ({
    prepare: note('prepare'),
    attach: note('attach'),
    detach: note('detach'),
  }));
const hostedMount = () =>
  hosted(mountMachine, (note) => ({ mount: note('mount'), unmount: note('unmount') }));
const hostedProcess = () =>
  hosted(processMachine, (note) => ({
    spawn: note('spawn'),
    schedule: note('schedule'),
    kill: note('kill'),
    giveUp: note('giveUp'),
  }));

describe('image', () => {
  test('two mounts share one preparation and one attachment; the last one detaches', () => {
    const { host, effects } = hostedImage();
    host.send({ type: 'USE', mount: 'a' });
    host.send({ type: 'USE', mount: 'b' });
    host.send({ type: 'PREPARED' });
    host.send({ type: 'ATTACHED' });
    host.send({ type: 'RELEASE', mount: 'a' });
    expect(host.state).toBe('attached');
    host.send({ type: 'RELEASE', mount: 'b' });
    host.send({ type: 'DETACHED' });
    expect(host.state).toBe('ready');
    expect(effects).toEqual(['prepare', 'attach', 'detach']);
  });

  test('a mount that comes while the last one leaves gets the image attached again', () => {
    const { host, effects } = hostedImage();
    for (const event of [
      { type: 'USE', mount: 'a' },
      { type: 'PREPARED' },
      { type: 'ATTACHED' },
      { type: 'RELEASE', mount: 'a' },
      { type: 'USE', mount: 'b' },
      { type: 'DETACHED' },
    ] as const)
      host.send(event);
    expect(host.state).toBe('attaching');
    expect(effects).toEqual(['prepare', 'attach', 'detach', 'attach']);
  });

  test('everybody left while it was prepared: it stays ready and attaches nothing', () => {
    const { host, effects } = hostedImage();
    host.send({ type: 'USE', mount: 'a' });
    host.send({ type: 'RELEASE', mount: 'a' });
    host.send({ type: 'PREPARED' });
    expect(host.state).toBe('ready');
    expect(effects).toEqual(['prepare']);
  });

  test('a failed preparation is tried again by the next mount, without the old error', () => {
    const { host, effects } = hostedImage();
    host.send({ type: 'USE', mount: 'a' });
    host.send({ type: 'FAILED', error: { code: 'unavailable', message: 'away' } });
    expect(host.state).toBe('failed');
    expect(host.snapshot.context.error?.message).toBe('away');
    host.send({ type: 'RELEASE', mount: 'a' });
    host.send({ type: 'USE', mount: 'b' });
    expect(host.state).toBe('preparing');
    expect(host.snapshot.context).toMatchObject({ users: ['b'], error: undefined });
    expect(effects).toEqual(['prepare', 'prepare']);
  });
});

describe('mount', () => {
  test('unmounting what is in use changes nothing', () => {
    const { host, effects } = hostedMount();
    host.send({ type: 'MOUNT' });
    host.send({ type: 'MOUNTED' });
    host.send({ type: 'UNMOUNT' });
    host.send({ type: 'BUSY' });
    expect(host.state).toBe('mounted');
    expect(effects).toEqual(['mount', 'unmount']);
  });

  test('a second unmount while the first runs is not a second effect', () => {
    const { host, effects } = hostedMount();
    for (const type of ['MOUNT', 'MOUNTED', 'UNMOUNT', 'UNMOUNT', 'UNMOUNTED', 'UNMOUNT'] as const)
      host.send({ type });
    expect(host.state).toBe('unmounted');
    expect(effects).toEqual(['mount', 'unmount']);
  });

  test('a mount that was detached with the engine comes back', () => {
    const { host } = hostedMount();
    for (const type of ['MOUNT', 'MOUNTED', 'DETACHED', 'MOUNT', 'MOUNTED'] as const) host.send({ type });
    expect(host.state).toBe('mounted');
  });
});

describe('process', () => {
  test('a crash after a healthy life is followed by a start without a pause', () => {
    const { host, effects } = hostedProcess();
    host.send({ type: 'START' });
    host.send({ type: 'READY' });
    host.send({ type: 'EXITED', livedMs: 60_000 });
    expect(effects.at(-1)).toBe('schedule {"ms":0}');
    host.send({ type: 'RETRY' });
    expect(host.state).toBe('starting');
    expect(host.snapshot.context.restarts).toBe(1);
  });

  test('short lives in a row: the pause grows, and at last it is given up', () => {
    const { host, effects } = hostedProcess();
    host.send({ type: 'START' });
    const pauses: number[] = [];
    for (let life = 0; life < 100 && host.state !== 'failed'; life++) {
      host.send({ type: 'EXITED', livedMs: 5 });
      const ms = /schedule \{"ms":(\d+)\}/.exec(effects.at(-1) ?? '')?.[1];
      if (host.state === 'failed') break;
      if (ms !== undefined) pauses.push(Number(ms));
      host.send({ type: 'RETRY' });
    }
    expect(host.state).toBe('failed');
    expect(effects.slice(-2)).toEqual(['giveUp', 'schedule {"ms":30000}']);
    expect(pauses).toEqual([...pauses].sort((a, b) => a - b));
    expect(pauses.at(-1)).toBeLessThanOrEqual(5_000);
  });

  test('one that was given up is tried again; a healthy life makes up for all', () => {
    const { host, effects } = hostedProcess();
    host.send({ type: 'START' });
    while (host.state !== 'failed') {
      host.send({ type: 'EXITED', livedMs: 5 });
      if (host.state === 'pausing') host.send({ type: 'RETRY' });
    }
    const { restarts } = host.snapshot.context;
    host.send({ type: 'RETRY' });
    expect(host.state).toBe('starting');
    host.send({ type: 'EXITED', livedMs: 5 });
    expect(host.state).toBe('failed');
    host.send({ type: 'RETRY' });
    host.send({ type: 'READY' });
    host.send({ type: 'EXITED', livedMs: 60_000 });
    expect(effects.at(-1)).toBe('schedule {"ms":0}');
    expect(host.snapshot.context.restarts).toBe(restarts + 3);
  });

  test('a stop while it pauses starts nothing any more', () => {
    const { host, effects } = hostedProcess();
    host.send({ type: 'START' });
    host.send({ type: 'EXITED', livedMs: 5 });
    host.send({ type: 'STOP' });
    host.send({ type: 'RETRY' });
    expect(host.state).toBe('stopped');
    expect(effects.filter((effect) => effect === 'spawn')).toHaveLength(1);
  });
});
