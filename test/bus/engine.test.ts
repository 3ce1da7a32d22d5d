/** An engine with its private nats-server, and what can be done with the credentials that it gives away. */
import { join } from 'node:path';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Reply } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import { type BusAddress, connectBus, encode } from '../../src/bus/connection.ts';
import { pushImage, twoLayers } from '../faults/fault-image.ts';
import { type Engine, eventually, mountImage, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let engine: Engine;
let ref: string;
let directory: string;

beforeAll(async () => {
  directory = await cleanup.tempDir('users');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  ({ ref } = await pushImage(directory, registry.host, 'app', twoLayers(9600)));
  const rights = {
    operations: ['mount', 'unmount', 'status'],
    dirs: [join(directory, 'ci')],
    images: [registry.host],
  };
  const file = join(directory, 'users.json');
  await writeFile(file, JSON.stringify({ v: 1, users: { ci: rights } }), { mode: 0o600 });
  engine = await startEngine({ workers: 1, args: ['--api-users', file] });
  cleanup.defer(() => engine.stop());
  expect((await engine.cli(['index', ref])).code).toBe(0);
});
afterAll(() => cleanup.run());

test('what a start reads becomes a pack, which the command line lists and forgets', async () => {
  const dir = join(directory, 'mnt');
  await mkdir(dir);
  // As `cofa run` mounts it.
  await engine.client.call('mount', { ref, dir, prefetch: true, start: 'default' });
  await readFile(join(dir, 'lib/prose'));
  await engine.client.call('unmount', { dir });
  const list = async () => {
    const { code, stdout } = await engine.cli(['pack', 'ls', '--json']);
    expect(code).toBe(0);
    return (JSON.parse(stdout) as { packs: unknown[] }).packs;
  };
  await eventually('a pack', async () => (await list()).length === 1);
  expect((await engine.cli(['pack', 'rm', ref])).code).toBe(0);
  expect(await list()).toEqual([]);
});

test('a user with rights mounts below its folders, and is no root in disguise', async () => {
  const path = join(engine.root, 'run/api/ci.json');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  const own = JSON.parse(await readFile(path, 'utf8')) as { nats: BusAddress; calls: string };
  const bus = await connectBus(own.nats, { name: 'ci', reconnect: false });
  cleanup.defer(() => bus.close());
  const call = async (operation: string, request: object) => {
    const answer = await bus.request(`${own.calls}${operation}`, JSON.stringify(request), {
      timeout: 20_000,
    });
    const reply = answer.json<Reply>();
    return reply.ok ? 'ok' : reply.error.code;
  };
  const dir = join(directory, 'ci/app');
  expect(await call('mount', { ref, dir })).toBe('ok');
  expect(await readFile(join(dir, 'lib/prose'), 'utf8')).not.toBe('');
  expect(await call('unmount', { dir })).toBe('ok');
  const elsewhere = join(directory, 'sbin');
  expect(await call('mount', { ref, dir: elsewhere })).toBe('forbidden');
  expect(await call('mount', { ref: 'debian', dir })).toBe('forbidden');
  await expect(stat(elsewhere)).rejects.toMatchObject({ code: 'ENOENT' });
  await expect(
    bus.request(subjects(engine.client.endpoint.node).api('mount'), '{}', { timeout: 500 }),
  ).rejects.toThrow();
});

test('the endpoint’s user calls operations and watches events, and cannot write them', async () => {
  const { endpoint } = engine.client;
  const names = subjects(endpoint.node);
  const bus = await connectBus(endpoint.nats, { name: 'outside', reconnect: false });
  cleanup.defer(() => bus.close());
  const seen: string[] = [];
  bus.subscribe(names.allEvents, { callback: (_, message) => void seen.push(message.subject) });
  await bus.flush();
  const events = (await engine.status()).log?.events;
  expect(events).toBeGreaterThan(0);
  const forged = names.event('image', '0'.repeat(64));
  bus.publish(forged, encode({ v: 1, at: 1, type: 'image.removed' }));
  // Neither by itself, nor by an answer of the engine.
  bus.publish(names.api('status'), '{}', { reply: forged });
  bus.publish(names.api('scrub-stop'), '{}', { reply: forged });
  await bus.flush();
  const reply = await bus.request(names.api('status'), '{}', { timeout: 60_000 });
  expect(reply.json()).toMatchObject({ ok: true, result: { log: { events } } });
  const dir = join(directory, 'watched');
  await mkdir(dir);
  await mountImage(engine, ref, dir);
  await engine.client.call('unmount', { dir });
  await eventually('events of the mount', () =>
    seen.some((subject) => subject.startsWith(names.event('mount', ''))),
  );
  expect(seen).not.toContain(forged);
});
