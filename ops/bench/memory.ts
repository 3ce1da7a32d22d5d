/**
 * A node with many images mounted: the memory of the engine's processes, and containers that all start at once on it.
 */
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { indexImage, sidecarOf } from '../../src/index/index-image.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { pushSidecar } from '../../src/registry/sidecars.ts';
import { startContainerd } from '../../test/support/services.ts';
import { type ImageLayout, pushLayout } from '../images/layout.ts';
import { dropCaches, type Link, onLink, timed } from './measure.ts';
import { CALM_MS, type Cofa, onFreshEngine, PULL_LIMIT_MS } from './ways.ts';

/** Idle before the measurement, ms. */
const SETTLE_MS = 20_000;

/** Between two looks at the memory during some work, ms. */
const LOOK_MS = 500;

/** bytes; RSS counts what processes share once for each, PSS once in all. */
export interface ProcessMemory {
  name: string;
  pid: number;
  rss: number;
  pss: number;
}

export interface Memory {
  count: number;
  processes: ProcessMemory[];
  pss: number;
  idlePss: number;
  /** Of each mount, ms. */
  mountMs: number[];
  starts: { cofa: AtOnce; containerd: AtOnce };
}

/** Containers that were started at once. */
export interface AtOnce {
  /** From the common beginning to the end of each, ms. */
  endMs: number[];
  /** The highest value seen, bytes; 0 where it was not measured. */
  peakPss: number;
}

/**
 * Mounts `count` images that share their layers and differ in their configuration, so that each counts as another
 * image. Starts containers of `starts` of them at once: on that node, and with an empty containerd.
 */
export async function manyImages(options: {
  count: number;
  starts: number;
  layout: ImageLayout;
  registry: string;
  link: Link;
  say: (line: string) => void;
}): Promise<Memory> {
  const { count, starts, layout, registry, link, say } = options;
  await pushLayout(layout, registry, 'many', 'latest');
  await pushVariants(`${registry}/many`, Math.max(count, starts));
  say(`${count} images prepared`);
  const cofa = await onLink(registry, link, (relay) =>
    onFreshEngine(async (cofa, root) => {
      const idlePss = sumOf(await memoryOf(cofa));
      const mountMs: number[] = [];
      for (let n = 0; n < count; n++) {
        const dir = join(root, 'mounts', `${n}`);
        await mkdir(dir, { recursive: true });
        const { totalMs } = await cofa('mount', '--no-prefetch', `${relay.host}/many:v${n}`, dir);
        mountMs.push(totalMs);
        await timed('sh', ['-c', `find '${dir}' -type f | head -n 30 | xargs cat >/dev/null`]);
      }
      say(`${count} images mounted`);
      // The collector takes its time; what is measured is what stays.
      await sleep(SETTLE_MS);
      const processes = await memoryOf(cofa);
      await dropCaches();
      say(`${starts} containers start at once`);
      const { result: endMs, peakPss } = await peakWhile(cofa, () =>
        allAtOnce(starts, (n) => cofa('run', `${relay.host}/many:v${n}`)),
      );
      return { count, processes, pss: sumOf(processes), idlePss, mountMs, starts: { endMs, peakPss } };
    }),
  );
  const containerd = await onLink(registry, link, async (relay) => {
    const daemon = await startContainerd();
    try {
      await sleep(CALM_MS);
      await dropCaches();
      say(`the same with containerd`);
      const endMs = await allAtOnce(starts, async (n) => {
        const ref = `${relay.host}/many:v${n}`;
        await daemon.ctr(['images', 'pull', '--plain-http', ref], { timeoutMs: PULL_LIMIT_MS });
        await daemon.ctr(['run', '--rm', ref, `bench-${n}`], { timeoutMs: PULL_LIMIT_MS });
      });
      return { endMs, peakPss: 0 };
    } finally {
      await daemon.stop();
    }
  });
  return { ...cofa, starts: { cofa: cofa.starts, containerd } };
}

/** Memory of the processes of an engine now. */
export async function memoryOf(cofa: Cofa): Promise<ProcessMemory[]> {
  const { processes } = JSON.parse((await cofa('status', '--json')).output) as {
    processes: Array<{ name: string; pid: number }>;
  };
  return processes.map(({ name, pid }) => ({ name, pid, ...memoryOfProcess(pid) }));
}

/** Looks again and again during the work. */
export async function peakWhile<T>(
  cofa: Cofa,
  work: () => Promise<T>,
): Promise<{ result: T; peakPss: number }> {
  const { processes } = JSON.parse((await cofa('status', '--json')).output) as {
    processes: Array<{ pid: number }>;
  };
  let peakPss = 0;
  const look = () => {
    peakPss = Math.max(peakPss, sumOf(processes.map(({ pid }) => memoryOfProcess(pid))));
  };
  const timer = setInterval(look, LOOK_MS);
  try {
    const result = await work();
    look();
    return { result, peakPss };
  } finally {
    clearInterval(timer);
  }
}

export function sumOf(processes: ReadonlyArray<{ pss: number }>): number {
  return processes.reduce((total, { pss }) => total + pss, 0);
}

/** When each has ended, ms from the common beginning. */
async function allAtOnce(count: number, work: (n: number) => Promise<unknown>): Promise<number[]> {
  const began = performance.now();
  return await Promise.all(
    Array.from({ length: count }, async (_, n) => {
      await work(n);
      return performance.now() - began;
    }),
  );
}

/** The image again under the tags v0, v1, …: other configurations, the same layers, so one indexing serves all. */
async function pushVariants(repository: string, count: number): Promise<void> {
  const client = new RegistryClient({});
  try {
    const image = await client.resolve(parseReference(`${repository}:latest`));
    const sidecar = sidecarOf(await indexImage({ image }));
    for (let n = 0; n < count; n++) {
      const config = JSON.parse(image.config.toString()) as { config: object };
      const bytes = Buffer.from(
        JSON.stringify({ ...config, config: { ...config.config, Labels: { n: `${n}` } } }),
      );
      const pushed = await client.pushBlob(image.reference, bytes, image.configDescriptor.mediaType);
      const manifest = Buffer.from(
        JSON.stringify({ ...(JSON.parse(image.manifestBytes.toString()) as object), config: pushed }),
      );
      await client.pushManifest(image.reference, manifest, image.descriptor.mediaType, `v${n}`);
      await pushSidecar(client, await client.resolve(parseReference(`${repository}:v${n}`)), sidecar);
    }
  } finally {
    await client.close();
  }
}

/** Zeros for a process that has just ended. */
function memoryOfProcess(pid: number): { rss: number; pss: number } {
  let text = '';
  try {
    text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  } catch {
    return { rss: 0, pss: 0 };
  }
  const field = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) * 1024;
  return { rss: field('Rss'), pss: field('Pss') };
}
