/** What an engine costs by itself, for versions.ts: once on an empty node, by the `cofa` of either checkout. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pushImage } from '../../test/faults/fault-image.ts';
import { noise } from '../../test/images/nasty.ts';
import { COFA, dropCaches, type Link, onLink, timed } from './measure.ts';
import { memoryOf, sumOf } from './memory.ts';
import { processSeconds } from './process-time.ts';
import { onFreshEngine, type Repositories } from './ways.ts';

/** bytes */
const FILE = 64 << 20;
/** So often the file is read past the page cache: 1 GiB. */
const PASSES = 16;
/** After the mount, before its memory is measured, ms. */
const SETTLE_MS = 2_000;

/**
 * Pushes an image of one file that is read, and one that is not: its layer does not become whole, so each read past the page cache
 * comes through FUSE. Returns its reference, HOST/REPOSITORY:TAG.
 */
export async function pushReads(folder: string, registry: string): Promise<string> {
  const files = { read: noise(FILE, 1), 'never-read': noise(8 << 20, 2) };
  const { ref } = await pushImage(join(folder, 'reads'), registry, 'reads', [files], 'plain');
  await timed(COFA, ['--json', 'index', ref]);
  return ref;
}

/** By row. Errors: those of the commands; where reads would not come through FUSE. */
export async function nodeOnce(options: {
  program: string;
  /** Options of `cofa up`; those that the program does not know are left out. */
  up: readonly string[];
  at: Repositories;
  /** Reference of the image of `pushReads`. */
  reads: string;
  link: Link;
}): Promise<Readonly<Record<string, number>>> {
  const { program, at, reads, link } = options;
  const { output: help } = await timed(program, ['up', '--help']);
  const up = options.up.filter((option) => option !== '' && help.includes(option));
  return await onLink(at.registry, link, (relay) =>
    onFreshEngine(
      async (cofa, root, upMs) => {
        const idle = sumOf(await memoryOf(cofa));
        await dropCaches();
        const cold = await cofa('run', `${relay.host}/${at.packed}:latest`);
        const dir = join(root, 'mnt');
        await mkdir(dir);
        await cofa('mount', '--no-prefetch', reads, dir);
        const file = join(dir, 'read');
        await timed('dd', [`if=${file}`, 'of=/dev/null', 'bs=1M', 'status=none']);
        await sleep(SETTLE_MS);
        const processes = await memoryOf(cofa);
        const seconds = () => processes.reduce((sum, { pid }) => sum + processSeconds(pid), 0);
        const [before, since] = [seconds(), performance.now()];
        for (let pass = 0; pass < PASSES; pass++)
          await timed('dd', [`if=${file}`, 'of=/dev/null', 'bs=128k', 'iflag=direct', 'status=none']);
        const ms = performance.now() - since;
        const cpuMs = (seconds() - before) * 1000;
        const { output } = await cofa('status', '--json');
        if (layerOf(output, reads) === 'handed-over') throw new Error('the kernel reads the file by itself');
        await cofa('unmount', dir);
        return {
          'cofa up, ms': upMs,
          'memory (PSS) then, MiB': idle / 2 ** 20,
          'a cold start with a pack, first output, ms': cold.firstOutputMs,
          'to its end, ms': cold.totalMs,
          'memory (PSS) with a mount, MiB': sumOf(processes) / 2 ** 20,
          '1 GiB of direct reads, ms': ms,
          'their processor time in the engine, ms': cpuMs,
        };
      },
      program,
      up,
    ),
  );
}

const layerOf = (status: string, ref: string): string | undefined =>
  (JSON.parse(status) as { images: Array<{ ref: string; layers: Array<{ state: string }> }> }).images.find(
    (image) => image.ref === ref,
  )?.layers[0]?.state;
