/**
 * The first start of a new build of an image, which has no startup pack yet: with the files that a start of the build
 * before has read, and without. The next build has the base layer of the one before; every other layer was made anew,
 * with one file more in front, so that nothing lies where it was. Rounds are interleaved, each on an empty node, over
 * an emulated link.
 *
 *     node ops/bench/next-build.ts [--rounds 4] [--rate 1G] [--rtt 5]
 */
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { gunzipSync } from 'node:zlib';
import { connectBus } from '../../src/bus/connection.ts';
import { PackStore } from '../../src/pack/pack-store.ts';
import { TarBytes } from '../../test/images/tar-bytes.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { startNats } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { realImage } from '../images/debian.ts';
import {
  blobPath,
  describeLayer,
  type ImageLayout,
  layoutLayers,
  pushLayout,
  writeLayout,
} from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { COFA, dropCaches, median, type Start, textTable, timed } from './measure.ts';
import { parseRate, startRelay } from './relay.ts';

const COMMAND = ['python3', '/app/hello.py'];
/** Until an engine that has just started has no work left, ms. */
const CALM_MS = 4_000;
const WAYS = ['without', 'with the build before'] as const;

/** The image as the next build makes it. */
async function nextBuild(layout: ImageLayout, directory: string): Promise<ImageLayout> {
  const layers = await Promise.all(
    (await layoutLayers(layout)).map(async ({ digest }, index) => {
      const blob = blobPath(layout.directory, digest);
      const tar = gunzipSync(await readFile(blob));
      const diffId = (of: Buffer) => `sha256:${createHash('sha256').update(of).digest('hex')}`;
      if (index === 0) return await describeLayer(blob, 'gzip', diffId(tar), 'base');
      const added = new TarBytes().file(`build-${index}`, randomBytes(100_000)).bytes();
      // Without the two empty records at the end of the archive.
      const whole = Buffer.concat([added.subarray(0, added.length - 1024), tar]);
      const file = join(directory, `layer-${index}`);
      await writeFile(file, whole);
      await promisify(execFile)('pigz', ['-n', '-6', '-f', file]);
      return await describeLayer(`${file}.gz`, 'gzip', diffId(whole), `layer ${index}`);
    }),
  );
  return await writeLayout(join(directory, 'layout'), {
    kind: 'oci',
    layers,
    config: { Env: ['PATH=/usr/local/bin:/usr/bin:/bin'], Cmd: COMMAND, WorkingDir: '/' },
    created: '2024-01-01T00:00:00Z',
  });
}

async function main(): Promise<void> {
  const { values } = programOptions(import.meta.filename, {
    options: {
      rounds: { type: 'string', default: '4' },
      rate: { type: 'string', default: '1G' },
      rtt: { type: 'string', default: '5' },
    },
  });
  const cleanup = new Cleanup();
  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    process.once(signal, () => void cleanup.run().finally(() => process.exit(1)));
  try {
    const say = (line: string) => process.stderr.write(`${line}\n`);
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const nats = await startNats();
    cleanup.defer(() => nats.stop());
    const bus = await connectBus({ url: nats.url }, { name: 'bench' });
    cleanup.defer(() => bus.close());
    const store = new PackStore(async () => bus);
    const to = { host: '127.0.0.1', port: registry.port };
    // One link for all: cofa knows images of one repository by their names.
    const relay = await startRelay({ to, rttMs: Number(values.rtt), rate: parseRate(values.rate) });
    cleanup.defer(() => relay.stop());
    const ref = `${relay.host}/demo:latest`;
    const repository = `${relay.host}/demo`;

    const onEngine = async <T>(
      work: (cofa: (...args: string[]) => ReturnType<typeof timed>) => Promise<T>,
    ) => {
      const own = new Cleanup();
      cleanup.defer(() => own.run());
      try {
        const root = await own.tempDir('bench');
        const cofa = (...args: string[]) => timed(COFA, ['--root', root, ...args]);
        await cofa(
          'up',
          '--no-snapshotter',
          '--trust',
          'registry',
          '--nats',
          nats.url,
          '--node',
          `n${randomBytes(4).toString('hex')}`,
        );
        own.defer(() => cofa('down', '--force'));
        return await work(cofa);
      } finally {
        await own.run();
      }
    };
    const layout = await realImage('demo');
    const next = await nextBuild(layout, await cleanup.tempDir('build'));
    await pushLayout(layout, registry.host, 'demo', 'latest');
    say('the build before is started');
    await onEngine(async (cofa) => {
      await cofa('index', ref);
      await cofa('run', ref, ...COMMAND);
      while ((await store.list()).length === 0) await sleep(200);
      await sleep(1_000);
      await pushLayout(next, registry.host, 'demo', 'latest');
      await cofa('index', ref);
    });
    const packs = await store.list();
    const start = packs[0]?.start ?? '';
    const found = await store.findFiles(repository, start);
    if (found === undefined) throw new Error('nothing was noted of the start');
    say(`${found.size} bytes are noted of it`);
    const files = await store.files(found.name);

    const starts: Record<(typeof WAYS)[number], Start[]> = { without: [], 'with the build before': [] };
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const way of round % 2 === 0 ? WAYS : WAYS.toReversed()) {
        if (way === 'without') await store.discard(found.name);
        else await store.rememberFiles(repository, start, files);
        await onEngine(async (cofa) => {
          await sleep(CALM_MS);
          await dropCaches();
          const before = relay.counters().toClient;
          const { firstOutputMs, totalMs } = await cofa('run', ref, ...COMMAND);
          const bytes = relay.counters().toClient - before;
          starts[way].push({ firstOutputMs, totalMs, bytes });
          say(`${way}: ${Math.round(totalMs)} ms, ${(bytes / 1e6).toFixed(1)} MB`);
        });
        // The next start must not profit from what this one recorded.
        for (const { manifest } of (await store.list()).filter(
          (one) => one.manifest === next.manifest.digest,
        ))
          await store.remove(manifest, start);
      }
    }
    const row = (way: (typeof WAYS)[number]) => [
      way,
      `${(median(starts[way].map(({ firstOutputMs }) => firstOutputMs)) / 1000).toFixed(2)} s`,
      `${(median(starts[way].map(({ totalMs }) => totalMs)) / 1000).toFixed(2)} s`,
      `${(median(starts[way].map(({ bytes }) => bytes)) / 1e6).toFixed(1)} MB`,
    ];
    process.stdout.write(
      `${textTable([['first start of a new build', 'first output', 'to its end', 'fetched'], ...WAYS.map(row)])}\n`,
    );
  } finally {
    await cleanup.run();
  }
}

await main();
