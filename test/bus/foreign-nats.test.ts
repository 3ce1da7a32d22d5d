/**
 * Two engines on a foreign nats-server that has the accounts of `cofa nats-config`: all works with a user for each
 * role, and neither reaches the other's log.
 */
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { jetstreamManager } from '@nats-io/jetstream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { STREAM } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { type NodeUsers, usersOn } from '../../src/bus/user-files.ts';
import { type ClientImage, index, makeBase, makeClientImage, push } from '../clients/images.ts';
import { type Engine, errorOf, eventually, mountImage, runCofa, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { type NatsServer, runCommand, startNats } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let folder: string;
let nats: NatsServer;
let image: ClientImage & { ref: string };
const engines: Record<string, Engine> = {};
const fileOf = (node: string) => join(folder, 'nats', `${node}.json`);
const usersOf = (node: string) => JSON.parse(readFileSync(fileOf(node), 'utf8')) as NodeUsers;
const config = async (...nodes: string[]) => {
  const { code, stdout, stderr } = await runCofa([
    'nats-config',
    '--json',
    '--dir',
    join(folder, 'nats'),
    ...nodes,
  ]);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return JSON.parse(stdout) as { server: string; made: string[] };
};
const upArgs = (node: string, file = fileOf(node)) => [
  '--nats',
  nats.url,
  '--node',
  node,
  '--nats-users',
  file,
];

beforeAll(async () => {
  folder = await cleanup.tempDir('foreign');
  await config('n1');
  const before = readFileSync(fileOf('n1'), 'utf8');
  const { server, made } = await config('n1', 'n2');
  expect(made).toEqual([fileOf('n2')]);
  expect(readFileSync(fileOf('n1'), 'utf8')).toBe(before);
  for (const file of [server, fileOf('n1'), fileOf('n2')]) expect(statSync(file).mode & 0o777).toBe(0o600);
  // nats-server looks for what it includes from where its own configuration is.
  const beside = `../${basename(folder)}/nats/${basename(server)}`;
  nats = await startNats({ config: `include "${beside}"\nmax_payload: 8MB\n` });
  cleanup.defer(() => nats.stop());
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const made1 = await makeClientImage(folder, await makeBase(folder), 'app', { big: 1, said: 'I am shared' });
  image = { ...made1, ref: await push(made1, registry.host, 'app') };
  await index(image.ref);
  for (const node of ['n1', 'n2']) {
    const engine = await startEngine({ workers: 1, args: upArgs(node) });
    cleanup.defer(() => engine.stop());
    engines[node] = engine;
  }
}, 120_000);
afterAll(() => cleanup.run());

const connect = async (node: string, role: 'supervisor' | 'api') => {
  const bus = await connectBus(usersOn({ url: nats.url }, node, usersOf(node))[role], {
    name: role,
    reconnect: false,
  });
  cleanup.defer(() => bus.close());
  return bus;
};

test('what a start on one node reads becomes a pack that the other one has', async () => {
  const [n1, n2] = [engines.n1, engines.n2] as [Engine, Engine];
  const dir = join(folder, 'start');
  await mkdir(dir);
  await n1.client.call('mount', { ref: image.ref, dir, prefetch: true, start: 'default' });
  await readFile(join(dir, 'said'));
  await n1.client.call('unmount', { dir });
  const list = async (engine: Engine) =>
    (JSON.parse((await engine.cli(['pack', 'ls', '--json'])).stdout) as { packs: unknown[] }).packs;
  await eventually('a startup pack', async () => (await list(n2)).length === 1, 60_000);
  expect(await list(n1)).toEqual(await list(n2));
}, 120_000);

test('images are mounted, read, shown in status and events, run and unmounted', async () => {
  const [n1, n2] = [engines.n1, engines.n2] as [Engine, Engine];
  const dir = join(folder, 'at-n1');
  await mkdir(dir);
  await mountImage(n1, image.ref, dir);
  await runCommand('cmp', [join(dir, 'said'), join(folder, 'image-app/3/said')]);
  expect((await n1.status()).mounts).toHaveLength(1);
  expect((await n2.status()).mounts).toHaveLength(0);
  const ran = await n1.cli(['run', image.ref]);
  expect(ran).toMatchObject({ code: 0, stdout: 'I am shared\n' });
  const events = (await n1.cli(['events', '--json', '--since-start', '--no-follow'])).stdout;
  expect(events).toContain('"mount.mounted"');
  expect((await n2.cli(['events', '--json', '--since-start', '--no-follow'])).stdout).not.toContain(
    'mount.mounted',
  );
  expect((await n1.cli(['unmount', dir])).code).toBe(0);
  // No process asked for what its user may not do.
  for (const name of ['supervisor', 'front-end', 'fetcher-0'])
    expect(n1.log(name)).not.toMatch(/permissions violation/i);
}, 120_000);

test('a node reaches neither the other one’s log nor its operations', async () => {
  const mine = await jetstreamManager(await connect('n1', 'supervisor'));
  const theirs = await jetstreamManager(await connect('n2', 'supervisor'));
  const before = (await theirs.streams.info(STREAM)).state.messages;
  expect(before).toBeGreaterThan(0);
  await mine.streams.purge(STREAM, { filter: 'cofa.v1.n2.>' }).catch(() => {});
  expect((await theirs.streams.info(STREAM)).state.messages).toBe(before);
  const api = await connect('n1', 'api');
  await expect(api.request('cofa.v1.n2.api.status', '{}', { timeout: 2_000 })).rejects.toThrow();
  expect((await api.request('cofa.v1.n1.api.status', '{}', { timeout: 60_000 })).json()).toMatchObject({
    ok: true,
  });
});

test('an engine of a node that was replaced, and a second one of the same name, are told apart as ever', async () => {
  await expect(startEngine({ workers: 1, args: upArgs('n1') })).rejects.toThrow(
    'is running on this NATS already',
  );
});

test.each([
  ['a file that others may read', () => changed((path) => chmodSync(path, 0o644)), 'chmod 600'],
  ['the file of another node', () => fileOf('n2'), 'for the node n2; this one is n1'],
  ['a file that is not there', () => join(folder, 'none.json'), 'ENOENT'],
  [
    'half a file',
    () => changed((path) => writeFileSync(path, readFileSync(path).subarray(0, 300))),
    'not JSON',
  ],
  [
    'a role without a password',
    () =>
      changed((path) =>
        writeFileSync(path, readFileSync(path, 'utf8').replace(/"password": "\w+"/, '"password": ""')),
      ),
    'users.supervisor.password is not as it should be',
  ],
  [
    'passwords that the server does not know',
    () =>
      changed((path) =>
        writeFileSync(path, readFileSync(path, 'utf8').replaceAll(/"password": "\w+"/g, '"password": "no"')),
      ),
    'cannot be used',
  ],
])('%s ends the start with what to do', async (_, file, why) => {
  const root = await cleanup.tempDir('refused');
  const path = file();
  const result = await runCofa(['up', '--json', '--root', root, '--no-snapshotter', ...upArgs('n1', path)]);
  const { message, hint } = errorOf(result);
  expect(`${message} (${hint})`).toContain(why);
  for (const { password } of Object.values(usersOf('n1').users))
    expect(result.stdout).not.toContain(password);
});

/** A copy of the first node's file, changed. */
function changed(change: (path: string) => void): string {
  const path = join(folder, `changed-${Math.round(performance.now() * 1000)}.json`);
  writeFileSync(path, readFileSync(fileOf('n1')), { mode: 0o600 });
  change(path);
  return path;
}

test.each([
  [['up', '--nats-users', '/x.json'], 'goes with --nats'],
  [['up', '--nats', 'nats://u:p@127.0.0.1:1', '--nats-users', '/x.json'], 'either'],
  [['nats-config', '--dir', '/nonexistent', 'a b'], 'no name of a node'],
])('cofa %j is refused', async (args, why) => {
  const result = await runCofa([...args, '--json', '--root', folder]);
  expect(result.code).toBe(2);
  expect(errorOf(result).message).toContain(why);
});
