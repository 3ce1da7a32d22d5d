/** What a broken or hostile client sends, many clients at once, and what is left on the disk. */
import { mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readProc, statFields } from '../../src/kernel/proc.ts';
import { serveStreams } from '../../src/snapshotter/server.ts';
import { type Engine, startEngine } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';
import { untilServed } from './served.ts';
import { connectSnapshotter, refused, type SnapshotClient } from './test-bed.ts';

const cleanup = new Cleanup();
let engine: Engine;
let client: SnapshotClient;
let socket: string;

beforeAll(async () => {
  engine = await startEngine({ workers: 1, args: ['--snapshotter'] });
  cleanup.defer(() => engine.stop());
  socket = join(engine.root, 'run/snapshotter.sock');
  client = await untilServed(socket);
  cleanup.defer(() => client.close());
});
afterAll(() => cleanup.run());

/** Page faults of all child processes of a process that have ended: cminflt of proc(5). Each has some. */
const faultsOfChildren = (pid: number) => Number(statFields(readProc(`/proc/${pid}/stat`))[8]);

const folders = () => readdirSync(join(engine.root, 'snapshots'));

test('the socket is for root alone, and status names it', async () => {
  expect(statSync(socket).mode & 0o777).toBe(0o600);
  const status = await engine.status();
  expect(status.snapshotter).toBe(socket);
  expect(status.processes.map(({ role }) => role)).toContain('snapshotter');
});

test('names of any kind are kept as they are, and never become paths', async () => {
  const names = ['../../../etc', '/', '.', '>', 'a\nb', '__proto__', '𝄞 ünï', 'x'.repeat(5_000)];
  for (const name of names) {
    await client.prepare(name, '', { __proto__: 'x', 'a.b/c': 'ü' } as Record<string, string>);
    const info = await client.stat(name);
    expect(info.name).toBe(name);
    expect(info.labels['a.b/c']).toBe('ü');
  }
  expect(folders().length).toBe(names.length);
  for (const folder of folders()) expect(folder).toMatch(/^[0-9a-f]{12}$/);
  for (const name of names) await client.remove(name);
  expect(folders()).toEqual([]);
});

test('what is empty, too long or too large is refused, and leaves nothing', async () => {
  await refused(client.prepare(''), Code.InvalidArgument);
  await refused(client.prepare('k'.repeat(20_000)), Code.InvalidArgument);
  await refused(client.prepare('k', '', { l: 'x'.repeat(5_000) }), Code.InvalidArgument);
  await refused(client.prepare('k', 'none'), Code.NotFound);
  await refused(client.api.update({}), Code.InvalidArgument);
  // One message that is too large costs its sender the connection, and no other client.
  const flood = connectSnapshotter(socket);
  await expect(flood.prepare('k', '', { l: 'x'.repeat(20 * 1024 * 1024) })).rejects.toThrow();
  flood.close();
  expect(await client.walk()).toEqual([]);
  expect(folders()).toEqual([]);
});

test('of many that prepare one key at once one wins; all others leave nothing', async () => {
  const clients = Array.from({ length: 4 }, () => connectSnapshotter(socket));
  const calls = clients.flatMap((one) => Array.from({ length: 10 }, () => one.prepare('same')));
  const outcomes = await Promise.allSettled(calls);
  expect(outcomes.filter(({ status }) => status === 'fulfilled').length).toBe(1);
  expect(folders().length).toBe(1);
  await client.remove('same');
  // Chains of many clients side by side, whole and in order.
  await Promise.all(
    clients.map(async (one, at) => {
      let parent = '';
      for (let layer = 0; layer < 5; layer++) {
        await one.prepare(`${at}-${layer}-key`, parent);
        await one.commit(`${at}-${layer}`, `${at}-${layer}-key`);
        parent = `${at}-${layer}`;
      }
    }),
  );
  expect((await client.walk('kind==committed')).length).toBe(20);
  await Promise.all(
    clients.map(async (one, at) => {
      for (let layer = 4; layer >= 0; layer--) await one.remove(`${at}-${layer}`);
    }),
  );
  for (const one of clients) one.close();
  expect(folders()).toEqual([]);
});

test('thousands of calls on one connection', async () => {
  for (let round = 0; round < 8; round++) {
    const key = `many-${round}`;
    await client.prepare(key);
    await Promise.all(Array.from({ length: 100 }, () => client.stat(key)));
    await Promise.all(Array.from({ length: 20 }, () => client.walk()));
    await client.remove(key);
  }
});

test('the snapshot of a container that wrote little comes and goes without a process', async () => {
  const pid = (await engine.pids()).snapshotter ?? 0;
  const before = faultsOfChildren(pid);
  const [mount] = await client.prepare('brief');
  const upper = mount?.source as string;
  mkdirSync(join(upper, 'etc'));
  writeFileSync(Buffer.concat([Buffer.from(`${upper}/etc/`), Buffer.from([0xff, 0x0a])]), 'x');
  await client.remove('brief');
  expect(faultsOfChildren(pid)).toBe(before);
  // More than that is removed as well.
  const [large] = await client.prepare('large');
  for (let n = 0; n < 200; n++) writeFileSync(join(large?.source as string, `${n}`), 'x');
  await client.remove('large');
  expect(folders()).toEqual([]);
});

test('Cleanup removes folders that no snapshot has, and no others', async () => {
  const [mount] = await client.prepare('kept');
  writeFileSync(join(mount?.source as string, 'file'), 'x');
  mkdirSync(join(engine.root, 'snapshots/abandoned/fs'), { recursive: true });
  writeFileSync(join(engine.root, 'snapshots/abandoned/fs/file'), 'x');
  expect(folders().length).toBe(2);
  await client.api.cleanup({});
  expect(folders().length).toBe(1);
  await client.remove('kept');
});

test('an active snapshot takes what is written into it, each inode once', async () => {
  const [mount] = await client.prepare('used');
  const before = await client.api.usage({ key: 'used' });
  writeFileSync(join(mount?.source as string, 'file'), Buffer.alloc(1024 * 1024, 1));
  const after = await client.api.usage({ key: 'used' });
  expect(Number(after.inodes - before.inodes)).toBe(1);
  expect(Number(after.size - before.size)).toBeGreaterThanOrEqual(1024 * 1024);
  await client.commit('used-committed', 'used');
  expect(await client.api.usage({ key: 'used-committed' })).toEqual(after);
  await client.remove('used-committed');
});

test('a socket with a server is left alone, one without is taken', async () => {
  const directory = await cleanup.tempDir('sock');
  const path = join(directory, 's.sock');
  const first = await serveStreams(path, () => {});
  await expect(serveStreams(path, () => {})).rejects.toMatchObject({ code: 'conflict' });
  await first.close(100);
  const stale = createServer();
  await new Promise<void>((resolve) => stale.listen(path, resolve));
  // Node removes the file of a server that it closes; a killed process leaves it.
  const fresh = join(directory, 'l.sock');
  writeFileSync(fresh, '');
  await new Promise((resolve) => stale.close(resolve));
  const second = await serveStreams(fresh, () => {});
  expect(statSync(fresh).mode & 0o777).toBe(0o600);
  await second.close(100);
  await expect(serveStreams(join(directory, 'x'.repeat(120)), () => {})).rejects.toMatchObject({
    code: 'invalid-argument',
  });
});
