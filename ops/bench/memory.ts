/** Memory of an engine's processes while many images are mounted. */
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { indexImage, sidecarOf } from '../../src/index/index-image.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { pushSidecar } from '../../src/registry/sidecars.ts';
import { type ImageLayout, pushLayout } from '../images/layout.ts';
import { timed } from './measure.ts';
import { onFreshEngine } from './ways.ts';

/** Idle before the measurement, ms. */
const SETTLE_MS = 20_000;

export interface Memory {
  /** bytes; RSS counts what processes share once for each, PSS once in all. */
  processes: Array<{ name: string; rss: number; pss: number }>;
  pss: number;
  idlePss: number;
}

/** Mounts `count` images that share their layers and differ in their configuration, so that each is one of its own. */
export async function memoryOfMounts(
  count: number,
  layout: ImageLayout,
  registry: string,
  say: (line: string) => void,
): Promise<Memory> {
  await pushLayout(layout, registry, 'many', 'latest');
  await pushVariants(`${registry}/many`, count);
  say(`${count} images prepared`);
  return await onFreshEngine(async (cofa, root) => {
    const look = async () => {
      const { processes } = JSON.parse((await cofa('status', '--json')).output) as {
        processes: Array<{ name: string; pid: number }>;
      };
      return processes.map(({ name, pid }) => ({ name, ...memoryOf(pid) }));
    };
    const idle = await look();
    for (let n = 0; n < count; n++) {
      const dir = join(root, 'mounts', `${n}`);
      await mkdir(dir, { recursive: true });
      await cofa('mount', '--no-prefetch', `${registry}/many:v${n}`, dir);
      await timed('sh', ['-c', `find '${dir}' -type f | head -n 30 | xargs cat >/dev/null`]);
    }
    // The collector takes its time; what is measured is what stays.
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const processes = await look();
    const sum = (all: Array<{ pss: number }>) => all.reduce((total, { pss }) => total + pss, 0);
    return { processes, pss: sum(processes), idlePss: sum(idle) };
  });
}

/** The image again under the tags v0, v1, …: other configurations, the same layers, so one indexing does for all. */
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

function memoryOf(pid: number): { rss: number; pss: number } {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const field = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) * 1024;
  return { rss: field('Rss'), pss: field('Pss') };
}
