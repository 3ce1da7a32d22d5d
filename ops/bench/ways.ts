/**
 * The ways to start a container of an image on a node that has nothing of it, each measured alike: every local byte and
 * the page cache are dropped, the registry is behind the link, and the clock runs from the call to the first output and
 * to the end.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { untilAnswered } from '../../src/cli/service.ts';
import { type Containerd, type ContainerdOptions, startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { COFA, type Start, throughLink, timed } from './measure.ts';
import { bytesInLayers } from './start-set.ts';

export interface BenchImage {
  name: string;
  /** Compressed bytes of its layers. */
  bytes: number;
}

/** Where the image lies, by how it was prepared; repositories of one registry. */
export interface Repositories {
  /** HOST:PORT without a link in front of it. */
  registry: string;
  /** Without a sidecar. */
  plain: string;
  /** With a sidecar. */
  indexed: string;
  /** With a sidecar and a startup pack. */
  packed: string;
  /** bytes, compressed */
  sidecarBytes: number;
  packBytes: number;
  /** Compressed bytes that the pack's blocks take in the layers. */
  readBytes: number;
}

/** Bytes that cross a link without limits during a cold start with a pack whose node fetches nothing else. */
export async function bytesOfStart(at: Repositories): Promise<number> {
  const { bytes } = await throughLink(at.registry, { rate: undefined, rttMs: 0 }, (host) =>
    onFreshEngine((cofa) => cofa('run', '--no-prefetch', `${host}/${at.packed}:latest`)),
  );
  return bytes;
}

/** Of one container, from the user's call on, ms. */
export type Ran = Omit<Start, 'bytes'> & { output: string };

/** A node without anything of the image, with running daemons. */
export interface FreshNode {
  /**
   * All that a user does for a first container: pull where the way needs it, and run the image's own command. No
   * command of ours: ctr takes one in place of the entrypoint, docker and cofa after it.
   */
  start(): Promise<Ran>;
  /** The same container once more when all of the image is on the node; undefined where that is not measured. */
  warm?(): Promise<Ran>;
  /** A further container, in which a line of shell runs. */
  shell(line: string): Promise<Ran>;
}

export interface Way {
  name: string;
  /** Others' lazy images: whether a start was recorded for it before. */
  peer?: 'optimized' | 'unoptimized';
  /** Puts what the way needs into the registry. */
  prepare?(image: BenchImage, at: Repositories): Promise<void>;
  /** `host` is the registry behind the link. */
  onFreshNode<T>(
    image: BenchImage,
    at: Repositories,
    host: string,
    work: (node: FreshNode) => Promise<T>,
  ): Promise<T>;
}

/** As Debian has it, as it comes. */
export const CONTAINERD: Way = withContainerd('containerd');
export const UNPREPARED: Way = withCofa('cofa, unprepared', 'plain');
export const NO_PACK: Way = withCofa('cofa, no pack', 'indexed');
export const PACK: Way = withCofa('cofa, pack', 'packed');

/**
 * Puts the image into a registry three times: as it is, with its sidecar, and with the pack of a recorded start. `push`
 * puts the image under a repository name.
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
    readBytes: 0,
  };
  for (const repository of [at.plain, at.indexed, at.packed]) await push(repository);
  for (const repository of [at.indexed, at.packed]) {
    const { output } = await timed(COFA, ['--json', 'index', `${registry}/${repository}:latest`]);
    at.sidecarBytes = (JSON.parse(output) as { sidecarBytes: number }).sidecarBytes;
  }
  at.packBytes = await pushPack(`${registry}/${at.packed}:latest`);
  at.readBytes = await bytesInLayers(`${registry}/${at.packed}:latest`);
  return at;
}

/** Starts the image on a node of its own, which makes packs at once, and pushes the pack of that start beside the image; returns its bytes. */
export async function pushPack(ref: string): Promise<number> {
  return await onFreshEngine(
    async (cofa) => {
      // From an image that the node does not have: reads that the kernel answers itself are not recorded.
      await cofa('run', ref);
      let bytes = 0;
      for (let tries = 0; tries < 120 && bytes === 0; tries++) {
        const { output } = await cofa('pack', 'ls', '--json');
        bytes = (JSON.parse(output) as { packs: Array<{ size: number }> }).packs[0]?.size ?? 0;
        if (bytes === 0) await sleep(500);
      }
      await cofa('pack', 'push', ref);
      return bytes;
    },
    COFA,
    ['--no-defer'],
  );
}

/** Daemons have been up for so long, ms, before something starts: an engine rehearses starts meanwhile. */
export const CALM_MS = 5_000;

/** What `cofa down` says by its exit code where no engine runs. */
const NO_ENGINE = 9;

export type Cofa = (...args: string[]) => ReturnType<typeof timed>;

/**
 * An engine with an empty root and a NATS of its own; `program`: the `cofa` of another checkout, `up`: options for it. `work` hears
 * how long `cofa up` took, ms.
 */
