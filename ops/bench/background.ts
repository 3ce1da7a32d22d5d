/**
 * What background fetches cost a reader: how long reads of absent blocks wait, on a node that fetches nothing else and
 * on one that prefetches the rest of the image meanwhile. The same reads in the same order, each of its own place in
 * the image. A read counts when it took at least the link's round trip: in less time no fetch can have served it, so
 * its block was present. (Under prefetch most are, in the end; leaving them out is to our disadvantage.)
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { dropCaches, type Link, onLink, timed } from './measure.ts';
import { placesAtRandom } from './random-places.ts';
import { onFreshEngine, type Repositories } from './ways.ts';

/** Reads of a round, one after the other. */
const READS = 64;

/** Prefetch runs when so many bytes have arrived since the mount. */
const AT_WORK_BYTES = 4_000_000;

/** The time of each read, ms. */
const READ = `
import os, sys, time
root = os.open(sys.argv[1], os.O_RDONLY)
for line in sys.stdin:
    at, path = line.rstrip("\\n").split(" ", 1)
    file = os.open(path, os.O_RDONLY, dir_fd=root)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    began = time.monotonic()
    assert len(os.pread(file, 4096, int(at))) == 4096
    print((time.monotonic() - began) * 1000)
    os.close(file)
`;

export interface Waits {
  /** Reads that waited for the registry, of all rounds together, ms. */
  alone: number[];
  prefetch: number[];
  /** All reads of each kind. */
  reads: number;
}

export async function demandWaits(
  at: Repositories,
  link: Link,
  rounds: number,
  say: (line: string) => void,
): Promise<Waits> {
  const waits: Waits = { alone: [], prefetch: [], reads: 0 };
  for (let round = 1; round <= rounds; round++) {
    const kinds = ['alone', 'prefetch'] as const;
    for (const kind of round % 2 === 1 ? kinds : kinds.toReversed()) {
      const all = await readsOf(kind, round, at, link);
      waits[kind].push(...all.filter((ms) => ms >= link.rttMs));
      say(`background, round ${round} of ${rounds}: ${kind}, ${waits[kind].length} reads have waited so far`);
    }
    waits.reads += READS;
  }
  return waits;
}

async function readsOf(
  kind: 'alone' | 'prefetch',
  seed: number,
  at: Repositories,
  link: Link,
): Promise<number[]> {
  return await onLink(at.registry, link, (relay) =>
    onFreshEngine(async (cofa, root) => {
      const dir = join(root, 'image');
      await mkdir(dir);
      await dropCaches();
      const options = kind === 'alone' ? ['--no-prefetch'] : [];
      await cofa('mount', ...options, `${relay.host}/${at.indexed}:latest`, dir);
      const mounted = relay.counters().toClient;
      const list = join(root, 'reads');
      await placesAtRandom(dir, { seed, count: READS, list });
      // It begins half a second after the last first read.
      const came = () => relay.counters().toClient - mounted;
      if (kind === 'prefetch')
        for (let tries = 0; tries < 3000 && came() < AT_WORK_BYTES; tries++) await sleep(10);
      const { output } = await timed('sh', ['-c', 'python3 -c "$1" "$2" < "$3"', 'sh', READ, dir, list]);
      await cofa('unmount', dir);
      return output.trim().split('\n').map(Number);
    }),
  );
}
