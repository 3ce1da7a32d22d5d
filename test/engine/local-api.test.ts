/** The API on the supervisor's socket, past NATS: what `cofa run`, `mount` and `unmount` call. */
import { mkdir, writeFile } from 'node:fs/promises';
import type { Server } from 'node:net';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Mount } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { PROTOCOL } from '../../schemas/protocol.ts';
import { connectEngine } from '../../src/client/client.ts';
import { askLocal, serveLocal } from '../../src/bus/local-socket.ts';
import { busAway, type Handlers, localApi } from '../../src/supervisor/api.ts';
import { Cleanup } from '../support/temp.ts';
import { anything } from '../support/anything.ts';

const digest = `sha256:${'0'.repeat(64)}`;
const mounted = (dir: string): Mount => ({
  id: 'm',
  dir,
  ref: 'r',
  manifest: digest,
  config: digest,
  configPath: '/c',
  origin: 'node',
  trust: 'proven',
  state: 'mounted',
});

let cleanup: Cleanup;
let root: string;
let away: CofaError | undefined;
let isOwner: boolean;
let server: Server | undefined;
let finish: () => void;

beforeEach(async () => {
  cleanup = new Cleanup();
  root = await cleanup.tempDir('local');
  away = undefined;
  isOwner = true;
  finish = () => {};
  await mkdir(join(root, 'run'));
  // No server listens there: every call over NATS fails.
  const nats = { url: 'nats://127.0.0.1:1' };
  const endpoint = { v: 1, protocol: PROTOCOL, node: 'n', pid: process.pid, nats };
  await writeFile(join(root, 'run/endpoint.json'), JSON.stringify(endpoint));
  const held = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const handlers: Partial<Handlers> = {
    mount: async ({ dir }, onProgress) => {
      onProgress({ phase: 'index', done: 1, total: 2 });
      onProgress({ phase: 'mount' });
      if (dir === '/held') await held;
      return mounted(dir);
    },
    unmount: async ({ dir }) => {
      throw new CofaError('busy', `${dir} is in use`, { hint: 'leave it' });
    },
  };
  const mayAnswer = async () => isOwner;
  const api = localApi(handlers as Handlers, pino({ level: 'silent' }), mayAnswer, () => away);
  server = await serveLocal(join(root, 'run/supervisor.sock'), api);
});
afterEach(async () => {
  finish();
  server?.close();
  await cleanup.run();
});

describe('API over the socket', () => {
  test('progress comes while the call runs, then its result', async () => {
    const seen: unknown[] = [];
    const engine = await connectEngine(root);
    const reply = engine.call(
      'mount',
      { ref: 'r', dir: '/ä\n"' },
      { onProgress: (progress) => seen.push(progress) },
    );
    expect(await reply).toEqual(mounted('/ä\n"'));
    expect(seen).toEqual([{ phase: 'index', done: 1, total: 2 }, { phase: 'mount' }]);
  });

  test('an error keeps its code and its hint', async () => {
    const engine = await connectEngine(root);
    await expect(engine.call('unmount', { dir: '/d' })).rejects.toMatchObject({
      code: 'busy',
      message: '/d is in use',
      hint: 'leave it',
    });
  });

  test('requests are checked as those over NATS', async () => {
    const engine = await connectEngine(root);
    await expect(engine.call('mount', { ref: 'r', dir: 'relative' })).rejects.toMatchObject({
      code: 'invalid-argument',
    });
    const path = join(root, 'run/supervisor.sock');
    const request = { ref: 'r'.repeat(40_000), dir: '/d' };
    await expect(askLocal(path, 'mount', 5_000, anything, { request })).rejects.toMatchObject({
      code: 'invalid-argument',
    });
    await expect(askLocal(path, 'constructor', 5_000, anything)).rejects.toMatchObject({
      code: 'invalid-argument',
    });
  });

  test('a caller that is interrupted leaves; the call goes on', async () => {
    const engine = await connectEngine(root);
    const stop = new AbortController();
    const call = engine.call('mount', { ref: 'r', dir: '/held' }, { signal: stop.signal });
    stop.abort(new Error('interrupted'));
    await expect(call).rejects.toThrow('interrupted');
    await expect(engine.call('mount', { ref: 'r', dir: '/held' }, { timeoutMs: 100 })).rejects.toMatchObject({
      code: 'timeout',
    });
    finish();
    expect(await engine.call('mount', { ref: 'r', dir: '/held' })).toEqual(mounted('/held'));
  });

  test('while NATS is away calls are refused at once', async () => {
    away = busAway('nats://somewhere');
    const engine = await connectEngine(root);
    await expect(engine.call('mount', { ref: 'r', dir: '/d' })).rejects.toMatchObject({
      code: 'unavailable',
      hint: expect.stringContaining('cofa status'),
    });
  });

  test('an engine that was replaced carries out nothing', async () => {
    isOwner = false;
    const engine = await connectEngine(root);
    await expect(engine.call('mount', { ref: 'r', dir: '/d' })).rejects.toMatchObject({
      code: 'not-running',
      message: 'another engine has taken over this node',
    });
  });

  test('an engine that ends in the middle of a call: the outcome is unknown, and it is not called again', async () => {
    server?.close();
    let calls = 0;
    server = createServer((socket) => {
      calls += 1;
      socket.once('data', () => socket.end('{"ok":tr'));
    });
    const path = join(root, 'run/broken.sock');
    await new Promise<void>((resolve) => server?.listen(path, resolve));
    await expect(askLocal(path, 'mount', 5_000, anything, { request: {} })).rejects.toMatchObject({
      code: 'unavailable',
    });
    expect(calls).toBe(1);
  });

  test('where no engine listens the call takes NATS', async () => {
    server?.close();
    const engine = await connectEngine(root);
    await expect(engine.call('mount', { ref: 'r', dir: '/d' })).rejects.toMatchObject({
      code: 'not-running',
      message: `the engine of ${root} does not answer at nats://127.0.0.1:1`,
    });
  });

  test('without an engine there is nothing to connect to', async () => {
    await expect(connectEngine(join(root, 'nowhere'))).rejects.toMatchObject({ code: 'not-running' });
  });
});
