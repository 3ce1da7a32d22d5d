/** `--trust fleet`: the first node proves, the others start lazily. Real engines, a real nats-server, a registry; one member that lies. */
import { join } from 'node:path';
import { afterAll, expect, it, vi } from 'vitest';
import type { Mount } from '../../schemas/api.ts';
import type { LedgerEntry } from '../../schemas/fleet.ts';
import type { TrustPolicy } from '../../schemas/trust.ts';
import { buildFlat } from '../../src/image/erofs.ts';
import { decodeToc } from '../../src/image/toc-codec.ts';
import { indexImage, sidecarOf } from '../../src/index/index-image.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { pushSidecar } from '../../src/registry/sidecars.ts';
import { type FaultImage, pushImage } from '../faults/fault-image.ts';
import { noise, prose } from '../images/nasty.ts';
import { type Engine, eventually, imageOf, runCofa } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { readTree } from '../support/tree.ts';
import { unpackWithUmoci } from '../support/unpack.ts';
import { freePort } from '../support/ports.ts';
import { startPrometheus } from '../support/prometheus.ts';
import { startMadeUp } from './made-up-member.ts';
import { fleetOf, startFleetNats, startMember, untilMet } from './support.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
vi.setConfig({ testTimeout: 300_000 });

const FLEET = ['--trust', 'fleet'];
const RULES = join(import.meta.dirname, '../../ops/prometheus/cofa.rules.yaml');
const NOT_PROVEN = 'no member of the fleet has proven what it holds';

async function mount(engine: Engine, { ref }: FaultImage, dir: string, trust?: TrustPolicy): Promise<Mount> {
  const args = [
    'mount',
    '--json',
    '--no-prefetch',
    ...(trust === undefined ? [] : ['--trust', trust]),
    ref,
    dir,
  ];
  const result = await engine.cli(args, { timeoutMs: 120_000 });
  if (result.code !== 0) throw new Error(result.stdout + result.stderr);
  return JSON.parse(result.stdout) as Mount;
}

/** Who vouched for the flat image that the engine has prepared last, as its log says. */
async function lastVoucher(engine: Engine): Promise<string | undefined> {
  const { stdout } = await engine.cli(['events', '--json', '--since-start', '--no-follow']);
  const line = stdout.split('\n').findLast((one) => one.includes('"image.prepared"'));
  return /"vouched":"([^"]*)"/.exec(line ?? '')?.[1];
}
const reasonsOf = async (engine: Engine, { ref }: FaultImage): Promise<string[]> =>
  ((await imageOf(engine, ref)).passed ?? []).map(({ reason }) => reason);

/** What `status` says of the fleet. */
const sentences = async (engine: Engine): Promise<string[]> =>
  (await engine.status()).degraded.filter((sentence) => sentence.includes('fleet'));

/** Bytes of the layers that the registry sent. */
const sent = (registry: RegistryServer, { blobs }: FaultImage): number =>
  registry
    .requests()
    .filter(({ method, path }) => method === 'GET' && blobs.some(({ digest }) => path.includes(digest)))
    .reduce((sum, { bytes }) => sum + bytes, 0);