export async function onFreshEngine<T>(
  work: (cofa: Cofa, root: string, upMs: number) => Promise<T>,
  program = COFA,
  up: readonly string[] = [],
): Promise<T> {
  const cleanup = new Cleanup();
  try {
    const root = await cleanup.tempDir('bench');
    const cofa: Cofa = (...args) => timed(program, ['--root', root, ...args]);
    cleanup.defer(() =>
      timed(program, ['--root', root, 'down', '--force'], {}, { cleansUp: true }).catch((error) => {
        // An `up` that failed or was interrupted may have left an engine or none.
        if (!String(error).includes(`ended with ${NO_ENGINE}`)) throw error;
      }),
    );
    // The word for policy registry that every version knows: no bench but the demo signs.
    const trust = up.includes('--keys') ? [] : ['--trust', 'always'];
    const { totalMs } = await cofa('up', '--no-snapshotter', ...trust, ...up);
    await sleep(CALM_MS);
    const done = await work(cofa, root, totalMs);
    await cleanup.run();
    return done;
  } catch (error) {
    // What went wrong first explains what could not be removed after it.
    const further = await cleanup.run().then(
      () => [],
      (more) => [more],
    );
    throw further.length === 0
      ? error
      : new AggregateError([error, ...further], String(error), { cause: error });
  }
}

/** An engine with an empty root and a snapshotter that answers, for clients of containerd; `env`: of its commands. */
export async function onFreshSnapshotter<T>(
  work: (cofa: Cofa, root: string) => Promise<T>,
  env: Record<string, string> = {},
): Promise<T> {
  const cleanup = new Cleanup();
  try {
    const root = await cleanup.tempDir('bench');
    const cofa: Cofa = (...args) => timed(COFA, ['--root', root, ...args], env);
    await cofa('up', '--snapshotter', '--trust', 'registry');
    cleanup.defer(() => timed(COFA, ['--root', root, 'down', '--force'], {}, { cleansUp: true }));
    await untilAnswered(join(root, 'run/snapshotter.sock'), 60_000);
    return await work(cofa, root);
  } finally {
    await cleanup.run();
  }
}

/** The run with `beforeMs` added in front of its times. */
export function after(beforeMs: number, ran: Ran): Ran {
  return { ...ran, firstOutputMs: beforeMs + ran.firstOutputMs, totalMs: beforeMs + ran.totalMs };
}

/** A slow link may take long for a large image, ms. */
export const PULL_LIMIT_MS = 3_600_000;

/** Pull and run by a containerd of its own, which unpacks into `snapshotter` (overlayfs). */
export function withContainerd(
  name: string,
  { snapshotter = 'overlayfs', ...options }: ContainerdOptions & { snapshotter?: string } = {},
): Way {
  return {
    name,
    onFreshNode: async (_image, at, host, work) => {
      const containerd = await startContainerd(options);
      try {
        await sleep(CALM_MS);
        return await work(
          containerdNode(containerd, snapshotter, `${host}/${at.plain}:latest`, options.path),
        );
      } finally {
        await containerd.stop();
      }
    },
  };
}

/** Pulls `ref` into a snapshotter and runs it; `path`: where `ctr` is, a PATH. */
export function containerdNode(
  containerd: Containerd,
  snapshotter: string,
  ref: string,
  path: string | undefined,
): FreshNode {
  const run = (...command: string[]) =>
    timed(
      'ctr',
      [
        ['--address', containerd.socket, '--namespace', 'cofa-test', 'run', '--rm'],
        ['--snapshotter', snapshotter, ref, 'bench', ...command],
      ].flat(),
      path === undefined ? {} : { PATH: path },
    );
  return {
    start: async () => {
      const began = performance.now();
      await containerd.ctr(['images', 'pull', '--plain-http', '--snapshotter', snapshotter, ref], {
        timeoutMs: PULL_LIMIT_MS,
      });
      return after(performance.now() - began, await run());
    },
    warm: async () => {
      // As many containers before it as cofa's has: files that were just removed cost the next ones on some disks.
      await run();
      return await run();
    },
    shell: (line) => run('sh', '-c', line),
  };
}

/** `program`: the `cofa` of another checkout. */
export function withCofa(name: string, repository: 'plain' | 'indexed' | 'packed', program = COFA): Way {
  return {
    name,
    onFreshNode: (_image, at, host, work) =>
      onFreshEngine(async (cofa, root) => {
        const ref = `${host}/${at[repository]}:latest`;
        return await work({
          start: () => cofa('run', ref),
          shell: (line) => cofa('run', '--entrypoint', 'sh', ref, '-c', line),
          ...(repository === 'packed' && {
            warm: async () => {
              // What is missing arrives at the speed of loopback, until the kernel serves the image alone.
              const dir = join(root, 'whole');
              await mkdir(dir);
              const near = `${at.registry}/${at.packed}:latest`;
              await cofa('mount', near, dir);
              await untilWhole(cofa);
              await cofa('run', near);
              const warm = await cofa('run', near);
              await cofa('unmount', dir);
              return warm;
            },
          }),
        });
      }, program),
  };
}

/** Waits, an hour by default, until no block of any image is absent. */
export async function untilWhole(cofa: Cofa, { everyMs = 500, limitMs = PULL_LIMIT_MS } = {}): Promise<void> {
  for (const began = performance.now(); performance.now() - began < limitMs; ) {
    const status = JSON.parse((await cofa('status', '--json')).output) as {
      images: Array<{ layers: Array<{ state: string }> }>;
    };
    if (status.images.every(({ layers }) => layers.every(({ state }) => state === 'handed-over'))) return;
    await sleep(everyMs);
  }
  throw new Error('the image did not become complete');
}
