/**
 * The ways in which a container of an image can be started on a node that has nothing of it, each measured alike: every
 * local byte and the page cache are gone, the registry is behind the link, and the clock runs from the call to the
 * first output and to the end.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { COFA, dropCaches, type Link, type Start, throughLink, timed } from './measure.ts';

export interface BenchImage {
  name: string;
  /** What runs in the container. */
  command: string[];
  /** Compressed bytes of its layers. */
  bytes: number;
}

/** Where the image lies, by how it was prepared; repositories of one registry. */
export interface Repositories {
  /** HOST:PORT without a link in front of it. */
  registry: string;
  /** Nobody prepared it. */
  plain: string;
  /** With a sidecar. */
  indexed: string;
  /** With a sidecar and a startup pack. */
  packed: string;
  /** bytes, compressed */
  sidecarBytes: number;
  packBytes: number;
}

export interface Way {
  name: string;
  /** One cold start, and where it makes sense the same again with everything local. */
  run(image: BenchImage, at: Repositories, link: Link): Promise<{ cold: Start; warm?: Start }>;
}

export const WAYS: Way[] = [
  { name: 'containerd', run: withContainerd },
  {
    name: 'cofa, unprepared',
    run: async (image, at, link) => ({ cold: await withCofa(image, at, link, at.plain) }),
  },
  {
    name: 'cofa, no pack',
    run: async (image, at, link) => ({ cold: await withCofa(image, at, link, at.indexed) }),
  },
  { name: 'cofa, pack', run: packed },
];

/**
 * Puts the image into a registry three times: as it is, with its sidecar, and with the pack that a start has taught.
 * `push` puts the image under a repository name.
 */
export async function prepare(
  image: BenchImage,
  registry: string,
  push: (repository: string) => Promise<void>,
): Promise<Repositories> {
  const at = {
    registry,
    plain: `${image.name}-plain`,
    indexed: `${image.name}-indexed`,
    packed: `${image.name}-packed`,
    sidecarBytes: 0,
    packBytes: 0,
  };
  for (const repository of [at.plain, at.indexed, at.packed]) await push(repository);
  for (const repository of [at.indexed, at.packed]) {
    const { output } = await timed(COFA, ['--json', 'index', `${registry}/${repository}:latest`]);
    at.sidecarBytes = (JSON.parse(output) as { sidecarBytes: number }).sidecarBytes;
  }
  await onFreshEngine(async (cofa) => {
    const ref = `${registry}/${at.packed}:latest`;
    await cofa('run', '--no-prefetch', ref, ...image.command);
    // A start with prefetch is what is recorded.
    await cofa('run', ref, ...image.command);
    for (let tries = 0; tries < 120; tries++) {
      const { output } = await cofa('pack', 'ls', '--json');
      const [pack] = (JSON.parse(output) as { packs: Array<{ size: number }> }).packs;
      at.packBytes = pack?.size ?? 0;
      if (pack !== undefined) break;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    await cofa('pack', 'push', ref, ...image.command);
  });
  return at;
}

/** Daemons have been up for so long, ms, before something starts: an engine rehearses starts meanwhile. */
const CALM_MS = 5_000;

type Cofa = (...args: string[]) => ReturnType<typeof timed>;

/** An engine with an empty root and a NATS of its own. */
export async function onFreshEngine<T>(work: (cofa: Cofa, root: string) => Promise<T>): Promise<T> {
  const cleanup = new Cleanup();
  try {
    const root = await cleanup.tempDir('bench');
    const cofa: Cofa = (...args) => timed(COFA, ['--root', root, ...args]);
    await cofa('up', '--no-snapshotter');
    cleanup.defer(() => cofa('down', '--force'));
    await sleep(CALM_MS);
    return await work(cofa, root);
  } finally {
    await cleanup.run();
  }
}

async function withContainerd(
  image: BenchImage,
  at: Repositories,
  link: Link,
): Promise<{ cold: Start; warm: Start }> {
  const containerd = await startContainerd();
  try {
    await sleep(CALM_MS);
    const run = (ref: string) =>
      timed(
        'ctr',
        [
          ['--address', containerd.socket, '--namespace', 'cofa-test', 'run', '--rm'],
          ['--snapshotter', 'overlayfs', ref, 'bench', ...image.command],
        ].flat(),
      );
    let warm: Start | undefined;
    const cold = await throughLink(at.registry, link, async (host) => {
      await dropCaches();
      const ref = `${host}/${at.plain}:latest`;
      const began = performance.now();
      await containerd.ctr(['images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', ref]);
      const before = performance.now() - began;
      const first = await run(ref);
      warm = { ...(await run(ref)), bytes: 0 };
      return { firstOutputMs: before + first.firstOutputMs, totalMs: before + first.totalMs };
    });
    return { cold, warm: warm as unknown as Start };
  } finally {
    await containerd.stop();
  }
}

async function withCofa(image: BenchImage, at: Repositories, link: Link, repository: string): Promise<Start> {
  return await onFreshEngine((cofa) => coldRun(cofa, image, at, link, repository));
}

async function coldRun(cofa: Cofa, image: BenchImage, at: Repositories, link: Link, repository: string) {
  return await throughLink(at.registry, link, async (host) => {
    await dropCaches();
    return await cofa('run', `${host}/${repository}:latest`, ...image.command);
  });
}

async function packed(
  image: BenchImage,
  at: Repositories,
  link: Link,
): Promise<{ cold: Start; warm: Start }> {
  return await onFreshEngine(async (cofa, root) => {
    const cold = await coldRun(cofa, image, at, link, at.packed);
    // What is missing comes at the speed of loopback, until the kernel serves the image alone.
    const ref = `${at.registry}/${at.packed}:latest`;
    const dir = join(root, 'whole');
    await mkdir(dir);
    await cofa('mount', ref, dir);
    await untilWhole(cofa);
    await cofa('run', ref, ...image.command);
    const warm = { ...(await cofa('run', ref, ...image.command)), bytes: 0 };
    await cofa('unmount', dir);
    return { cold, warm };
  });
}

/** Waits, 5 minutes at most, until no block of any image is absent. */
export async function untilWhole(cofa: Cofa): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    const status = JSON.parse((await cofa('status', '--json')).output) as {
      images: Array<{ layers: Array<{ state: string }> }>;
    };
    if (status.images.every(({ layers }) => layers.every(({ state }) => state === 'handed-over'))) return;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  throw new Error('the image did not become complete');
}