it('the first node proves, the second starts lazily on its word, and a forged sidecar is taken by none', async () => {
  const directory = await cleanup.tempDir('witness');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const layers = [
    { 'app/one': prose(6_000_000, 91_000), 'app/two': prose(6_000_000, 91_001) },
    { 'app/three': noise(200_000, 91_002), 'app/four': noise(200_000, 91_003) },
  ];
  const image = await pushImage(join(directory, 'image'), registry.host, 'app', layers);
  // umoci takes no gzip with all fields of its head.
  const plain = await pushImage(join(directory, 'plain'), registry.host, 'plain', layers, 'plain');
  const size = image.blobs.reduce((sum, blob) => sum + blob.size, 0);
  // Pushed by a client that may push, and signed by no one.
  expect((await runCofa(['index', image.ref])).code).toBe(0);
  const truth = await readTree(await unpackWithUmoci(plain.ref, join(directory, 'umoci')), {
    content: false,
  });
  const isRight = async (dir: string) =>
    expect((await readInParallel({ root: dir, expected: truth, readers: 2, copies: 1 })).failures).toEqual(
      [],
    );

  const fleet = await startFleetNats(cleanup, ['one', 'two', 'three', 'liar']);
  const root = join(directory, 'root-one');
  const one = await startMember(cleanup, fleet, 'one', { args: FLEET, root });
  const two = await startMember(cleanup, fleet, 'two', { args: FLEET });
  await untilMet([one, two]);

  // No node has proven it: the first passes the sidecar over, and reads the image itself.
  expect(await mount(one, image, join(directory, 'mnt-one'))).toMatchObject({
    origin: 'node',
    trust: 'proven',
  });
  expect(await reasonsOf(one, image)).toEqual([
    expect.stringContaining('the fleet does not vouch for the image'),
  ]);

  // The second one takes the very sidecar, since the first has proven what it holds, and reads no layer for it.
  const before = sent(registry, image);
  const lazy = await mount(two, image, join(directory, 'mnt-two'));
  expect(lazy).toMatchObject({ origin: 'sidecar', trust: 'unproven' });
  expect(await lastVoucher(two)).toBe('fleet:one');
  expect(sent(registry, image) - before).toBeLessThan(size / 2);
  await isRight(join(directory, 'mnt-two'));

  // A stricter mount beside it does not.
  const strict = await mount(two, image, join(directory, 'mnt-strict'), 'signed');
  expect(strict).toMatchObject({ origin: 'node', trust: 'proven' });
  await isRight(join(directory, 'mnt-strict'));

  // The proof is in the first node's log: it vouches after a restart, too.
  await one.stop();
  const metricsOf = { one: await freePort(), three: await freePort() };
  const again = await startMember(cleanup, fleet, 'one', {
    args: [...FLEET, '--metrics', String(metricsOf.one)],
    root,
  });
  const three = await startMember(cleanup, fleet, 'three', {
    args: [...FLEET, '--metrics', String(metricsOf.three)],
  });
  const prometheus = await startPrometheus(cleanup, {
    target: `127.0.0.1:${metricsOf.three}`,
    rules: [RULES],
    every: 5,
  });
  await eventually('a scrape', async () => (await prometheus.query('cofa_fleet_inquiries_total')).length > 0);
  /** The fleet's word in the metrics: those that are not 0. */
  const counted = async (port: number) => {
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    const of = /^cofa_fleet_((?:inquiries|questions|vouched_images|disbelieved)_total\S*) ([1-9]\d*)$/gm;
    return Object.fromEntries([...text.matchAll(of)].map(([, name, value]) => [name, Number(value)]));
  };
  await untilMet([again, two, three]);
  const third = await mount(three, image, join(directory, 'mnt-three'));
  expect(third.origin, JSON.stringify(await reasonsOf(three, image))).toBe('sidecar');
  expect(await lastVoucher(three)).toMatch(/^fleet:(?:one|two)$/);
  await isRight(join(directory, 'mnt-three'));
  const firing = async (alarm: string) => (await prometheus.rules()).get(alarm)?.state === 'firing';
  await eventually('the metrics say that it was vouched for', async () => {
    const said = await counted(metricsOf.three);
    return said['vouched_images_total'] === 1 && said['inquiries_total{outcome="vouched"}'] === 1;
  });

  // A forged sidecar is taken by none, though the first node has proven its image: each reads that itself.
  const other = await pushImage(join(directory, 'other'), registry.host, 'other', [
    { 'app/three': noise(200_000, 92_002), 'app/four': noise(200_000, 92_003) },
  ]);
  await forge(other);
  expect(await mount(again, other, join(directory, 'other-one'))).toMatchObject({
    origin: 'node',
    trust: 'proven',
  });
  expect(await mount(three, other, join(directory, 'other-three'))).toMatchObject({
    origin: 'node',
    trust: 'proven',
  });
  expect(await reasonsOf(three, other)).toEqual([expect.stringContaining(NOT_PROVEN)]);
  for (const engine of [again, two, three]) expect(await sentences(engine)).toEqual([]);

  // A member that vouches for a forgery, against one that has proven it: neither is believed, and `status` says so.
  const lied = await pushImage(join(directory, 'lied'), registry.host, 'lied', [
    { 'app/three': noise(200_000, 93_002), 'app/four': noise(200_000, 93_003) },
  ]);
  await forge(lied);
  await mount(again, lied, join(directory, 'lied-one'));
  await startMadeUp(cleanup, fleet, 'liar', {
    weight: 0,
    give: async () => {
      throw new Error('it has no pieces');
    },
    heard: (from, said, messages) => {
      if (said.kind !== 'ledger') return;
      const { nonce, layers, diffIds } = said;
      const entries: LedgerEntry[] = [
        { v: 1, verdict: 'proven', kind: 'flat', layers, revision: 1, flat: `sha256:${'f'.repeat(64)}` },
        ...diffIds.map(
          (diffId): LedgerEntry => ({
            v: 1,
            verdict: 'proven',
            kind: 'root',
            diffId,
            root: `sha256:${'e'.repeat(64)}`,
          }),
        ),
      ];
      messages.send(from, { kind: 'proven', v: 1, nonce, entries, last: true });
    },
  });
  await eventually('the third hears the liar', async () =>
    (await fleetOf(three)).members.some(({ name }) => name === 'liar'),
  );
  expect(await mount(three, lied, join(directory, 'lied-three'))).toMatchObject({
    origin: 'node',
    trust: 'proven',
  });
  await eventually('the liar is named, and no one else', async () => {
    const said = await sentences(three);
    return said.length === 1 && said[0]?.includes('the member liar of the fleet has vouched') === true;
  });
  await vi.waitFor(
    async () =>
      expect(await counted(metricsOf.three)).toEqual({
        vouched_images_total: 1,
        disbelieved_total: 1,
        // Also of the image with the forged sidecar: what the first node has proven of it is another one.
        'inquiries_total{outcome="vouched"}': 2,
        'inquiries_total{outcome="disputed"}': 1,
        'questions_total{answer="nothing"}': expect.any(Number),
      }),
    { timeout: 30_000, interval: 500 },
  );
  expect(await counted(metricsOf.one)).toMatchObject({
    'questions_total{answer="proven"}': expect.any(Number),
  });
  const { stdout } = await three.cli(['events', '--json', '--since-start', '--no-follow']);
  expect(stdout.split('\n').filter((line) => line.includes('"fleet.disputed"'))).toEqual([
    expect.stringContaining(lied.ref),
  ]);
  for (const alarm of ['CofaFleetDisagrees', 'CofaFleetLiar'])
    await eventually(`the alarm ${alarm}`, () => firing(alarm), 60_000);

  // Where no honest member is left: own proof, and never less than was asked for.
  const alone = await pushImage(join(directory, 'alone'), registry.host, 'alone', [
    { 'app/file': noise(200_000, 94_000) },
  ]);
  expect((await runCofa(['index', alone.ref])).code).toBe(0);
  for (const engine of [again, two]) await engine.stop();
  expect(await mount(three, alone, join(directory, 'mnt-alone'))).toMatchObject({
    origin: 'node',
    trust: 'proven',
  });

  async function forge(target: FaultImage): Promise<void> {
    const client = new RegistryClient({});
    cleanup.defer(() => client.close());
    const resolved = await client.resolve(parseReference(target.ref));
    const indexed = await indexImage({ image: resolved });
    const tocs = indexed.layers.map(({ toc }) => decodeToc(toc));
    const entries = tocs.at(-1)?.entries ?? [];
    const [three_, four] = ['app/three', 'app/four'].map((path) =>
      entries.find((entry) => entry.path.toString() === path),
    );
    if (three_ === undefined || four === undefined) throw new Error('no files to swap');
    [three_.extents, four.extents] = [four.extents, three_.extents];
    const sizes = indexed.layers.map(({ diffId, rawSize }) => ({ diffId, size: rawSize }));
    await pushSidecar(client, resolved, { ...sidecarOf(indexed), flat: buildFlat(tocs, sizes).metadata });
  }
});
