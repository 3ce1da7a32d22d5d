/** An engine takes the place of another one, also of an earlier version, under verifying readers: no read fails. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { startRelay, type Relay } from '../../ops/bench/relay.ts';
import { olderCofa } from '../../ops/images/older.ts';
import { connectEngine } from '../../src/client/client.ts';
import { version } from '../../src/client/version.ts';
import {
  endEngine,
  errorOf,
  eventually,
  mountImage,
  runCofa,
  startEngine,
  untilWell,
} from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup, listMounts } from '../support/temp.ts';
import { type FaultImage, pushImage, twoLayers } from './fault-image.ts';

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const cleanup = new Cleanup();
const afterTest = new Cleanup();
let directory = '';
let registry: RegistryServer;
let relay: Relay;
let image: FaultImage;
/** The same image, not over the link. */
let near = '';

beforeAll(async () => {
  directory = await cleanup.tempDir('swap');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  // Reading the image takes longer than the change of engines.
  relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: 20e6, rttMs: 2 });
  cleanup.defer(() => relay.stop());
  image = await pushImage(directory, registry.host, 'app', twoLayers(8100));
  near = image.ref;
  image.ref = near.replace(registry.host, relay.host);
});
afterEach(() => afterTest.run());
afterAll(() => cleanup.run());

const readAll = (dir: string) =>
  readInParallel({ root: dir, expected: image.expected, readers: 16, copies: 1, pieceSize: 64 * 1024 });

const mountAt = (dir: string) => listMounts().findLast(({ point }) => point === dir);

/** What the engine of a root says. */
async function statusOf(root: string) {
  const engine = await connectEngine(root);
  try {
    return { endpoint: engine.endpoint, ...(await engine.call('status', {}, { timeoutMs: 10_000 })) };
  } finally {
    await engine.close();
  }
}

const present = (root: string, blocks: number) =>
  eventually(`${blocks} blocks are present`, async () => {
    const { images } = await statusOf(root);
    return images.some((one) => one.ref === image.ref && one.blocks.present >= blocks);
  });

const byCommand = async (root: string): Promise<void> => {
  const { pid } = (await statusOf(root)).endpoint;
  const result = await runCofa(['upgrade', '--engine', '--json', '--root', root]);
  expect(result).toMatchObject({ code: 0, stderr: '' });
  expect(JSON.parse(result.stdout)).toMatchObject({ from: pid, to: (await statusOf(root)).endpoint.pid });
};

/** Changes the engine of `root` for one of this checkout while all of `dir` is read. */
async function swapUnderReaders(
  root: string,
  dir: string,
  swap: (root: string) => Promise<void> = byCommand,
) {
  const mount = mountAt(dir);
  const { endpoint: before } = await statusOf(root);
  const reading = readAll(dir);
  await present(root, 8);
  await swap(root);
  const after = await statusOf(root);
  expect(after.endpoint.pid).not.toBe(before.pid);
  expect(after.endpoint).toMatchObject({ version: version() });
  expect(await reading).toMatchObject({ failures: [] });
  expect(mountAt(dir)).toEqual(mount);
  const [served] = (await statusOf(root)).images;
  expect(served?.reads.errors).toBe(0);
  // Readers wanted what only the new one has fetched.
  expect(served?.bytes.fetched).toBeGreaterThan(0);
  expect(existsSync(join(root, 'run/hand-over.json'))).toBe(false);
}

it('an engine follows another one under readers, and that one again; the kernel keeps the very mount', async () => {
  const engine = await startEngine({ workers: 2 });
  afterTest.defer(() => engine.stop());
  expect((await engine.cli(['index', near])).code).toBe(0);
  const dir = join(directory, 'mnt');
  await mountImage(engine, image.ref, dir);
  await swapUnderReaders(engine.root, dir);
  await untilWell(engine);

  // What was read is on the disk: the next one has it at once, and is one that goes on with an adopted mount.
  expect((await engine.cli(['upgrade', '--engine'])).code).toBe(0);
  expect(await readAll(dir)).toMatchObject({ failures: [] });
  expect((await engine.cli(['unmount', dir])).code).toBe(0);
  expect((await engine.cli(['down'])).code).toBe(0);
  expect(listMounts().filter(({ point }) => point.startsWith(engine.root))).toEqual([]);
  expect((await engine.cli(['upgrade', '--engine', '--if-running', '--json'])).code).toBe(0);
  expect(errorOf(await engine.cli(['upgrade', '--engine', '--json']))).toMatchObject({ code: 'not-running' });
});

