/** How registries are reached is said once, to `cofa up`, and holds for every process that talks to one. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { pushImage } from '../faults/fault-image.ts';
import { prose } from '../images/nasty.ts';
import { type Engine, errorOf, mountImage, runCofa, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

it('a registry with a CA of its own and a password: supervisor, indexer and fetchers get in by the options of cofa up', async () => {
  const directory = await cleanup.tempDir('settings');
  const storage = join(directory, 'storage');
  const open = await startRegistry({ storage });
  const images = await Promise.all(
    ['ready', 'plain'].map((name, at) =>
      pushImage(join(directory, name), open.host, name, [{ 'app/file': prose(300_000, 50_000 + at) }]),
    ),
  );
  await open.stop();
  const auth = { user: 'me', password: 'secret' };
  const closed = await startRegistry({ storage, tls: true, auth });
  cleanup.defer(() => closed.stop());
  const config = join(directory, 'config.json');
  const basic = Buffer.from(`${auth.user}:${auth.password}`).toString('base64');
  await writeFile(config, JSON.stringify({ auths: { [closed.host]: { auth: basic } } }));
  for (const image of images) image.ref = image.ref.replace(open.host, closed.host);
  const [ready, plain] = images;
  if (ready === undefined || plain === undefined) throw new Error('two images');

  const flags = ['--certs-dir', closed.certDir as string, '--docker-config', config];
  expect((await runCofa(['inspect', ...flags, ready.ref])).code).toBe(0);
  expect((await runCofa(['index', ...flags, ready.ref])).code).toBe(0);
  // Without the options no client gets in.
  expect((await runCofa(['inspect', ready.ref])).code).not.toBe(0);

  const engine = await startEngine({ workers: 1, args: flags });
  cleanup.defer(() => engine.stop());
  for (const [image, origin] of [
    [ready, 'sidecar'],
    [plain, 'node'],
  ] as const) {
    const dir = join(directory, `mnt-${origin}`);
    expect(await mountImage(engine, image.ref, dir)).toMatchObject({ origin });
    const read = await readInParallel({ root: dir, expected: image.expected, readers: 2, copies: 1 });
    expect(read.failures).toEqual([]);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  }
});

it('a registry that is listed as insecure may have any certificate, others may not', async () => {
  const directory = await cleanup.tempDir('insecure');
  const storage = join(directory, 'storage');
  const open = await startRegistry({ storage });
  const image = await pushImage(join(directory, 'image'), open.host, 'any', [
    { 'app/file': prose(300_000, 51_000) },
  ]);
  await open.stop();
  const secure = await startRegistry({ storage, tls: true });
  cleanup.defer(() => secure.stop());
  const ref = image.ref.replace(open.host, secure.host);
  const start = async (args: string[]): Promise<Engine> => {
    const engine = await startEngine({ workers: 1, args });
    cleanup.defer(() => engine.stop());
    return engine;
  };
  const dir = join(directory, 'mnt');
  const trusting = await start(['--insecure-registry', secure.host]);
  await mountImage(trusting, ref, dir);
  const read = await readInParallel({ root: dir, expected: image.expected, readers: 2, copies: 1 });
  expect(read.failures).toEqual([]);
  expect((await trusting.cli(['unmount', dir])).code).toBe(0);
  await trusting.stop();
  const strict = await runCofa(['inspect', '--json', '--insecure-registry', 'other.example', ref]);
  expect(errorOf(strict).code).toBe('unavailable');
  // A command by itself reads what the engine of a service reads.
  const file = join(directory, 'config.toml');
  await writeFile(file, `insecure-registry = [${JSON.stringify(secure.host)}]\n`, { mode: 0o644 });
  expect(await runCofa(['inspect', ref], { env: { COFA_CONFIG: file } })).toMatchObject({ code: 0 });
  const wrong = await runCofa(['inspect', '--json', '--insecure-registry', 'https://x/', ref]);
  expect(errorOf(wrong)).toMatchObject({ code: 'invalid-argument' });
});
