/**
 * Mounts, verifying readers and unmounts for as long as the caller wants, over more images than the cache may hold:
 * what grows with time shows as a slope. It samples memory, descriptors, the event log, loops and the cache, and calls
 * each flat when its trend over the second half is small beside its size.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { jetstreamManager } from '@nats-io/jetstream';
import { identify, isAlive } from '../../src/container/host.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import { STREAM } from '../../schemas/subjects.ts';
import { connectEngine } from '../../src/client/client.ts';
import { readEndpoint } from '../../src/client/endpoint.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { indexImage, sidecarOf } from '../../src/index/index-image.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { pushSidecar } from '../../src/registry/sidecars.ts';
import { type Engine, startEngine } from './engine.ts';
import { Random } from './random.ts';
import { startRegistry } from './registry-server.ts';
import { patternFiles, type PatternImage, pushPatternImage } from './soak-image.ts';
import {
  descriptors,
  enginePids,
  leftInKernel,
  list,
  loopsBelow,
  now,
  residentBytes,
} from './soak-machine.ts';
import { type BadRead, type SoakReaders, startReaders } from './soak-readers.ts';
import { Cleanup } from './temp.ts';

export interface SoakOptions {
  minutes: number;
  seed: number;
  /** Share of all images' bytes that the cache may take; undefined: no limit. */
  cache?: number | undefined;
  images?: number;
  readers?: number;
  /** Between two samples, ms. */
  sampleMs?: number;
  onProgress?: (line: string) => void;
}

/** Measured values, by name; bytes or counts. */
export type Sample = Record<string, number>;

export interface Trend {
  name: string;
  first: number;
  last: number;
  most: number;
  /** Of the second half: growth an hour, and as a share of the mean. */
  perHour: number;
  share: number;
  isFlat: boolean;
}

export interface SoakReport {
  seed: number;
  minutes: number;
  cacheLimit: number | undefined;
  imageBytes: number;
  mounts: number;
  reads: number;
  megabytes: number;
  slowestReadMs: number;
  wrongBytes: number;
  failedReads: number;
  samples: number;
  trends: Trend[];
  leaked: string[];
  violations: string[];
}

const MOUNTS = 4;
const FILE = 1 << 20;
const MB = 1 << 20;

export async function soak(options: SoakOptions): Promise<SoakReport> {
  const cleanup = new Cleanup();
  try {
    return await new Soak(options, cleanup).run();
  } finally {
    await cleanup.run();
  }
}

class Soak {
  readonly #options: SoakOptions;
  readonly #cleanup: Cleanup;
  readonly #random: Random;
  readonly #bad: BadRead[] = [];
  readonly #samples: Array<{ at: number; sample: Sample }> = [];
  readonly #violations: string[] = [];
  readonly #images: PatternImage[] = [];
  readonly #mounts: Array<{ id: number; dir: string }> = [];
  #engine!: Engine;
  #readers!: SoakReaders;
  #directory = '';
  #root = '';
  #next = 1;
  #hung = false;

  constructor(options: SoakOptions, cleanup: Cleanup) {
    this.#options = options;
    this.#cleanup = cleanup;
    this.#random = new Random(options.seed);
  }

