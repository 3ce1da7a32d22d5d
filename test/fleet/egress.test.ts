/** Several engines of one fleet start one image: real nats-server, real registry, real bytes between them. */
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { policyOf } from '../../src/kernel/priority.ts';
import { type FaultImage, pushImage } from '../faults/fault-image.ts';
import { prose } from '../images/nasty.ts';
import { type Engine, eventually, mountImage, runCofa } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { fleetOf, startFleetNats, startMember, untilMet } from './support.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

async function readAll(engine: Engine, image: FaultImage, dir: string): Promise<void> {
  await mountImage(engine, image.ref, dir);
  const read = await readInParallel({ root: dir, expected: image.expected, readers: 2, copies: 1 });
  expect(read.failures).toEqual([]);
}

/** Bytes of the layers that the registry sent. */
const sent = (registry: RegistryServer, { blobs }: FaultImage): number =>
  registry
    .requests()
    .filter(({ method, path }) => method === 'GET' && blobs.some(({ digest }) => path.includes(digest)))
    .reduce((sum, { bytes }) => sum + bytes, 0);

it('three engines read one image at once: the registry sends each byte about once', async () => {
  const directory = await cleanup.tempDir('egress');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const image = await pushImage(join(directory, 'image'), registry.host, 'app', [
    { 'app/one': prose(9_000_000, 81_000), 'app/two': prose(9_000_000, 81_001) },
  ]);
  expect((await runCofa(['index', image.ref])).code).toBe(0);
  const size = image.blobs.reduce((sum, blob) => sum + blob.size, 0);
  const before = sent(registry, image);
  const names = ['one', 'two', 'three'];
  const fleet = await startFleetNats(cleanup, names);
  const engines = await Promise.all(names.map((name) => startMember(cleanup, fleet, name)));
  await untilMet(engines);
  await Promise.all(engines.map((engine, at) => readAll(engine, image, join(directory, `mnt-${at}`))));
  const egress = sent(registry, image) - before;
  const figures = await Promise.all(engines.map(fleetOf));
  const told = JSON.stringify(figures.map((one) => ({ ...one, members: [] })));
  expect(egress, told).toBeLessThan(size * 1.1);
  expect(figures.every(({ bytes }) => bytes.received >= size * 0.9)).toBe(true);
  expect(figures.some(({ bytes }) => bytes.sent > 0)).toBe(true);
  for (const engine of engines) expect((await engine.status()).degraded).toEqual([]);
  // No process of their nodes waits for them any more: they give way to containers.
  for (const engine of engines) {
    const { fleet: member } = await engine.pids();
    await eventually('the member gives way', () => policyOf(member as number) === 'low');
  }
});

it('who has got a piece gives it to others: a home that may send little sends the third asker to the second', async () => {
  const directory = await cleanup.tempDir('tree');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const image = await pushImage(join(directory, 'image'), registry.host, 'app', [
    { 'app/one': prose(9_000_000, 81_002), 'app/two': prose(9_000_000, 81_003) },
  ]);
  expect((await runCofa(['index', image.ref])).code).toBe(0);
  const fleet = await startFleetNats(cleanup, ['home', 'two', 'three']);
  // Nearly all of the zone's weight: it is the first home of each piece.
  const slow = ['--fleet-cache', '900G', '--fleet-upload', '1M'];
  const home = await startMember(cleanup, fleet, 'home', { args: slow });
  const two = await startMember(cleanup, fleet, 'two', { args: ['--fleet-cache', '1G'] });
  await untilMet([home, two]);
  await readAll(two, image, join(directory, 'mnt-two'));
  const [before, fetched] = [await fleetOf(two), sent(registry, image)];
  const three = await startMember(cleanup, fleet, 'three', { args: ['--fleet-cache', '1G'] });
  await untilMet([home, two, three]);
  await readAll(three, image, join(directory, 'mnt-three'));
  const told = JSON.stringify(await Promise.all([home, two, three].map(fleetOf)));
  expect((await fleetOf(two)).bytes.sent - before.bytes.sent, told).toBeGreaterThan(2_000_000);
  expect(sent(registry, image), told).toBe(fetched);
});