it('an engine that starts beside another one takes its place; where there is none it starts as ever', async () => {
  const root = await afterTest.tempDir('beside');
  const first = await startEngine({ root, workers: 2, args: ['--take-over'] });
  afterTest.defer(() => endEngine(root));
  expect((await first.cli(['index', near])).code).toBe(0);
  const dir = join(directory, 'beside');
  await mountImage(first, image.ref, dir);
  const { pid } = (await statusOf(root)).endpoint;
  await swapUnderReaders(root, dir, async () => {
    // The old one goes on while this one loads, and would have read everything by then. Not a standstill, which on a busy machine
    // lasts longer than readers are to wait.
    relay.fail({ kind: 'delay', rttMs: 1_500 });
    const second = await startEngine({ root, workers: 2, args: ['--take-over'] });
    relay.heal();
    afterTest.defer(() => second.stop());
  });
  await first.ended;
  // Who has started the first one finds here that it has not crashed.
  expect(await readFile(join(root, 'run/replaced'), 'utf8')).toBe(`${pid}\n`);
  await byCommand(root);
  expect(await readAll(dir)).toMatchObject({ failures: [] });
  expect((await first.cli(['unmount', dir])).code).toBe(0);
});

it('an engine goes on where the next one would have another name, or would not start for its file of settings', async () => {
  const file = join(directory, 'settings.toml');
  await writeFile(file, '');
  const engine = await startEngine({ workers: 1, env: { COFA_CONFIG: file } });
  afterTest.defer(() => engine.stop());
  const { pid } = (await statusOf(engine.root)).endpoint;
  const refusal = async (settings: string) => {
    await writeFile(file, settings);
    return errorOf(await engine.cli(['upgrade', '--engine', '--json']));
  };
  expect(await refusal('node = "another"\n')).toMatchObject({
    code: 'unsupported',
    message: expect.stringContaining('the next one would be node another'),
  });
  expect(await refusal('keep-free = "much"\n')).toMatchObject({
    code: 'invalid-argument',
    message: expect.stringContaining(`${file}:1`),
  });
  expect((await statusOf(engine.root)).endpoint.pid).toBe(pid);
});

it('Ctrl-C while no engine runs does not keep the next one from coming', async () => {
  const engine = await startEngine({ workers: 1 });
  afterTest.defer(() => engine.stop());
  expect((await engine.cli(['index', near])).code).toBe(0);
  const dir = join(directory, 'stopped-mnt');
  await mountImage(engine, near, dir);
  // As a shell starts it: the terminal's signal comes to all of its process group.
  const upgrade = spawn(process.execPath, [MAIN, 'upgrade', '--engine', '--root', engine.root], {
    stdio: 'ignore',
    detached: true,
  });
  const ended = once(upgrade, 'exit');
  await engine.ended;
  await sleep(200);
  process.kill(-(upgrade.pid as number), 'SIGINT');
  expect(await ended).toEqual([0, null]);
  expect((await statusOf(engine.root)).endpoint.pid).not.toBe(engine.pid);
  expect(await readAll(dir)).toMatchObject({ failures: [] });
  expect((await engine.cli(['unmount', dir])).code).toBe(0);
  expect((await engine.cli(['down'])).code).toBe(0);
});

it('an engine of version 0.1.0 makes room for this one under readers', async (context) => {
  const older = olderCofa('0.1.0', { onProgress: console.log });
  if (older === undefined) return context.skip();
  const root = await afterTest.tempDir('older');
  afterTest.defer(() => endEngine(root));
  const cofa = async (...args: string[]) => {
    const main = join(older, 'src/cli/main.ts');
    const env = { ...process.env, COFA_ROOT: root };
    return (await promisify(execFile)(process.execPath, [main, ...args], { env, timeout: 60_000 })).stdout;
  };
  await cofa('up', '--workers', '2', '--trust', 'always');
  await cofa('index', near);
  const dir = join(directory, 'older-mnt');
  await cofa('mount', '--no-prefetch', image.ref, dir);
  expect((await statusOf(root)).endpoint).toMatchObject({ version: '0.1.0' });
  await swapUnderReaders(root, dir);
  expect(await readFile(join(dir, 'app/noise'))).toEqual(image.files.get('app/noise'));
  expect((await runCofa(['unmount', dir, '--root', root])).code).toBe(0);
  expect((await runCofa(['down', '--root', root])).code).toBe(0);
});