  async run(): Promise<SoakReport> {
    const { minutes, seed, cache, images = 12, readers = 8, sampleMs = 10_000, onProgress } = this.#options;
    const cleanup = this.#cleanup;
    this.#directory = await cleanup.tempDir('soak');
    this.#root = await cleanup.tempDir('soak-root');
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const imageBytes = await this.#makeImages(registry.host, images);
    const cacheLimit = cache === undefined ? undefined : Math.round(imageBytes * cache);
    this.#engine = await startEngine({
      rehearses: true,
      root: this.#root,
      workers: 2,
      // Small enough to be trimmed during the run.
      args: ['--log-limit', '2M', ...(cacheLimit === undefined ? [] : ['--cache-limit', String(cacheLimit)])],
    });
    cleanup.defer(() => this.#engine.stop());
    this.#readers = startReaders({
      readers,
      seed,
      hangMs: 90_000,
      onBad: (read) => this.#bad.push(read),
      onHang: ({ thread, ms }) => {
        this.#hung = true;
        this.#violations.push(`reader ${thread} waits since ${ms} ms`);
      },
    });
    cleanup.defer(() => this.#readers.stop());
    const started = now();
    const end = started + minutes * 60_000;
    let sampleAt = started;
    let mounts = 0;
    while (now() < end && !this.#hung) {
      mounts += await this.#turn();
      if (now() < sampleAt) continue;
      sampleAt += sampleMs;
      const sample = await this.#sample();
      this.#samples.push({ at: now(), sample });
      onProgress?.(
        `${((now() - started) / 60_000).toFixed(1)} min, ${mounts} mounts, ${this.#readers.counts().reads} reads, ${this.#bad.length} bad: ` +
          Object.entries(sample)
            .map(([name, value]) => `${name} ${Math.round(value * 10) / 10}`)
            .join(', '),
      );
    }
    while (this.#mounts.length > 0 && (await this.#unmount()));
    const { reads, bytes, slowestMs } = this.#readers.counts();
    const leaked = await this.#end();
    const wrong = this.#bad.filter(({ outcome }) => outcome === 'wrong');
    if (wrong.length > 0)
      this.#violations.push(`${wrong.length} wrong reads: ${JSON.stringify(wrong.slice(0, 3))}`);
    const failed = this.#bad.length - wrong.length;
    if (failed > 0)
      this.#violations.push(
        `${failed} reads failed: ${JSON.stringify(this.#bad.filter(({ outcome }) => outcome !== 'wrong').slice(0, 3))}`,
      );
    if (leaked.length > 0) this.#violations.push(`left behind: ${leaked.join('; ')}`);
    return {
      seed,
      minutes: Math.round((now() - started) / 6_000) / 10,
      cacheLimit,
      imageBytes,
      mounts,
      reads,
      megabytes: Math.round(bytes / 1e6),
      slowestReadMs: Math.round(slowestMs),
      wrongBytes: wrong.length,
      failedReads: failed,
      samples: this.#samples.length,
      trends: trendsOf(this.#samples),
      leaked,
      violations: this.#violations,
    };
  }

  /** Every fourth image begins with a new base layer. Returns their bytes, shared layers once. */
  async #makeImages(host: string, count: number): Promise<number> {
    const client = new RegistryClient({});
    try {
      let bytes = 0;
      const key = (this.#options.seed % 1_000_000) * 1_000;
      for (let number = 0; number < count; number++) {
        const base = patternFiles('base', key + Math.floor(number / 4) * 10, 3, FILE);
        const top = patternFiles('top', key + 500_000_000 + number * 10, 6, FILE);
        if (number % 4 === 0) bytes += base.length * FILE;
        bytes += top.length * FILE;
        const image = await pushPatternImage(join(this.#directory, `image${number}`), host, `app${number}`, [
          base,
          top,
        ]);
        const resolved = await client.resolve(parseReference(image.ref));
        const indexed = await indexImage({ image: resolved, threads: 1 });
        await pushSidecar(client, resolved, sidecarOf(indexed));
        this.#images.push(image);
      }
      return bytes;
    } finally {
      await client.close();
    }
  }

  /** One more mount, and an unmount when there are enough; returns how many mounts it made. */
  async #turn(): Promise<number> {
    if (this.#mounts.length >= MOUNTS) await this.#unmount();
    const image = this.#random.pick(this.#images);
    const id = this.#next++;
    const dir = join(this.#directory, `m${id}`);
    try {
      await this.#engine.client.call('mount', { ref: image.ref, dir, prefetch: this.#random.chance(0.5) });
    } catch (error) {
      this.#violations.push(`mount failed: ${toErrorRecord(error).message}`);
      this.#hung = true;
      return 0;
    }
    this.#mounts.push({ id, dir });
    this.#readers.enter(id, dir, image.files);
    await sleep(this.#random.int(200, 800));
    return 1;
  }

  async #unmount(): Promise<boolean> {
    const mount = this.#mounts.shift();
    if (mount === undefined) return false;
    try {
      if (!(await this.#readers.leave(mount.id, 100_000))) throw new Error('readers do not leave');
      await this.#engine.client.call('unmount', { dir: mount.dir });
      return true;
    } catch (error) {
      this.#violations.push(`unmount failed: ${toErrorRecord(error).message}`);
      this.#hung = true;
      return false;
    }
  }

  async #sample(): Promise<Sample> {
    const pids = enginePids(this.#engine.pid);
    const sample: Sample = {};
    for (const [name, pid] of pids) sample[`${name} MB`] = residentBytes(pid) / MB;
    for (const [name, count] of descriptors(pids)) sample[`${name} descriptors`] = count;
    sample.loops = loopsBelow(this.#root).length;
    let cached = 0;
    for (const name of list(join(this.#root, 'layers'))) {
      const { blocks } = await stat(join(this.#root, 'layers', name, 'device')).catch(() => ({ blocks: 0 }));
      cached += blocks * 512;
    }
    sample['cache MB'] = cached / MB;
    const { log } = await readEndpoint(this.#root);
    const bus = await connectBus(log, { name: 'cofa-soak', reconnect: false });
    try {
      const { state } = await (await jetstreamManager(bus)).streams.info(STREAM);
      sample['log MB'] = state.bytes / MB;
      sample.consumers = state.consumer_count;
    } finally {
      await bus.close();
    }
    return sample;
  }

  async #end(): Promise<string[]> {
    // Not by pid alone: a busy machine gives it to another process within minutes.
    const processes = [...enginePids(this.#engine.pid).values()].flatMap((pid) => identify(pid) ?? []);
    const client = await connectEngine(this.#root);
    await client.call('down', { force: false }).catch((error: unknown) => {
      this.#violations.push(`down failed: ${toErrorRecord(error).message}`);
    });
    await client.close();
    await Promise.race([this.#engine.ended, sleep(20_000)]);
    return [
      ...leftInKernel([this.#root, this.#directory]),
      ...list(this.#directory)
        .filter((name) => /^m\d+$/.test(name))
        .map((name) => `folder ${name}`),
      ...processes.filter(isAlive).map(({ pid }) => `process ${pid}`),
    ];
  }
}

/** Growth an hour that counts as flat for any share: the noise of a heap, of a segment of the log. */
const NOISE: ReadonlyArray<[suffix: string, perHour: number]> = [
  [' MB', 30],
  ['descriptors', 8],
  ['loops', 4],
  ['consumers', 2],
];
const FLAT_SHARE = 0.25;

export function trendsOf(samples: ReadonlyArray<{ at: number; sample: Sample }>): Trend[] {
  const names = Object.keys(samples[0]?.sample ?? {});
  const half = samples.slice(Math.floor(samples.length / 2));
  return names.map((name) => {
    const values = samples.map(({ sample }) => sample[name] ?? 0);
    const late = half.map(({ at, sample }): [number, number] => [at / 3_600_000, sample[name] ?? 0]);
    const perHour = slope(late);
    const mean = late.reduce((sum, [, value]) => sum + value, 0) / Math.max(1, late.length);
    const hours = (late.at(-1)?.[0] ?? 0) - (late[0]?.[0] ?? 0);
    const share = mean === 0 ? 0 : (perHour * hours) / mean;
    const noise = NOISE.find(([suffix]) => name.endsWith(suffix))?.[1] ?? 0;
    return {
      name,
      first: values[0] ?? 0,
      last: values.at(-1) ?? 0,
      most: Math.max(...values),
      perHour,
      share,
      isFlat: share <= FLAT_SHARE || perHour <= noise,
    };
  });
}

/** Least squares. */
function slope(points: ReadonlyArray<readonly [x: number, y: number]>): number {
  if (points.length < 2) return 0;
  const n = points.length;
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / n;
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / n;
  const over = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0);
  const under = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  return under === 0 ? 0 : over / under;
}
