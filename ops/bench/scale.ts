/**
 * Images that are larger than others: many bytes, many files, many layers. Times and memory, beside containerd's pull.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { type Size, syntheticImage } from '../images/synthetic.ts';
import { type Cost, costOf } from './index-cost.ts';
import { COFA, dropCaches, type Link, onLink, timed } from './measure.ts';
import { memoryOf, peakWhile, sumOf } from './memory.ts';
import { CALM_MS, onFreshEngine, PULL_LIMIT_MS, untilWhole } from './ways.ts';

export interface Scale {
  name: string;
  size: Size;
  imageBytes: number;
  sidecarBytes: number;
  index: Cost;
  /** A mount of an image that the node does not have, ms. */
  mountMs: number;
  /** Then `find -ls` over all of it, and a file of the last layer, ms. */
  findMs: number;
  firstReadMs: number;
  /** From the mount until the whole image is on the node, verified, and handed over to the kernel, ms. */
  wholeMs: number;
  /** All processes of the engine: without mounts, after the mount, at most, and when it is whole; PSS, bytes. */
  pss: { idle: number; mounted: number; peak: number; whole: number };
  /** containerd's pull, ms; its error where it could not. */
  pull: number | string;
}

export const SCALES: Array<{ name: string; size: (bytes: number) => Size }> = [
  {
    name: 'large',
    size: (bytes) => ({ layers: 5, filesPerLayer: Math.ceil(bytes / 5 / 262_144), fileBytes: 262_144 }),
  },
  { name: '200 layers', size: () => ({ layers: 200, filesPerLayer: 20, fileBytes: 65_536 }) },
];

/** `bytes`: size of the large image, uncompressed. Builds each image for the measurement and removes it. */
export async function measureScale(
  scale: (typeof SCALES)[number],
  bytes: number,
  registry: string,
  link: Link,
  say: (line: string) => void,
): Promise<Scale> {
  const cleanup = new Cleanup();
  try {
    const { name } = scale;
    const size = scale.size(bytes);
    say(`${name}: building`);
    const layout = await syntheticImage(await cleanup.tempDir('scale'), size, say);
    const imageBytes = (await layoutLayers(layout)).reduce((sum, layer) => sum + layer.size, 0);
    const repository = name.replaceAll(' ', '-');
    await pushLayout(layout, registry, repository, 'latest');
    say(`${name}: cofa index`);
    const { cost: index, stdout } = await costOf([
      COFA,
      '--json',
      'index',
      `${registry}/${repository}:latest`,
    ]);
    const { sidecarBytes } = JSON.parse(stdout) as { sidecarBytes: number };
    say(`${name}: mount`);
    const mounted = await onLink(registry, link, (relay) =>
      onFreshEngine(async (cofa, root) => {
        const dir = join(root, 'image');
        await mkdir(dir);
        const idle = sumOf(await memoryOf(cofa));
        await dropCaches();
        const began = performance.now();
        const { totalMs: mountMs } = await cofa('mount', `${relay.host}/${repository}:latest`, dir);
        const { totalMs: findMs } = await timed('sh', ['-c', 'find "$1" -ls >/dev/null', 'sh', dir]);
        const last = join(dir, `layer${size.layers - 1}/0/7`);
        const { totalMs: firstReadMs } = await timed('sh', ['-c', 'cat "$1" >/dev/null', 'sh', last]);
        const after = sumOf(await memoryOf(cofa));
        const { peakPss } = await peakWhile(cofa, () => untilWhole(cofa, { everyMs: 2_000 }));
        const wholeMs = performance.now() - began;
        const whole = sumOf(await memoryOf(cofa));
        await cofa('unmount', dir);
        return { mountMs, findMs, firstReadMs, wholeMs, pss: { idle, mounted: after, peak: peakPss, whole } };
      }),
    );
    say(`${name}: containerd pulls it`);
    const pull = await pullTime(registry, repository, link);
    return { name, size, imageBytes, sidecarBytes, index, ...mounted, pull };
  } finally {
    await cleanup.run();
  }
}

async function pullTime(registry: string, repository: string, link: Link): Promise<number | string> {
  return await onLink(registry, link, async (relay) => {
    const containerd = await startContainerd();
    try {
      await sleep(CALM_MS);
      await dropCaches();
      const began = performance.now();
      const ref = `${relay.host}/${repository}:latest`;
      await containerd.ctr(['images', 'pull', '--plain-http', ref], { timeoutMs: PULL_LIMIT_MS });
      return performance.now() - began;
    } catch (error) {
      return String(error).trim().split('\n').at(-1)?.slice(-200) ?? '';
    } finally {
      await containerd.stop();
    }
  });
}
