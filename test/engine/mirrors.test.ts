/** An engine behind mirrors: a real pull-through cache, one that dies, one that lies. */
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { type FaultImage, pushImage, twoLayers } from '../faults/fault-image.ts';
import { prose } from '../images/nasty.ts';
import { type Engine, eventually, mountImage, runCofa, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

/** An engine that is told of a mirror of the registry by a hosts.toml. */
async function behind(directory: string, registry: RegistryServer, mirror: string): Promise<Engine> {
  const folder = join(directory, 'hosts', registry.host);
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'hosts.toml'), `[host."${mirror}"]\n`);
  const engine = await startEngine({ workers: 1, args: ['--hosts-dir', join(directory, 'hosts')] });
  cleanup.defer(() => engine.stop());
  return engine;
}

async function readAll(engine: Engine, image: FaultImage, dir: string): Promise<void> {
  await mountImage(engine, image.ref, dir);
  const read = await readInParallel({ root: dir, expected: image.expected, readers: 2, copies: 1 });
  expect(read.failures).toEqual([]);
  expect((await engine.cli(['unmount', dir])).code).toBe(0);
}

/** The GETs of these blobs. */
const blobsOf = (registry: RegistryServer, { blobs }: FaultImage) =>
  registry
    .requests()
    .filter(({ method, path }) => method === 'GET' && blobs.some(({ digest }) => path.includes(digest)));

it('a pull-through cache: the second node gets no layer from the registry; when the cache is gone the registry serves', async () => {
  const directory = await cleanup.tempDir('mirror');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const lazy = await pushImage(join(directory, 'lazy'), registry.host, 'lazy', [
    { 'app/file': prose(400_000, 71_000) },
  ]);
  const plain = await pushImage(join(directory, 'plain'), registry.host, 'plain', [
    { 'app/file': prose(300_000, 71_001) },
  ]);
  const later = await pushImage(join(directory, 'later'), registry.host, 'later', [
    { 'app/file': prose(300_000, 71_002) },
  ]);
  for (const { ref } of [lazy, later]) expect((await runCofa(['index', ref])).code).toBe(0);
  const before = blobsOf(registry, lazy).length;
  const cache = await startRegistry({ cacheOf: `http://${registry.host}` });
  cleanup.defer(() => cache.stop());

  const first = await behind(join(directory, 'one'), registry, `http://${cache.host}`);
  await readAll(first, lazy, join(directory, 'lazy-one'));
  await readAll(first, plain, join(directory, 'plain-one'));
  await first.stop();
  // The cache fetches once for its client and once for itself; it answers with ranges when it has a blob.
  for (const image of [lazy, plain])
    await eventually(`the cache has ${image.repository}`, async () => {
      const { digest } = image.blobs[0] as { digest: string };
      const url = `http://${cache.host}/v2/${image.repository}/blobs/${digest}`;
      return (await fetch(url, { headers: { range: 'bytes=0-0' } })).status === 206 || undefined;
    });
  const fetched = [lazy, plain].map((image) => blobsOf(registry, image).length);
  expect(blobsOf(cache, lazy).length).toBeGreaterThan(0);
  expect(fetched[0] as number).toBeGreaterThan(before);

  const second = await behind(join(directory, 'two'), registry, `http://${cache.host}`);
  await readAll(second, lazy, join(directory, 'lazy-two'));
  await readAll(second, plain, join(directory, 'plain-two'));
  expect([lazy, plain].map((image) => blobsOf(registry, image).length)).toEqual(fetched);
  cache.kill();
  await readAll(second, later, join(directory, 'later-mnt'));
});

it('a mirror that changes a byte of each layer: every read gets the true bytes, and status names it', async () => {
  const directory = await cleanup.tempDir('lying-mirror');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const [lazy, plain] = [
    await pushImage(join(directory, 'lazy'), registry.host, 'lazy', twoLayers(72_000)),
    await pushImage(join(directory, 'plain'), registry.host, 'plain', [
      { 'app/file': prose(900_000, 72_100) },
    ]),
  ];
  expect((await runCofa(['index', lazy.ref])).code).toBe(0);
  let lies = 0;
  const server = createServer((request, response) => {
    const { range } = request.headers;
    const pass = async () => {
      const answer = await fetch(`http://${registry.host}${request.url}`, {
        headers: range === undefined ? {} : { range },
      });
      const bytes = Buffer.from(await answer.arrayBuffer());
      if (
        [...lazy.blobs, ...plain.blobs].some(({ digest }) => request.url?.includes(digest)) &&
        bytes.length > 0
      ) {
        lies += 1;
        const at = bytes.length >> 1;
        bytes[at] = (bytes[at] as number) ^ 1;
      }
      const kept = ['content-type', 'content-range', 'docker-content-digest'];
      const headers = kept.flatMap((name) => {
        const value = answer.headers.get(name);
        return value === null ? [] : [[name, value] as const];
      });
      response.writeHead(answer.status, { ...Object.fromEntries(headers), 'content-length': bytes.length });
      response.end(bytes);
    };
    pass().catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup.defer(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  const mirror = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const first = await behind(join(directory, 'one'), registry, mirror);
  await readAll(first, lazy, join(directory, 'lazy-mnt'));
  await eventually('status says that the mirror is left out', async () =>
    (await first.status()).degraded.includes(
      `the mirror ${mirror} sent wrong bytes: it is left out for an hour`,
    ),
  );
  await first.stop();
  expect(lies).toBeGreaterThan(0);
  // An engine of its own, which has not met the mirror yet: the image is indexed from its bytes.
  const before = lies;
  const second = await behind(join(directory, 'two'), registry, mirror);
  await readAll(second, plain, join(directory, 'plain-mnt'));
  expect(lies).toBeGreaterThan(before);
});
